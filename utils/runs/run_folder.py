"""The folder of one run: its files, the names of its snapshots, and their ranking.

config.json    the flags; `--config` repeats the run
log.csv        one row per epoch
state.pt       the state that --resume needs, replaced after every epoch
summary.json   written when the run is finished: best snapshot, scores, time
snapshots/     epoch_194.loss_1.1063.iout_0.855 and val_masks_<same name>.npy; in cycle_<k>/ if there are cycles
threshold.json written by optimize_threshold.py
tensorboard/   curves and overlays
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.core.errors import UsageError, UserError
from utils.core.files import write_json
from utils.core.settings import as_typed, read_flags
from utils.core.tables import write_table

SNAPSHOT_NAME = re.compile(r"epoch_(\d+)\.loss_([0-9.]+)\.([a-z0-9_]+)_(\d\.\d+)")

# Flags that may differ between a run and its continuation.
FREE_ON_RESUME = {
    *("n_epochs", "keep", "folds", "resume", "config", "debug", "experiment_dir", "data_dir"),
    *("device", "precision", "compile", "autotune", "loader_workers", "encoder_weights", "snapshot", "on_nan"),
    *("quiet", "tracker", "minutes_hard"),
}

NOT_STORED = {"resume", "config", "debug", "quiet"}


def stored_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that config.json stores: all except secrets and flags that affect only one start of the run."""
    return {name: value for name, value in flags.items() if name not in NOT_STORED}


@dataclass(frozen=True)
class SnapshotFile:
    """A snapshot and the values in its file name."""

    path: Path
    epoch: int
    loss: float
    measure: str
    """The measure that ranks it: one of METRICS (masks), objects (border networks), auc, accuracy or f2 (classes)."""
    score: float

    @property
    def rank(self) -> tuple[float, float, int]:
        """Sort key, greater is better: a higher score, then a lower loss, then a later epoch."""
        return self.score, -self.loss, self.epoch

    @property
    def val_masks(self) -> Path:
        """The file of its validation masks, or of its class probabilities if the network classifies images."""
        return self.path.with_name(f"val_masks_{self.path.name}.npy")


