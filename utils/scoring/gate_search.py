"""Find the exact best pair of mask threshold and gate threshold, and whether the gate helps.

The score of a pair is a sum over images: an image that the gate lets through has its tenths at the mask threshold, one
that is gated out the tenths of an empty mask. It changes only at steps of the masks' scores and at the gate's
probabilities. For instances see utils/scoring/instance_search.py, which uses `gate_means`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from utils.masks.gate import OPEN, gate_probability, gated_out
from utils.masks.mask_file import Masks
from utils.masks.probability_file import Probabilities
from utils.scoring.cross_fit import CrossFitted, cross_fit, cross_fitted_line, partition
from utils.scoring.threshold_search import (
    Best,
    ByArea,
    Steps,
    best,
    best_joint,
    cross_fit_threshold,
    merged,
    middle_of,
    select,
    steps_of_files,
    widest,
)


@dataclass(frozen=True)
class Gate:
    """The best thresholds of the gate."""

    threshold: float
    """the middle of [low, high)."""
    low: float
    """every threshold >= low ..."""
    high: float
    """... and < high (<= high where high is 1) has this score: with every mask threshold of its interval, or with the
    rules for instances that were found."""


def gated(steps: Steps, probabilities: np.ndarray, gate_th: float) -> Steps:
    """Return the steps when the masks of images that are gated out are empty at every threshold.

    Args:
        steps: of N images.
        probabilities: (N,) float64, that there is anything.
        gate_th: images with a greater probability are let through.
    """
    out = gated_out(probabilities, gate_th)
    empty, kept = np.flatnonzero(out), ~out[steps.image]
    return Steps(
        np.append(steps.image[kept], empty),
        np.append(steps.value[kept], np.zeros(len(empty))),
        np.append(steps.change[kept], _when_empty(steps)[empty]),
        steps.n_images,
    )


def best_gated(by_area: ByArea, probabilities: np.ndarray) -> tuple[Best, Gate | None]:
    """Return the best of all pairs of mask threshold and gate threshold, and minimum area.

    Of equally good ones: no gate; then the smallest area; then the widest gap between two neighbouring probabilities,
    the widest interval of mask thresholds there, and all gate thresholds around for which this whole interval is best.

    Args:
        by_area: steps of N images, for each minimum area.
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
    """Return the lowest and highest total over mask thresholds in [low, high), for each gate that makes a difference.

    The gate goes down from where all images are gated out. Thresholds between two neighbouring probabilities are one
    gate; an image that is let through adds its own steps to the total over all mask thresholds, some ten slices.

    Returns:
        (lows, lowest, highest): gate thresholds (M + 1,) float64, OPEN and then the M distinct probabilities,
        ascending, each for all thresholds up to the next; and twice int64 tenths (M + 1,) of all images.
    """
    held = (steps.value <= low) | (steps.value < high)
    image, change = steps.image[held], steps.change[held]
    grid, place = np.unique(np.append(low, np.maximum(steps.value[held], low)), return_inverse=True)
    place = place[1:]
    order = np.lexsort((place, image))
    image, place, level = image[order], place[order], np.cumsum(change[order])
    starts = np.searchsorted(image, np.arange(steps.n_images + 1))
    level -= np.append(0, level)[starts[image]]  # now the sum of this image's changes alone
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
    """Return the tenths of each image if its mask is empty, as every mask is at threshold 1: (N,) int64, 0 or 10."""
    return steps.tenths_at(1.0)


