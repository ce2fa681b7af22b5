"""Numbers as the page writes them; nothing where nothing is known."""

from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"


def score(value: float | None) -> str:
    """A score, 0..1, to three decimals."""
    return "" if value is None else f"{value:.3f}".replace("-", MINUS)


def signed(value: float) -> str:
    """A difference of scores, with its sign; one that rounds to nothing has none."""
    text = f"{value:+.3f}".replace("-", MINUS)
    return text[1:] if float(f"{value:.3f}") == 0 else text


def threshold(value: float | None) -> str:
    """A probability, to three digits that say something."""
    return "" if value is None else f"{value:.3g}"


def rate(per_second: float | None) -> str:
    """Images a second."""
    return "" if per_second is None else f"{per_second:.0f}" if per_second >= 9.95 else f"{per_second:.1f}"


def count(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def setting(value: object) -> str:
    """The value of a flag, as it would be typed."""
    if value is None or value in ([], ()):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def spans(numbers: Sequence[int]) -> str:
    """`0-2, 4`: whole numbers, those in a row joined."""
    rows: list[list[int]] = []
    for number in sorted(set(numbers)):
        if rows and number == rows[-1][-1] + 1:
            rows[-1].append(number)
        else:
            rows.append([number])
    return ", ".join(f"{row[0]}\N{EN DASH}{row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows)
