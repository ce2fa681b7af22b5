"""Read the results of optimize_threshold.py from run folders, and choose between the results of several runs.

threshold.json   threshold and minimum area of masks
gate.json        threshold and minimum area of masks, fitted together with the gate's threshold
objects.json     the rules for instances, and the gate's threshold if a gate was fitted with them
labels.json      a threshold for each class of images
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from utils.core.errors import UserError
from utils.core.files import read_json
from utils.masks.gate import OPEN
from utils.masks.instances import InstanceRules
from utils.masks.mask_file import PredictionInfo, read_description

THRESHOLD_FILE = "threshold.json"
GATE_FILE = "gate.json"
OBJECTS_FILE = "objects.json"
LABELS_FILE = "labels.json"
AGAIN = "run optimize_threshold.py again"


@dataclass(frozen=True)
class FittedOn:
    """The predictions that a stored result was fitted on."""

    files: tuple[str, ...] = ()
    """Mask or probability files, one per fold."""
    n_images: int = 0
    tta: str | None = None
    """The views averaged in each file; None if unknown."""
    n_snapshots: int | None = None
    """Number of snapshots averaged in each file; None if unknown."""


class Stored(Protocol):
    """Interface of the stored results."""

    path: Path
    fitted_on: FittedOn

    @property
    def value(self) -> Any:
        """The part of the result that is compared between runs."""


S = TypeVar("S", bound=Stored)


@dataclass(frozen=True)
class StoredThreshold:
    """Threshold and minimum area of masks in threshold.json or gate.json."""

    path: Path
    threshold: float
    min_area: int
    fitted_on: FittedOn

    @property
    def value(self) -> tuple[float, int]:
        """Threshold and minimum area."""
        return self.threshold, self.min_area


@dataclass(frozen=True)
class StoredGate:
    """The gate's threshold in gate.json or objects.json."""

    path: Path
    threshold: float
    """OPEN if no gate scored better than letting every image through."""
    helps: bool
    """True if the gate helped significantly in the cross-fit."""
    fitted_on: FittedOn

    @property
    def value(self) -> float:
        """The threshold."""
        return self.threshold

    @property
    def origin(self) -> str:
        """The origin of the threshold, for the user."""
        if self.threshold == OPEN:
            return f"{self.path}, which lets every image through"
        return str(self.path) if self.helps else f"{self.path}, where the gate does not help significantly"


@dataclass(frozen=True)
class StoredInstances:
    """The rules for instances in objects.json."""

    path: Path
    rules: InstanceRules
    fitted_on: FittedOn

    @property
    def value(self) -> InstanceRules:
        """The rules."""
        return self.rules


@dataclass(frozen=True)
class StoredClasses:
    """The thresholds of classes in labels.json."""

    path: Path
    thresholds: dict[str, float]
    """By class; empty if the most probable class is predicted."""
    fitted_on: FittedOn

    @property
    def value(self) -> dict[str, float]:
        """The thresholds."""
        return self.thresholds


def run_folder_of(path: str | Path) -> Path | None:
    """Return the experiment folder of a file: the nearest of its four parent folders that has a config.json."""
    for folder in list(Path(path).resolve().parents)[:4]:  # <run>/snapshots/cycle_0/masks.npy needs 3; 1 is spare
        if (folder / "config.json").is_file():
            return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return None


def read_threshold(folder: str | Path, name: str = THRESHOLD_FILE) -> StoredThreshold | None:
    """Read the threshold.json (or gate.json) of a folder; return None if the file is missing.

    Raises:
        UserError: the file is not a valid result of optimize_threshold.py.
    """
    path = Path(folder) / name
    if (stored := _object_in(path)) is None:
        return None
    th, area = stored.get("threshold"), stored.get("min_area", 0)
    if not _is_share(th):
        raise UserError(f'{path}: expected a number in [0, 1] under "threshold", found {th!r:.80}; {AGAIN}')
    if not _is_area(area):
        raise UserError(f'{path}: expected a number of pixels under "min_area", found {area!r:.80}; {AGAIN}')
    return StoredThreshold(path, float(th), area, _fitted_on(stored))


def read_gate(folder: str | Path, name: str = GATE_FILE) -> StoredGate | None:
    """Read the gate's threshold from the gate.json (or objects.json) of a folder.

    Returns:
        None if the file is missing, or if it is an objects.json without a gate.

    Raises:
        UserError: the file is not a valid result of optimize_threshold.py.
    """
    path = Path(folder) / name
    stored = _object_in(path)
    if stored is None or (name == OBJECTS_FILE and "gate_threshold" not in stored):
        return None
    th = stored.get("gate_threshold", "nothing")
    if th is not None and not _is_share(th):
        raise UserError(
            f'{path}: expected a number in [0, 1] or null under "gate_threshold", found {th!r:.80}; {AGAIN}'
        )
    return StoredGate(path, OPEN if th is None else float(th), bool(stored.get("helps")), _fitted_on(stored))


