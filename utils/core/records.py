"""Typed records: dataclasses that are written as JSON (or into a snapshot) and type-checked when they are read."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

from utils.core.errors import UserError

R = TypeVar("R")


def to_plain(record: Any) -> dict[str, Any]:
    """Return the fields of a record as plain values; tuples become lists, as in JSON."""
    return {entry.name: _plain(getattr(record, entry.name)) for entry in dataclasses.fields(record)}


def from_plain(kind: type[R], values: Any, origin: str, advice: str) -> R:
    """Build a record from plain values.

    Names that are not fields of the record are ignored, because a later version may have added fields. Fields that are
    missing keep their defaults, because an earlier version may not have had them.

    Args:
        kind: a dataclass; its fields may be records, dictionaries of records, or plain values.
        values: the file's content.
        origin: name of the file, for error messages.
        advice: what to do about an invalid file, for error messages, such as "predict again".

    Raises:
        UserError: a field without a default is missing, or a field has the wrong type; the message names the field.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{origin}: expected a JSON object, found {type(values).__name__}; {advice}")
    given = {}
    for entry in dataclasses.fields(kind):
        hint = get_type_hints(kind)[entry.name]
        if entry.name in values:
            given[entry.name] = _checked(values[entry.name], hint, entry.name, origin, advice)
        elif entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            raise UserError(f"{origin}: the field {entry.name} is missing; {advice}")
    return kind(**given)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_plain(value)
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def _checked(value: Any, hint: Any, name: str, origin: str, advice: str) -> Any:
    from typeguard import TypeCheckError, check_type

    if dataclasses.is_dataclass(hint):
        return from_plain(hint, value, f"{origin}: {name}", advice)
    inner = getattr(hint, "__args__", ())
    if isinstance(value, Mapping) and len(inner) == 2 and dataclasses.is_dataclass(inner[1]):
        return {key: from_plain(inner[1], one, f"{origin}: {name}: {key}", advice) for key, one in value.items()}
    value = tuple(value) if isinstance(value, list) and "tuple" in str(hint) else value
    try:
        return check_type(value, hint)
    except TypeCheckError:
        expected = getattr(hint, "__name__", None) if not inner else str(hint)
        raise UserError(f"{origin}: expected {expected or hint} under {name}, found {value!r:.80}; {advice}") from None
