"""Read what optimize_threshold.py has stored in run folders, and choose between what several runs have stored.

threshold.json   threshold and minimum area of masks
gate.json        the same together with the gate's threshold
objects.json     the rules that make instances, and the gate's threshold where a gate was fitted with them
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
    """Mask or probability files, one a fold."""
    n_images: int = 0
    tta: str | None = None
    """Their views; None where it is not known."""
    n_snapshots: int | None = None
    """Snapshots that each file is the mean of; None where it is not known."""


class Stored(Protocol):
    """What the stored results have in common."""

    path: Path
    fitted_on: FittedOn

    @property
    def value(self) -> Any:
        """What is compared between runs."""


S = TypeVar("S", bound=Stored)


@dataclass(frozen=True)
class StoredThreshold:
    """threshold.json, or the same values of gate.json."""

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
    """OPEN where no gate was best."""
    helps: bool
    """Whether the gate was sure to help."""
    fitted_on: FittedOn

    @property
    def value(self) -> float:
        """The threshold."""
        return self.threshold

    @property
    def origin(self) -> str:
        """Where it is from, for the user."""
        if self.threshold == OPEN:
            return f"{self.path}, which lets every image through"
        return str(self.path) if self.helps else f"{self.path}, by which the gate is not sure to help"


@dataclass(frozen=True)
class StoredInstances:
    """objects.json."""

    path: Path
    rules: InstanceRules
    fitted_on: FittedOn

    @property
    def value(self) -> InstanceRules:
        """The rules."""
        return self.rules


@dataclass(frozen=True)
class StoredClasses:
    """labels.json."""

    path: Path
    thresholds: dict[str, float]
    """By class; empty where the most probable class is taken."""
    fitted_on: FittedOn

    @property
    def value(self) -> dict[str, float]:
        """The thresholds."""
        return self.thresholds


def run_folder_of(path: str | Path) -> Path | None:
    """Return the experiment folder that a file lies in: the nearest folder above with a config.json, four at most."""
    for folder in list(Path(path).resolve().parents)[:4]:  # <run>/snapshots/cycle_0/masks.npy, and one to spare
        if (folder / "config.json").is_file():
            return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return None


def read_threshold(folder: str | Path, name: str = THRESHOLD_FILE) -> StoredThreshold | None:
    """Read the threshold.json (or gate.json) of a folder; None if there is none.

    Raises:
        UserError: it is not what optimize_threshold.py writes.
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
    """Read the gate's threshold from the gate.json (or objects.json) of a folder; None if it holds none.

    Raises:
        UserError: it is not what optimize_threshold.py writes.
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
    """Read the objects.json of a folder; None if there is none.

    Raises:
        UserError: it is not what optimize_threshold.py writes.
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
            f"{path}: expected th and seed_th in [0, 1], a min_area, and fill_holes true or false, found {values}; "
            f"{AGAIN}"
        )
    return StoredInstances(path, InstanceRules(**values), _fitted_on(stored))


def read_class_thresholds(folder: str | Path) -> StoredClasses | None:
    """Read the labels.json of a folder; None if there is none.

    Raises:
        UserError: it is not what optimize_threshold.py writes.
    """
    path = Path(folder) / LABELS_FILE
    if (stored := _object_in(path)) is None:
        return None
    thresholds = stored.get("thresholds")
    if not isinstance(thresholds, Mapping) or not all(map(_is_share, thresholds.values())):
        raise UserError(f"{path}: expected thresholds in [0, 1] by label, found {thresholds!r:.80}; {AGAIN}")
    return StoredClasses(path, {name: float(th) for name, th in thresholds.items()}, _fitted_on(stored))


def choose_stored(read: Callable[[Path], S | None], runs: Iterable[str | Path | None]) -> tuple[S | None, list[str]]:
    """Choose between what several runs have stored.

    Where they differ, that which was fitted over all of the runs together is taken, else that which was fitted on the
    most images (of equal ones the first).

    Args:
        read: one of the readers above.
        runs: run folders; None is skipped.

    Returns:
        what is taken, None if no run has anything; and lines for the user where runs differ.

    Raises:
        UserError: as `read`.
    """
    folders = list(dict.fromkeys(Path(run) for run in runs if run is not None))
    found = [stored for folder in folders if (stored := read(folder)) is not None]
    if not found:
        return None, []
    if all(stored.value == found[0].value for stored in found):
        return found[0], []
    over_all = [stored for stored in found if _covers(stored.fitted_on, [one.path.parent for one in found])]
    taken = over_all[0] if over_all else max(found, key=lambda stored: stored.fitted_on.n_images)
    why = "which was fitted over all of these runs" if over_all else f"fitted on {taken.fitted_on.n_images} images"
    advice = "" if over_all else "; optimize_threshold.py with the validation masks of all folds fits one for all"
    others = ", ".join(str(stored.path) for stored in found if stored.value != taken.value)
    return taken, [f"{taken.path} is taken, {why}; {others} says otherwise{advice}"]


def unlike(stored: Stored, info: PredictionInfo, runs: Sequence[str | Path | None]) -> list[str]:
    """Say in a line each how predictions differ from those that a stored result was fitted on.

    Args:
        stored: the result.
        info: what is predicted now; views and snapshots that are not known are not compared.
        runs: the run of each snapshot.
    """
    fitted, lines = stored.fitted_on, []
    if fitted.tta and info.tta and fitted.tta != info.tta:
        lines.append(f"{stored.path} was fitted on masks of the views {fitted.tta}, these are of {info.tta}")
    each = len(info.snapshots) / max(1, len({run for run in runs if run is not None}))
    if fitted.n_snapshots and info.snapshots and fitted.n_snapshots != each:
        lines.append(
            f"{stored.path} was fitted on means over {fitted.n_snapshots} snapshots of a run, these are over {each:g}"
        )
    return [f"{line}; fit it again on masks of the same kind (--part val) if the score matters" for line in lines]


def describe_fit(infos: Sequence[PredictionInfo]) -> dict[str, Any]:
    """Return what a result says of the predictions it was fitted on; null where files differ or do not say it."""
    views = {info.tta for info in infos}
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
    """What a result says of the files it is from; those of earlier versions leave views and snapshots to the files."""
    files = stored.get("masks") or stored.get("probabilities")
    names = tuple(name for name in files if isinstance(name, str)) if isinstance(files, list) else ()
    n_images = stored.get("n_images")
    tta, n_snapshots = stored.get("tta"), stored.get("n_snapshots")
    if "tta" not in stored and names and Path(names[0]).with_suffix(".json").is_file():
        try:
            info = read_description(Path(names[0]))[1]
        except UserError:
            info = PredictionInfo()
        tta, n_snapshots = info.tta, len(info.snapshots) or None
    return FittedOn(
        files=names,
        n_images=n_images if isinstance(n_images, int) else 0,
        tta=tta if isinstance(tta, str) else None,
        n_snapshots=n_snapshots if isinstance(n_snapshots, int) else None,
    )


def _covers(fitted: FittedOn, folders: Sequence[Path]) -> bool:
    """Whether each run has a file among those that a result was fitted on."""
    return all(any(folder.name in Path(name).parts for name in fitted.files) for folder in folders)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_area(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