def read_instance_rules(folder: str | Path) -> StoredInstances | None:
    """Read the objects.json of a folder; return None if the file is missing.

    Raises:
        UserError: the file is not a valid result of optimize_threshold.py.
    """
    path = Path(folder) / OBJECTS_FILE
    if (stored := _object_in(path)) is None:
        return None
    values = {entry.name: stored.get(entry.name) for entry in fields(InstanceRules)}
    if not (
        all(_is_share(values[name]) for name in ("th", "seed_th"))
        and _is_area(values["min_area"])
        and isinstance(values["fill_holes"], bool)
    ):
        raise UserError(
            f"{path}: expected th and seed_th in [0, 1], min_area in pixels and fill_holes true or false, found "
            f"{values}; {AGAIN}"
        )
    return StoredInstances(path, InstanceRules(**values), _fitted_on(stored))


def read_class_thresholds(folder: str | Path) -> StoredClasses | None:
    """Read the labels.json of a folder; return None if the file is missing.

    Raises:
        UserError: the file is not a valid result of optimize_threshold.py.
    """
    path = Path(folder) / LABELS_FILE
    if (stored := _object_in(path)) is None:
        return None
    thresholds = stored.get("thresholds")
    if not isinstance(thresholds, Mapping) or not all(map(_is_share, thresholds.values())):
        raise UserError(
            f'{path}: expected a number in [0, 1] for each label under "thresholds", found {thresholds!r:.80}; {AGAIN}'
        )
    return StoredClasses(path, {name: float(th) for name, th in thresholds.items()}, _fitted_on(stored))


def choose_stored(read: Callable[[Path], S | None], runs: Iterable[str | Path | None]) -> tuple[S | None, list[str]]:
    """Choose between the stored results of several runs.

    If the results differ, the one fitted on all of these runs together is chosen, else the one fitted on the most
    images (ties: the first).

    Args:
        read: one of the readers above.
        runs: run folders; None is skipped.

    Returns:
        the chosen result, None if no run has a result; and notes for the user if the results differ.

    Raises:
        UserError: as for `read`.
    """
    folders = list(dict.fromkeys(Path(run) for run in runs if run is not None))
    found = [stored for folder in folders if (stored := read(folder)) is not None]
    if not found:
        return None, []
    if all(stored.value == found[0].value for stored in found):
        return found[0], []
    over_all = [stored for stored in found if _covers(stored.fitted_on, [one.path.parent for one in found])]
    taken = over_all[0] if over_all else max(found, key=lambda stored: stored.fitted_on.n_images)
    why = "fitted on all of these runs together" if over_all else f"fitted on {taken.fitted_on.n_images} images"
    advice = "" if over_all else "; run optimize_threshold.py with the validation masks of all folds to fit one result"
    others = ", ".join(str(stored.path) for stored in found if stored.value != taken.value)
    return taken, [f"using {taken.path} ({why}), which differs from {others}{advice}"]


def unlike(stored: Stored, info: PredictionInfo, runs: Sequence[str | Path | None]) -> list[str]:
    """Return a warning for each way in which predictions differ from those that a stored result was fitted on.

    Args:
        stored: the result.
        info: description of the current predictions; unknown views and snapshots are not compared.
        runs: the run of each snapshot.
    """
    fitted, lines = stored.fitted_on, []
    if fitted.tta and info.views and fitted.tta != info.views:
        lines.append(
            f"{stored.path} was fitted on masks of the views {fitted.tta}, but these masks are of {info.views}"
        )
    each = len(info.snapshots) / max(1, len({run for run in runs if run is not None}))
    if fitted.n_snapshots and info.snapshots and fitted.n_snapshots != each:
        lines.append(
            f"{stored.path} was fitted on means over {fitted.n_snapshots} snapshots of each run, but these masks are "
            f"means over {each:g}"
        )
    return [f"{line}; fit again on masks of the same kind (--part val) if the score matters" for line in lines]


def describe_fit(infos: Sequence[PredictionInfo]) -> dict[str, Any]:
    """Return the views and number of snapshots that a result stores; None where files differ or do not record them."""
    views = {info.views for info in infos}
    numbers = {len(info.snapshots) or None for info in infos}
    return {
        "tta": views.pop() if len(views) == 1 else None,
        "n_snapshots": numbers.pop() if len(numbers) == 1 else None,
    }


def _object_in(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    stored = read_json(path)
    if not isinstance(stored, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(stored).__name__}; {AGAIN}")
    return stored


def _fitted_on(stored: Mapping[str, Any]) -> FittedOn:
    """Return the predictions that a result was fitted on.

    Results of earlier versions do not store views and snapshots; these are then read from the first file's description.
    """
    files = stored.get("masks") or stored.get("probabilities")
    names = tuple(name for name in files if isinstance(name, str)) if isinstance(files, list) else ()
    n_images = stored.get("n_images")
    tta, n_snapshots = stored.get("tta"), stored.get("n_snapshots")
    if "tta" not in stored and names and Path(names[0]).with_suffix(".json").is_file():
        try:
            info = read_description(Path(names[0]))[1]
        except UserError:
            info = PredictionInfo()
        tta, n_snapshots = info.views, len(info.snapshots) or None
    return FittedOn(
        files=names,
        n_images=n_images if isinstance(n_images, int) else 0,
        tta=tta if isinstance(tta, str) else None,
        n_snapshots=n_snapshots if isinstance(n_snapshots, int) else None,
    )


def _covers(fitted: FittedOn, folders: Sequence[Path]) -> bool:
    """Return True if a result was fitted on at least one file of each run."""
    return all(any(folder.name in Path(name).parts for name in fitted.files) for folder in folders)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_area(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