def gate_means(scores: np.ndarray, when_empty: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean score with every gate that makes a difference, in one pass over the sorted probabilities.

    Args:
        scores: (K, N) float64, 0..1: of N images under each of K rules, without a gate.
        when_empty: (N,) float64, 0..1: of each image if nothing is predicted in it.
        probabilities: (N,) float64, that there is anything.

    Returns:
        (lows, means): gate thresholds (M + 1,) float64, OPEN and then the M distinct probabilities, ascending, each
        for all thresholds up to the next; (K, M + 1) float64, rounded to 12 digits so that equal means are equal
        numbers.
    """
    order = np.argsort(probabilities, kind="stable")
    ascending, gains = probabilities[order], np.cumsum((when_empty - scores)[:, order], axis=1)
    last = np.flatnonzero(np.append(ascending[1:] != ascending[:-1], True))  # the last image of each probability
    totals = scores.sum(axis=1, keepdims=True) + np.pad(gains[:, last], ((0, 0), (1, 0)))
    return np.append(OPEN, ascending[last]), (totals / scores.shape[1]).round(12)


def widest_gate(lows: np.ndarray, means: np.ndarray) -> Gate | None:
    """Return the widest interval of the best gates (the lowest of equally wide ones); None if no gate is as good.

    Args:
        lows: (M + 1,), as `gate_means` returns them.
        means: (M + 1,), one row of what it returns.
    """
    if means[0] == means.max():
        return None
    low, high, _ = widest(*merged(lows, means))
    return Gate(middle_of(low, high), low, high)


@dataclass(frozen=True)
class GateCrossFitted(CrossFitted):
    """The mean of cross-fitted scores with a gate (without it where the other parts are best without), and without."""

    score_without: float
    """0..1."""
    difference: float
    """score - score_without."""
    difference_low: float
    """95 % bootstrap interval of the difference, paired: an image is drawn with both of its scores."""
    difference_high: float

    @property
    def helps(self) -> bool:
        """True if the whole interval of the difference is above 0."""
        return self.difference_low > 0

    @classmethod
    def paired(cls, by_part: Sequence[np.ndarray], without: Sequence[np.ndarray], unit: int = 1) -> Self | None:
        """Average the scores of all images, with and without the gate, and their differences.

        Args:
            by_part: as `cross_fit` returns them, with the gate.
            without: the same without it.
            unit: as for `CrossFitted.of`.

        Returns:
            None if there are no scores, which is so with one image.
        """
        # equal differences are equal numbers: .3 - .2 and .4 - .3 are not before they are rounded
        differences = [(with_gate - plain).round(12) for with_gate, plain in zip(by_part, without, strict=True)]
        cross, plain, gain = (CrossFitted.of(scores, unit) for scores in (by_part, without, differences))
        return cross and cls(
            **vars(cross),
            score_without=plain.score,
            difference=gain.score,
            difference_low=gain.low,
            difference_high=gain.high,
        )


def gate_line(gate: Gate | None, n_gated_out: int, n_images: int) -> str:
    """Format the row of the table that shows the gate."""
    if gate is None:
        return "best gate        none            (lets every image through)"
    out = f"{n_gated_out} of {n_images} images are gated out"
    return f"best gate        {gate.threshold:.6g}   (equally good from {gate.low:.6g} to {gate.high:.6g}; {out})"


def difference_lines(cross: GateCrossFitted | None) -> list[str]:
    """Format the rows of the table that compare with no gate, and a sentence that says whether the gate helps."""
    if cross is None:
        return ["the gate makes no difference that can be told"]
    interval = f"95 % interval {cross.difference_low:+.5f} to {cross.difference_high:+.5f}"
    rows = [
        f"without gate     {cross.score_without:.5f}   (cross-fitted too)",
        f"difference       {cross.difference:+.5f}   ({interval})",
    ]
    if cross.helps:
        return [*rows, "the gate helps"]
    unsure = cross.difference_high > 0
    return [*rows, "the gate makes no difference that can be told" if unsure else "the gate does not help"]


@dataclass(frozen=True)
class GatedFit:
    """The result of optimize_threshold.py for masks and a gate."""

    best: Best
    """of the mask, with the gate."""
    gate: Gate | None
    """None: no gate is as good as the best one, every image is let through."""
    without: Best
    """of the mask, without a gate."""
    cross_fitted: GateCrossFitted | None
    """None if there is one image only."""
    n_gated_out: int
    n_images: int
    n_files: int

    @property
    def helps(self) -> bool:
        """True if the whole interval of the cross-fitted difference is above 0."""
        return self.cross_fitted is not None and self.cross_fitted.helps

    def as_json(self, files: Sequence[Masks], gate_files: Sequence[Probabilities]) -> dict[str, Any]:
        """Return the contents of gate.json; gate_threshold, low and high are null if no gate is best."""
        gate = asdict(self.gate) if self.gate else dict.fromkeys(("threshold", "low", "high"))
        return {
            "gate_threshold": gate["threshold"],
            "low": gate["low"],
            "high": gate["high"],
            "threshold": self.best.threshold,
            "threshold_low": self.best.low,
            "threshold_high": self.best.high,
            "min_area": self.best.min_area,
            "score": self.best.score,
            "score_without": self.without.score,
            "cross_fitted": self.cross_fitted and asdict(self.cross_fitted),
            "helps": self.helps,
            "masks": [str(masks.path) for masks in files],
            "gate_probs": [str(file.path) for file in gate_files],
            "n_gated_out": self.n_gated_out,
            "n_images": self.n_images,
        }

    def as_text(self) -> str:
        """Format the result as a short table, and a sentence that says whether the gate helps."""
        best, area = self.best, f", masks under {self.best.min_area} pixels empty" if self.best.min_area else ""
        lines = [
            f"images           {self.n_images} of {self.n_files} mask file{'s' if self.n_files > 1 else ''}",
            gate_line(self.gate, self.n_gated_out, self.n_images),
            f"best threshold   {best.threshold:.6g}   (equally good from {best.low:.6g} to {best.high:.6g}{area})",
            f"score there      {best.score:.5f}   (fitted on these images; without the gate {self.without.score:.5f})",
        ]
        lines.append(cross_fitted_line(self.cross_fitted, self.n_files))
        return "\n".join([*lines, *difference_lines(self.cross_fitted)])


def fit_gated(
    files: Sequence[Masks], gate: Sequence[Probabilities], truth_fn: str | None, min_areas: Sequence[int]
) -> GatedFit:
    """Fit mask threshold, gate threshold and minimum area together, on the images of all files.

    Args:
        files: at least one; with several, each is a part of the cross-fit.
        gate: probabilities that there is anything, of nets that did not learn from these images.
        truth_fn: as for `true_masks`.
        min_areas: minimum areas to try; 0 is always among them.

    Raises:
        UserError: no truth, a value that is no probability, a file without images, an image in two mask files or not
            in the gate's.
        UsageError: a minimum area below 0.
    """
    probabilities = np.concatenate([gate_probability(gate, masks.ids) for masks in files])
    pooled = steps_of_files(files, truth_fn, min_areas)
    parts = partition([len(masks.ids) for masks in files])
    found, gate_found = best_gated(pooled, probabilities)
    return GatedFit(
        best=found,
        gate=gate_found,
        without=best_joint(pooled),
        cross_fitted=GateCrossFitted.paired(
            _cross_fit_gated(pooled, probabilities, parts), cross_fit_threshold(pooled, parts), unit=10
        ),
        n_gated_out=int(gated_out(probabilities, gate_found.threshold).sum()) if gate_found else 0,
        n_images=len(probabilities),
        n_files=len(files),
    )


def _cross_fit_gated(by_area: ByArea, probabilities: np.ndarray, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Cross-fit mask and gate threshold and minimum area together; as `cross_fit_threshold` otherwise."""

    def fit(images: np.ndarray) -> tuple[Best, Gate | None]:
        return best_gated(select(by_area, images), probabilities[images])

    def score(fitted: tuple[Best, Gate | None], images: np.ndarray) -> np.ndarray:
        found, gate = fitted
        steps = gated(by_area[found.min_area], probabilities, gate.threshold if gate else OPEN)
        return steps.tenths_at(found.threshold)[images]

    return cross_fit(parts, fit, score)
