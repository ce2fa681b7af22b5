"""Find the run folders that a command line names: `experiments`, `experiments/*`, or single runs."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.core.errors import UserError

OF_A_RUN = ("config.json", "log.csv", "snapshots", "state.pt", "status.json", "summary.json")
NO_RUNS = ("mlartifacts", "mlruns")
"""Folders that a tracker creates next to the runs."""


def runs_below(paths: Sequence[str]) -> list[Path]:
    """Return the run folders that some paths name, in order and without duplicates.

    A folder with a config.json is a run. A folder with a config.json in any sub-folder is a folder of runs, and all its
    sub-folders are returned, even those without a config.json, so that these are reported and not overlooked. A folder
    that is neither is returned itself. Files (which `experiments/*` includes), hidden folders and folders of trackers
    are left out.

    Raises:
        UserError: a path does not exist, or there is no run in any of them.
    """
    found: dict[Path, Path] = {}
    for name in paths:
        path = Path(name)
        if not os.path.lexists(path):
            raise UserError(f"{name}: no such file or folder; expected folders of runs, such as experiments/*")
        for folder in _folders_of(path):
            found.setdefault(folder.resolve(), folder)
    runs = list(found.values())
    if not any(_holds_parts_of_a_run(folder) for folder in runs):
        named = ", ".join(paths) if paths else "no folder given"
        raise UserError(f"{named}: no runs found; expected folders of runs, as train.py writes to experiments/<name>")
    return runs


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its own, preceded by as many parent folders as it takes to make it unique."""
    parts = [path.resolve().parts for path in paths]
    names: dict[int, str] = {}
    for depth in range(1, max(map(len, parts), default=0) + 1):
        tried = ["/".join(part[-depth:]) for part in parts]
        often = Counter(tried)
        names |= {place: name for place, name in enumerate(tried) if often[name] == 1 and place not in names}
    return [names.get(place, str(path)) for place, path in enumerate(paths)]


def by_number(name: str) -> list[tuple[int, str]]:
    """Return a sort key for names that puts 10 after 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _folders_of(path: Path) -> Iterator[Path]:
    if not path.is_dir() or path.name in NO_RUNS:
        return
    inside = [folder for folder in _entries(path) if folder.is_dir() and _is_listed(folder.name)]
    holds_runs = any((folder / "config.json").exists() for folder in inside)
    if holds_runs and not _holds_parts_of_a_run(path):
        yield from sorted(inside, key=lambda folder: by_number(folder.name))
    else:
        yield path


def _is_listed(name: str) -> bool:
    return not name.startswith(".") and name not in NO_RUNS


def _holds_parts_of_a_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in OF_A_RUN)


def _entries(folder: Path) -> list[Path]:
    """Return the entries of a folder; an empty list if it cannot be read."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []
