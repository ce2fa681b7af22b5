"""The metric of the TGS Salt Identification Challenge, and the pixel counts it is computed from.

The score of an image is the share of the ten thresholds .50, .55, ..., .95 that its IoU is GREATER than. If the true
mask is empty, the score is 1 if the predicted mask is empty too, else 0. The score of a set is the mean over its images
(see "Evaluation" of the challenge; there is one object class, so the precision at a threshold is 0 or 1).

The IoU of a small mask is often exactly equal to a threshold, where floating point would decide by chance. Therefore
everything is computed in integers.

METRICS has the other usual metrics of masks beside it: IoU and Dice, as a mean over images or over all pixels together.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

SHOWN_SIZES = 12
"""Sizes of images whose scores are printed."""


def counts(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the pixels of each image for `scores_from_counts`.

    Args:
        predicted: (N, H, W), non-zero pixels are mask.
        truth: same shape.

    Returns:
        (intersection, predicted, truth): int64 (N,) each, numbers of pixels.

    Raises:
        ValueError: the shapes differ or are not (N, H, W).
    """
    if predicted.shape != truth.shape or predicted.ndim != 3:
        raise ValueError(f"expected two arrays (images, height, width), found {predicted.shape} and {truth.shape}")
    predicted, truth = predicted != 0, truth != 0
    inside, ours, theirs = (np.count_nonzero(which, axis=(1, 2)) for which in (predicted & truth, predicted, truth))
    return inside.astype(np.int64), ours.astype(np.int64), theirs.astype(np.int64)


def scores_from_counts(intersection: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return, for each image, the number of thresholds (of ten) that its IoU is greater than.

    Threshold k (IoU .50 + .05 k, k = 0..9) is hit iff 20 I > (10 + k) U, with U = P + T - I.

    Args:
        intersection: I, number of pixels that are mask in both; integers, any shape.
        predicted: P, number of pixels of the predicted mask; broadcasts with the others.
        truth: T, number of pixels of the true mask.

    Returns:
        int64, 0..10, of the common shape.
    """
    inside, ours, theirs = (np.asarray(count, dtype=np.int64) for count in (intersection, predicted, truth))
    union = ours + theirs - inside
    # ceil(20 I / U) - 10 is the number of k >= 0 with 10 + k < 20 I / U; -(-a // b) is the integer ceiling
    hits = np.clip(-(-20 * inside // np.maximum(union, 1)) - 10, 0, 10)
    return np.where(theirs == 0, np.where(ours == 0, 10, 0), hits)


def iout(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the competition's score of N masks, 0..1 (arguments as for `counts`, at least one image)."""
    tenths = scores_from_counts(*counts(predicted, truth))
    return int(tenths.sum()) / (10 * len(tenths))


def iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean IoU over images, 0..1; the IoU of two empty masks is 1 (arguments as for `counts`)."""
    inside, ours, theirs = counts(predicted, truth)
    union = ours + theirs - inside
    return float(np.where(union == 0, 1.0, inside / np.maximum(union, 1)).mean())


UNIT = 2**36
"""A perfect score of an image in whole numbers: sums over images stay exact, and quotients are cut at 1.5e-11."""


class Metric(NamedTuple):
    """A metric of masks: a sum of numerators divided by a sum of denominators, each over all images."""

    name: str
    about: str
    of_image: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """Pixels in both masks, in the predicted and in the true mask -> numerator and denominator of an image."""

    def sums(self, intersection: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Return the numerators and denominators (2, ...) int64 of images; arguments as for `scores_from_counts`."""
        three = (np.asarray(count, dtype=np.int64) for count in (intersection, predicted, truth))
        return np.stack(np.broadcast_arrays(*self.of_image(*three)))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator, (...) float64, and 1 if there is nothing in either mask."""
    return np.where(denominator == 0, 1.0, numerator / np.maximum(denominator, 1))


def by_size(name: str, sums: np.ndarray, shapes: Sequence[tuple[int, int]]) -> str:
    """Return a line with the score of the images of each size, commonest first.

    Args:
        name: of the score.
        sums: (2, N), numerator and denominator of the score of each image.
        shapes: (height, width) of each image.
    """
    common = Counter(shapes).most_common(SHOWN_SIZES + 1)
    shown = []
    for (height, width), number in common[:SHOWN_SIZES]:
        same = np.array([shape == (height, width) for shape in shapes])
        shown.append(f"{height}x{width} {float(ratio(*sums[:, same].sum(axis=1))):.4f} ({number})")
    return f"{name} by size: {', '.join(shown)}{', ...' if len(common) > SHOWN_SIZES else ''}"


def _per_image(part: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(whole == 0, UNIT, part * UNIT // np.maximum(whole, 1)), np.full_like(whole, UNIT)


def _tenths(inside: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tenths = scores_from_counts(inside, ours, theirs)
    return tenths, np.full_like(tenths, 10)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("iout", "share of the IoU thresholds .50 to .95 that an image exceeds, mean over images", _tenths),
        Metric("iou", "IoU, mean over images", lambda i, p, t: _per_image(i, p + t - i)),
        Metric("dice", "Dice, mean over images", lambda i, p, t: _per_image(2 * i, p + t)),
        Metric("pooled_iou", "IoU over the pixels of all images", lambda i, p, t: (i, p + t - i)),
        Metric("pooled_dice", "Dice over the pixels of all images", lambda i, p, t: (2 * i, p + t)),
    )
}
"""Metrics of masks by the name that --metric takes; a pair of empty masks scores 1, and adds nothing to pooled ones."""
