"""Keeping secrets off whatever is written or shown: passwords and tokens in flags and in addresses."""

import re
from typing import Any

SECRET_NAME = re.compile(r"token|passw|secret|key|notify|credential", re.IGNORECASE)
IN_ADDRESS = re.compile(r"(?<=://)\S*@")
"""user:password@ of an address; a password may hold any sign but a blank."""


def open_values(values: dict[str, Any]) -> dict[str, Any]:
    """The entries that may be shown: none with the name of a secret, none with an address that holds a password."""
    return {
        name: value
        for name, value in values.items()
        if not SECRET_NAME.search(name) and not IN_ADDRESS.search(_text(value))
    }


def open_text(text: str) -> str:
    """A text whose addresses are without user and password, on one line."""
    return IN_ADDRESS.sub("***@", " ".join(text.split()))


def _text(value: Any) -> str:
    """All texts within a value of JSON, keys too."""
    if isinstance(value, dict):
        return " ".join(f"{_text(name)} {_text(inner)}" for name, inner in value.items())
    return " ".join(map(_text, value)) if isinstance(value, list) else str(value)
