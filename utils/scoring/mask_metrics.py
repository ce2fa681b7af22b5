"""The salt competition's metric, in integers, and what it is counted from.

An image scores the share of the ten thresholds .50, .55, ..., .95 that its IoU is GREATER than; an image whose true
mask is empty scores 1 if the predicted one is empty too, else 0; the score of a set is the mean over its images. (TGS
Salt Identification Challenge, "Evaluation"; images of one object class, so that precision is hit or miss.) Many IoUs of
small masks lie on a threshold exactly, where floating point decides by chance: hence integers all the way.
"""

import numpy as np


def counts(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of each image that `scores_from_counts` needs.

    Args:
        predicted: (N, H, W), what is not 0 is mask.
        truth: the same shape.

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
    """The thresholds (of ten) that each image's IoU is greater than.

    Threshold k (IoU .50 + .05 k, k = 0..9) is hit iff 20 I > (10 + k) U, with U = P + T - I.

    Args:
        intersection: I, pixels that are mask in both; integers, any shape.
        predicted: P, pixels of the predicted mask; broadcasts with the others.
        truth: T, pixels of the true mask.

    Returns:
        int64, 0..10, of the common shape.
    """
    inside, ours, theirs = (np.asarray(count, dtype=np.int64) for count in (intersection, predicted, truth))
    union = ours + theirs - inside
    # the k >= 0 with 10 + k < 20 I / U are ceil(20 I / U) - 10 many; -(-a // b) is the ceiling in integers
    hits = np.clip(-(-20 * inside // np.maximum(union, 1)) - 10, 0, 10)
    return np.where(theirs == 0, np.where(ours == 0, 10, 0), hits)


def iout(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The competition's score of N masks, 0..1 (arguments as for `counts`, at least one image)."""
    tenths = scores_from_counts(*counts(predicted, truth))
    return int(tenths.sum()) / (10 * len(tenths))


def iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The mean over images of intersection / union, 0..1; 1 where both masks are empty (arguments as for `counts`)."""
    inside, ours, theirs = counts(predicted, truth)
    union = ours + theirs - inside
    return float(np.where(union == 0, 1.0, inside / np.maximum(union, 1)).mean())
