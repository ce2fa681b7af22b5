"""Accumulators for the scores of validation images; exact regardless of batch size and distribution over processes."""

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from utils.data.image_classes import ImageClasses
from utils.data.packed_data import PackedImages
from utils.masks.instances import InstanceRules, label_instances
from utils.masks.mask_file import binarize
from utils.scoring.class_metrics import class_scores
from utils.scoring.instance_metrics import dsb2018_scores, match_counts
from utils.scoring.mask_metrics import METRICS, counts, ratio, scores_from_counts


class Scores(Protocol):
    """Accumulator that takes batches of validation images in order and returns mean scores."""

    def add(self, losses: list[float], predictions: np.ndarray, packed: PackedImages, rows: np.ndarray) -> None:
        """Add a batch.

        Args:
            losses: B losses, or none.
            predictions: probabilities of B images, as they are stored.
            packed: the packed images.
            rows: (B,) the rows of the batch in `packed`.
        """

    def means(self) -> dict[str, float]:
        """Return the mean of each measure by name, including val_loss."""


@dataclass
class PixelScores:
    """Scores of masks: val_loss, iou, iout (the salt competition's metric) and, if it is another one, `metric`.

    All but the loss are 0..1, at threshold .5 and at the size of the packed images.
    """

    metric: str = "iout"
    """Name in METRICS."""
    losses: list[float] = field(default_factory=list)
    tenths: int = 0
    ious: list[float] = field(default_factory=list)
    sums: np.ndarray = field(default_factory=lambda: np.zeros(2, dtype=np.int64))
    """Numerator and denominator of the metric."""

    def add(self, losses: list[float], predictions: np.ndarray, packed: PackedImages, rows: np.ndarray) -> None:
        """Add a batch; `predictions` are (B, h, w), or (B, 2, h, w) with borders, float16."""
        masks = predictions if predictions.ndim == 3 else predictions[:, 0]
        inside, ours, theirs = counts(binarize(masks, 0.5), np.asarray(packed.masks[rows]))
        union = ours + theirs - inside
        self.losses += losses
        self.tenths += int(scores_from_counts(inside, ours, theirs).sum())
        self.ious += np.where(union == 0, 1.0, inside / np.maximum(union, 1)).tolist()
        self.sums += METRICS[self.metric].sums(inside, ours, theirs).sum(axis=1)

    def means(self) -> dict[str, float]:
        """Return val_loss, iou, iout and the metric."""
        number = len(self.ious)
        return {
            **_mean_loss(self.losses),
            "iou": math.fsum(self.ious) / number,
            "iout": self.tenths / (10 * number),
            **({} if self.metric in ("iou", "iout") else {self.metric: float(ratio(*self.sums))}),
        }


@dataclass
class InstanceScores:
    """The scores of masks, and `objects`: the DSB2018 score of the instances at thresholds of .5, 0..1."""

    metric: str = "iout"
    matches: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pixels = PixelScores(self.metric)

    def add(self, losses: list[float], predictions: np.ndarray, packed: PackedImages, rows: np.ndarray) -> None:
        """Add a batch; `predictions` are (B, 2, h, w) float16, masks and borders."""
        self.pixels.add(losses, predictions, packed, rows)
        for (mask, border), row in zip(predictions, rows, strict=True):
            self.matches.append(match_counts(label_instances(mask, border, InstanceRules()), packed.instances[row]))

    def means(self) -> dict[str, float]:
        """Return val_loss, iou, iout, the metric and objects."""
        return {**self.pixels.means(), "objects": float(dsb2018_scores(np.stack(self.matches)).mean())}


@dataclass
class ClassScores:
    """Scores of classes: val_loss and the metrics of `class_scores` for this kind of labels."""

    labels: ImageClasses
    at_precision: float
    losses: list[float] = field(default_factory=list)
    predictions: list[np.ndarray] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def add(self, losses: list[float], predictions: np.ndarray, packed: PackedImages, rows: np.ndarray) -> None:
        """Add a batch; `predictions` are (B, K) float32."""
        self.losses += losses
        self.predictions.append(predictions)
        self.rows += rows.tolist()

    def means(self) -> dict[str, float]:
        """Return val_loss and the metrics of the classes."""
        truths, predictions = self.labels.matrix[self.rows], np.concatenate(self.predictions).astype(np.float64)
        found = class_scores(predictions, truths, self.labels.exclusive, self.at_precision)
        return {**_mean_loss(self.losses), **found}


def _mean_loss(losses: list[float]) -> dict[str, float]:
    """Return {"val_loss": mean}, or {} if predictions were added without losses."""
    return {"val_loss": math.fsum(losses) / len(losses)} if losses else {}
