"""Metrics for probabilities of labels: AUC, accuracy, recall at a precision, F2, log loss."""

import numpy as np

from utils.masks.mask_file import binarize

CLIP = 1e-7
"""Probabilities are clipped this far from 0 and 1 in a log loss, where a mistake at 0 or 1 would cost infinity."""
UNIT = 1 << 40
"""F2 is counted in integer multiples of 1 / UNIT, so the sum over images does not depend on their order."""


def class_scores(
    probabilities: np.ndarray, truths: np.ndarray, exclusive: bool, at_precision: float = 0.95
) -> dict[str, float]:
    """Return the metrics for this kind of labels.

    - One label (K = 1): `auc`, `accuracy` at threshold .5, `recall` (see `recall_at`) and `log_loss`.
    - One of K labels per image (exclusive): `accuracy` of the most probable label (ties: the first) and `log_loss` of
      the true label.
    - Any number of K labels per image: `f2`, the mean over images at the best threshold shared by all labels, and
      `log_loss`, the mean over images and labels.

    Log losses use the natural logarithm of probabilities clipped to [CLIP, 1 - CLIP] and not renormalised.

    Args:
        probabilities: (N, K) float64, [0, 1], N > 0.
        truths: (N, K) uint8, 0 or 1.
        exclusive: True if every row of `truths` has exactly one 1.
        at_precision: minimum precision for `recall`, 0..1.
    """
    if truths.shape[1] == 1:
        scores, truth = probabilities[:, 0], truths[:, 0] != 0
        return {
            "auc": auc(scores, truth),
            "accuracy": float((binarize(scores, 0.5) == truth).mean()),
            "recall": recall_at(scores, truth, at_precision),
            "log_loss": _log_loss(probabilities, truths),
        }
    if exclusive:
        true = truths.argmax(axis=1)
        of_true = np.clip(probabilities[np.arange(len(true)), true], CLIP, 1 - CLIP)
        return {"accuracy": accuracy(probabilities, truths), "log_loss": float(-np.log(of_true).mean())}
    return {"f2": best_common_f2(probabilities, truths), "log_loss": _log_loss(probabilities, truths)}


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the area under the ROC curve.

    It is the share of pairs of an image with and an image without the label in which the former has the greater score;
    equal scores count half. Counted in integers (Mann & Whitney 1947); .5 if all images or none have the label.

    Args:
        scores: (N,) floats.
        truth: (N,) bool.
    """
    _, place = np.unique(scores, return_inverse=True)
    positive, negative = np.bincount(place, truth), np.bincount(place, ~truth)  # small integers, exact in float64
    pairs = positive.sum() * negative.sum()
    if pairs == 0:
        return 0.5
    below = np.cumsum(negative) - negative
    return float((positive * (2 * below + negative)).sum() / (2 * pairs))


def recall_at(scores: np.ndarray, truth: np.ndarray, at_precision: float) -> float:
    """Return the highest recall of all thresholds with at least this precision.

    It is 0 if no threshold has this precision, or if no image has the label.

    Args:
        scores: (N,) floats.
        truth: (N,) bool.
        at_precision: 0..1.
    """
    values, place = np.unique(scores, return_inverse=True)
    found = np.cumsum(np.bincount(place, truth)[::-1])  # true images among those with the 1, 2, ... greatest values
    taken = np.cumsum(np.bincount(place, minlength=len(values))[::-1])
    precise = found[found / taken >= at_precision]  # 19 / 20 rounds like the literal .95, so equality is reliable
    return float(precise.max() / found[-1]) if len(precise) and found[-1] else 0.0


def accuracy(probabilities: np.ndarray, truths: np.ndarray) -> float:
    """Return the share of N images whose most probable label (ties: the first) is the true one; both (N, K)."""
    return float((probabilities.argmax(axis=1) == truths.argmax(axis=1)).mean())


def f2_units(hits: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the F2 of each image in units of 1 / UNIT (Planet: Understanding the Amazon from Space, "Evaluation").

    F2 = 5 H / (4 T + P) weighs recall above precision. It is 1 if no label is predicted and none is true.

    Args:
        hits: H, number of labels that are predicted and true; integers, any shape.
        predicted: P, number of predicted labels; broadcasts with the others.
        true: T, number of true labels.

    Returns:
        int64, 0..UNIT, of the common shape.
    """
    weight = np.asarray(4 * true + predicted, dtype=np.int64)
    return np.where(weight == 0, UNIT, 5 * UNIT * np.asarray(hits, dtype=np.int64) // np.maximum(weight, 1))


def common_steps(probabilities: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the total F2 of N images, in units of 1 / UNIT, as a step function of the threshold shared by all labels.

    Args:
        probabilities: (N, K) floats, [0, 1].
        truths: (N, K) uint8, 0 or 1.

    Returns:
        (values, changes): float64 and int64, unordered. The total is 0 below th = 0, and each change is added for all
        th >= its value.
    """
    order = np.argsort(-probabilities, axis=1)
    falling = np.take_along_axis(probabilities, order, axis=1).astype(np.float64)
    hits = np.cumsum(np.take_along_axis(truths, order, axis=1), axis=1, dtype=np.int64)
    true = hits[:, -1:]
    hits = np.hstack([np.zeros_like(true), hits])  # among the 0, 1, ..., K most probable labels
    units = f2_units(hits, np.arange(hits.shape[1]), true)
    # for th >= the j-th greatest value only the j - 1 most probable labels are predicted; changes at ties add up
    values = np.append(falling, np.zeros(len(falling)))
    return values, np.append(units[:, :-1] - units[:, 1:], units[:, -1])


def best_common_f2(probabilities: np.ndarray, truths: np.ndarray) -> float:
    """Return the highest mean F2 of any threshold shared by all labels (arguments as for `common_steps`)."""
    values, changes = common_steps(probabilities, truths)
    order = np.argsort(values, kind="stable")
    values, totals = values[order], np.cumsum(changes[order])
    last = np.append(values[1:] != values[:-1], True)
    return int(totals[last].max()) / (UNIT * len(truths))


def _log_loss(probabilities: np.ndarray, truths: np.ndarray) -> float:
    clipped = np.clip(probabilities, CLIP, 1 - CLIP)
    return float(-np.log(np.where(truths != 0, clipped, 1 - clipped)).mean())
