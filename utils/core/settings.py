"""Convert settings between dataclasses and flat dictionaries of flags, and check them.

A settings dataclass has groups (dataclasses) of fields; each field is a flag, and the docstring below it is its help.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from utils.core.errors import UsageError
from utils.core.files import read_json
from utils.core.names import nearest

S = TypeVar("S")


def flat_names(settings_type: type) -> dict[str, type]:
    """Flag name -> type, over all groups of a settings dataclass."""
    names: dict[str, type] = {}
    for name, kind in get_type_hints(settings_type).items():
        names |= flat_names(kind) if dataclasses.is_dataclass(kind) else {name: kind}
    return names


def to_flat(settings: Any) -> dict[str, Any]:
    """Flag name -> value, over all groups; what config.json holds."""
    flat: dict[str, Any] = {}
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        plain = list(value) if isinstance(value, tuple) else value  # as JSON has it
        flat |= to_flat(value) if dataclasses.is_dataclass(value) else {entry.name: plain}
    return flat


def settings_of(settings_type: type[S], given: S | Mapping[str, Any] | str | Path) -> S:
    """Settings that are given as such, as a dictionary of flags, or as a JSON file of them (a run's config.json).

    Raises:
        UsageError: as for `from_flat`.
        UserError: no such file, or no JSON in it.
    """
    if isinstance(given, settings_type):
        return given
    if isinstance(given, str | Path):
        return from_flat(settings_type, read_json(given), origin=str(given))
    return from_flat(settings_type, given)


def from_flat(settings_type: type[S], values: Mapping[str, Any], origin: str = "settings") -> S:
    """The settings that `values` (flag name -> value) describe; what is absent keeps its default.

    Raises:
        UsageError: a name is no flag (with the nearest ones), or a value is not of the flag's type.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{origin}: expected an object of flags and values, found {type(values).__name__}")
    known = flat_names(settings_type)
    for name in values:
        if name not in known:
            raise UsageError(f"{origin}: {name} is no flag of this script; {nearest(name, known)}")
    return _fill(settings_type(), values, origin)


def _checked(value: Any, kind: Any, what: str) -> Any:
    from typeguard import TypeCheckError, check_type

    value = tuple(value) if isinstance(value, list) else value
    try:
        return check_type(value, kind)
    except TypeCheckError:
        expected = getattr(kind, "__name__", str(kind)).replace("typing.", "")
        raise UsageError(f"{what}: expected {expected}, found {value!r}") from None


def _fill(default: S, values: Mapping[str, Any], origin: str) -> S:
    given: dict[str, Any] = {}
    for name, kind in get_type_hints(type(default)).items():
        if dataclasses.is_dataclass(kind):
            given[name] = _fill(getattr(default, name), values, origin)
        elif name in values:
            given[name] = _checked(values[name], kind, f"{origin}: {name}")
    return dataclasses.replace(default, **given)
