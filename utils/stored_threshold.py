"""Which threshold a script takes: what a flag says, else what optimize_threshold.py has stored in the run's folder."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

from utils.errors import UsageError, UserError
from utils.files import read_json

T = TypeVar("T")

FILE = "threshold.json"
GATE_FILE = "gate.json"


def run_folder_of(masks_path: str | Path) -> Path | None:
    """The experiment folder that a mask file lies in: the nearest folder above it with a config.json, four at most."""
    for folder in list(Path(masks_path).resolve().parents)[:4]:  # <run>/snapshots/cycle_0/masks.npy, and one to spare
        if (folder / "config.json").is_file():
            return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return None


def stored_threshold(folder: str | Path, name: str = FILE) -> tuple[float, int] | None:
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
    folders, found, origin = list(folders), (0.5, 0), f"no {FILE} found"
    for name in (GATE_FILE, FILE) if gated else (FILE,):
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
