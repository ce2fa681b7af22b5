"""One run from its flags to its snapshots."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from net.checkpoints import Checkpoints, Progress
from net.dataset import EpochParts, TrainingRows, training_loader
from net.distributed import Processes
from net.engine import evaluate, finite, fit, measure_statistics
from net.kinds import answer_writer
from net.learner import Learner, restore
from net.losses import loss_by_name
from net.machine import machine, workers_for
from net.optimizers import optimizer_by_name
from net.predictor import Predictor
from net.preparation import new_learner, starting_network, try_out
from net.reporting import Reporter, reporting
from net.schedulers import PLANNED, scheduler_by_name
from net.stages import Stage, stage_of_epoch, stages_of
from net.tasks import Task
from utils.core.errors import UsageError, UserError
from utils.core.interrupts import StopRequest, stop_requests
from utils.core.progress import EpochBar, TimeLeft
from utils.core.settings import to_flat
from utils.core.training_settings import TrainSettings, epochs_in_cycle
from utils.data.folds import fold_rows
from utils.data.packed import PackedImages, ids_digest, open_packed
from utils.runs.run_folder import RunFolder, stored_flags
from utils.runs.status import check_free, kept_status

QUICK_TO_READ = 2**30  # bytes; of more masks the empty ones are not counted at every start
DESCRIBED = ("arch", "train_augs", "val_augs", "val_transforms", "fold", "loss", "optimizer", "scheduler", "seed")


class Run:
    """One fold of one experiment; made from its settings it has found everything it needs, and has written nothing.

    Args:
        settings: the flags; a door may have more groups of them than train.py.
        make_task: from the packed images to what is learned of them.
        processes: the processes that work together.

    Raises:
        UsageError: names that are none, flags that do not go together.
        UserError: data or weights that are not there or do not fit.
    """

    def __init__(
        self, settings: TrainSettings, make_task: Callable[[PackedImages], Task], processes: Processes | None = None
    ) -> None:
        data, learn, run = settings.data, settings.learn, settings.run
        self.epochs_in_cycle = epochs_in_cycle(settings)
        self.settings, self.processes = settings, processes or Processes()
        optimizer_by_name(learn.optimizer), scheduler_by_name(learn.scheduler)  # names that are none end here
        self.machine = machine(settings.machine, self.processes.local_rank)
        self.workers = workers_for(self.machine.device, data.loader_workers)
        self.packed = open_packed(data.data_dir)
        self.stages = stages_of(data, settings.sizes, learn.n_epochs, self.packed.shape)
        self.task = make_task(self.packed)
        self.loss = loss_by_name(learn.loss, self.task.losses)
        self.train_rows, self.val_rows = fold_rows(data.data_dir, self.packed.ids, data.fold)
        if settings.sizes.only_nonempty:
            self.train_rows = self.train_rows[[self.packed.masks[row].any() for row in self.train_rows]]
        if len(self.train_rows) < 2:
            raise UserError(f"--fold {data.fold}: leaves {len(self.train_rows)} images to train on, of 2 needed")
        self.val_ids = [self.packed.ids[row] for row in self.val_rows]
        self.parts = self._parts()
        self.record = Checkpoints(RunFolder(run.path), self._about(), run.keep, self.task.kept_by, learn.cycles > 1)
        flags = {f"--{name}": value for name, value in stored_flags(to_flat(settings)).items()}
        found = {"packed images": self.packed.digest, "images of the fold": ids_digest(self.val_ids)}
        self.processes.check_equal({**flags, **found, "precision": str(self.machine.dtype)})
        resumed = run.resume and self.record.folder.state.is_file()
        self.network = starting_network(
            settings, self.packed.channels, self.task.kind, self.machine, self.processes, resumed
        )
        for stage in self.stages:
            predictor = Predictor(self.network, self.task.kind, stage.val, self.machine)
            try_out(settings.net.arch, predictor, self.packed.channels, stage.size, self.loss)

    def train(self) -> dict[str, Any]:
        """Train to the last epoch; the run's summary, as it stands in summary.json."""
        learn, record, processes = self.settings.learn, self.record, self.processes
        learner = self.learner()
        if state := processes.on_main(self._open_folder):
            restore(learner, state)
            record.progress = processes.on_main(lambda: record.progress)
        if self.machine.compiles:
            self.network.compile()
        stage = loader = None
        with self._reporting() if processes.is_main else nullcontext() as report:
            with stop_requests() as stop, kept_status(record.folder.path) if processes.is_main else nullcontext():
                for epoch in range(record.progress.epoch, learn.n_epochs):
                    if epoch % self.epochs_in_cycle == 0 and epoch:
                        learner, record.progress.best = self.learner(), {}
                    if stage is not (now := stage_of_epoch(self.stages, epoch)):
                        stage, loader = now, self.loader(now)
                    self.parts.epoch = epoch
                    row, skipped = self._epoch(learner, stage, loader, stop, report)
                    record.progress = processes.on_main(partial(self._keep, learner, row, stage, skipped, report))
                summary = processes.on_main(lambda: record.finish(f"{self.machine}{self._processes()}"))
            if processes.is_main:
                report.finish(summary)
        return summary

    def learner(self) -> Learner:
        """What takes the steps, as at the start of a cycle."""
        epochs, steps = self.epochs_in_cycle, self.parts.steps
        return new_learner(self.settings, self.network, self.loss, self.machine, self.processes, epochs, steps)

    def loader(self, stage: Stage | None = None) -> DataLoader:
        """The batches of the epoch that `parts` is set to, at the size of a stage (the first one's by default)."""
        make_vary = partial((stage or self.stages[0]).vary, self.settings.data.train_augs)
        samples = TrainingRows(self.packed, self.task, make_vary, self.settings.learn.seed)
        return training_loader(samples, self.parts, self.workers, pin_memory=self.machine.device.type == "cuda")

    def _open_folder(self) -> dict[str, Any] | None:
        """Claim the run's folder; the state to go on from, if there is one."""
        learn, resume = self.settings.learn, self.settings.run.resume
        planned = learn.scheduler in PLANNED or learn.cycles > 1
        if resume:
            check_free(self.record.folder.path)
            self.record.check_whole()
        self.record.folder.begin(to_flat(self.settings), resume, {"n_epochs"} if planned else set())
        return self.record.resume(learn.n_epochs) if resume else None

    @contextmanager
    def _reporting(self) -> Iterator[Reporter]:
        """What hears of the run, once it has heard how the run begins."""
        progress, tell = self.record.progress, self.settings.tell
        weights = [stage.size**2 for stage in self.stages for _ in range(stage.epochs)]
        latest = progress.rows[-1]["seconds"] if progress.rows else None
        left = TimeLeft(weights, progress.epoch, latest)
        with reporting(self.record, stored_flags(to_flat(self.settings)), tell, left) as report:
            report.say(self._first_line())
            yield report

    def _epoch(
        self, learner: Learner, stage: Stage, loader: DataLoader, stop: StopRequest, report: Reporter | None
    ) -> tuple[dict[str, Any], int]:
        """Train and validate one epoch; its row of log.csv, and how many steps were skipped."""
        hidden = report is None or report.tell.quiet
        learn, epoch, processes = self.settings.learn, self.record.progress.epoch, self.processes
        started = time.perf_counter()
        seeds = np.random.SeedSequence([learn.seed, epoch, processes.rank] if processes.rank else [learn.seed, epoch])
        torch.manual_seed(int(seeds.generate_state(1)[0]))  # for dropout
        rate, title = learner.schedule.rate, f"epoch {epoch + 1}/{learn.n_epochs}"
        with EpochBar(title, self.parts.size, report and report.left, hidden) as bar:
            train_loss, skipped = fit(learner, loader, self.parts, bar, stop, self._how_to_go_on())
        trained = time.perf_counter() - started
        if learner.average and learner.average.after_epoch(self.network, epoch % self.epochs_in_cycle + 1):
            measure_statistics(learner, loader, f"{title}: statistics of the mean", hidden)
        learner.share()
        means = self._validate(learner, stage, hidden)
        finite(means["val_loss"], f"{title}, validation", self._how_to_go_on())
        learner.schedule.after_epoch(means["val_loss"])
        row = {
            "epoch": epoch + 1,
            "cycle": epoch // self.epochs_in_cycle + 1,
            "train_loss": train_loss,
            **means,
            "lr": rate,
            "images_per_s": round(self.parts.size / trained, 1),
            "seconds": round(time.perf_counter() - started, 1),
        }
        return row, skipped

    def _validate(self, learner: Learner, stage: Stage, hidden: bool) -> dict[str, float]:
        """Scores of what predicts on the fold held out; its answers lie where the record looks for them."""
        data, kind = self.settings.data, self.task.kind
        predictor = Predictor(learner.predicting, kind, stage.val, self.machine)
        about = {"data_dir": data.data_dir, "part": "train", "fold": data.fold, **self.task.about}
        pixels = math.prod(stage.val(self.packed.shape).frame)
        batch_size = max(1, self.settings.learn.batch_size * stage.size**2 // pixels)  # whole images beside crops
        place = answer_writer(self.record.masks_of_epoch, self.val_ids, self.packed.shape, kind, about)
        with self._writing(), place if self.processes.is_main else nullcontext() as writer:
            return evaluate(
                predictor, self.task, self.packed, self.val_rows, self.loss, batch_size, writer, self.processes, hidden
            )

    def _keep(self, learner: Learner, row: dict[str, Any], stage: Stage, skipped: int, report: Reporter) -> Progress:
        """Write the epoch and tell of it; how far the run has come."""
        with self._writing():
            report.board.add(row)
            if self.task.kind.of_pixels:
                report.board.show(row["epoch"], self.packed, self.val_rows, self.record.masks_of_epoch)
            improved, progress = self.record.add(learner, row, stage.val.size)
        report.epoch(row, improved, skipped)
        return progress

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Around what writes: a folder that is gone is not made anew in silence, a full disk says how to go on."""
        folder = self.record.folder
        if self.processes.is_main and not folder.config.is_file():
            raise UserError(f"{folder.path}: was removed or moved while the run went on; put it back and --resume")
        try:
            yield
        except OSError as error:
            place = error.filename or self.record.folder.path
            raise UserError(f"{place}: {error.strerror}; make room. {self._how_to_go_on()}") from error

    def _parts(self) -> EpochParts:
        learn, processes = self.settings.learn, self.processes
        accumulate, share = self.settings.step.accumulate, (processes.rank, processes.size)
        parts = EpochParts(self.train_rows, learn.batch_size, learn.seed, accumulate, learn.epoch_size, share)
        if parts.smallest < processes.size:
            raise UsageError(
                f"--batch_size {learn.batch_size}: its smallest part has {parts.smallest} images, and {processes.size} "
                "processes share it; take a larger one or fewer processes"
            )
        return parts

    def _about(self) -> dict[str, Any]:
        """What each snapshot of this run says of itself: plain values only."""
        flags = to_flat(self.settings)
        return {
            **{name: flags[name] for name in DESCRIBED},
            "val_augs": self.stages[0].val_augs,
            "task": self.task.kind.name,
            "outputs": list(self.task.kind.outputs),
            **self.task.about,
            "channels_in": self.packed.channels,
            "shape": list(self.packed.shape),
            "data_digest": self.packed.digest,
            "val_ids_digest": ids_digest(self.val_ids),
        }

    def _first_line(self) -> str:
        images = f"{len(self.train_rows)} images"
        if self.packed.masks is not None and self.packed.masks.nbytes < QUICK_TO_READ:
            images += f" ({sum(not self.packed.masks[row].any() for row in self.train_rows)} empty)"
        return (
            f"{self.machine}{self._processes()} | {self.settings.net.arch} | fold {self.settings.data.fold}: "
            f"{images} to train on, {len(self.val_rows)} to validate | "
            f"-> {self.record.folder.path}"
        )

    def _processes(self) -> str:
        return f", {self.processes.size} processes" if self.processes.size > 1 else ""

    def _how_to_go_on(self) -> str:
        done, folder = self.record.progress.epoch, self.record.folder.path
        return f"{done} epochs are kept in {folder}; the same command with --resume goes on from there"
