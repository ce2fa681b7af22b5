"""Read what optimize_threshold.py has stored in run folders: threshold.json, gate.json, objects.json, labels.json."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from utils.core.errors import UsageError, UserError
from utils.core.files import read_json
from utils.masks.gate import OPEN, gate_probability, gated_out
from utils.masks.instances import InstanceRules
from utils.masks.probability_file import Probabilities

T = TypeVar("T")
THRESHOLD_FILE = "threshold.json"
GATE_FILE = "gate.json"


def run_folder_of(masks_path: str | Path) -> Path | None:
    """The experiment folder that a mask file lies in: the nearest folder above it with a config.json, four at most."""
    for folder in list(Path(masks_path).resolve().parents)[:4]:  # <run>/snapshots/cycle_0/masks.npy, and one to spare
        if (folder / "config.json").is_file():
            return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return None


def stored_threshold(folder: str | Path, name: str = THRESHOLD_FILE) -> tuple[float, int] | None:
    """(threshold, min_area) from the threshold.json (or gate.json, ...) in a folder, or None if there is none.

    Raises:
        UserError: it is not what optimize_threshold.py writes.
    """
    path = Path(folder) / name
    if not path.is_file():
        return None
    stored = read_json(path)
    th, area = (stored.get("threshold"), stored.get("min_area", 0)) if isinstance(stored, dict) else (None, 0)
    if not isinstance(th, int | float) or not 0 <= th <= 1 or not isinstance(area, int) or area < 0:
        raise UserError(f"{path}: expected a threshold in [0, 1] and a min_area, found {th} and {area}; write it again")
    return float(th), area


def choose_threshold(
    th: float | None, min_area: int | None, folders: Iterable[str | Path | None], gated: bool = False
) -> tuple[float, int, str]:
    """What a flag says, else the first threshold.json in `folders` (None is skipped), else .5 and 0.

    Behind a gate (`gated`) a gate.json comes first: it has the threshold that was found together with the gate's.

    Returns:
        (threshold, min_area, where the threshold is from: a few words for the user).

    Raises:
        UsageError: th outside [0, 1] or min_area below 0.
    """
    if th is not None and not 0 <= th <= 1:
        raise UsageError(f"--th {th}: a threshold of probabilities is in [0, 1]")
    if min_area is not None and min_area < 0:
        raise UsageError(f"--min_area {min_area}: a number of pixels is not negative")
    folders, found, origin = list(folders), (0.5, 0), f"no {THRESHOLD_FILE} found"
    for name in (GATE_FILE, THRESHOLD_FILE) if gated else (THRESHOLD_FILE,):
        folder, stored = first_stored(partial(stored_threshold, name=name), folders)
        if stored is not None:
            found, origin = stored, str(Path(folder) / name)
            break
    return (
        found[0] if th is None else th,
        found[1] if min_area is None else min_area,
        origin if th is None else "--th",
    )


def first_stored(
    read: Callable[[str | Path], T | None], folders: Iterable[str | Path | None]
) -> tuple[str | Path, T] | tuple[None, None]:
    """The first of `folders` (None is skipped) in which `read` finds something, and what it finds."""
    for folder in folders:
        if folder is not None and (stored := read(folder)) is not None:
            return folder, stored
    return None, None


OBJECTS_FILE = "objects.json"


def stored_rules(folder: str | Path) -> InstanceRules | None:
    """The rules in the objects.json of a folder, or None if there is none.

    Raises:
        UserError: it is not what optimize_threshold.py writes.
    """
    path = Path(folder) / OBJECTS_FILE
    if not path.is_file():
        return None
    stored = read_json(path)
    values = {field.name: stored.get(field.name) for field in fields(InstanceRules)} if isinstance(stored, dict) else {}
    if not (
        all(_is_number(values.get(name)) and 0 <= values[name] <= 1 for name in ("th", "seed_th"))
        and isinstance(values["min_area"], int)
        and values["min_area"] >= 0
        and isinstance(values["fill_holes"], bool)
    ):
        raise UserError(
            f"{path}: expected th and seed_th in [0, 1], a min_area, and fill_holes true or false, "
            f"found {values or 'something else'}; write it again"
        )
    return InstanceRules(**values)


def choose_rules(
    th: float | None,
    seed_th: float | None,
    min_area: int | None,
    fill_holes: bool | None,
    folders: Iterable[str | Path | None],
) -> tuple[InstanceRules, str]:
    """What flags say (None: not given), else the first objects.json in `folders` (None is skipped), else the defaults.

    Returns:
        (rules, where they are from: a few words for the user).

    Raises:
        UsageError: a threshold outside [0, 1] or min_area below 0.
        UserError: an objects.json that is none.
    """
    for flag, value in (("--th", th), ("--seed_th", seed_th)):
        if value is not None and not 0 <= value <= 1:
            raise UsageError(f"{flag} {value}: a threshold of probabilities is in [0, 1]")
    if min_area is not None and min_area < 0:
        raise UsageError(f"--min_area {min_area}: a number of pixels is not negative")
    flags = {"th": th, "seed_th": seed_th, "min_area": min_area, "fill_holes": fill_holes}
    given = {name: value for name, value in flags.items() if value is not None}
    folder, rules = first_stored(stored_rules, folders)
    origin = f"no {OBJECTS_FILE} found" if folder is None else str(Path(folder) / OBJECTS_FILE)
    named = " ".join(f"--{name}" for name in given)
    if given:
        origin = named if len(given) == len(flags) else f"{named}, for the rest {origin}"
    return InstanceRules(**{**vars(rules or InstanceRules()), **given}), origin


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def stored_gate(folder: str | Path) -> float | None:
    """The gate's threshold from the gate.json in a folder, OPEN where no gate was best; None if there is no file.

    Raises:
        UserError: it is not what optimize_threshold.py writes.
    """
    stored = _read(folder)
    return None if stored is None else stored["gate_threshold"]


def choose_gate_th(flag: float | None, folders: Iterable[str | Path | None]) -> tuple[float, str]:
    """What --gate_th says, else the first gate.json in `folders` (None is skipped), else .5.

    Returns:
        (threshold, where it is from: a few words for the user).

    Raises:
        UsageError: the flag is outside [0, 1].
        UserError: as `stored_gate`.
    """
    if flag is not None:
        check_gate_th(flag, there_is_one=True)
        return flag, "--gate_th"
    folder, stored = first_stored(_read, folders)
    if stored is None:
        return 0.5, f"no {GATE_FILE} found"
    th, path = stored["gate_threshold"], Path(folder) / GATE_FILE
    if th == OPEN:
        return th, f"{path}, which lets every image through"
    return th, str(path) if stored.get("helps") else f"{path}, by which the gate is not sure to help"


def _read(folder: str | Path) -> dict[str, Any] | None:
    path = Path(folder) / GATE_FILE
    if not path.is_file():
        return None
    stored = read_json(path)
    th = stored.get("gate_threshold", "none") if isinstance(stored, dict) else "none"
    if th is None:
        return {**stored, "gate_threshold": OPEN}
    if isinstance(th, bool) or not isinstance(th, int | float) or not 0 <= th <= 1:
        raise UserError(f"{path}: expected a gate_threshold in [0, 1] or null, found {th}; write it again")
    return {**stored, "gate_threshold": float(th)}


def check_gate_th(gate_th: float | None, there_is_one: bool) -> None:
    """Raise a UsageError for a threshold outside [0, 1], or without a gate that it is for."""
    if gate_th is None:
        return
    if not 0 <= gate_th <= 1:
        raise UsageError(f"--gate_th {gate_th}: a threshold of probabilities is in [0, 1]")
    if not there_is_one:
        raise UsageError(f"--gate_th {gate_th}: there is no gate that it is for; name one, or leave it out")


def gated_out_ids(
    gate_th: float | None, folders: Iterable[str | Path | None], ids: Sequence[str], files: Sequence[Probabilities]
) -> set[str] | None:
    """Ids that a gate silences, and a line about them; None without a gate.

    Args:
        gate_th: what --gate_th says.
        folders: run folders to look for gate.json.
        ids: the images.
        files: the gate's probabilities; none: there is no gate.

    Raises:
        UserError, UsageError: as `gate_probability` and `choose_gate_th`.
    """
    check_gate_th(gate_th, bool(files))
    if not files:
        return None
    th, origin = choose_gate_th(gate_th, folders)
    which = gated_out(gate_probability(files, ids), th)
    print(f"gate: silences {np.count_nonzero(which)} of {len(which)} images at {th:.6g} ({origin})")
    return {name for name, hush in zip(ids, which, strict=True) if hush}


LABELS_FILE = "labels.json"


def stored_class_thresholds(folder: str | Path) -> dict[str, float] | None:
    """Label -> threshold from the labels.json in a folder (empty: the most probable label), None if there is none.

    Raises:
        UserError: it is not what `ClassFit.as_json` describes.
    """
    path = Path(folder) / LABELS_FILE
    if not path.is_file():
        return None
    stored = read_json(path)
    thresholds = stored.get("thresholds") if isinstance(stored, dict) else None
    if not isinstance(thresholds, Mapping) or not all(
        isinstance(th, int | float) and 0 <= th <= 1 for th in thresholds.values()
    ):
        raise UserError(f"{path}: expected thresholds in [0, 1] by label, found {thresholds}; write it again")
    return {name: float(th) for name, th in thresholds.items()}