@dataclass(frozen=True)
class RunFolder:
    """Paths of the files in one experiment folder."""

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
        """Return the snapshot file of an epoch; `cycle` counts from 1 and is None if there is only one cycle."""
        folder = self.snapshots if cycle is None else self.snapshots / f"cycle_{cycle}"
        return snapshot_file(folder / f"epoch_{epoch}.loss_{loss:.4f}.{measure}_{score:.3f}")

    def described(self, name: str) -> SnapshotFile:
        """Return the snapshot with a given path relative to `snapshots`."""
        return snapshot_file(self.snapshots / name)

    def begin(self, flags: Mapping[str, Any], resume: bool, fixed: Set[str] = frozenset()) -> None:
        """Start a run in this folder, or check that its run can continue with these flags; then write config.json.

        Args:
            flags: all flags of the run by name.
            resume: continue the run in this folder.
            fixed: flags that cannot change in this run although other runs may change them on resume.

        Raises:
            UsageError: the folder already holds a run and `resume` is False, there is no run to resume, a flag that
                cannot change differs, or the folder is a packed one.
        """
        if (self.path / "manifest.json").is_file():
            raise UsageError(
                f"--experiment_dir {self.path}: holds packed images, not a run; name another folder, such as "
                f"experiments/{self.path.name}_fold0"
            )
        there = self.config.is_file()
        if resume and not there:
            raise UsageError(f"--resume: {self.path} holds no run; leave out --resume to start one")
        if there and not resume:
            what = "a finished run" if self.summary.is_file() else "an unfinished run"
            raise UsageError(
                f"--experiment_dir {self.path}: already holds {what}; --resume continues it, or name another folder"
            )
        if resume:
            self.check_flags(flags, fixed)
        write_json(self.config, stored_flags(flags))

    def check_flags(self, flags: Mapping[str, Any], fixed: Set[str] = frozenset()) -> None:
        """Raise UsageError if a flag differs from the stored run and cannot change (arguments as for `begin`)."""
        for name, before in read_flags(self.config).items():
            if name not in FREE_ON_RESUME - fixed and name in flags and flags[name] != before:
                differs = f"the run in {self.path} has {as_typed(before)}, which cannot change; use another folder"
                raise UsageError(f"--{name} {as_typed(flags[name])}: {differs}")

    def write_log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write log.csv from all rows so far."""
        write_table(self.log, {name: [row[name] for row in rows] for name in rows[0]})

    def keep_only(self, names: Collection[str], with_masks: Collection[str] | None = None) -> None:
        """Remove all snapshots except `names`, and validation masks except those of `with_masks` (None: of `names`).

        Names are paths relative to `snapshots`.
        """
        kept = {self.snapshots / name for name in names}
        masks_kept = kept if with_masks is None else {self.snapshots / name for name in with_masks}
        for file in snapshots_in(self.snapshots):
            if file.path not in masks_kept:
                file.val_masks.unlink(missing_ok=True)
                file.val_masks.with_suffix(".json").unlink(missing_ok=True)
            if file.path not in kept:
                file.path.unlink(missing_ok=True)


def snapshot_file(path: str | Path) -> SnapshotFile:
    """Parse the file name of a snapshot.

    Raises:
        UserError: it is not the name of a snapshot.
    """
    match = SNAPSHOT_NAME.fullmatch(Path(path).name)
    if match is None:
        raise UserError(f"{path}: expected the name of a snapshot, such as epoch_12.loss_0.1063.iout_0.855")
    return SnapshotFile(Path(path), int(match[1]), float(match[2]), match[3], float(match[4]))


def snapshots_in(folder: str | Path) -> list[SnapshotFile]:
    """Return all snapshots in a folder and its subfolders, best first."""
    paths = [path for path in Path(folder).rglob("epoch_*") if SNAPSHOT_NAME.fullmatch(path.name) and path.is_file()]
    return sorted((snapshot_file(path) for path in paths), key=lambda file: (file.rank, str(file.path)), reverse=True)


def find_snapshots(names: Sequence[str], flag: str = "--snapshot") -> list[Path]:
    """Return a snapshot file for each value of a flag: the file itself, or the best snapshot of an experiment folder.

    Raises:
        UsageError: `names` is empty.
        UserError: a file or folder does not exist, or a folder has no snapshots or those of several runs.
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
            _check_one_run(path, inside, f"{flag} {name}")
            path = inside[0].path
        elif not path.is_file():
            raise UserError(f"{flag} {name}: no such file or folder")
        found.append(path)
    return found


def ensemble_snapshots(folder: str | Path, best: int | None) -> list[Path]:
    """Return the snapshots of a snapshot ensemble: the best of each cycle, or the `best` best of all.

    Raises:
        UserError: the folder does not exist, or has no snapshots or those of several runs.
        UsageError: `best` is below 1 or greater than the number of snapshots.
    """
    if not Path(folder).is_dir():
        raise UserError(f"--snapshot_dir {folder}: no such folder")
    inside = snapshots_in(folder)
    if not inside:
        raise UserError(f"--snapshot_dir {folder}: no snapshots in this folder; train first, or name another folder")
    _check_one_run(Path(folder), inside, f"--snapshot_dir {folder}")
    if best is not None:
        if not 1 <= best <= len(inside):
            raise UsageError(f"--best {best}: expected 1 to {len(inside)}, the number of snapshots in {folder}")
        return [file.path for file in inside[:best]]
    first_of: dict[Path, Path] = {}
    for file in inside:
        first_of.setdefault(file.path.parent, file.path)
    return sorted(first_of.values())


def _check_one_run(folder: Path, files: Iterable[SnapshotFile], flag: str) -> None:
    """Raise UserError if a folder contains the run folders of several runs, whose scores are of different images."""
    below = {file.path.relative_to(folder).parts for file in files}
    runs = sorted({str(Path(*parts[: parts.index("snapshots")])) for parts in below if "snapshots" in parts})
    if len(runs) > 1:
        shown = ", ".join(runs[:3]) + (", ..." if len(runs) > 3 else "")
        raise UserError(f"{flag}: expected the folder of one run, found {len(runs)} runs in it ({shown}); name one")
