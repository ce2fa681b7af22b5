"""Names of submission files: <fn>_<date>_<time>.csv, on request with the names of the runs that predicted."""

from datetime import datetime
from pathlib import Path

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


def timestamped(folder: str | Path, fn: str) -> Path:
    """Return <folder>/<fn>_<year>-<month>-<day>_<hour>-<minute>.csv, or with _2, _3, ... if that exists."""
    stem = f"{fn}_{datetime.now():%Y-%m-%d_%H-%M}"
    path, number = Path(folder) / f"{stem}.csv", 1
    while path.exists():
        number += 1
        path = path.with_name(f"{stem}_{number}.csv")
    return path
