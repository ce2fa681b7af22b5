"""Flags and final metrics of a run as plain values for TensorBoard and the trackers."""

from collections.abc import Mapping
from typing import Any, Literal

from utils.core.redaction import without_secrets

End = Literal["finished", "failed", "interrupted"]
"""Ways in which a run can end."""


def shown_flags(flags: Mapping[str, Any]) -> dict[str, float | str]:
    """Return flags as numbers or text (lists and switches as text); leave out secrets and flags that are not set."""
    given = {name: value for name, value in without_secrets(dict(flags)).items() if value not in (None, [], ())}
    return {name: value if _is_number(value) else as_text(value) for name, value in given.items()}


def final_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a run's summary: `best/<name>` for its best epoch, and `total/seconds` for the run."""
    numbers = {name: float(value) for name, value in summary.items() if _is_number(value)}
    return {f"{'total' if name == 'seconds' else 'best'}/{name}": value for name, value in numbers.items()}


def final_texts(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return the other values of a run's summary as text, such as the best snapshot."""
    return {name: as_text(value) for name, value in summary.items() if value is not None and not _is_number(value)}


def as_text(value: Any) -> str:
    """Return a value as text; entries of a list are separated by a space."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
