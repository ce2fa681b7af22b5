"""The exact best pair of mask threshold and gate threshold for the salt competition's metric.

The score of a pair is a sum over images: the tenths at the mask threshold of those that the gate lets through, and the
tenths of an empty mask of the others. It changes only at steps of the masks' scores and at probabilities of the gate.
"""

from dataclasses import dataclass

import numpy as np

from utils.gate import OPEN, silenced
from utils.threshold import Best, ByArea, Steps, best, middle_of


@dataclass(frozen=True)
class Gate:
    """Where the gate's threshold is best."""

    threshold: float
    """the middle of [low, high)."""
    low: float
    """every threshold >= low ..."""
    high: float
    """... and < high (<= high where high is 1) has this score, with every mask threshold of its interval."""


def gated(steps: Steps, probabilities: np.ndarray, gate_th: float) -> Steps:
    """The steps when the masks of images that the gate silences are empty at every threshold.

    Args:
        steps: of N images.
        probabilities: (N,) float64, that there is anything.
        gate_th: images with a greater probability are let through.
    """
    shut = silenced(probabilities, gate_th)
    empty, kept = np.flatnonzero(shut), ~shut[steps.image]
    return Steps(
        np.append(steps.image[kept], empty),
        np.append(steps.value[kept], np.zeros(len(empty))),
        np.append(steps.change[kept], _when_empty(steps)[empty]),
        steps.n_images,
    )


def best_gated(by_area: ByArea, probabilities: np.ndarray) -> tuple[Best, Gate | None]:
    """The best of all pairs of mask threshold and gate threshold, and least area.

    Of equally good ones: no gate; then the smallest area; then the widest gap between two neighbouring probabilities,
    the widest interval of mask thresholds there, and the gate thresholds around for which all of it stays best.

    Args:
        by_area: steps of N images, for each least area.
        probabilities: (N,) float64, that there is anything.
    """
    found = [_best_of_one_area(by_area[area], probabilities, area) for area in sorted(by_area)]
    return max(found, key=lambda pair: (pair[0].score, pair[1] is None))


def _best_of_one_area(steps: Steps, probabilities: np.ndarray, min_area: int) -> tuple[Best, Gate | None]:
    lows, _, highest = _sweep(steps, probabilities, 0.0, np.inf)
    top = highest.max()
    if highest[0] == top:
        return best(steps, min_area), None
    highs = np.append(lows[1:], 1.0)
    first = last = int(np.argmax(np.where(highest == top, highs - lows, -1)))
    found = best(gated(steps, probabilities, lows[first]), min_area)
    _, lowest, _ = _sweep(steps, probabilities, found.low, found.high)
    while lowest[first - 1] == top:  # ends at 0, where no gate is, and the score is lower
        first -= 1
    while last + 1 < len(lows) and lowest[last + 1] == top:
        last += 1
    low, high = float(lows[first]), float(highs[last])
    return found, Gate(middle_of(low, high), low, high)


def _sweep(
    steps: Steps, probabilities: np.ndarray, low: float, high: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The least and the highest total over mask thresholds in [low, high), for each gate that makes a difference.

    The gate goes down from where it silences all images. What lies between two of their probabilities is one gate; an
    image that is let through adds its own steps to the total over all mask thresholds, some ten slices.

    Returns:
        (lows, lowest, highest): gate thresholds (M + 1,) float64, OPEN and then the M distinct probabilities,
        ascending, each standing for all up to the next; int64 tenths (M + 1,) of all images.
    """
    held = (steps.value <= low) | (steps.value < high)
    image, change = steps.image[held], steps.change[held]
    grid, place = np.unique(np.append(low, np.maximum(steps.value[held], low)), return_inverse=True)
    place = place[1:]
    order = np.lexsort((place, image))
    image, place, level = image[order], place[order], np.cumsum(change[order])
    starts = np.searchsorted(image, np.arange(steps.n_images + 1))
    level -= np.append(0, level)[starts[image]]  # the sum of this image's changes only
    starts, place, level = starts.tolist(), place.tolist(), level.tolist()

    values, which = np.unique(probabilities, return_inverse=True)
    groups = np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which))[:-1])
    empty = _when_empty(steps)
    total, offset = np.zeros(len(grid), dtype=np.int32), int(empty.sum())
    lowest, highest = [offset], [offset]
    for group in reversed(groups):
        offset -= int(empty[group].sum())
        for number in group.tolist():
            mine = slice(starts[number], starts[number + 1])
            ends = [*place[mine], len(grid)]
            for start, end, tenths in zip(ends[:-1], ends[1:], level[mine], strict=True):
                total[start:end] += tenths
        lowest.append(offset + int(total.min()))
        highest.append(offset + int(total.max()))
    return np.append(OPEN, values), np.array(lowest[::-1]), np.array(highest[::-1])


def _when_empty(steps: Steps) -> np.ndarray:
    """(N,) int64, 0 or 10: the tenths of each image if its mask is empty, as every mask is at threshold 1."""
    return steps.tenths_at(1.0)
