"""Search for the exact best pair of mask threshold and gate threshold, and test whether the gate helps.

The score of a pair is a sum over images. An image that the gate lets through contributes its tenths at the mask
threshold; an image that is gated out contributes the tenths of an empty mask. The sum changes only at the steps of the
masks' scores and at the gate's probabilities. The search for instances is in utils/scoring/instance_search.py; it uses
`gate_means` of this module.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from utils.masks.gate import OPEN, gate_probability, gated_out
from utils.masks.mask_file import Masks
from utils.masks.probability_file import Probabilities
from utils.scoring.cross_fit import CrossFitted, cross_fit, cross_fitted_line, partition
from utils.scoring.mask_metrics import METRICS
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
    """The interval of the best gate thresholds.

    All gate thresholds in [low, high), or in [low, 1] if high is 1, have the same score. For masks this holds with
    every mask threshold of the best interval; for instances it holds with the best rules.
    """

    threshold: float
    """the middle of [low, high)."""
    low: float
    """lower end of the interval, included."""
    high: float
    """upper end of the interval, excluded unless it is 1."""


def gated(steps: Steps, probabilities: np.ndarray, gate_th: float) -> Steps:
    """Return the steps if the masks of images that are gated out are empty at every threshold.

    Args:
        steps: steps of N images.
        probabilities: (N,) float64, the probability that an image contains anything.
        gate_th: images with a probability greater than this are let through.
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
    """Return the best combination of mask threshold, gate threshold and minimum area.

    Ties are resolved in this order: no gate; the smallest area; the widest gap between two neighbouring gate
    probabilities. The mask interval is the widest best one in that gap, and the gate interval is extended to all
    neighbouring gate thresholds for which every threshold of the mask interval is still best.

    Args:
        by_area: steps of N images, for each minimum area.
        probabilities: (N,) float64, the probability that an image contains anything.

    Returns:
        the best mask thresholds, and the best gate, or None if no gate scores better than letting every image through.
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
    while lowest[first - 1] == top:  # stops at 0 at the latest: without a gate the score is lower
        first -= 1
    while last + 1 < len(lows) and lowest[last + 1] == top:
        last += 1
    low, high = float(lows[first]), float(highs[last])
    return found, Gate(middle_of(low, high), low, high)


def _sweep(
    steps: Steps, probabilities: np.ndarray, low: float, high: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the lowest and highest total over mask thresholds in [low, high), for each distinct gate.

    All gate thresholds between two neighbouring probabilities are the same gate. The sweep starts with the gate that
    gates out all images and lowers it; each image that is let through adds its own steps (about ten slices) to the
    totals over all mask thresholds.

    Returns:
        (lows, lowest, highest): `lows` are gate thresholds (M + 1,) float64, OPEN and then the M distinct
        probabilities, ascending, each standing for all thresholds up to the next; `lowest` and `highest` are the tenths
        of all images, (M + 1,) int64.
    """
    held = (steps.value <= low) | (steps.value < high)
    image, change = steps.image[held], steps.change[held]
    grid, place = np.unique(np.append(low, np.maximum(steps.value[held], low)), return_inverse=True)
    place = place[1:]
    order = np.lexsort((place, image))
    image, place, level = image[order], place[order], np.cumsum(change[order])
    starts = np.searchsorted(image, np.arange(steps.n_images + 1))
    level -= np.append(0, level)[starts[image]]  # from a running sum over all images to one within each image
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
    """Return the tenths of each image for an empty mask, (N,) int64, 0 or 10; every mask is empty at threshold 1."""
    return steps.tenths_at(1.0)


