"""The only loops in the repository: fit, evaluate, predict."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from net.augmentations import VAL_AUGS
from net.dataset import fitted, normalised
from net.losses import Loss
from net.machine import Machine
from net.outputs import to_float32
from net.predictor import Predictor, batches_of
from net.schedulers import Schedule
from net.tta import View
from utils.arrays import ArrayWriter
from utils.errors import UserError
from utils.interrupts import StopRequest
from utils.metrics import binarize, counts, scores_from_counts
from utils.progress import progress_bar
from utils.stack import Stack


@dataclass
class Learner:
    """Everything that a training step changes."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    """Does nothing but in float16."""
    loss: Loss
    machine: Machine

    def step(self, images: Tensor, targets: Tensor) -> Tensor:
        """One step on images (B, C, S, S) uint8 and targets (B, K, S, S) uint8; the loss, a detached scalar."""
        device = self.machine.device
        images, targets = images.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        with self.machine.autocast():
            output = self.network(normalised(images))
        loss = self.loss(to_float32(output), targets.float())
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.after_step()
        return loss.detach()


@dataclass
class Scores:
    """Sums over validation images, exact however they are batched."""

    loss_sum: float = 0.0
    tenths: int = 0
    ious: list[float] = field(default_factory=list)

    def add(self, loss: float, masks: np.ndarray, truths: np.ndarray) -> None:
        """A batch: its mean loss, probabilities (B, h, w) as stored, truths (B, h, w) 0 or 1."""
        inside, ours, theirs = counts(binarize(masks, 0.5), truths)
        union = ours + theirs - inside
        self.loss_sum += loss * len(masks)
        self.tenths += int(scores_from_counts(inside, ours, theirs).sum())
        self.ious += np.where(union == 0, 1.0, inside / np.maximum(union, 1)).tolist()

    def means(self) -> dict[str, float]:
        """val_loss; iou and iout (the competition's metric) of masks > .5 at the images' own size, 0..1."""
        number = len(self.ious)
        return {
            "val_loss": self.loss_sum / number,
            "iou": sum(self.ious) / number,
            "iout": self.tenths / (10 * number),
        }


def fit(learner: Learner, loader: DataLoader, title: str, stop: StopRequest, how_to_go_on: str) -> float:
    """Train one epoch; the mean training loss over images.

    Raises:
        Interrupted: a signal came; the epoch is lost.
        UserError: the loss is not a finite number.
    """
    learner.network.train()
    total, seen = torch.zeros((), device=learner.machine.device), 0
    bar = progress_bar(loader, title)
    for images, targets in bar:
        stop.obey(how_to_go_on)
        total += learner.step(images, targets) * len(images)
        seen += len(images)
        if bar.n % 10 == 0:  # reading the loss waits for the device
            bar.set_postfix(loss=f"{float(total) / seen:.4f}")
    mean = float(total) / seen
    if not np.isfinite(mean):
        raise UserError(f"{title}: the loss is {mean}; try a lower rate or --precision float32. {how_to_go_on}")
    return mean


@torch.inference_mode()
def evaluate(
    predictor: Predictor, stack: Stack, rows: np.ndarray, loss: Loss, batch_size: int, writer: ArrayWriter
) -> dict[str, float]:
    """Validation loss and scores over rows of a stack with masks; every mask goes to `writer` as float16."""
    fit_in = VAL_AUGS[predictor.val_augs](stack.shape)
    scores = Scores()
    predictor.network.eval()
    for batch in progress_bar(list(batches_of(rows, batch_size)), "validation"):
        truths = stack.masks[batch]
        targets = np.stack([predictor.task.target(stack, int(row)) for row in batch])
        output = predictor.output(fitted(stack.images[batch], fit_in))
        wanted = fitted(targets, fit_in, nearest=True).to(predictor.machine.device).float()
        masks = predictor.masks(output, stack.shape).cpu().numpy().astype(np.float16)
        scores.add(float(loss(output, wanted)), masks, truths)
        writer.append(masks)
    return scores.means()


@torch.inference_mode()
def predict(
    predictors: Sequence[Predictor], images: np.ndarray, rows: np.ndarray, views: Sequence[View], batch_size: int
) -> Iterator[np.ndarray]:
    """The mean of probabilities over networks and views, in the order of `rows`, batch by batch: (B, h, w) float16."""
    images_a_batch = max(1, batch_size // len(views))  # the network sees all views of a batch at once
    for batch in progress_bar(list(batches_of(rows, images_a_batch)), "predicting"):
        pixels = images[batch]
        mean = sum(predictor.predict(pixels, views) for predictor in predictors) / len(predictors)
        yield mean.cpu().numpy().astype(np.float16)


def state_of(learner: Learner) -> dict[str, Any]:
    """What must survive a kill, as tensors and plain values."""
    return {
        "network": learner.network.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "schedule": learner.schedule.scheduler.state_dict(),
        "scaler": learner.scaler.state_dict(),
    }


def restore(learner: Learner, state: dict[str, Any]) -> None:
    """Put a state written by `state_of` back."""
    learner.network.load_state_dict(state["network"])
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.schedule.scheduler.load_state_dict(state["schedule"])
    learner.scaler.load_state_dict(state["scaler"])
