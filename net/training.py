"""One run from its flags to its snapshots: what train.py and its sisters call."""

import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from net.architectures import build_network
from net.augmentations import TRAIN_AUGS, VAL_AUGS, check_names
from net.board import Board
from net.dataset import EpochBatches, TrainingRows, training_loader
from net.engine import Learner, evaluate, fit
from net.losses import loss_by_name
from net.machine import machine, workers_for
from net.optimizers import optimizer_by_name
from net.predictor import Predictor
from net.record import Record
from net.schedulers import PLANNED, scheduler_by_name
from net.snapshot import start_from
from net.tasks import Task
from utils.errors import UsageError, UserError
from utils.interrupts import StopRequest, stop_requests
from utils.mask_file import mask_writer
from utils.run_folder import RunFolder, find_snapshots
from utils.settings import TrainSettings, to_flat
from utils.stack import Stack, fold_rows, ids_digest, open_stack

QUICK_TO_READ = 2**30  # bytes; of more masks the empty ones are not counted at every start
DESCRIBED = ("arch", "train_augs", "val_augs", "val_transforms", "fold", "loss", "optimizer", "scheduler", "seed")


class Run:
    """One fold of one experiment; made from its settings it has found everything it needs, and has written nothing.

    Raises:
        UsageError: names that are none, flags that do not go together.
        UserError: data or weights that are not there or do not fit.
    """

    def __init__(self, settings: TrainSettings, task: Task) -> None:
        data, learn, run = settings.data, settings.learn, settings.run
        check_names(data.train_augs, data.val_augs, data.val_transforms)
        self.settings, self.task = settings, task
        self.loss = loss_by_name(learn.loss)
        self.build_optimizer = optimizer_by_name(learn.optimizer)
        self.build_schedule = scheduler_by_name(learn.scheduler)
        self.epochs_in_cycle = _epochs_in_cycle(settings)
        self.machine = machine(settings.machine)
        self.workers = workers_for(self.machine.device, data.loader_workers)
        self.stack = _stack_with_masks(data.data_dir)
        self.train_rows, self.val_rows = fold_rows(data.data_dir, self.stack.ids, data.fold)
        if len(self.train_rows) < 2:
            raise UserError(f"--fold {data.fold}: leaves {len(self.train_rows)} images to train on, of 2 needed")
        self.val_ids = [self.stack.ids[row] for row in self.val_rows]
        self.record = Record(RunFolder(run.path), self._about(), run.keep, by_cycle=learn.cycles > 1)
        self.network = self._network()
        self._try_out()

    def train(self) -> dict[str, Any]:
        """Train to the last epoch; the run's summary, as it stands in summary.json."""
        learn, record = self.settings.learn, self.record
        planned = learn.scheduler in PLANNED or learn.cycles > 1
        fixed = {"n_epochs"} if planned else set()
        record.folder.begin(to_flat(self.settings), self.settings.run.resume, fixed)
        learner = self._learner()
        if self.settings.run.resume:
            record.resume(learner, learn.n_epochs)
        print(self._first_line(), flush=True)
        samples = TrainingRows(self.stack, self.task, TRAIN_AUGS[self.settings.data.train_augs], learn.seed)
        batches = EpochBatches(self.train_rows, learn.batch_size, learn.seed)
        loader = training_loader(samples, batches, self.workers, pin_memory=self.machine.device.type == "cuda")
        with stop_requests() as stop, Board(record.folder.path / "tensorboard", record.progress.epoch) as board:
            for epoch in range(record.progress.epoch, learn.n_epochs):
                if epoch % self.epochs_in_cycle == 0 and epoch:
                    learner, record.progress.best = self._learner(), {}
                batches.epoch, how_to_go_on = epoch, self._how_to_go_on()
                try:
                    row = self._epoch(learner, loader, stop)
                    board.add(row, self.stack, self.val_rows, record.masks_of_epoch)
                    improved = record.add(learner, row)
                except OSError as error:
                    place = error.filename or record.folder.path
                    raise UserError(f"{place}: {error.strerror}; make room. {how_to_go_on}") from error
                print(_line(row, learn.n_epochs, improved), flush=True)
        summary = record.finish(str(self.machine))
        scores = ", ".join(f"{name} {summary[name]:.4f}" for name in ("iout", "iou", "val_loss"))
        print(f"best: {record.folder.path / summary['best_snapshot']}  ({scores})")
        return summary

    def _epoch(self, learner: Learner, loader: DataLoader, stop: StopRequest) -> dict[str, Any]:
        """Train and validate one epoch; its row of log.csv."""
        data, learn, epoch = self.settings.data, self.settings.learn, self.record.progress.epoch
        started = time.perf_counter()
        torch.manual_seed(int(np.random.SeedSequence([learn.seed, epoch]).generate_state(1)[0]))  # for dropout
        rate = learner.optimizer.param_groups[0]["lr"]
        train_loss = fit(learner, loader, f"epoch {epoch + 1}/{learn.n_epochs}", stop, self._how_to_go_on())
        trained = time.perf_counter() - started
        about = {"data_dir": data.data_dir, "part": "train", "fold": data.fold}
        predictor = Predictor(self.network, self.task, data.val_augs, self.machine)
        with mask_writer(self.record.masks_of_epoch, self.val_ids, self.stack.shape, about) as writer:
            means = evaluate(predictor, self.stack, self.val_rows, self.loss, learn.batch_size, writer)
        learner.schedule.after_epoch(means["val_loss"])
        return {
            "epoch": epoch + 1,
            "cycle": epoch // self.epochs_in_cycle + 1,
            "train_loss": train_loss,
            **means,
            "lr": rate,
            "images_per_s": round(len(self.train_rows) / trained, 1),
            "seconds": round(time.perf_counter() - started, 1),
        }

    def _network(self) -> nn.Module:
        """The network with the weights that it starts from; a state to resume from replaces them."""
        net, run = self.settings.net, self.settings.run
        resumed = run.resume and self.record.folder.state.is_file()
        start = None if resumed or net.snapshot is None else find_snapshots([net.snapshot])[0]
        weights = "none" if resumed or start else net.encoder_weights
        torch.manual_seed(self.settings.learn.seed)
        network = build_network(net.arch, self.stack.channels, self.task.channels, weights)
        if start:
            start_from(network, start)
        return network.to(self.machine.device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def _try_out(self) -> None:
        """A look at black images: a loss or size that does not suit the network is found before anything is written."""
        size, arch = VAL_AUGS[self.settings.data.val_augs].size, self.settings.net.arch
        black = torch.zeros(2, self.stack.channels, size, size, dtype=torch.uint8)
        predictor = Predictor(self.network.eval(), self.task, self.settings.data.val_augs, self.machine)
        try:
            output = predictor.output(black)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0][:160]
            raise UsageError(f"--arch {arch}: cannot take images of {size}x{size} ({reason}); choose another") from None
        self.loss(output, torch.zeros(2, self.task.channels, size, size, device=self.machine.device))

    def _learner(self) -> Learner:
        """Optimizer and schedule anew, as at the start of a cycle."""
        optimizer = self.build_optimizer(self.network.parameters())
        steps = -(-len(self.train_rows) // self.settings.learn.batch_size)
        return Learner(
            network=self.network,
            optimizer=optimizer,
            schedule=self.build_schedule(optimizer, self.epochs_in_cycle, steps),
            scaler=torch.amp.GradScaler(self.machine.device.type, enabled=self.machine.dtype == torch.float16),
            loss=self.loss,
            machine=self.machine,
        )

    def _about(self) -> dict[str, Any]:
        """What each snapshot of this run says of itself: plain values only."""
        flags = to_flat(self.settings)
        return {
            **{name: flags[name] for name in DESCRIBED},
            "task": self.task.name,
            "channels_in": self.stack.channels,
            "shape": list(self.stack.shape),
            "data_digest": self.stack.digest,
            "val_ids_digest": ids_digest(self.val_ids),
        }

    def _first_line(self) -> str:
        images = f"{len(self.train_rows)} images"
        if self.stack.masks.nbytes < QUICK_TO_READ:
            images += f" ({sum(not self.stack.masks[row].any() for row in self.train_rows)} empty)"
        return (
            f"{self.machine} | {self.settings.net.arch} | fold {self.settings.data.fold}: "
            f"{images} to train on, {len(self.val_rows)} to validate | "
            f"-> {self.record.folder.path}"
        )

    def _how_to_go_on(self) -> str:
        done, folder = self.record.progress.epoch, self.record.folder.path
        return f"{done} epochs are kept in {folder}; the same command with --resume goes on from there"


def _stack_with_masks(data_dir: str) -> Stack:
    stack = open_stack(data_dir)
    if stack.masks is None:
        raise UserError(f"--data_dir {data_dir}: its training images have no masks")
    return stack


def _epochs_in_cycle(settings: TrainSettings) -> int:
    learn = settings.learn
    numbers = {"batch_size": learn.batch_size, "n_epochs": learn.n_epochs, "cycles": learn.cycles}
    for name, value in {**numbers, "keep": settings.run.keep}.items():
        if value < 1:
            raise UsageError(f"--{name} {value}: expected 1 or more")
    if learn.n_epochs % learn.cycles:
        raise UsageError(f"--n_epochs {learn.n_epochs} cannot be divided into --cycles {learn.cycles} of equal length")
    return learn.n_epochs // learn.cycles


def _line(row: dict[str, Any], n_epochs: int, improved: list[str]) -> str:
    scores = "  ".join(f"{name} {row[name]:.4f}" for name in ("train_loss", "val_loss", "iou", "iout"))
    better = f"  better {', '.join(improved)}" if improved else ""
    return f"epoch {row['epoch']}/{n_epochs}  {scores}  lr {row['lr']:.2g}  {row['images_per_s']:.0f} images/s{better}"
