"""The exact best threshold for the salt competition's metric: all that could differ are tried, by one sort an image.

With mask = probability > th, an image's mask changes only where th passes one of its own values, and its score (a whole
number of tenths) at few of those. So the score of N images is a step function of th, known exactly from some 10 N
steps.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from utils.metrics import scores_from_counts

ByArea = Mapping[int, "Steps"]  # least area of a predicted mask -> the steps when smaller ones count as empty


@dataclass(frozen=True)
class Steps:
    """The score of each of N images as a step function of the threshold, th in [0, 1]."""

    image: np.ndarray
    """(E,) int64: whose score changes."""
    value: np.ndarray
    """(E,) float64 in [0, 1]: the change holds for th >= value."""
    change: np.ndarray
    """(E,) int64: tenths gained or lost; every image starts from 0 below th = 0."""
    n_images: int

    def tenths_at(self, th: float) -> np.ndarray:
        """(N,) int64, 0..10: the tenths of each image at threshold `th`."""
        held = self.value <= th
        # sums of small integers, exact in the float64 that bincount adds in
        return np.bincount(self.image[held], self.change[held], minlength=self.n_images).astype(np.int64)

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean score over all thresholds.

        Returns:
            (values, tenths): float64 ascending from 0, int64; for th in [values[i], values[i + 1]) (the last: up to
            and with 1) the tenths of all images sum to tenths[i]; neighbours differ.
        """
        order = np.argsort(self.value, kind="stable")
        values, totals = np.append(0.0, self.value[order]), np.append(0, np.cumsum(self.change[order]))
        last = np.append(values[1:] != values[:-1], True)  # of several steps at one value only their sum is ever seen
        values, totals = values[last], totals[last]
        differs = np.append(True, totals[1:] != totals[:-1])
        return values[differs], totals[differs]


@dataclass(frozen=True)
class Best:
    """Where the score is highest."""

    threshold: float
    """the middle of [low, high)."""
    low: float
    """every threshold >= low ..."""
    high: float
    """... and < high (<= high where high is 1) has this score."""
    score: float
    """0..1."""
    min_area: int = 0
    """predicted masks of fewer pixels count as empty."""


def steps_of(masks: Iterable[np.ndarray], truths: Iterable[np.ndarray], min_areas: Sequence[int] = (0,)) -> ByArea:
    """The steps of N images, read one at a time, so that a memory-mapped file never has to fit into memory.

    Args:
        masks: N times (H, W), float16, float32 or float64 in [0, 1].
        truths: N times (H, W), what is not 0 is mask.
        min_areas: for each A of these, steps in which a predicted mask of fewer than A pixels counts as empty.

    Raises:
        ValueError: a probability outside [0, 1] or not a number, or a pair of different shape; with the image's row.
    """
    found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {area: [] for area in min_areas}
    for row, (mask, truth) in enumerate(zip(masks, truths, strict=True)):
        if mask.shape != truth.shape:
            raise ValueError(f"row {row}: the mask is {mask.shape}, its truth {truth.shape}")
        if not (mask.min() >= 0 and mask.max() <= 1):  # also when there is a NaN
            raise ValueError(f"row {row}: expected probabilities in [0, 1], found {mask.min():g} to {mask.max():g}")
        values, inside, ours, theirs = _counts_by_value(mask.ravel(), truth.ravel() != 0)
        for area, pairs in found.items():
            kept = ours >= area
            tenths = scores_from_counts(np.where(kept, inside, 0), np.where(kept, ours, 0), theirs)
            change = np.diff(tenths, prepend=0)
            steps = np.flatnonzero(change)
            pairs.append((values[steps], change[steps]))
    return {area: _as_steps(pairs) for area, pairs in found.items()}


