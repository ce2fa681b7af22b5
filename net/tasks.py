"""What is predicted, what is learned from, and how it is scored: one Task for each door of training.

A Kind is what a snapshot remembers: names of the outputs and the way from logits to probabilities. A Task adds what
training needs of the data.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from net.kinds import Kind
from net.losses import EXCLUSIVE_LOSSES, LABEL_LOSSES, LOSSES, Loss, border_losses
from utils.core.errors import UserError
from utils.data.image_classes import not_empty, read_labels
from utils.data.packed import Stack
from utils.masks.border_target import border_of
from utils.scoring.validation_scores import LabelScores, ObjectScores, PixelScores, Scores


@dataclass(frozen=True)
class Task:
    """One door of training."""

    kind: Kind
    truth: Callable[[Stack, int], np.ndarray]
    """(stack, row) -> what is known of an image: (h, w) uint8 or uint16 at its own size, or (K,) uint8."""
    target: Callable[[np.ndarray], np.ndarray]
    """Truth (S, S) as augmentation left it -> (S, S, K) uint8, 0 or 1; labels of an image as they are."""
    losses: dict[str, Loss]
    scores: Callable[[], Scores]
    """Makes what counts up the results of validation images."""
    kept_by: tuple[str, ...]
    """Measures whose best snapshots are kept; the last one ranks them."""
    about: dict[str, Any] = field(default_factory=dict)
    """What snapshots say of the target beyond their outputs."""

    @property
    def measure(self) -> str:
        """What ranks snapshots, and stands in their names."""
        return self.kept_by[-1]


def mask_task(stack: Stack) -> Task:
    """Mask or not, of each pixel.

    Raises:
        UserError: there are no masks.
    """
    _need_masks(stack)
    return Task(
        kind=Kind("mask", ("mask",)),
        truth=lambda stack, row: stack.masks[row],
        target=lambda mask: mask[..., None],
        losses=LOSSES,
        scores=PixelScores,
        kept_by=("val_loss", "iou", "iout"),
    )


def border_task(stack: Stack, border: str, width: int, weight: float) -> Task:
    """Mask, and the border between or around objects, of each pixel.

    Args:
        stack: with labels, or with masks alone, whose outline is learned.
        border: outline, touching or both (utils/masks/border_target.py).
        width: pixels at the net's size.
        weight: of the border's loss beside the mask's.

    Raises:
        UserError: there are no masks, or `touching` is asked for where objects are not told apart.
    """
    _need_masks(stack)
    objects = stack.labels is not None
    if not objects and border == "touching":
        raise UserError("--border touching: the packed masks do not tell objects apart; use --border outline")
    edge = partial(border_of, kind=border if objects else "outline", width=width)
    return Task(
        kind=Kind("border", ("mask", "border")),
        truth=lambda stack, row: (stack.labels if objects else stack.masks)[row],
        target=lambda truth: np.stack([(truth != 0).astype(np.uint8), edge(truth)], axis=-1),
        losses=border_losses(weight),
        scores=ObjectScores if objects else PixelScores,
        kept_by=("val_loss", "iou", "iout", "objects") if objects else ("val_loss", "iou", "iout"),
        about={"border": border, "border_width": width},
    )


def label_task(stack: Stack, data_dir: str, column: str | None, at_precision: float) -> Task:
    """Labels of images: one of several (cat or dog), any number of them (tags), or whether there is anything in it.

    Args:
        stack: the images.
        data_dir: their folder, with train_with_folds.csv.
        column: of the labels; None: whether the mask is empty.
        at_precision: for the recall in the log.

    Raises:
        UserError: no masks, no such column, or no labels in it.
    """
    if column is None:
        _need_masks(stack)
        labels = not_empty(stack.masks)
    else:
        labels = read_labels(Path(data_dir) / "train_with_folds.csv", column, stack.ids)
    kind = Kind("label" if labels.exclusive else "labels", tuple(labels.names))
    measure = "accuracy" if labels.exclusive else "auc" if len(labels.names) == 1 else "f2"
    return Task(
        kind=kind,
        truth=lambda _stack, row: labels.matrix[row],
        target=lambda truth: truth,
        losses=EXCLUSIVE_LOSSES if labels.exclusive else LABEL_LOSSES,
        scores=partial(LabelScores, labels, at_precision),
        kept_by=("val_loss", measure),
        about={"target": column},
    )


def _need_masks(stack: Stack) -> None:
    if stack.masks is None:
        raise UserError(
            "--data_dir: its training images have no masks; for labels there is train_classifier.py --target"
        )
