"""The folder of one run: which files it has, how snapshots are called, and which of them is best.

config.json    the flags; `--config` repeats the run
log.csv        a row an epoch
state.pt       what --resume needs, replaced after every epoch
summary.json   written when the run is finished: best snapshot, scores, time
snapshots/     epoch_194.loss_1.1063.iout_0.855 and val_masks_<the same>.npy; in cycle_<k>/ where there are cycles
threshold.json written by optimize_threshold.py
tensorboard/   curves and overlays
"""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.core.errors import UsageError, UserError
from utils.core.files import read_json, write_json
from utils.core.tables import write_table

SNAPSHOT_NAME = re.compile(r"epoch_(\d+)\.loss_([0-9.]+)\.([a-z0-9]+)_(\d\.\d+)")

# flags that may differ between a run and its continuation
FREE_ON_RESUME = {
    *("n_epochs", "keep", "folds", "resume", "config", "debug", "experiment_dir", "data_dir"),
    *("device", "precision", "compile", "autotune", "loader_workers", "encoder_weights", "snapshot", "on_nan"),
    *("quiet", "tracker", "notify"),
}

SECRET = {"notify"}  # addresses hold passwords and tokens
NOT_STORED = {"resume", "config", "debug", "quiet"} | SECRET


def stored_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of a run that may be written down: no secrets, and nothing that is of one start alone."""
    return {name: value for name, value in flags.items() if name not in NOT_STORED}


@dataclass(frozen=True)
class SnapshotFile:
    """A snapshot as its name describes it."""

    path: Path
    epoch: int
    loss: float
    measure: str
    """What it is ranked by: iout (masks), objects (border nets), auc, accuracy, f2 (labels)."""
    score: float

    @property
    def rank(self) -> tuple[float, float, int]:
        """Greater is better: the score, then a lower loss, then the later epoch."""
        return self.score, -self.loss, self.epoch

    @property
    def val_masks(self) -> Path:
        """The validation masks (or, of a net for labels, probabilities) that belong to it."""
        return self.path.with_name(f"val_masks_{self.path.name}.npy")


@dataclass(frozen=True)
class RunFolder:
    """Names in one experiment folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        return self.path / "log.csv"

    @property
    def state(self) -> Path:
        return self.path / "state.pt"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    def snapshot(self, epoch: int, loss: float, measure: str, score: float, cycle: int | None) -> SnapshotFile:
        """The name for an epoch's snapshot; `cycle` counts from 1, None where there is one only."""
        folder = self.snapshots if cycle is None else self.snapshots / f"cycle_{cycle}"
        return snapshot_file(folder / f"epoch_{epoch}.loss_{loss:.4f}.{measure}_{score:.3f}")

    def described(self, name: str) -> SnapshotFile:
        """A snapshot by its path relative to `snapshots`."""
        return snapshot_file(self.snapshots / name)

    def begin(self, flags: Mapping[str, Any], resume: bool, fixed: Set[str] = frozenset()) -> None:
        """Claim the folder for a run, or check that the run in it can be continued with these flags.

        Args:
            flags: all flags of the run by name.
            resume: continue the run that is there.
            fixed: flags that cannot change although they could in another run.

        Raises:
            UsageError: a run is there already and `resume` was not asked for, nothing is there to resume, or a flag
                differs that cannot change.
        """
        there = self.config.is_file()
        if resume and not there:
            raise UsageError(f"--resume: {self.path} holds no run; leave --resume out to start one")
        if there and not resume:
            what = "a finished run" if self.summary.is_file() else "an unfinished run"
            raise UsageError(
                f"--experiment_dir {self.path} already holds {what}; --resume continues it, or name another folder"
            )
        if resume:
            self.check_flags(flags, fixed)
        write_json(self.config, stored_flags(flags))

    def check_flags(self, flags: Mapping[str, Any], fixed: Set[str] = frozenset()) -> None:
        """Raise a UsageError for a flag that differs from the run's and cannot change (arguments as for `begin`)."""
        for name, before in read_json(self.config).items():
            if name not in FREE_ON_RESUME - fixed and name in flags and flags[name] != before:
                raise UsageError(f"--{name} {flags[name]}: the run in {self.path} has {before}, and it cannot change")

    def write_log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write log.csv anew from all rows so far."""
        write_table(self.log, {name: [row[name] for row in rows] for name in rows[0]})

    def keep_only(self, names: Iterable[str]) -> None:
        """Remove snapshots (and their masks) whose path relative to `snapshots` is not among `names`."""
        kept = {self.snapshots / name for name in names}
        for file in snapshots_in(self.snapshots):
            if file.path not in kept:
                for path in (file.val_masks, file.val_masks.with_suffix(".json"), file.path):
                    path.unlink(missing_ok=True)


def snapshot_file(path: str | Path) -> SnapshotFile:
    """What the name of a snapshot says.

    Raises:
        UserError: the name is none of a snapshot.
    """
    match = SNAPSHOT_NAME.fullmatch(Path(path).name)
    if match is None:
        raise UserError(f"{path}: expected a name such as epoch_12.loss_0.1063.iout_0.855")
    return SnapshotFile(Path(path), int(match[1]), float(match[2]), match[3], float(match[4]))


def snapshots_in(folder: str | Path) -> list[SnapshotFile]:
    """All snapshots below a folder, best first."""
    paths = [path for path in Path(folder).rglob("epoch_*") if SNAPSHOT_NAME.fullmatch(path.name) and path.is_file()]
    return sorted((snapshot_file(path) for path in paths), key=lambda file: (file.rank, str(file.path)), reverse=True)


def find_snapshots(names: Sequence[str], flag: str = "--snapshot") -> list[Path]:
    """Snapshot files for the values of a flag: a file is itself, an experiment folder its best snapshot.

    Raises:
        UsageError: no names.
        UserError: no such file or folder, or a folder without snapshots.
    """
    if not names:
        raise UsageError(f"{flag}: expected a snapshot file or an experiment folder, found none")
    found = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = snapshots_in(path)
            if not inside:
                raise UserError(f"{flag} {name}: no snapshots in this folder; train first, or name a snapshot file")
            path = inside[0].path
        elif not path.is_file():
            raise UserError(f"{flag} {name}: no such file or folder")
        found.append(path)
    return found


def best_of_cycles(folder: str | Path, best: int | None) -> list[Path]:
    """The snapshots to average in a snapshot ensemble: the best of each cycle, or the `best` best of all.

    Raises:
        UserError: no snapshots, or fewer than asked for.
    """
    if not Path(folder).is_dir():
        raise UserError(f"--snapshot_dir {folder}: no such folder")
    inside = snapshots_in(folder)
    if not inside:
        raise UserError(f"--snapshot_dir {folder}: no snapshots in it")
    if best is not None:
        if not 1 <= best <= len(inside):
            raise UsageError(f"--best {best}: {folder} holds {len(inside)} snapshots")
        return [file.path for file in inside[:best]]
    first_of: dict[Path, Path] = {}
    for file in inside:
        first_of.setdefault(file.path.parent, file.path)
    return sorted(first_of.values())