def gate_means(scores: np.ndarray, when_empty: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean score for each distinct gate, in one pass over the sorted probabilities.

    Args:
        scores: (K, N) float64, 0..1, scores of N images under each of K rules, without a gate.
        when_empty: (N,) float64, 0..1, score of each image if nothing is predicted in it.
        probabilities: (N,) float64, the probability that an image contains anything.

    Returns:
        (lows, means): `lows` are gate thresholds (M + 1,) float64, OPEN and then the M distinct probabilities,
        ascending, each standing for all thresholds up to the next; `means` is (K, M + 1) float64, rounded to 12 digits
        so that equal means are equal numbers.
    """
    order = np.argsort(probabilities, kind="stable")
    ascending, gains = probabilities[order], np.cumsum((when_empty - scores)[:, order], axis=1)
    last = np.flatnonzero(np.append(ascending[1:] != ascending[:-1], True))  # the last image of each probability
    totals = scores.sum(axis=1, keepdims=True) + np.pad(gains[:, last], ((0, 0), (1, 0)))
    return np.append(OPEN, ascending[last]), (totals / scores.shape[1]).round(12)


def widest_gate(lows: np.ndarray, means: np.ndarray) -> Gate | None:
    """Return the widest interval of the best gate thresholds (ties: the lowest).

    Args:
        lows: (M + 1,), as returned by `gate_means`.
        means: (M + 1,), one row of the means returned by `gate_means`.

    Returns:
        None if no gate scores better than letting every image through.
    """
    if means[0] == means.max():
        return None
    low, high, _ = widest(*merged(lows, means))
    return Gate(middle_of(low, high), low, high)


@dataclass(frozen=True)
class GateCrossFitted(CrossFitted):
    """The means of cross-fitted scores with and without a gate, and their paired difference.

    A part is scored without a gate if the fit on the other parts is best without one.
    """

    score_without: float
    """mean score without a gate, 0..1."""
    difference: float
    """score - score_without."""
    difference_low: float
    """lower end of the 95 % bootstrap interval of the difference, paired: images are drawn with both scores."""
    difference_high: float
    """upper end of the 95 % bootstrap interval of the difference."""

    @property
    def helps(self) -> bool:
        """True if the interval of the difference is entirely above 0."""
        return self.difference_low > 0

    @classmethod
    def paired(cls, by_part: Sequence[np.ndarray], without: Sequence[np.ndarray], unit: int = 1) -> Self | None:
        """Average the scores of all images, with and without the gate, and their differences.

        Args:
            by_part: scores with the gate, as returned by `cross_fit`.
            without: scores without the gate, as returned by `cross_fit`.
            unit: as for `CrossFitted.of`.

        Returns:
            None if there are no scores, which happens with a single image.
        """
        # rounding makes equal differences equal numbers; .3 - .2 and .4 - .3 differ in floating point
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
        return "best gate        none            (no gate improves the score; lets every image through)"
    out = f"{n_gated_out} of {n_images} images are gated out"
    return f"best gate        {gate.threshold:.6g}   (equally good from {gate.low:.6g} to {gate.high:.6g}; {out})"


def difference_lines(cross: GateCrossFitted | None) -> list[str]:
    """Format the rows of the table that compare with no gate, and a sentence on whether the gate helps."""
    if cross is None:
        return ["a single image cannot show whether the gate helps"]
    interval = f"95 % interval {cross.difference_low:+.5f} to {cross.difference_high:+.5f}"
    rows = [
        f"without gate     {cross.score_without:.5f}   (also cross-fitted)",
        f"difference       {cross.difference:+.5f}   ({interval})",
    ]
    if cross.helps:
        return [*rows, "the gate helps"]
    unsure = cross.difference_high > 0
    return [*rows, "the gate makes no significant difference" if unsure else "the gate does not help"]


@dataclass(frozen=True)
class GatedFit:
    """The result of optimize_threshold.py for masks and a gate."""

    best: Best
    """best mask thresholds together with the gate."""
    gate: Gate | None
    """None if no gate scores better than letting every image through."""
    without: Best
    """best mask thresholds without a gate."""
    cross_fitted: GateCrossFitted | None
    """None if there is only one image."""
    n_gated_out: int
    n_images: int
    n_files: int
    metric: str = "iout"

    @property
    def helps(self) -> bool:
        """True if the interval of the cross-fitted difference is entirely above 0."""
        return self.cross_fitted is not None and self.cross_fitted.helps

    def as_json(self, files: Sequence[Masks], gate_files: Sequence[Probabilities]) -> dict[str, Any]:
        """Return the contents of gate.json; gate_threshold, low and high are null without a gate."""
        gate = asdict(self.gate) if self.gate else dict.fromkeys(("threshold", "low", "high"))
        return {
            "gate_threshold": gate["threshold"],
            "low": gate["low"],
            "high": gate["high"],
            "metric": self.metric,
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
        """Format the result as a short table and a sentence on whether the gate helps."""
        best, area = self.best, f"; masks under {self.best.min_area} pixels are emptied" if self.best.min_area else ""
        lines = [
            f"images           {self.n_images} in {self.n_files} mask file{'s' if self.n_files > 1 else ''}",
            f"metric           {self.metric}   ({METRICS[self.metric].about})",
            gate_line(self.gate, self.n_gated_out, self.n_images),
            f"best threshold   {best.threshold:.6g}   (equally good from {best.low:.6g} to {best.high:.6g}{area})",
            f"fitted score     {best.score:.5f}   (on the images used for the fit; no gate: {self.without.score:.5f})",
        ]
        lines.append(cross_fitted_line(self.cross_fitted, self.n_files))
        return "\n".join([*lines, *difference_lines(self.cross_fitted)])


def fit_gated(
    files: Sequence[Masks], gate: Sequence[Probabilities], truth_fn: str | None, min_areas: Sequence[int]
) -> GatedFit:
    """Fit mask threshold, gate threshold and minimum area together, on the images of all files.

    Args:
        files: at least one; several files are the parts of the cross-fit.
        gate: probabilities that an image contains anything, from networks that were not trained on these images.
        truth_fn: as for `true_masks`.
        min_areas: minimum areas to try; 0 is always included.

    Raises:
        UserError: the truth is missing, a value is not a probability, a file has no images, or an image is in two mask
            files or has no gate probability.
        UsageError: a minimum area is below 0.
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
    """Cross-fit mask threshold, gate threshold and minimum area together; otherwise like `cross_fit_threshold`."""

    def fit(images: np.ndarray) -> tuple[Best, Gate | None]:
        return best_gated(select(by_area, images), probabilities[images])

    def score(fitted: tuple[Best, Gate | None], images: np.ndarray) -> np.ndarray:
        found, gate = fitted
        steps = gated(by_area[found.min_area], probabilities, gate.threshold if gate else OPEN)
        return steps.tenths_at(found.threshold)[images]

    return cross_fit(parts, fit, score)
