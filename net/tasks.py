"""Tasks: what is learned and how it is scored, one Task for each training script.

A Kind is what a snapshot stores: the names of the outputs and the conversion of logits to probabilities. A Task adds
what training needs: truth, target, losses and scores.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from net.border_target import border_of
from net.losses import CLASS_LOSSES, EXCLUSIVE_LOSSES, LOSSES, Loss, border_losses
from net.network_kinds import ImageKind, Kind, PixelKind
from utils.core.errors import UsageError, UserError
from utils.core.names import pick
from utils.data.image_classes import nonempty_class, read_classes
from utils.data.packed_data import PackedImages
from utils.scoring.mask_metrics import METRICS
from utils.scoring.validation_scores import ClassScores, InstanceScores, PixelScores, Scores


@dataclass(frozen=True)
class Task:
    """Learning task of a training script.

    Loader workers receive kind and truth, so these must be picklable: functions of a module, not lambdas.
    """

    kind: Kind
    truth: Callable[[PackedImages, int], np.ndarray]
    """(packed, row) -> truth of an image: (h, w) uint8 or uint16 at its own size, or (K,) uint8."""
    target: Callable[[Tensor], Tensor]
    """Augmented truths (B, 1, S, S) uint8 or int32 -> targets (B, K, S, S) uint8, 0 or 1; classes (B, K) stay as is."""
    losses: dict[str, Loss]
    scores: Callable[[], Scores]
    """Function that creates the accumulator of the results of validation images."""
    kept_by: tuple[str, ...]
    """Measures whose best snapshots are kept; the last one ranks the snapshots."""
    described: dict[str, Any] = field(default_factory=dict)
    """Fields that describe the target in the records of snapshots and prediction files, in addition to the outputs."""

    @property
    def measure(self) -> str:
        """Measure that ranks snapshots and is part of their names."""
        return self.kept_by[-1]

    def ranked_by(self, metric: str | None) -> "Task":
        """Return the task with another metric of masks to rank snapshots by; None leaves it as it is.

        Raises:
            UsageError: the metric is unknown, or not one of masks, or the network does not predict masks.
        """
        if metric is None:
            return self
        if isinstance(self.kind, ImageKind):
            raise UsageError(f"--metric {metric}: is for networks that predict masks; leave it out")
        if metric == self.measure:
            return replace(self, described={**self.described, "metric": metric})
        pick(METRICS, metric, "--metric")
        kept_by = (*(name for name in self.kept_by if name != metric), metric)
        return replace(
            self, scores=partial(self.scores, metric), kept_by=kept_by, described={**self.described, "metric": metric}
        )


def mask_task(packed: PackedImages) -> Task:
    """Return the task of predicting whether each pixel is mask.

    Raises:
        UserError: the images have no masks.
    """
    _need_masks(packed)
    return Task(
        kind=PixelKind("mask", ("mask",)),
        truth=_mask,
        target=_unchanged,
        losses=LOSSES,
        scores=PixelScores,
        kept_by=("val_loss", "iou", "iout"),
    )


def border_task(packed: PackedImages, border: str, width: int, weight: float) -> Task:
    """Return the task of predicting for each pixel the mask, and the border between or around instances.

    Args:
        packed: images with label maps, or with masks only, whose outline is learned.
        border: outline, touching or both (net/border_target.py).
        width: width of the border, in pixels at the input size.
        weight: weight of the border's loss relative to the mask's.

    Raises:
        UserError: the images have no masks, or `border` is touching and the masks do not tell instances apart.
    """
    _need_masks(packed)
    objects = packed.instances is not None
    if not objects and border == "touching":
        raise UserError("--border touching: the packed masks do not tell objects apart; use --border outline")
    edge = partial(border_of, kind=border if objects else "outline", width=width)
    return Task(
        kind=PixelKind("border", ("mask", "border")),
        truth=_instances if objects else _mask,
        target=partial(_mask_and_border, edge),
        losses=border_losses(weight),
        scores=InstanceScores if objects else PixelScores,
        kept_by=("val_loss", "iou", "iout", "objects") if objects else ("val_loss", "iou", "iout"),
        described={"border": border, "border_width": width},
    )


def class_task(packed: PackedImages, data_dir: str, column: str | None, at_precision: float) -> Task:
    """Return the task of predicting classes of images: one of several (cat or dog), any number (tags), or not empty.

    Args:
        packed: the images.
        data_dir: their folder, with train_with_folds.csv.
        column: column of the labels; None to learn whether the mask is not empty.
        at_precision: precision at which the recall in the log is measured.

    Raises:
        UserError: the images have no masks, the column does not exist, or it has no labels.
    """
    if column is None:
        _need_masks(packed)
        labels = nonempty_class(packed.foreground(np.arange(len(packed.ids))) > 0)
    else:
        labels = read_classes(Path(data_dir) / "train_with_folds.csv", column, packed.ids)
    kind = ImageKind("label" if labels.exclusive else "labels", tuple(labels.names))
    measure = "accuracy" if labels.exclusive else "auc" if len(labels.names) == 1 else "f2"
    return Task(
        kind=kind,
        truth=partial(_classes, labels.matrix),
        target=_unchanged,
        losses=EXCLUSIVE_LOSSES if labels.exclusive else CLASS_LOSSES,
        scores=partial(ClassScores, labels, at_precision),
        kept_by=("val_loss", measure),
        described={"target": column, "exclusive": labels.exclusive},
    )


def _need_masks(packed: PackedImages) -> None:
    if packed.masks is None:
        raise UserError(
            "--data_dir: the training images have no masks; to learn labels, use train_classifier.py --target"
        )


def _mask(packed: PackedImages, row: int) -> np.ndarray:
    return packed.masks[row]


def _instances(packed: PackedImages, row: int) -> np.ndarray:
    return packed.instances[row]


def _classes(matrix: np.ndarray, _packed: PackedImages, row: int) -> np.ndarray:
    return matrix[row]


def _mask_and_border(edge: Callable[[Tensor], Tensor], truths: Tensor) -> Tensor:
    return torch.cat([(truths != 0).to(torch.uint8), edge(truths)], dim=1)


def _unchanged(truths: Tensor) -> Tensor:
    return truths
