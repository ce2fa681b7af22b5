"""Search for the exact best threshold by a metric that changes at almost every probability: IoU or Dice.

Predictions are float16, so a mask changes at no more than 15,361 thresholds: the float16 numbers from 0 to 1. The sums
of the metric are computed at all of them, in integers, one image at a time, and memory does not grow with the number of
images. utils/scoring/threshold_search.py searches by the iout, which changes at about ten thresholds of an image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from utils.core.errors import UsageError, UserError
from utils.masks.gate import OPEN, gate_probability, gated_out
from utils.masks.ground_truth import true_masks
from utils.masks.mask_file import Masks, binarize
from utils.masks.probability_file import Probabilities
from utils.scoring.bootstrap import resampled_sums
from utils.scoring.cross_fit import CrossFitted, check_files, leave_one_out, partition
from utils.scoring.gate_search import Gate, GateCrossFitted, GatedFit
from utils.scoring.mask_metrics import Metric, counts, ratio
from utils.scoring.threshold_search import Best, Curve, Fit, merged, middle_of, tried_areas, widest

N_VALUES = 0x3C01
"""Number of float16 values from 0 to 1; the bits of a float16 sort like its value, and 1 is 0x3C00."""


@dataclass(frozen=True)
class Images:
    """Images of validation files, numbered across the files, with the metric and the minimum areas to try."""

    files: Sequence[Masks]
    truth_fn: str | None
    metric: Metric
    areas: Sequence[int]

    def pairs(self, order: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the probabilities (H, W) float16 and the true mask (H, W) bool of images in the given order.

        Raises:
            UserError: a probability is outside [0, 1] or NaN.
        """
        ends = np.cumsum([len(masks.ids) for masks in self.files])
        file_of = np.searchsorted(ends, order, side="right")
        rows = np.asarray(order) - np.append(0, ends)[file_of]
        truths = [
            true_masks(masks, self.truth_fn, rows[file_of == number].tolist())
            for number, masks in enumerate(self.files)
        ]
        for number, row in zip(file_of.tolist(), rows.tolist(), strict=True):
            mask = self.files[number].array[row]
            if not (mask.min() >= 0 and mask.max() <= 1):  # written so that NaN fails too
                raise UserError(
                    f"{self.files[number].path}: row {row}: expected probabilities in [0, 1], found {mask.min():g} to "
                    f"{mask.max():g}"
                )
            yield mask, next(truths[number]) != 0

    def sums_by_value(self, order: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the metric's numerator and denominator of images at every threshold: (areas, 2, N_VALUES) int64."""
        for mask, truth in self.pairs(order):
            bits = np.abs(mask).view(np.uint16)  # -0 and 0 are equal, but their bits differ
            inside, ours = (_above(bits[which]) for which in (truth, np.ones_like(truth)))
            kept = [ours >= area for area in self.areas]
            yield np.stack([self.metric.sums(inside * keep, ours * keep, truth.sum()) for keep in kept])

    def sums_at(self, thresholds: np.ndarray, areas: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Return the numerator and denominator of each image, (2, N) int64, with a threshold and area of its own.

        Args:
            thresholds: (N,) float64.
            areas: (N,) int64.
            out: (N,) bool, images that are gated out, whose masks are empty.
        """
        found = []
        for number, (mask, truth) in enumerate(self.pairs(range(len(out)))):
            inside, ours, theirs = counts(binarize(mask, thresholds[number])[None], truth[None])
            kept = (ours >= areas[number]) & ~out[number]
            found.append(self.metric.sums(inside * kept, ours * kept, theirs)[:, 0])
        return np.stack(found, axis=1)


def _above(bits: np.ndarray) -> np.ndarray:
    """Return, for each value, the number of pixels above it, (N_VALUES,) int64."""
    return bits.size - np.cumsum(np.bincount(bits.ravel(), minlength=N_VALUES))


def values() -> np.ndarray:
    """Return the float16 values from 0 to 1, ascending, (N_VALUES,) float64."""
    return np.arange(N_VALUES, dtype=np.uint16).view(np.float16).astype(np.float64)


def curve_of(sums: np.ndarray) -> Curve:
    """Return the score over all thresholds from numerators and denominators (2, N_VALUES)."""
    return Curve(*merged(values(), ratio(*sums)))


def best_of(sums: np.ndarray, areas: Sequence[int]) -> Best:
    """Return the best pair of threshold and minimum area (ties: the smallest area, then the widest interval).

    Args:
        sums: (areas, 2, N_VALUES) numerators and denominators of a set of images.
        areas: the minimum areas, ascending.
    """
    place = int(np.argmax(ratio(sums[:, 0], sums[:, 1]).max(1)))
    low, high, score = widest(*curve_of(sums[place]))
    return Best(middle_of(low, high), low, high, score, areas[place])


def best_gated(images: Images, chosen: np.ndarray, probabilities: np.ndarray) -> tuple[Best, Gate | None]:
    """Return the best combination of mask threshold, gate threshold and minimum area for the `chosen` images.

    Images are let through one after another, the most probable first. Ties are resolved in this order: no gate; the
    smallest area; the widest interval of gate thresholds.

    Args:
        images: all images.
        chosen: (n,) int64, the images to fit on.
        probabilities: (N,) float64, the probability that an image contains anything.

    Returns:
        the best mask thresholds, and the best gate, or None if no gate scores better than letting every image through.
    """
    order = chosen[np.argsort(-probabilities[chosen], kind="stable")]
    falling, nothing = probabilities[order].tolist(), np.zeros(len(order), dtype=np.int64)
    closed = images.metric.sums(nothing, nothing, np.array([truth.sum() for _, truth in images.pairs(order)]))
    total = np.tile(closed.sum(1)[:, None], (len(images.areas), 1, N_VALUES))
    through, best = images.sums_by_value(order), None
    for number in range(len(order) + 1):
        if number:
            total += next(through) - closed[:, number - 1, None]
        low = falling[number] if number < len(order) else OPEN
        high = falling[number - 1] if number else 1.0
        if low == high and number:  # an equally probable image follows
            continue
        scores = ratio(total[:, 0], total[:, 1]).max(1)
        place = int(np.argmax(scores))
        rank = (scores[place], number == len(order), -images.areas[place], high - low)
        if best is None or rank > best[0]:
            best = rank, best_of(total[place : place + 1], images.areas[place : place + 1]), (low, high)
    _, found, (low, high) = best
    return found, None if low == OPEN else Gate(middle_of(low, high), low, high)


def fit_metric(files: Sequence[Masks], truth_fn: str | None, min_areas: Sequence[int], metric: Metric) -> Fit:
    """Fit threshold and minimum area by a metric.

    Args:
        files: at least one mask file in float16; several files are the parts of the cross-fit.
        truth_fn: as for `true_masks`.
        min_areas: minimum areas to try; 0 is always included.
        metric: the metric to maximise.

    Raises:
        UserError: the truth is missing, a value is not a probability, a file has no images, or an image is in two
            files.
        UsageError: a minimum area is below 0, or a file is not in float16.
    """
    images, parts = _images(files, truth_fn, min_areas, metric)
    by_part = _sums_of_parts(images, parts)
    total = by_part.sum(0)
    best = best_of(total, images.areas)
    return Fit(
        best=best,
        score_at_half=float(ratio(*total[0, :, np.searchsorted(values(), 0.5)])),
        cross_fitted=_cross_fitted(_held_out(images, parts, _fits(by_part, images.areas)), len(parts)),
        curve=curve_of(total[images.areas.index(best.min_area)]),
        n_images=sum(map(len, parts)),
        n_files=len(files),
        metric=metric.name,
    )


def fit_metric_gated(
    files: Sequence[Masks],
    gate: Sequence[Probabilities],
    truth_fn: str | None,
    min_areas: Sequence[int],
    metric: Metric,
) -> GatedFit:
    """Fit mask threshold, gate threshold and minimum area together.

    Args:
        files: at least one mask file in float16; several files are the parts of the cross-fit.
        gate: probabilities that an image contains anything, from networks that were not trained on these images.
        truth_fn: as for `true_masks`.
        min_areas: minimum areas to try; 0 is always included.
        metric: the metric to maximise.

    Raises:
        UserError, UsageError: those of `fit_metric`; an image has no gate probability.
    """
    probabilities = np.concatenate([gate_probability(gate, masks.ids) for masks in files])
    images, parts = _images(files, truth_fn, min_areas, metric)
    by_part = _sums_of_parts(images, parts)
    found, gate_found = best_gated(images, np.arange(len(probabilities)), probabilities)
    gated = [best_gated(images, others, probabilities) for others in leave_one_out(parts)]
    return GatedFit(
        best=found,
        gate=gate_found,
        without=best_of(by_part.sum(0), images.areas),
        cross_fitted=_compared(
            _held_out(images, parts, gated, probabilities),
            _held_out(images, parts, _fits(by_part, images.areas)),
            len(parts),
        ),
        n_gated_out=int(gated_out(probabilities, gate_found.threshold).sum()) if gate_found else 0,
        n_images=len(probabilities),
        n_files=len(files),
        metric=metric.name,
    )


def _images(
    files: Sequence[Masks], truth_fn: str | None, min_areas: Sequence[int], metric: Metric
) -> tuple[Images, list[np.ndarray]]:
    """Check the files, and return their images and the parts of the cross-fit."""
    areas = tried_areas(min_areas)
    check_files(files)
    for masks in files:
        if masks.array.dtype != np.float16:
            raise UsageError(
                f"{masks.path}: --metric {metric.name} expects probabilities in float16, as the predict scripts write "
                f"them, found {masks.array.dtype}; use --metric iout"
            )
    return Images(files, truth_fn, metric, areas), partition([len(masks.ids) for masks in files])


def _sums_of_parts(images: Images, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sums over the images of each part, (parts, areas, 2, N_VALUES) int64."""
    part_of = np.empty(sum(map(len, parts)), dtype=np.int64)
    for number, part in enumerate(parts):
        part_of[part] = number
    found = np.zeros((len(parts), len(images.areas), 2, N_VALUES), dtype=np.int64)
    for number, sums in zip(part_of, images.sums_by_value(range(len(part_of))), strict=True):
        found[number] += sums
    return found


Fitted = tuple[Best, Gate | None]


def _fits(by_part: np.ndarray, areas: Sequence[int]) -> list[Fitted]:
    """Return the fit without a gate on all parts but one, for each part; an empty list if there is only one part."""
    total = by_part.sum(0)
    return [(best_of(total - sums, areas), None) for sums in by_part] if len(by_part) > 1 else []


def _held_out(
    images: Images, parts: Sequence[np.ndarray], fits: Sequence[Fitted], probabilities: np.ndarray | None = None
) -> np.ndarray | None:
    """Return numerator and denominator (N, 2) of each image with the fit on the other parts; None without fits."""
    if not fits:
        return None
    n_images = sum(map(len, parts))
    thresholds, areas = np.empty(n_images), np.empty(n_images, dtype=np.int64)
    out = np.zeros(n_images, dtype=bool)
    for part, (best, gate) in zip(parts, fits, strict=True):
        thresholds[part], areas[part] = best.threshold, best.min_area
        if gate:
            out[part] = gated_out(probabilities[part], gate.threshold)
    return images.sums_at(thresholds, areas, out).T


def _interval(scores: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)


def _cross_fitted(sums: np.ndarray | None, n_parts: int) -> CrossFitted | None:
    if sums is None:
        return None
    return CrossFitted(float(ratio(*sums.sum(0))), *_interval(ratio(*resampled_sums(sums).T)), n_parts)


def _compared(with_gate: np.ndarray | None, without: np.ndarray | None, n_parts: int) -> GateCrossFitted | None:
    """Return the cross-fitted scores with and without a gate, and their difference over the same resampled images."""
    cross, plain = _cross_fitted(with_gate, n_parts), _cross_fitted(without, n_parts)
    if cross is None:
        return None
    four = resampled_sums(np.hstack([with_gate, without])).T
    low, high = _interval((ratio(*four[:2]) - ratio(*four[2:])).round(12))  # equal scores differ by exactly 0
    return GateCrossFitted(
        **vars(cross),
        score_without=plain.score,
        difference=round(cross.score - plain.score, 12),
        difference_low=low,
        difference_high=high,
    )
