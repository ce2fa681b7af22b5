"""One run from its flags to its snapshots: what train.py and its sisters call."""

import hashlib
import platform
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import nn

from net import snapshot as snapshots
from net.architectures import build_network
from net.augmentations import TRAIN_AUGS, VAL_AUGS, check_names
from net.board import Board
from net.dataset import EpochBatches, TrainingRows, training_loader
from net.engine import Learner, evaluate, fit, restore, state_of
from net.losses import Loss, loss_by_name
from net.machine import Machine, machine
from net.optimizers import optimizer_by_name
from net.predictor import Predictor
from net.schedulers import PLANNED, scheduler_by_name
from net.tasks import Task
from utils.errors import UsageError, UserError
from utils.files import write_json
from utils.interrupts import StopRequest, stop_requests
from utils.mask_file import mask_writer, move_masks
from utils.run_folder import RunFolder, find_snapshots
from utils.settings import TrainSettings, to_flat
from utils.stack import Stack, fold_rows, open_stack

BETTER = {"val_loss": min, "iou": max, "iout": max}


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


class Run:
    """One fold of one experiment, from its settings. `train` does all of it."""

    def __init__(self, settings: TrainSettings, task: Task) -> None:
        check_names(settings.data.train_augs, settings.data.val_augs, settings.data.val_transforms)
        self.settings, self.task = settings, task
        self.loss: Loss = loss_by_name(settings.learn.loss)
        self.build_optimizer = optimizer_by_name(settings.learn.optimizer)
        self.build_schedule = scheduler_by_name(settings.learn.scheduler)
        self.epochs_in_cycle = _epochs_in_cycle(settings)
        self.machine: Machine = machine(settings.machine)
        self.stack: Stack = open_stack(settings.data.data_dir)
        if self.stack.masks is None:
            raise UserError(f"--data_dir {settings.data.data_dir}: its training images have no masks")
        self.train_rows, self.val_rows = fold_rows(settings.data.data_dir, self.stack.ids, settings.data.fold)
        if len(self.train_rows) < 2:
            raise UserError(
                f"--fold {settings.data.fold}: leaves {len(self.train_rows)} images to train on, of 2 needed"
            )
        self.folder = RunFolder(settings.run.path)
        self.progress = Progress()
        self.network = self._network()
        self._try_out()

    def _network(self) -> nn.Module:
        """The network with the weights that it starts from; on a resume they are replaced anyway."""
        net, run = self.settings.net, self.settings.run
        torch.manual_seed(self.settings.learn.seed)
        start = None if run.resume or net.snapshot is None else find_snapshots([net.snapshot])[0]
        weights = "none" if run.resume or start else net.encoder_weights
        network = build_network(net.arch, self.stack.channels, self.task.channels, weights)
        if start:
            snapshots.start_from(network, start)
        return network.to(self.machine.device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def _try_out(self) -> None:
        """A look at black images: a loss or size that does not suit the network is found before anything is written.

        Raises:
            UsageError: the message names the flag.
        """
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

    def train(self) -> dict[str, Any]:
        """Train to the last epoch; the run's summary, as it stands in summary.json."""
        learn = self.settings.learn
        learner = self._learner()
        planned = learn.scheduler in PLANNED or learn.cycles > 1
        self.folder.begin(to_flat(self.settings), self.settings.run.resume, fixed={"n_epochs"} if planned else set())
        if self.settings.run.resume:
            self._resume(learner)
        print(self._first_line(), flush=True)
        samples = TrainingRows(self.stack, self.task, TRAIN_AUGS[self.settings.data.train_augs], learn.seed)
        batches = EpochBatches(self.train_rows, learn.batch_size, learn.seed)
        loader = training_loader(samples, batches, self.machine.loader_workers, self.machine.device.type == "cuda")
        with stop_requests() as stop, Board(self.folder.path / "tensorboard", self.progress.epoch) as board:
            for epoch in range(self.progress.epoch, learn.n_epochs):
                if epoch % self.epochs_in_cycle == 0 and epoch:
                    learner, self.progress.best = self._learner(), {}
                batches.epoch = epoch
                row = self._epoch(learner, loader, stop)
                board.add(row, self.stack, self.val_rows, self._masks_of_epoch)
                self._record(learner, row)
        return self._finish()

    def _epoch(self, learner: Learner, loader: Any, stop: StopRequest) -> dict[str, Any]:
        """Train and validate one epoch; its row of log.csv."""
        learn, epoch, started = self.settings.learn, self.progress.epoch, time.perf_counter()
        torch.manual_seed(int(np.random.SeedSequence([learn.seed, epoch]).generate_state(1)[0]))  # for dropout
        rate = learner.optimizer.param_groups[0]["lr"]
        title = f"epoch {epoch + 1}/{learn.n_epochs}"
        train_loss = fit(learner, loader, title, stop, self._how_to_go_on())
        trained = time.perf_counter() - started
        ids = [self.stack.ids[row] for row in self.val_rows]
        about = {"data_dir": self.settings.data.data_dir, "part": "train", "fold": self.settings.data.fold}
        predictor = Predictor(self.network, self.task, self.settings.data.val_augs, self.machine)
        with mask_writer(self._masks_of_epoch, ids, self.stack.shape, about) as writer:
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

    def _record(self, learner: Learner, row: dict[str, Any]) -> None:
        """Keep the snapshot of a better epoch; then write log.csv and the state; only then remove what is worse.

        The state is what a resume believes: a kill before it loses the epoch, a kill after it only leaves litter, which
        the resume removes.
        """
        progress = self.progress
        progress.epoch += 1
        progress.rows.append(row)
        improved = [name for name, better in BETTER.items() if _improves(row[name], progress.best.get(name), better)]
        progress.best |= {name: row[name] for name in improved}
        if improved:
            self._keep_snapshot(row)
        print(_line(row, self.settings.learn.n_epochs, improved), flush=True)
        self.folder.write_log(progress.rows)
        state = {"format": 1, "progress": vars(progress), "data": self.stack.digest, **state_of(learner)}
        snapshots.write(self.folder.state, state)
        self.folder.keep_only(progress.kept)

    def _keep_snapshot(self, row: dict[str, Any]) -> None:
        cycle = row["cycle"] if self.settings.learn.cycles > 1 else None
        file = self.folder.snapshot(row["epoch"], row["val_loss"], row["iout"], cycle)
        move_masks(self._masks_of_epoch, file.val_masks)
        snapshots.save_snapshot(file.path, self.network, self._about(row))
        name = str(file.path.relative_to(self.folder.snapshots))
        beside = [one for one in self.progress.kept if (self.folder.snapshots / one).parent == file.path.parent]
        ranked = sorted({*beside, name}, key=lambda one: self.folder.described(one).rank, reverse=True)
        others = [one for one in self.progress.kept if one not in beside]
        self.progress.kept = others + ranked[: self.settings.run.keep]

    def _about(self, row: dict[str, Any]) -> dict[str, Any]:
        """What a snapshot says of itself: plain values only."""
        flags = to_flat(self.settings)
        names = ("arch", "train_augs", "val_augs", "val_transforms", "fold", "loss", "optimizer", "scheduler", "seed")
        return {
            **{name: flags[name] for name in names},
            "task": self.task.name,
            "channels_in": self.stack.channels,
            "shape": list(self.stack.shape),
            "data_digest": self.stack.digest,
            "val_ids_digest": _digest(self.stack.ids[row] for row in self.val_rows),
            "metrics": {name: row[name] for name in ("epoch", "cycle", "train_loss", "val_loss", "iou", "iout")},
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "numpy", "albumentations", "segmentation-models-pytorch")},
            },
        }

    def _resume(self, learner: Learner) -> None:
        """Go back to the last finished epoch, and remove what a lost epoch has left."""
        if not self.folder.state.is_file():
            return  # killed before the first epoch was finished: the same start again
        state = snapshots.read(self.folder.state)
        if state["data"] != self.stack.digest:
            raise UserError(f"--resume: the images in {self.settings.data.data_dir} are not those the run began with")
        self.progress = Progress(**state["progress"])
        done, learn = self.progress.epoch, self.settings.learn
        if done >= learn.n_epochs:
            raise UsageError(f"--resume: {self.folder.path} has its {done} epochs; raise --n_epochs to train on")
        restore(learner, state)
        self.folder.write_log(self.progress.rows)
        self.folder.keep_only(self.progress.kept)
        self.folder.summary.unlink(missing_ok=True)

    def _finish(self) -> dict[str, Any]:
        self._masks_of_epoch.unlink(missing_ok=True)
        self._masks_of_epoch.with_suffix(".json").unlink(missing_ok=True)
        best = max((self.folder.described(name) for name in self.progress.kept), key=lambda file: file.rank)
        row = self.progress.rows[best.epoch - 1]
        summary = {
            "best_snapshot": str(best.path.relative_to(self.folder.path)),
            **{name: row[name] for name in ("epoch", "val_loss", "iou", "iout")},
            "seconds": round(sum(one["seconds"] for one in self.progress.rows), 1),
            "machine": str(self.machine),
        }
        write_json(self.folder.summary, summary)
        print(f"best: {best.path}  (iout {row['iout']:.4f}, iou {row['iou']:.4f}, loss {row['val_loss']:.4f})")
        return summary

    @property
    def _masks_of_epoch(self) -> Any:
        return self.folder.snapshots / ".val_masks.npy"

    def _first_line(self) -> str:
        empty = sum(not self.stack.masks[row].any() for row in self.train_rows)
        return (
            f"{self.machine} | {self.settings.net.arch} | fold {self.settings.data.fold}: "
            f"{len(self.train_rows)} images ({empty} empty) to train on, {len(self.val_rows)} to validate | "
            f"-> {self.folder.path}"
        )

    def _how_to_go_on(self) -> str:
        done = self.progress.epoch
        return f"{done} epochs are kept in {self.folder.path}; the same command with --resume goes on from there"


def _epochs_in_cycle(settings: TrainSettings) -> int:
    learn = settings.learn
    for name, value in (("batch_size", learn.batch_size), ("n_epochs", learn.n_epochs), ("cycles", learn.cycles)):
        if value < 1:
            raise UsageError(f"--{name} {value}: expected 1 or more")
    if settings.run.keep < 1:
        raise UsageError(f"--keep {settings.run.keep}: expected 1 or more")
    if learn.n_epochs % learn.cycles:
        raise UsageError(f"--n_epochs {learn.n_epochs} cannot be divided into --cycles {learn.cycles} of equal length")
    return learn.n_epochs // learn.cycles


def _improves(value: float, best: float | None, better: Any) -> bool:
    return best is None or (value != best and better(value, best) == value)


def _digest(names: Any) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _line(row: dict[str, Any], n_epochs: int, improved: list[str]) -> str:
    scores = "  ".join(f"{name} {row[name]:.4f}" for name in ("train_loss", "val_loss", "iou", "iout"))
    better = f"  better {', '.join(improved)}" if improved else ""
    return f"epoch {row['epoch']}/{n_epochs}  {scores}  lr {row['lr']:.2g}  {row['images_per_s']:.0f} images/s{better}"
