"""Write every epoch of a run (snapshots, log.csv, the state for --resume) and return to the last one on resume."""

import platform
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import torch

from net import snapshot as snapshots
from net.device import PRECISIONS
from net.learner import Learner, state_of
from net.snapshot import SnapshotInfo
from utils.core.errors import UsageError, UserError
from utils.core.files import write_json
from utils.core.settings import as_typed
from utils.core.tables import read_table
from utils.masks.mask_file import PendingPredictions
from utils.runs.run_folder import RunFolder, SnapshotFile

FORMAT = 2
NO_RESULTS = ("lr", "images_per_s", "seconds")
DATA = {"data_digest": "packed images", "val_ids_digest": "images of the fold"}  # must not change during a run
PACKAGES = ("torch", "numpy", "albumentations", "segmentation-models-pytorch")


@dataclass
class Progress:
    """Progress of a run, written with the state after every epoch so that a resume continues from it."""

    epoch: int = 0
    """Number of finished epochs."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows of log.csv."""
    best: dict[str, float] = field(default_factory=dict)
    """Best value of each measure in this cycle."""
    kept: list[str] = field(default_factory=list)
    """Paths of the snapshots to keep, relative to the folder of snapshots."""
    with_masks: list[str] | None = None
    """Those of them that keep their validation masks, the best by each measure; None (earlier versions): all."""


