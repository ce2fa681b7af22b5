"""What TensorBoard and the trackers are told of a run: its flags and its final metrics, as plain values."""

from collections.abc import Mapping
from typing import Any, Literal

from utils.core.redaction import open_values

End = Literal["finished", "failed", "interrupted"]
"""How a run ended."""


def shown_flags(flags: Mapping[str, Any]) -> dict[str, float | str]:
    """Flags as numbers and texts: lists and switches as text; no secrets, and nothing where a flag is not set."""
    given = {name: value for name, value in open_values(dict(flags)).items() if value not in (None, [], ())}
    return {name: value if _is_number(value) else as_text(value) for name, value in given.items()}


def final_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a run's summary: `best/<measure>` and `best/epoch` of its best epoch, `total/seconds` of all."""
    numbers = {name: float(value) for name, value in summary.items() if _is_number(value)}
    return {f"{'total' if name == 'seconds' else 'best'}/{name}": value for name, value in numbers.items()}


def final_texts(summary: Mapping[str, Any]) -> dict[str, str]:
    """What else a run's summary says, such as which snapshot is best."""
    return {name: as_text(value) for name, value in summary.items() if value is not None and not _is_number(value)}


def as_text(value: Any) -> str:
    """A value as it would be typed: the entries of a list one after the other."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
