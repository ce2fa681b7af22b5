"""Texts of any origin within Markdown, and tables of them."""

from collections.abc import Sequence
from typing import Any

NEVER_IN_CODE = set("`|\\")
"""Signs that a code span in a table cannot show as they are."""


def shown(value: Any) -> str:
    """A value as it is, whatever signs are in it: as a code span, or sign by sign where that cannot be.

    A list is joined by blanks, as a flag takes it; None is a dash.
    """
    if value is None or value == []:
        return "–"
    words = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = "".join(sign if sign.isprintable() else " " for sign in words)
    if not text.strip():
        return "` `"
    if NEVER_IN_CODE & set(text):
        return "".join(sign if sign.isalnum() or sign == " " else f"&#{ord(sign)};" for sign in text)
    return f"`{text}`"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; empty without rows."""
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines) if rows else ""


def command(words: Sequence[str]) -> str:
    """A line to type, as a block of code that nothing in it can end."""
    import shlex

    line = shlex.join(" ".join(word.split()) if not word.isprintable() else word for word in words)
    return f"    {line}"