@dataclass
class Checkpoints:
    """Snapshots, log, state and summary of one run.

    A resume relies on the state alone. A kill before the state is written loses the epoch; a kill afterwards can only
    leave superfluous files, which the resume removes or replaces.
    """

    folder: RunFolder
    info: SnapshotInfo
    """Record that is stored in every snapshot of the run."""
    keep: int
    """Number of snapshots to keep in each cycle, ranked by the last measure of `kept_by`."""
    kept_by: tuple[str, ...]
    """Measures whose best snapshot of each cycle is kept in addition; of a loss the lowest value is the best."""
    by_cycle: bool
    """True if each cycle has its own folder."""
    flags: dict[str, Any] = field(default_factory=dict)
    """Flags that cannot change during the run."""
    progress: Progress = field(default_factory=Progress)

    @property
    def pending(self) -> PendingPredictions:
        """Temporary file of an epoch's predictions until it is known whether they are kept."""
        return PendingPredictions(self.folder.snapshots / ".val_masks.npy")

    def add(
        self, learner: Learner, row: dict[str, Any], size: int | None, predictions: PendingPredictions
    ) -> tuple[list[str], Progress]:
        """Write an epoch: its snapshot if a measure improved, log.csv and the state; then remove old snapshots.

        Args:
            learner: the learner after the epoch.
            row: row of log.csv for the epoch.
            size: input size in validation; None if images keep their own size.
            predictions: of the validation images; kept next to the snapshot, or discarded.

        Returns:
            the names of the measures that are better than ever before in this cycle, and the progress of the run.
        """
        progress = deepcopy(self.progress)  # self.progress changes only once the epoch is written
        progress.epoch += 1
        progress.rows.append(row)
        improved = [name for name in self.kept_by if _improves(name, row[name], progress.best.get(name))]
        progress.best |= {name: row[name] for name in improved}
        if improved:
            self._keep_best(self._write_snapshot(learner, row, size, predictions), progress)
        predictions.discard()
        self.folder.write_log(progress.rows)
        data = {name: getattr(self.info, name) for name in DATA}
        about = {"format": FORMAT, "progress": vars(progress), "data": data, "flags": self.flags}
        state = {**about, "precision": str(learner.machine.dtype), **state_of(learner)}
        snapshots.write(self.folder.state, state)
        self.folder.keep_only(progress.kept, progress.with_masks)
        self.progress = progress
        return improved, progress

    def _write_snapshot(
        self, learner: Learner, row: dict[str, Any], size: int | None, predictions: PendingPredictions
    ) -> SnapshotFile:
        """Write the snapshot of an epoch and its validation masks."""
        cycle = row["cycle"] if self.by_cycle else None
        file = self.folder.snapshot(row["epoch"], row["val_loss"], self.kept_by[-1], row[self.kept_by[-1]], cycle)
        metrics = {name: value for name, value in row.items() if name not in NO_RESULTS}
        versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
        predictions.keep(file.val_masks)
        info = replace(self.info, size=size, metrics=metrics, versions=versions)
        snapshots.save_snapshot(file.path, learner.predicting, info)
        return file

    def _keep_best(self, new: SnapshotFile, progress: Progress) -> None:
        """Add a snapshot to those that `progress` keeps, and drop those that are not among the best any more.

        Snapshots of other cycles are kept. In the cycle of `new`, the `keep` snapshots of the highest rank and the best
        one by each measure are kept, the latter with their masks. Measures are compared in log.csv, because file names
        hold rounded values; of equal values the earlier one is the best.
        """
        described = [self.folder.described(name) for name in progress.kept]
        others = [file for file in described if file.path.parent != new.path.parent]
        rivals = [file for file in described if file.path.parent == new.path.parent] + [new]
        rivals.sort(key=lambda file: file.epoch)
        best = [
            max(rivals, key=lambda file: _goodness(name, progress.rows[file.epoch - 1][name])) for name in self.kept_by
        ]
        rivals.sort(key=lambda file: file.rank, reverse=True)
        best.append(rivals[0])  # as its name ranks it, by rounded values: the one that is taken for the best of a run
        staying = [file for place, file in enumerate(rivals) if place < self.keep or file in best]
        before = progress.kept if progress.with_masks is None else progress.with_masks
        progress.kept = [self._name(file) for file in others + staying]
        progress.with_masks = [self._name(file) for file in others if self._name(file) in before]
        progress.with_masks += [self._name(file) for file in staying if file in best]

    def _name(self, file: SnapshotFile) -> str:
        return str(file.path.relative_to(self.folder.snapshots))

    def resume(self, n_epochs: int) -> dict[str, Any] | None:
        """Return to the last finished epoch and remove the files of an unfinished one.

        Returns:
            the state for `net.learner.restore`, with `progress`; None if no epoch was finished.

        Raises:
            UsageError: the run is finished and has `n_epochs` epochs or more.
            UserError: the images or flags differ from those that the run was started with (config.json was edited), or
                the state was written by another version of this project.
        """
        if not self.folder.state.is_file():
            return None  # killed in the first epoch: start again from the beginning
        state = snapshots.read(self.folder.state)
        if state.get("format") != FORMAT:
            raise UserError(
                f"{self.folder.state}: was written by another version of this project; start a new run in another "
                "folder, with --snapshot to start from the best weights of this one"
            )
        for name, what in DATA.items():
            if state["data"][name] != getattr(self.info, name):
                raise UserError(
                    f"--resume: the {what} differ from those that {self.folder.path} was started with; put them back"
                )
        for name, before in state.get("flags", {}).items():  # missing in runs of earlier versions
            if self.flags.get(name, before) != before:
                raise UserError(
                    f"{self.folder.config}: was edited: --{name} is {as_typed(self.flags[name])}, but the run was "
                    f"trained with {as_typed(before)}; put it back, or start a new run in another folder"
                )
        self.progress = Progress(**state["progress"])
        # without a summary the run was killed after its last epoch and still has to finish
        if self.progress.epoch >= n_epochs and self.folder.summary.is_file():
            done = self.progress.epoch
            raise UsageError(f"--resume: {self.folder.path} has finished {done} epochs; raise --n_epochs to train on")
        self.folder.write_log(self.progress.rows)
        self.folder.keep_only(self.progress.kept, self.progress.with_masks)
        self.pending.discard()  # a kill may have left them behind
        self.folder.summary.unlink(missing_ok=True)
        return state

    def dtype(self) -> torch.dtype | None:
        """Return the dtype that the last finished epoch was computed in; None if there is none (or no record of it).

        Raises:
            UserError: the state is not one, or is truncated.
        """
        state = snapshots.read(self.folder.state) if self.folder.state.is_file() else {}
        return next((dtype for dtype in PRECISIONS.values() if str(dtype) == state.get("precision")), None)

    def check_resumable(self, n_epochs: int) -> None:
        """Check that the run can go on to `n_epochs` epochs; nothing is written.

        Raises:
            UsageError: it has more epochs already.
            UserError: it has epochs but no state to resume from, as in a copy of a run.
        """
        rows = read_table(self.folder.log)["epoch"] if self.folder.log.is_file() else []
        if len(rows) > n_epochs:
            raise UsageError(f"--n_epochs {n_epochs}: {self.folder.path} has {len(rows)} epochs already; use as many")
        if self.folder.state.is_file():
            return
        if len(rows) > 1 or self.folder.summary.is_file():  # a kill in the first epoch can leave all but the state
            raise UserError(
                f"--resume: {self.folder.path} has {len(rows)} epochs but no {self.folder.state.name} to resume from; "
                f"start a new run in another folder, with --snapshot {self.folder.path} to start from its best weights"
            )

    @property
    def best(self) -> SnapshotFile:
        """The snapshot of the highest rank."""
        return max((self.folder.described(name) for name in self.progress.kept), key=lambda file: file.rank)

    def finish(self, machine: str, whole_fold: Mapping[str, float]) -> dict[str, Any]:
        """Write summary.json, which marks the run as finished, and return the summary.

        `whole_fold` are the scores of the best snapshot if epochs were validated on a part of the fold.
        """
        best = self.best
        row = {**self.progress.rows[best.epoch - 1], **whole_fold}
        summary = {
            "best_snapshot": str(best.path.relative_to(self.folder.path)),
            **{name: row[name] for name in ("epoch", *self.kept_by)},
            "seconds": round(sum(one["seconds"] for one in self.progress.rows), 1),
            "machine": machine,
        }
        write_json(self.folder.summary, summary)
        return summary


def _improves(name: str, value: float, best: float | None) -> bool:
    return best is None or _goodness(name, value) > _goodness(name, best)


def _goodness(name: str, value: float) -> float:
    """Return the value so that greater is better: a loss is negated."""
    return -value if name.endswith("loss") else value
