"""Train one run, from the first epoch (or the one after the last finished epoch) to the last."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from net.batch_augmentation import CutMix
from net.checkpoint_and_resume import Checkpoints, Progress
from net.dataset import EpochBatches, TrainingBatches, TrainingRows
from net.device import Machine
from net.distributed import Processes
from net.learner import Learner, new_learner, restore
from net.loops import evaluate, finite, fit, measure_statistics
from net.losses import Phase
from net.network_kinds import PixelKind
from net.predictor import Predictor
from net.run_reporting import Reporter, reporting
from net.schedulers import PLANNED
from net.snapshot import fill, load_snapshot
from net.stages import Stage, stage_of_epoch
from net.tasks import Task
from utils.core.errors import UserError
from utils.core.interrupts import StopRequest, stop_requests
from utils.core.progress import EpochBar, TimeLeft, duration
from utils.core.settings import to_flat
from utils.core.training_settings import TrainSettings
from utils.data.compact_rows import CompactRows
from utils.data.packed_data import PackedImages
from utils.masks.mask_file import PendingPredictions, PredictionInfo
from utils.runs.run_folder import stored_flags
from utils.runs.status import check_free, tracked_status

COUNT_EMPTY_LIMIT = 2**30  # pixels; empty raw masks are counted at the start of a run only if there are fewer


PIXELS_BESIDES = 2000  # an image takes as much time as this many pixels, in addition to its own (bench/LEDGER.md)
LATE = 0.05  # share of its time by which a run may be late before it says so


class Epoch(NamedTuple):
    """Results of one epoch."""

    row: dict[str, Any]
    """Row of log.csv."""
    skipped: int
    """Steps that were skipped because their loss or gradient was not finite."""
    predictions: PendingPredictions
    """Predictions of the validation images."""


class Deadline(NamedTuple):
    """Time at which a run should be finished."""

    at: float
    """time.monotonic() of the deadline."""
    seconds: float
    """Time that the run has from start to deadline."""
    hard: bool
    """End the run rather than miss the deadline."""


def fixed_flags(settings: TrainSettings) -> set[str]:
    """Return the flags that cannot change in this run although other runs may change them on resume."""
    learn, step = settings.learn, settings.step
    planned = learn.scheduler in PLANNED or step.cycles > 1 or len(learn.loss) > 1
    planned |= ":" in (step.nonempty_share or "")
    return {"n_epochs"} if planned else set()


@dataclass(frozen=True)
class Run:
    """A fold of an experiment with everything that its training needs; created by `net.prepare_run.prepare`."""

    settings: TrainSettings
    processes: Processes
    machine: Machine
    workers: int
    """Number of DataLoader workers."""
    packed: PackedImages
    task: Task
    phases: list[Phase]
    """Losses of the training, one after another; the last one is the validation loss in all epochs."""
    stages: list[Stage]
    batches: EpochBatches
    """Batches of the training images."""
    val_rows: np.ndarray
    """Rows of the packed images on which epochs are validated, ordered by image size."""
    fold_rows: np.ndarray
    """All rows that are held out, ordered by image size: `val_rows`, and with --val_limit the rest of the fold."""
    network: nn.Module
    checkpoints: Checkpoints
    epochs_in_cycle: int

    def train(self, request: StopRequest | None = None, deadline: Deadline | None = None) -> dict[str, Any]:
        """Train to the last epoch, and return the run's summary, which is also in summary.json.

        A signal that arrives after the last step is recorded in `request`, so that the caller does not start more runs.
        If the machine is too slow for the deadline, a line says so, and a hard one ends the run.
        """
        learn, checkpoints, processes = self.settings.learn, self.checkpoints, self.processes
        learner = self.learner()
        if state := processes.on_main(self._open_folder):
            restore(learner, state)
            checkpoints.progress = processes.on_main(lambda: checkpoints.progress)
        if self.machine.compiles:
            self.network.compile()
        stage = loader = None
        with self._reporting() if processes.is_main else nullcontext() as report:
            with (
                stop_requests(request) as stop,
                tracked_status(checkpoints.folder.path) if processes.is_main else nullcontext(),
            ):
                for number in range(checkpoints.progress.epoch, learn.n_epochs):
                    if number % self.epochs_in_cycle == 0 and number:
                        learner, checkpoints.progress.best = self.learner(), {}
                    if stage is not (now := stage_of_epoch(self.stages, number)):
                        loader = None  # frees the images that it holds before those of the next size are loaded
                        stage, loader = now, self.loader(now)
                    self.batches.epoch = number
                    epoch = self._epoch(learner, stage, loader, stop, report)
                    checkpoints.progress = processes.on_main(partial(self._keep, learner, epoch, stage, report))
                    if deadline and processes.on_main(partial(self._is_over, deadline, stage, report)):
                        break
                where = f"{self.machine}{self._and_processes()}"
                whole = self._score_fold(report) if self.scores_fold else {}
                summary = processes.on_main(lambda: checkpoints.finish(where, whole))
            if processes.is_main:
                report.finish(summary)
        return summary

    @property
    def scores_fold(self) -> bool:
        """True if the best snapshot is scored on the whole fold at the end, because epochs are on a part of it."""
        return len(self.fold_rows) > len(self.val_rows) and self.settings.reporting.score_fold is not False

    def learner(self) -> Learner:
        """Create the learner (optimizer, schedule, weight averaging) for a new cycle."""
        epochs, steps = self.epochs_in_cycle, self.batches.steps
        return new_learner(self.settings, self.network, self.phases, self.machine, self.processes, epochs, steps)

    def loader(self, stage: Stage | None = None) -> TrainingBatches:
        """Return the microbatches at the size of a stage (default: the first one).

        They are those of the epoch that `self.batches.epoch` is set to.
        """
        stage, name, seed = stage or self.stages[0], self.settings.data.train_augs, self.settings.step.seed
        cutmix = CutMix(stage.cutmix, self.batches.rows) if stage.cutmix else None
        samples = TrainingRows(
            self.packed, self.task, partial(stage.vary, name), seed, stage.batch_change(name), cutmix
        )
        sample_bytes = (self.packed.channels + 4) * stage.size**2  # a truth has up to 4 bytes per pixel
        held = stage.is_fixed(name) and sample_bytes * len(self.batches.rows) < self.machine.room_for_images
        return TrainingBatches(samples, self.task, self.batches, self.workers, self.machine.device, held)

    def val_batch_size(self, stage: Stage, shape: tuple[int, int]) -> int:
        """Return the images of a size (h, w) per validation batch.

        They have as many pixels as a batch in training, because whole images may be larger than crops.
        """
        pixels = math.prod(stage.val(shape).frame)
        return max(1, self.settings.learn.batch_size * stage.size**2 // pixels)

    def _open_folder(self) -> dict[str, Any] | None:
        """Claim the run's folder, and return the state to resume from, or None if no epoch was finished."""
        learn, resume = self.settings.learn, self.settings.run.resume
        if resume:
            check_free(self.checkpoints.folder.path)
            self.checkpoints.check_resumable(learn.n_epochs)
        self.checkpoints.folder.begin(to_flat(self.settings), resume, fixed_flags(self.settings))
        return self.checkpoints.resume(learn.n_epochs) if resume else None

    @contextmanager
    def _reporting(self) -> Iterator[Reporter]:
        """Open the run's reporter and print the start line."""
        progress, shown = self.checkpoints.progress, self.settings.reporting
        weights = [stage.size**2 + PIXELS_BESIDES for stage in self.stages for _ in range(stage.epochs)]
        latest = progress.rows[-1]["seconds"] if progress.rows else None
        left = TimeLeft(weights, progress.epoch, latest)
        with reporting(self.checkpoints, stored_flags(to_flat(self.settings)), shown, left) as report:
            for line in self._first_lines():
                report.say(line)
            yield report

    def _epoch(
        self, learner: Learner, stage: Stage, loader: TrainingBatches, stop: StopRequest, report: Reporter | None
    ) -> Epoch:
        """Train and validate one epoch."""
        hidden = report is None or report.settings.quiet
        learn, epoch, processes = self.settings.learn, self.checkpoints.progress.epoch, self.processes
        started = time.perf_counter()
        words = [self.settings.step.seed, epoch] + ([processes.rank] if processes.rank else [])
        seeds = np.random.SeedSequence(words)
        torch.manual_seed(int(seeds.generate_state(1)[0]))  # dropout uses it
        rate, title = learner.schedule.rate, f"epoch {epoch + 1}/{learn.n_epochs}"
        with EpochBar(title, self.batches.size, report and report.left, hidden) as bar:
            train_loss, skipped = fit(learner, loader, self.batches, bar, stop, self._how_to_go_on())
        trained = time.perf_counter() - started
        if learner.average and learner.average.after_epoch(self.network, epoch % self.epochs_in_cycle + 1):
            measure_statistics(learner, loader, f"{title}: BatchNorm statistics", hidden)
        learner.share()
        means, predictions = self._validate(learner.predicting, stage, self.val_rows, hidden)
        finite(means["val_loss"], f"{title}, validation", self._how_to_go_on())
        learner.schedule.after_epoch(means["val_loss"])
        row = {
            "epoch": epoch + 1,
            "cycle": epoch // self.epochs_in_cycle + 1,
            "train_loss": train_loss,
            **means,
            "lr": rate,
            "images_per_s": round(self.batches.size / trained, 1),
            "seconds": round(time.perf_counter() - started, 1),
        }
        return Epoch(row, skipped, predictions)

    def _score_fold(self, report: Reporter | None) -> dict[str, float]:
        """Score the best snapshot on the whole fold, keep the predictions next to it, and return the scores."""
        best = self.processes.on_main(lambda: self.checkpoints.best)
        stage = stage_of_epoch(self.stages, best.epoch - 1)
        fill(self.network, load_snapshot(best.path).weights, best.path)
        if report:
            report.say(f"{best.path.name}: scoring all {len(self.fold_rows)} images of the fold")
        means, predictions = self._validate(
            self.network, stage, self.fold_rows, report is None or report.settings.quiet
        )
        if self.processes.is_main:
            predictions.keep(best.val_masks)
        return means

    def _validate(
        self, network: nn.Module, stage: Stage, rows: np.ndarray, hidden: bool
    ) -> tuple[dict[str, float], PendingPredictions]:
        """Validate on held-out rows, and return the scores and the pending predictions.

        The predictions are pending until it is known whether the epoch's snapshot is kept.
        """
        predictor = Predictor(network, self.task.kind, stage.val, self.machine)
        batch_size = partial(self.val_batch_size, stage)
        data, pending = self.settings.data, self.checkpoints.pending
        info = PredictionInfo(
            data_dir=data.data_dir,
            part="train",
            images_digest=self.packed.images_digest,
            fold=data.fold,
            tta="null",
            **self.task.described,
        )
        ids, loss = [self.packed.ids[row] for row in rows], self.phases[-1].loss
        shapes = [self.packed.shapes[row] for row in rows]
        place = self.task.kind.writer(pending.path, ids, shapes, info)
        with self._writing(), place if self.processes.is_main else nullcontext() as writer:
            means = evaluate(predictor, self.task, self.packed, rows, loss, batch_size, writer, self.processes, hidden)
        return means, pending

    def _keep(self, learner: Learner, epoch: Epoch, stage: Stage, report: Reporter) -> Progress:
        """Write the epoch, report it, and return the progress of the run."""
        with self._writing():
            report.board.add(epoch.row)
            if isinstance(self.task.kind, PixelKind):
                report.board.show(epoch.row["epoch"], self.packed, self.val_rows, epoch.predictions.path)
            improved, progress = self.checkpoints.add(learner, epoch.row, stage.val.size, epoch.predictions)
        report.epoch(epoch.row, improved, epoch.skipped)
        return progress

    def _is_over(self, deadline: Deadline, stage: Stage, report: Reporter) -> bool:
        """Say once if the deadline will be missed; return True if it is hard and another epoch would miss it.

        The time left is known only from the last size on: how much longer an epoch takes at the next size is not.
        """
        left, rows = report.left.seconds(), self.checkpoints.progress.rows
        late = time.monotonic() + left - deadline.at
        certain = stage is self.stages[-1] or time.monotonic() > deadline.at
        if not left or not certain or late < LATE * deadline.seconds:
            return False
        if deadline.hard and time.monotonic() + rows[-1]["seconds"] > deadline.at:
            report.say(f"--minutes_hard: ended {duration(left)} before the end of the plan")
            return True
        report.say_once(
            f"this machine is slower than when the run was planned: it will take {duration(late)} longer"
            + ("" if deadline.hard else " (--minutes_hard would end it in time)")
        )
        return False

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Guard a block that writes to the run's folder.

        Raises:
            UserError: the folder was removed or moved, or writing failed; the message says how to resume.
        """
        folder = self.checkpoints.folder
        if self.processes.is_main and not folder.config.is_file():
            raise UserError(
                f"{folder.path}: was removed or moved during the run; put it back and continue with --resume"
            )
        try:
            yield
        except OSError as error:
            place = error.filename or self.checkpoints.folder.path
            raise UserError(f"{place}: {error.strerror}; free disk space. {self._how_to_go_on()}") from error

    def _pixels(self, rows: np.ndarray) -> int:
        return sum(math.prod(self.packed.shapes[row]) for row in rows)

    def _first_lines(self) -> Iterator[str]:
        """Yield the start line, and a note if the masks leave nothing to learn or to measure."""
        rows, masks, fold = self.batches.rows, self.packed.masks, self.settings.data.fold
        largest = max(stage.size for stage in self.stages if stage.crop) if self.stages[0].crop else 0
        small = sum(min(self.packed.shapes[row]) < largest for row in rows)
        limited = len(self.val_rows) < len(self.fold_rows)
        counted = masks is not None and (isinstance(masks, CompactRows) or self._pixels(rows) < COUNT_EMPTY_LIMIT)
        empty = len(rows) - int((self.packed.foreground(rows) > 0).sum()) if counted else 0
        yield (
            f"{self.machine}{self._and_processes()} | {self.settings.net.arch} | fold {fold}: {len(rows)} images"
            f"{f' ({empty} empty)' if counted else ''} to train on, {len(self.fold_rows)} to validate"
            f"{f' ({len(self.val_rows)} of them after each epoch)' if limited else ''} | "
            f"-> {self.checkpoints.folder.path}"
        )
        if self.packed.mixed and not self.stages[0].crop:
            how = f"brought to {self.stages[-1].size}x{self.stages[-1].size} by {self.stages[0].val_augs}"
            yield f"note: images of {len(set(self.packed.shapes))} sizes are {how}; --crop keeps their scale"
        if small:
            yield f"note: {small} of {len(rows)} images are smaller than the crop of {largest}; they are reflected"
        if not counted or not isinstance(self.task.kind, PixelKind):
            return
        if empty == len(rows):
            yield "note: every mask of the training images is empty, so there is nothing to learn; check train/masks"
        elif all(masks[row].all() for row in rows):
            yield "note: every mask of the training images is full, so there is nothing to learn; check train/masks"
        elif not any(masks[row].any() for row in self.val_rows):
            yield f"note: fold {fold} has no image with a mask, so its scores only tell whether masks stay empty"

    def _and_processes(self) -> str:
        return f", {self.processes.size} processes" if self.processes.size > 1 else ""

    def _how_to_go_on(self) -> str:
        done, folder = self.checkpoints.progress.epoch, self.checkpoints.folder.path
        return f"{done} epochs are kept in {folder}; run the same command with --resume to continue"
