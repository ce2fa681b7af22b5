"""Instance metrics of the DSB2018 (nuclei) and Airbus (ships) competitions, counted in integers.

A predicted instance hits a true one at a threshold (.50, .55, ..., .95) if their IoU is GREATER than the threshold.
With an IoU above one half an instance can hit only one other, so no assignment is needed.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from utils.scoring.mask_metrics import scores_from_counts

N_THRESHOLDS = 10


class Matches(NamedTuple):
    """Matches of one image, from which all its counts are derived."""

    areas: np.ndarray
    """(P,) int64: number of pixels of each predicted instance."""
    hits: np.ndarray
    """(P,) int64, 0..10: each predicted instance hits a true one at the first `hits` thresholds."""
    n_truth: int
    """number of true instances."""


def match_instances(predicted: np.ndarray, truth: np.ndarray) -> Matches:
    """Match the predicted instances of an image to the true ones.

    Args:
        predicted: (H, W) integers, 0 = background; the numbers may have gaps.
        truth: same shape.

    Raises:
        ValueError: the shapes differ or are not (H, W), or the values are not integers of 0 or more.
    """
    if predicted.shape != truth.shape or predicted.ndim != 2:
        raise ValueError(f"expected two label maps (height, width), found {predicted.shape} and {truth.shape}")
    for labels in (predicted, truth):
        if labels.dtype.kind not in "bui" or (labels.size and labels.min() < 0):
            raise ValueError(f"expected integers of 0 or more, found {labels.dtype} with minimum {labels.min():g}")
    ours, theirs, pixels = _pairs(predicted.ravel(), truth.ravel())
    (our_ids, our_place), (their_ids, their_place) = (np.unique(ids, return_inverse=True) for ids in (ours, theirs))
    # bincount adds in float64, which is exact for sums of pixel counts
    our_area = np.bincount(our_place, pixels, minlength=len(our_ids)).astype(np.int64)
    their_area = np.bincount(their_place, pixels, minlength=len(their_ids)).astype(np.int64)
    both = (ours != 0) & (theirs != 0)
    hits = np.zeros(len(our_ids), dtype=np.int64)
    of_pair = scores_from_counts(pixels[both], our_area[our_place[both]], their_area[their_place[both]])
    np.maximum.at(hits, our_place[both], of_pair)
    objects = our_ids != 0
    return Matches(our_area[objects], hits[objects], int(np.count_nonzero(their_ids)))


def _pairs(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct pairs of numbers (ours, theirs) and their numbers of pixels, each (K,) int64."""
    if ours.size == 0:
        return (np.zeros(0, dtype=np.int64),) * 3
    base = int(theirs.max()) + 1
    if (int(ours.max()) + 1) * base <= 4 * ours.size:  # a full table is ten times as fast as sorting, if it is small
        table = np.bincount(ours.astype(np.int64) * base + theirs)
        keys = np.flatnonzero(table)
        return *np.divmod(keys, base), table[keys]
    (our_ids, our_place), (their_ids, their_place) = (np.unique(ids, return_inverse=True) for ids in (ours, theirs))
    keys, pixels = np.unique(our_place.astype(np.int64) * len(their_ids) + their_place, return_counts=True)
    return our_ids[keys // len(their_ids)], their_ids[keys % len(their_ids)], pixels


def counts_without_small(matches: Matches, min_areas: np.ndarray) -> np.ndarray:
    """Return the counts after removing predicted instances of fewer than A pixels, for each A in `min_areas`.

    Returns:
        (len(min_areas), 10, 3) int64: true positives, false positives, false negatives at each threshold.
    """
    kept = matches.areas >= np.asarray(min_areas)[:, None]
    hit = matches.hits[:, None] > np.arange(N_THRESHOLDS)
    positives = kept.astype(np.int64) @ hit.astype(np.int64)
    wrong = np.count_nonzero(kept, axis=1)[:, None] - positives
    return np.stack([positives, wrong, matches.n_truth - positives], axis=-1)


def match_counts(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return TP, FP, FN at IoU > .50, .55, ..., .95, (10, 3) int64; arguments and errors as for `match_instances`."""
    return counts_without_small(match_instances(predicted, truth), np.zeros(1, dtype=np.int64))[0]


def dsb2018_scores(counts: np.ndarray) -> np.ndarray:
    """Return the score of each image by the rule of the 2018 Data Science Bowl, "Evaluation".

    The score is the mean over thresholds of TP / (TP + FP + FN). It is 1 without true and predicted instances, a case
    that the rule leaves open.

    Args:
        counts: (N, 10, 3) int64, TP, FP and FN at each threshold.

    Returns:
        (N,) float64, 0..1. The score of a set of images is their mean.
    """
    return _mean_ratio(counts, np.array([1, 0, 0]), np.array([1, 1, 1]))


def airbus_scores(counts: np.ndarray) -> np.ndarray:
    """Return the score of each image by the rule of the Airbus Ship Detection Challenge, "Evaluation".

    The score is the mean over thresholds of F2 = 5 TP / (5 TP + 4 FN + FP). Without true instances it is 1 if nothing
    is predicted, else 0. Arguments and result are as for `dsb2018_scores`.
    """
    return _mean_ratio(counts, np.array([5, 0, 0]), np.array([5, 1, 4]))


def _mean_ratio(counts: np.ndarray, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above, below = counts @ above, counts @ below
    ratios = np.where(below == 0, 1.0, above / np.maximum(below, 1))
    return ratios.mean(axis=-1)


INSTANCE_METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"dsb2018": dsb2018_scores, "airbus": airbus_scores}
"""Name -> function that returns the scores of N images from their counts (N, 10, 3)."""
