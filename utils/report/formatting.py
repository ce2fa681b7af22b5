"""Number formatting for the page; unknown values become empty strings."""

from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"


def score(value: float | None) -> str:
    """Format a score (0..1) with three decimals."""
    return "" if value is None else f"{value:.3f}".replace("-", MINUS)


def signed(value: float) -> str:
    """Format a difference of scores with its sign; a difference that rounds to zero has no sign."""
    text = f"{value:+.3f}".replace("-", MINUS)
    return text[1:] if float(f"{value:.3f}") == 0 else text


def threshold(value: float | None) -> str:
    """Format a probability with three significant digits."""
    return "" if value is None else f"{value:.3g}"


def rate(per_second: float | None) -> str:
    """Format a number of images per second."""
    return "" if per_second is None else f"{per_second:.0f}" if per_second >= 9.95 else f"{per_second:.1f}"


def count(number: int, what: str) -> str:
    """Format a number of things, such as `1 run` or `2 runs`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def setting(value: object) -> str:
    """Format the value of a flag; items of a list are separated by spaces, as they would be typed."""
    if value is None or value in ([], ()):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def spans(numbers: Sequence[int]) -> str:
    """Format integers with ranges for three or more consecutive ones, such as `0\N{EN DASH}2, 4`."""
    rows: list[list[int]] = []
    for number in sorted(set(numbers)):
        if rows and number == rows[-1][-1] + 1:
            rows[-1].append(number)
        else:
            rows.append([number])
    return ", ".join(f"{row[0]}\N{EN DASH}{row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows)
