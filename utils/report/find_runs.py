"""Which folders a command line means: `experiments`, `experiments/*`, or some runs by name."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.core.errors import UserError

OF_A_RUN = ("config.json", "log.csv", "snapshots", "state.pt", "status.json", "summary.json")
NO_RUNS = ("mlartifacts", "mlruns")
"""Folders that a tracker puts beside the runs."""


def runs_below(paths: Sequence[str]) -> list[Path]:
    """The run folders that some paths mean, in their order, each once.

    A folder with a config.json is a run; one whose sub-folders have it is a folder of runs, and all its sub-folders are
    listed: those without a config.json are foreign, and listed so that they are not missed. A folder that is neither is
    foreign itself. Files that `experiments/*` brings along, hidden folders and those of trackers are left out.

    Raises:
        UserError: a path that does not exist, or no run in any of them.
    """
    found: dict[Path, Path] = {}
    for name in paths:
        path = Path(name)
        if not os.path.lexists(path):
            raise UserError(f"{name}: no such file or folder; name folders of runs, such as experiments/*")
        for folder in _folders_of(path):
            found.setdefault(folder.resolve(), folder)
    runs = list(found.values())
    if all(_is_bare(folder) for folder in runs):
        said = ", ".join(paths) if paths else "nothing named"
        raise UserError(f"{said}: no run there; train.py writes one to experiments/<name>, which can be named here")
    return runs


def short_names(paths: Sequence[Path]) -> list[str]:
    """A name for each folder: its own, with as many folders above it as it takes to tell all of them apart."""
    parts = [path.resolve().parts for path in paths]
    names: dict[int, str] = {}
    for depth in range(1, max(map(len, parts), default=0) + 1):
        tried = ["/".join(part[-depth:]) for part in parts]
        often = Counter(tried)
        names |= {place: name for place, name in enumerate(tried) if often[name] == 1 and place not in names}
    return [names.get(place, str(path)) for place, path in enumerate(paths)]


def by_number(name: str) -> list[tuple[int, str]]:
    """A key to sort names by in which 10 comes after 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _folders_of(path: Path) -> Iterator[Path]:
    if not path.is_dir() or path.name in NO_RUNS:
        return
    inside = [folder for folder in _entries(path) if folder.is_dir() and _is_listed(folder.name)]
    holds_runs = any((folder / "config.json").exists() for folder in inside)
    if holds_runs and not any((path / name).exists() for name in OF_A_RUN):
        yield from sorted(inside, key=lambda folder: by_number(folder.name))
    else:
        yield path


def _is_listed(name: str) -> bool:
    return not name.startswith(".") and name not in NO_RUNS


def _is_bare(folder: Path) -> bool:
    """Whether nothing lies in a folder but a README."""
    return all(entry.name.startswith(".") or entry.name == "README.md" for entry in _entries(folder))


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder; of one that may not be looked into, nothing."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []
