"""Tables by name, with "did you mean"."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from utils.core.errors import UsageError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that ends an error about an unknown name: the nearest known ones, or all of them if few."""
    known = list(dict.fromkeys(known))
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(known[:12])
    return f"known: {shown}{', ...' if len(known) > 12 else ''}"


def pick(table: Mapping[str, T], name: str, flag: str) -> T:
    """The entry of `table` under `name`.

    Raises:
        UsageError: no such entry; the message names the flag and the nearest names.
    """
    if name not in table:
        raise UsageError(f"{flag} {name}: no such name; {nearest(name, table)}")
    return table[name]
