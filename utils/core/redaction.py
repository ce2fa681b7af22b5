"""Removal of secrets, such as passwords and tokens in flags and URLs, from everything that is written or shown."""

import re
from typing import Any

SECRET_NAME = re.compile(r"token|passw|secret|key|notify|credential", re.IGNORECASE)
IN_ADDRESS = re.compile(r"(?<=://)\S*@")
"""The "user:password@" of a URL; a password may contain any character except white space."""


def without_secrets(values: dict[str, Any]) -> dict[str, Any]:
    """Return the entries that may be shown.

    Entries are dropped if their name is that of a secret, or if their value contains a URL with a user or password.
    """
    return {
        name: value
        for name, value in values.items()
        if not SECRET_NAME.search(name) and not IN_ADDRESS.search(_text(value))
    }


def redacted(text: str) -> str:
    """Return a text on one line, with *** instead of the user and password in URLs."""
    return IN_ADDRESS.sub("***@", " ".join(text.split()))


def _text(value: Any) -> str:
    """Return all text within a JSON value, including keys, as one string."""
    if isinstance(value, dict):
        return " ".join(f"{_text(name)} {_text(inner)}" for name, inner in value.items())
    return " ".join(map(_text, value)) if isinstance(value, list) else str(value)
