"""The only loops in the repository: fit, evaluate, predict."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader

from net.augmentations import VAL_AUGS
from net.dataset import EpochParts, fitted, normalised
from net.learner import Learner
from net.losses import Loss
from net.predictor import Predictor, batches_of
from net.team import Team
from net.tta import View
from utils.arrays import ArrayWriter
from utils.errors import UserError
from utils.interrupts import StopRequest
from utils.metrics import binarize, counts, scores_from_counts
from utils.progress import progress_bar
from utils.stack import Stack

STEPS_BETWEEN_LOOKS = 10  # reading the loss waits for the device


@dataclass
class Scores:
    """Results of validation images, exact however they are batched and shared out."""

    losses: list[float] = field(default_factory=list)
    tenths: int = 0
    ious: list[float] = field(default_factory=list)

    def add(self, losses: list[float], masks: np.ndarray, truths: np.ndarray) -> None:
        """A batch: its losses (B), probabilities (B, h, w) as stored, truths (B, h, w) 0 or 1."""
        inside, ours, theirs = counts(binarize(masks, 0.5), truths)
        union = ours + theirs - inside
        self.losses += losses
        self.tenths += int(scores_from_counts(inside, ours, theirs).sum())
        self.ious += np.where(union == 0, 1.0, inside / np.maximum(union, 1)).tolist()

    def means(self) -> dict[str, float]:
        """val_loss; iou and iout (the competition's metric) of masks > .5 at the images' own size, 0..1."""
        number = len(self.ious)
        return {
            "val_loss": math.fsum(self.losses) / number,
            "iou": math.fsum(self.ious) / number,
            "iout": self.tenths / (10 * number),
        }


def fit(
    learner: Learner, loader: DataLoader, parts: EpochParts, title: str, stop: StopRequest, how_to_go_on: str
) -> tuple[float, int]:
    """Train one epoch.

    Returns:
        the mean training loss over images, and the number of steps that were skipped.

    Raises:
        Interrupted: a signal came; the epoch is lost.
        UserError: the loss is not a finite number.
    """
    learner.network.train()
    total, seen, steps, skipped = torch.zeros((), device=learner.machine.device), 0, 0, 0
    bar = progress_bar(loader, title, hidden=not learner.team.leads)
    for part, (images, targets) in zip(parts.parts(), bar, strict=True):
        learner.team.obey(stop, how_to_go_on)
        learner.learn(images, targets, part.group)
        if not part.last:
            continue
        loss, steps = learner.step(), steps + 1
        if loss is None:
            skipped += 1
            continue
        total, seen = total + loss * part.group, seen + part.group
        if steps % STEPS_BETWEEN_LOOKS == 0:
            bar.set_postfix(loss=f"{finite(float(total) / seen, title, how_to_go_on):.4f}")
    if not seen:
        raise UserError(f"{title}: no step had a finite loss; try a lower rate or --precision float32. {how_to_go_on}")
    return finite(float(total) / seen, title, how_to_go_on), skipped


def finite(loss: float, title: str, how_to_go_on: str) -> float:
    """The loss, unless it is none to go on with: then UserError."""
    if math.isfinite(loss):
        return loss
    advice = "try a lower rate, --grad_clip 1, --on_nan skip or --precision float32"
    raise UserError(f"{title}: the loss is {loss}; {advice}. {how_to_go_on}")


def measure_statistics(learner: Learner, loader: DataLoader, title: str) -> None:
    """Measure BatchNorm's statistics anew for averaged weights, on the images of the epoch."""
    device, bar = learner.machine.device, progress_bar(loader, title, hidden=not learner.team.leads)
    with learner.machine.autocast():
        learner.average.measure_statistics((normalised(images.to(device)) for images, _ in bar), learner.team)


@torch.inference_mode()
def evaluate(
    predictor: Predictor,
    stack: Stack,
    rows: np.ndarray,
    loss: Loss,
    batch_size: int,
    writer: ArrayWriter | None,
    team: Team,
) -> dict[str, float]:
    """Validation loss and scores over rows of a stack with masks; every mask goes to `writer` as float16.

    The processes share the batches, and the leading one, which alone needs a writer, adds up: the same numbers for
    any number of processes.
    """
    fit_in = VAL_AUGS[predictor.val_augs](stack.shape)
    predictor.network.eval()

    def judge(batch: np.ndarray) -> tuple[list[float], np.ndarray]:
        targets = np.stack([predictor.task.target(stack, int(row)) for row in batch])
        output = predictor.output(fitted(stack.images[batch], fit_in))
        wanted = fitted(targets, fit_in, nearest=True).to(predictor.machine.device).float()
        masks = predictor.masks(output, stack.shape).half().cpu().numpy()
        return loss(output, wanted).tolist(), masks

    scores, batches = Scores(), list(batches_of(rows, batch_size))
    judged = progress_bar(team.in_turn(batches, judge), "validation", total=len(batches), hidden=not team.leads)
    for batch, (losses, masks) in judged:
        scores.add(losses, masks, stack.masks[batch])
        writer.append(masks)
    return team.first(scores.means)


@torch.inference_mode()
def predict(
    predictors: Sequence[Predictor],
    images: np.ndarray,
    rows: np.ndarray,
    views: Sequence[View],
    batch_size: int,
    team: Team,
) -> Iterator[np.ndarray]:
    """The mean of probabilities over networks and views, in the order of `rows`, batch by batch: (B, h, w) float16.

    The processes share the batches; the leading one gets them all, the others none.
    """

    def mean(batch: np.ndarray) -> np.ndarray:
        pixels = images[batch]
        probabilities = sum(predictor.predict(pixels, views) for predictor in predictors) / len(predictors)
        return probabilities.half().cpu().numpy()  # numpy's own conversion takes a tenth of the network's time

    images_a_batch = max(1, batch_size // len(views))  # the network sees all views of a batch at once
    batches = list(batches_of(rows, images_a_batch))
    turns = progress_bar(team.in_turn(batches, mean), "predicting", total=len(batches), hidden=not team.leads)
    yield from (masks for _, masks in turns)
