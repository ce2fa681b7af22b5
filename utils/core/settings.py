"""Convert settings between dataclasses and flat dictionaries of flags, and check their types.

The fields of a settings dataclass are flags, and their docstrings are the help. Fields that are dataclasses themselves
are groups of flags, and do not show in the names: the dictionary is flat, as config.json is.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from tyro.conf import arg

from utils.core.errors import UsageError
from utils.core.files import read_json
from utils.core.names import nearest

S = TypeVar("S")

OptionalInt = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
OptionalFloat = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]
OptionalText = Annotated[str | None, arg(metavar="STR", help_behavior_hint="")]
OptionalSwitch = Annotated[bool | None, arg(metavar="{True,False}", help_behavior_hint="")]
OptionalBias = Annotated[Literal["zero", "prior"] | None, arg(metavar="{zero,prior}", help_behavior_hint="")]
OptionalFormat = Annotated[
    Literal["tgs", "dsb2018", "airbus", "carvana"] | None,
    arg(metavar="{tgs,dsb2018,airbus,carvana}", help_behavior_hint=""),
]
Texts = Annotated[tuple[str, ...], arg(help_behavior_hint="")]
Floats = Annotated[tuple[float, ...], arg(help_behavior_hint="")]
Ints = Annotated[tuple[int, ...], arg(help_behavior_hint="")]
"""Types of flags that may be left out; their help says what happens then, so --help shows no default."""

REPLACED = {"ema": "--average ema_{}", "swa": "--average swa_{}", "notify": "the environment variable STRATA_NOTIFY"}
"""Flags of earlier versions, and what to write instead; `{}` stands for their value."""


def check_spelling(name: str, value: Any) -> None:
    """Raise UsageError if a flag was replaced by another one; the message names the new one."""
    if name in REPLACED:
        raise UsageError(f"--{name}: this flag was replaced; use {REPLACED[name].format(value)}")


def read_flags(path: str | Path) -> Any:
    """Read the flags in a run's config.json; those of earlier versions are translated to today's.

    Raises:
        UserError: there is no such file, or it is not JSON.
    """
    values = read_json(path)
    return translated(values) if isinstance(values, dict) else values


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored flags with those of earlier versions in today's spelling."""
    flags = {name: value for name, value in values.items() if name not in REPLACED}
    for name in ("ema", "swa"):
        if values.get(name) is not None:
            flags["average"] = f"{name}_{values[name]}"
    if isinstance(flags.get("loss"), str):  # before a training could have several
        flags["loss"] = [flags["loss"]]
    if {"arch", "optimizer", "seed"} <= flags.keys() and "recipe" not in flags:  # before there were recipes
        flags["recipe"] = "original"
    return flags


def as_typed(value: Any) -> str:
    """Return the value of a flag as it is typed on the command line."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def flat_names(settings_type: type) -> dict[str, type]:
    """Return the type of each flag by its name, over all groups of a settings dataclass."""
    names: dict[str, type] = {}
    for name, kind in get_type_hints(settings_type).items():
        names |= flat_names(kind) if dataclasses.is_dataclass(kind) else {name: kind}
    return names


def to_flat(settings: Any) -> dict[str, Any]:
    """Return the value of each flag by its name, over all groups, as config.json holds them."""
    flat: dict[str, Any] = {}
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        plain = list(value) if isinstance(value, tuple) else value  # as JSON has it
        flat |= to_flat(value) if dataclasses.is_dataclass(value) else {entry.name: plain}
    return flat


def settings_of(settings_type: type[S], given: S | Mapping[str, Any] | str | Path) -> S:
    """Return the settings given as such, as a dictionary of flags, or as a JSON file (a run's config.json).

    Raises:
        UsageError: as in `from_flat`.
        UserError: there is no such file, or it is not JSON.
    """
    if isinstance(given, settings_type):
        return given
    if isinstance(given, str | Path):
        return from_flat(settings_type, read_flags(given), origin=str(given))
    return from_flat(settings_type, given)


def from_flat(settings_type: type[S], values: Mapping[str, Any], origin: str = "settings") -> S:
    """Build settings from the values of flags by their names; absent flags keep their defaults.

    Raises:
        UsageError: a name is not a flag (the message has the nearest ones), or a value does not have the flag's type.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{origin}: expected an object of flags and values, found {type(values).__name__}")
    known = flat_names(settings_type)
    for name in values:
        if name not in known:
            check_spelling(name, values[name])
            raise UsageError(f"{origin}: {name} is not a flag of this script; {nearest(name, known)}")
    return _fill(settings_type(), values, origin)


def _checked(value: Any, kind: Any, what: str) -> Any:
    from typeguard import TypeCheckError, check_type

    value = tuple(value) if isinstance(value, list) else value
    value = (value,) if kind == tuple[str, ...] and isinstance(value, str) else value
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
