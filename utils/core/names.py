"""Lookup by name, with "did you mean" hints."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from utils.core.errors import UsageError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint for an error about an unknown name: up to 3 similar names, or the first 12 if none is similar."""
    known = list(dict.fromkeys(known))
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(known[:12])
    return f"known: {shown}{', ...' if len(known) > 12 else ''}"


def pick(table: Mapping[str, T], name: str, flag: str) -> T:
    """Return the entry of `table` under `name`.

    Raises:
        UsageError: there is no such entry; the message contains the flag and the most similar names.
    """
    if name not in table:
        raise UsageError(f"{flag} {name}: no such name; {nearest(name, table)}")
    return table[name]