def _counts_by_value(pixels: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Thresholds (V,) at which the mask changes, and for each: pixels in both masks (V,), in ours (V,), in theirs."""
    pixels = np.abs(pixels)  # -0 is 0 to a comparison, but not to the bits below
    half = pixels.dtype == np.float16  # sorts like its bits, and a stable sort of 16-bit integers is by radix: fast
    order = np.argsort(pixels.view(np.uint16), kind="stable") if half else np.argsort(pixels)
    pixels = pixels[order]
    last = np.flatnonzero(np.append(pixels[1:] != pixels[:-1], True))  # the last pixel of each distinct value
    below = np.cumsum(truth[order])[last]
    theirs = int(below[-1])
    values = np.append(0.0, pixels[last].astype(np.float64))  # below the least value every pixel is mask
    inside, ours = np.append(theirs, theirs - below), np.append(len(pixels), len(pixels) - 1 - last)
    return values, inside, ours, theirs


def _as_steps(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Steps:
    if not pairs:
        raise ValueError("no images")
    image = np.repeat(np.arange(len(pairs)), [len(values) for values, _ in pairs])
    return Steps(
        image, np.concatenate([v for v, _ in pairs]), np.concatenate([c for _, c in pairs]), n_images=len(pairs)
    )


def join(parts: Sequence[ByArea]) -> ByArea:
    """The images of all parts, in order."""
    offsets = np.cumsum([0, *(next(iter(part.values())).n_images for part in parts)])
    joined = {}
    for area in parts[0]:
        steps = [part[area] for part in parts]
        joined[area] = Steps(
            np.concatenate([part.image + offset for part, offset in zip(steps, offsets[:-1], strict=True)]),
            np.concatenate([part.value for part in steps]),
            np.concatenate([part.change for part in steps]),
            int(offsets[-1]),
        )
    return joined


def interleaved(by_area: ByArea, n_parts: int) -> list[ByArea]:
    """n parts of every n-th image: image i goes into part i % n."""

    def part_of(steps: Steps, part: int) -> Steps:
        mine = steps.image % n_parts == part
        n_images = len(range(part, steps.n_images, n_parts))
        return Steps(steps.image[mine] // n_parts, steps.value[mine], steps.change[mine], n_images)

    return [{area: part_of(steps, part) for area, steps in by_area.items()} for part in range(n_parts)]


def best(steps: Steps, min_area: int = 0) -> Best:
    """The widest interval of thresholds with the highest score (the lowest of equally wide ones), and its middle."""
    low, high, highest = widest(*steps.curve())
    return Best(middle_of(low, high), low, high, highest / (10 * steps.n_images), min_area)


def widest(values: np.ndarray, totals: np.ndarray) -> tuple[float, float, int]:
    """(low, high, total): where a step function as `Steps.curve` returns it is highest, the widest such interval."""
    highest = totals.max()
    ends = np.append(values[1:], 1.0)
    at = int(np.argmax(np.where(totals == highest, ends - values, -1)))
    return float(values[at]), float(ends[at]), int(highest)


def middle_of(low: float, high: float) -> float:
    """The middle of [low, high), or low: between neighbouring floats there is none."""
    middle = (low + high) / 2
    return middle if middle < high else low


def best_joint(by_area: ByArea) -> Best:
    """The best pair of threshold and least area; of equal ones the smallest area."""
    return max((best(by_area[area], area) for area in sorted(by_area)), key=lambda found: found.score)


def cross_fitted(parts: Sequence[ByArea]) -> np.ndarray:
    """(N,) int64, 0..10: the tenths of each part's images at the threshold and area that are best for the OTHER parts.

    The score at a threshold fitted on the same images is too good by what the fit found in their noise; this one is
    not. At least two parts.
    """
    tenths = []
    for held_out, part in enumerate(parts):
        others = [other for place, other in enumerate(parts) if place != held_out]
        fitted = best_joint(join(others))
        tenths.append(part[fitted.min_area].tenths_at(fitted.threshold))
    return np.concatenate(tenths)


def bootstrap_interval(tenths: np.ndarray, n_resamples: int = 2000, seed: int = 4545) -> tuple[float, float]:
    """As `mean_interval`, for scores (N,) in whole tenths, 0..10; the interval is of scores, 0..1."""
    return mean_interval(tenths / 10, n_resamples, seed)


def mean_interval(scores: np.ndarray, n_resamples: int = 2000, seed: int = 4545) -> tuple[float, float]:
    """The 95 % percentile interval of the mean score under resampling of images (Efron 1979).

    Args:
        scores: (N,) float64, N at least 1.
        n_resamples: how many sets of N images are drawn, with replacement.
        seed: of the draws.
    """
    # a resampled set matters only by how often it drew each score: one multinomial draw instead of N
    values, times = np.unique(scores, return_counts=True)
    rng, n_images = np.random.default_rng(seed), len(scores)
    sizes = [min(100, n_resamples - start) for start in range(0, n_resamples, 100)]  # a table of all could be large
    means = [rng.multinomial(n_images, times / n_images, size=size) @ values / n_images for size in sizes]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)
