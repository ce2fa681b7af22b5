"""Names of submission files: <fn>_<date>_<time>.csv, on request with the names of the runs that predicted."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from utils.core.files import atomic_file, part_of
from utils.masks.mask_file import PredictionInfo
from utils.scoring.stored_thresholds import run_folder_of

MOST_NAMES = 3
"""Largest number of runs that are named in full."""


def named_after(fn: str, info: PredictionInfo, path: Path) -> str:
    """Return the start of a submission's name, with {weights} replaced by the names of the runs that predicted.

    Args:
        fn: value of --fn.
        info: description of the mask or probability file; its name stands for the runs if it names no snapshots.
        path: the mask or probability file.
    """
    runs = [(run_folder_of(snapshot) or Path(snapshot)).name for snapshot in info.snapshots]
    names = list(dict.fromkeys(runs)) or [path.stem]
    few = names if len(names) <= MOST_NAMES else [names[0], f"{len(names) - 1}_more"]
    return fn.replace("{weights}", "+".join(few))


@contextmanager
def timestamped_file(folder: str | Path, fn: str) -> Iterator[tuple[Path, Path]]:
    """Yield the path of a new file, and the temporary path to write to, as `atomic_file` does.

    The file is <folder>/<fn>_<year>-<month>-<day>_<hour>-<minute>.csv; its name ends in _2, _3, ... if that exists or
    another process is writing it.
    """
    stem, number = f"{fn}_{datetime.now():%Y-%m-%d_%H-%M}", 1
    path = Path(folder) / f"{stem}.csv"
    while not _claimed(path):
        number += 1
        path = path.with_name(f"{stem}_{number}.csv")
    with atomic_file(path) as part:
        yield path, part


def _claimed(path: Path) -> bool:
    """Create the temporary file of a path, so that no other process chooses it; return False if one already has it."""
    part = part_of(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.touch(exist_ok=False)
    except FileExistsError:
        return False
    if path.exists():  # looked at only now, because another process may just have finished it
        part.unlink()
        return False
    return True
