"""Write every epoch of a run (snapshots, log.csv, the state for --resume), and go back to the last one on a resume."""

import platform
from copy import deepcopy
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

from net import snapshot as snapshots
from net.learner import Learner, state_of
from net.snapshot import SnapshotInfo
from utils.core.errors import UsageError, UserError
from utils.core.files import write_json
from utils.core.tables import read_table
from utils.masks.mask_file import PendingPredictions
from utils.runs.run_folder import RunFolder, SnapshotFile

FORMAT = 2
NO_RESULTS = ("lr", "images_per_s", "seconds")
DATA = {"data_digest": "packed images", "val_ids_digest": "images of the fold"}  # what a run cannot change on the way
PACKAGES = ("torch", "numpy", "albumentations", "segmentation-models-pytorch")


@dataclass
class Progress:
    """How far a run has come; written with the state after every epoch, so that a resume starts from here."""

    epoch: int = 0
    """Epochs finished."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows of log.csv."""
    best: dict[str, float] = field(default_factory=dict)
    """The best value of each measure in this cycle."""
    kept: list[str] = field(default_factory=list)
    """Snapshots that stay, relative to the folder of snapshots."""


@dataclass
class Checkpoints:
    """The written side of one run.

    The state is what a resume believes: a kill before it is written loses the epoch, a kill after it leaves litter at
    most, which the resume removes.
    """

    folder: RunFolder
    info: SnapshotInfo
    """What every snapshot of the run says of itself."""
    keep: int
    """Snapshots that stay in each cycle, the best by the last of `kept_by`."""
    kept_by: tuple[str, ...]
    """Measures whose best snapshot stays in each cycle besides (a loss is best where it is lowest)."""
    by_cycle: bool
    """Whether each cycle has a folder of its own."""
    progress: Progress = field(default_factory=Progress)

    @property
    def pending(self) -> PendingPredictions:
        """The place of an epoch's predictions until it is known whether they are kept."""
        return PendingPredictions(self.folder.snapshots / ".val_masks.npy")

    def add(
        self, learner: Learner, row: dict[str, Any], size: int | None, predictions: PendingPredictions
    ) -> tuple[list[str], Progress]:
        """Write an epoch: its snapshot if it is an improvement, then log.csv and the state; then remove what is worse.

        Args:
            learner: what the epoch has made of it.
            row: of log.csv.
            size: the net's in validation, None for images at their own size.
            predictions: of the validation images; they are kept beside the snapshot, or discarded.

        Returns:
            the measures that were never better in this cycle, and how far the run has come.
        """
        progress = deepcopy(self.progress)  # which stays as it is until the epoch is written
        progress.epoch += 1
        progress.rows.append(row)
        improved = [name for name in self.kept_by if _improves(name, row[name], progress.best.get(name))]
        progress.best |= {name: row[name] for name in improved}
        if improved:
            progress.kept = self._kept_with(self._write_snapshot(learner, row, size, predictions), progress)
        predictions.discard()
        self.folder.write_log(progress.rows)
        data = {name: getattr(self.info, name) for name in DATA}
        state = {"format": FORMAT, "progress": vars(progress), "data": data, **state_of(learner)}
        snapshots.write(self.folder.state, state)
        self.folder.keep_only(progress.kept)
        self.progress = progress
        return improved, progress

    def _write_snapshot(
        self, learner: Learner, row: dict[str, Any], size: int | None, predictions: PendingPredictions
    ) -> SnapshotFile:
        """Write the snapshot of an epoch, with its validation masks."""
        cycle = row["cycle"] if self.by_cycle else None
        file = self.folder.snapshot(row["epoch"], row["val_loss"], self.kept_by[-1], row[self.kept_by[-1]], cycle)
        metrics = {name: value for name, value in row.items() if name not in NO_RESULTS}
        versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
        predictions.keep(file.val_masks)
        info = replace(self.info, size=size, metrics=metrics, versions=versions)
        snapshots.save_snapshot(file.path, learner.predicting, info)
        return file

    def _kept_with(self, new: SnapshotFile, progress: Progress) -> list[str]:
        """Return the names of the snapshots that stay once `new` is there.

        Those of other cycles stay as they are. Of its own cycle the `keep` best stay, and the best by each measure, by
        the numbers of log.csv: those in the names are rounded. Of equal values the earlier one is the best.
        """
        described = [self.folder.described(name) for name in progress.kept]
        others = [file for file in described if file.path.parent != new.path.parent]
        rivals = [file for file in described if file.path.parent == new.path.parent] + [new]
        rivals.sort(key=lambda file: file.epoch)
        best = [
            max(rivals, key=lambda file: _goodness(name, progress.rows[file.epoch - 1][name])) for name in self.kept_by
        ]
        rivals.sort(key=lambda file: file.rank, reverse=True)
        staying = [file for place, file in enumerate(rivals) if place < self.keep or file in best]
        return [str(file.path.relative_to(self.folder.snapshots)) for file in others + staying]

    def resume(self, n_epochs: int) -> dict[str, Any] | None:
        """Go back to the last finished epoch, and remove what a lost one has left.

        Returns:
            the state for `net.learner.restore`, with `progress`; None if no epoch was finished.

        Raises:
            UsageError: there is nothing left to do.
            UserError: the images are not those that the run began with, or another version has written the state.
        """
        if not self.folder.state.is_file():
            return None  # killed before the first epoch was finished: the same start again
        state = snapshots.read(self.folder.state)
        if state.get("format") != FORMAT:
            raise UserError(
                f"{self.folder.state}: was written by another version of this project; train anew in another folder, "
                "with --snapshot to start from its best weights"
            )
        for name, what in DATA.items():
            if state["data"][name] != getattr(self.info, name):
                raise UserError(f"--resume: the {what} are not those that {self.folder.path} began with; put them back")
        self.progress = Progress(**state["progress"])
        if self.progress.epoch >= n_epochs and self.folder.summary.is_file():  # without it, it was killed at the end
            done = self.progress.epoch
            raise UsageError(f"--resume: {self.folder.path} has its {done} epochs; raise --n_epochs to train on")
        self.folder.write_log(self.progress.rows)
        self.folder.keep_only(self.progress.kept)
        self.pending.discard()  # a kill may have left them
        self.folder.summary.unlink(missing_ok=True)
        return state

    def check_whole(self) -> None:
        """Raise a UserError if there were epochs, but no state to go on from: a copy of a run has none."""
        if self.folder.state.is_file():
            return
        rows = read_table(self.folder.log)["epoch"] if self.folder.log.is_file() else []
        if len(rows) > 1 or self.folder.summary.is_file():  # of the first epoch a kill leaves all but the state
            raise UserError(
                f"--resume: {self.folder.path} has {len(rows)} epochs but no {self.folder.state.name} to go on from; "
                f"train in another folder, with --snapshot {self.folder.path} to start from its best weights"
            )

    def finish(self, machine: str) -> dict[str, Any]:
        """Write summary.json, which says that the run is finished; the summary."""
        best = max((self.folder.described(name) for name in self.progress.kept), key=lambda file: file.rank)
        row = self.progress.rows[best.epoch - 1]
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
    """Return the value of a measure so that greater is better, which it is not of a loss."""
    return -value if name.endswith("loss") else value
