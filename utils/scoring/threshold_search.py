"""Search for the exact best threshold for the metric of utils/scoring/mask_metrics.py, with a cross-fitted score.

With mask = probability > th, an image's mask changes only where th passes one of its probabilities, and its score (an
integer number of tenths) changes at few of them. The score of N images is therefore a step function of th with about
10 N steps. One sort per image finds them exactly.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.core.errors import UsageError, UserError
from utils.core.files import atomic_file
from utils.masks.ground_truth import true_masks
from utils.masks.mask_file import Masks
from utils.scoring.cross_fit import CrossFitted, check_files, cross_fit, cross_fitted_line, partition
from utils.scoring.mask_metrics import METRICS, scores_from_counts

ByArea = Mapping[int, "Steps"]  # minimum area of a predicted mask -> the steps if smaller masks count as empty


@dataclass(frozen=True)
class Steps:
    """The score of each of N images as a step function of the threshold, th in [0, 1]."""

    image: np.ndarray
    """(E,) int64: the image whose score changes."""
    value: np.ndarray
    """(E,) float64 in [0, 1]: the change applies to th >= value."""
    change: np.ndarray
    """(E,) int64: tenths gained or lost; every image starts with 0 below th = 0."""
    n_images: int

    def tenths_at(self, th: float) -> np.ndarray:
        """Return the tenths of each image at threshold `th`, (N,) int64, 0..10."""
        held = self.value <= th
        # bincount adds in float64, which is exact for small integers
        return np.bincount(self.image[held], self.change[held], minlength=self.n_images).astype(np.int64)

    def select(self, images: np.ndarray) -> "Steps":
        """Return the steps of `images` (n,) int64, which are distinct; they are renumbered in this order."""
        place = np.full(self.n_images, -1)
        place[images] = np.arange(len(images))
        mine = place[self.image] >= 0
        return Steps(place[self.image[mine]], self.value[mine], self.change[mine], len(images))

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Add up the scores of all images at every threshold.

        Returns:
            (values, tenths): float64 ascending from 0, and int64. For th in [values[i], values[i + 1]) the tenths of
            all images sum to tenths[i]; the last interval includes 1. Neighbouring tenths differ.
        """
        order = np.argsort(self.value, kind="stable")
        values, totals = np.append(0.0, self.value[order]), np.append(0, np.cumsum(self.change[order]))
        last = np.append(values[1:] != values[:-1], True)  # only the total after all steps at one value matters
        return merged(values[last], totals[last])

    def mean_curve(self) -> "Curve":
        """Return the mean score of the images at every threshold."""
        values, tenths = self.curve()
        return Curve(values, tenths / (10 * self.n_images))


class Curve(NamedTuple):
    """A score over all thresholds."""

    values: np.ndarray
    """(V,) float64, ascending from 0."""
    scores: np.ndarray
    """(V,) float64, 0..1: the score for th in [values[i], values[i + 1]); the last interval includes 1."""


@dataclass(frozen=True)
class Best:
    """The interval of thresholds with the highest score: [low, high), or [low, 1] if high is 1."""

    threshold: float
    """the middle of [low, high)."""
    low: float
    """lower end of the interval, included."""
    high: float
    """upper end of the interval, excluded unless it is 1."""
    score: float
    """0..1, the same for every threshold in the interval."""
    min_area: int = 0
    """predicted masks with fewer pixels than this count as empty."""


def steps_of(masks: Iterable[np.ndarray], truths: Iterable[np.ndarray], min_areas: Sequence[int] = (0,)) -> ByArea:
    """Find the steps of N images, one image at a time, so that a memory-mapped file never has to fit into memory.

    Args:
        masks: N masks (H, W), float16, float32 or float64 in [0, 1].
        truths: N true masks (H, W); non-zero pixels are mask.
        min_areas: minimum areas A; predicted masks of fewer than A pixels count as empty.

    Returns:
        the steps for each minimum area.

    Raises:
        ValueError: a probability is outside [0, 1] or NaN, or a mask and its truth differ in shape; the message names
            the image's row.
    """
    found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {area: [] for area in min_areas}
    for row, (mask, truth) in enumerate(zip(masks, truths, strict=True)):
        if mask.shape != truth.shape:
            raise ValueError(f"row {row}: expected a mask of the shape of its truth {truth.shape}, found {mask.shape}")
        if not (mask.min() >= 0 and mask.max() <= 1):  # written so that NaN fails too
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
    """Return the thresholds (V,) at which the mask changes, and the pixel counts that `scores_from_counts` needs there.

    The counts are the pixels in both masks (V,), in the predicted mask (V,) and in the true mask.
    """
    pixels = np.abs(pixels)  # -0 and 0 are equal, but their bits differ
    half = pixels.dtype == np.float16  # its bits sort like its values, and numpy has a fast radix sort for 16-bit ints
    order = np.argsort(pixels.view(np.uint16), kind="stable") if half else np.argsort(pixels)
    pixels = pixels[order]
    last = np.flatnonzero(np.append(pixels[1:] != pixels[:-1], True))  # the last pixel of each distinct value
    below = np.cumsum(truth[order])[last]
    theirs = int(below[-1])
    values = np.append(0.0, pixels[last].astype(np.float64))  # below the lowest probability every pixel is mask
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
    """Return the steps of the images of all parts, numbered in order across the parts."""
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


def select(by_area: ByArea, images: np.ndarray) -> ByArea:
    """Apply `Steps.select` for each minimum area."""
    return {area: steps.select(images) for area, steps in by_area.items()}


def best(steps: Steps, min_area: int = 0) -> Best:
    """Return the widest interval of thresholds with the highest score (ties: the lowest)."""
    low, high, highest = widest(*steps.curve())
    return Best(middle_of(low, high), low, high, highest / (10 * steps.n_images), min_area)


def merged(values: np.ndarray, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Remove the steps of a step function at which its value does not change."""
    differs = np.append(True, totals[1:] != totals[:-1])
    return values[differs], totals[differs]


def widest(values: np.ndarray, totals: np.ndarray) -> tuple[float, float, float]:
    """Return (low, high, total) of the widest interval in which a step function (see `Steps.curve`) is highest."""
    highest = totals.max()
    ends = np.append(values[1:], 1.0)
    at = int(np.argmax(np.where(totals == highest, ends - values, -1)))
    return float(values[at]), float(ends[at]), highest.item()


def middle_of(low: float, high: float) -> float:
    """Return the middle of [low, high), or low if there is no float between them."""
    middle = (low + high) / 2
    return middle if middle < high else low


def best_joint(by_area: ByArea) -> Best:
    """Return the best pair of threshold and minimum area (ties: the smallest area)."""
    return max((best(by_area[area], area) for area in sorted(by_area)), key=lambda found: found.score)


def cross_fit_threshold(by_area: ByArea, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Score the images of each part at the threshold and minimum area that are best for the other parts.

    Args:
        by_area: the steps of all images, for each minimum area.
        parts: as returned by `partition`.

    Returns:
        for each part the tenths of its images, int64, 0..10; an empty list if there is only one part.
    """

    def fit(images: np.ndarray) -> Best:
        return best_joint(select(by_area, images))

    def score(found: Best, images: np.ndarray) -> np.ndarray:
        return by_area[found.min_area].tenths_at(found.threshold)[images]

    return cross_fit(parts, fit, score)


@dataclass(frozen=True)
class Fit:
    """The result of optimize_threshold.py for masks."""

    best: Best
    """the best threshold and minimum area on all images."""
    score_at_half: float
    """score at threshold .5, without a minimum area."""
    cross_fitted: CrossFitted | None
    """None if there is only one image."""
    curve: Curve
    """scores over all thresholds, at the best minimum area."""
    n_images: int
    n_files: int
    metric: str = "iout"

    def as_json(self, files: Sequence[Masks]) -> dict[str, Any]:
        """Return the contents of threshold.json."""
        return {
            **asdict(self.best),
            "metric": self.metric,
            "score_at_half": self.score_at_half,
            "cross_fitted": self.cross_fitted and asdict(self.cross_fitted),
            "masks": [str(masks.path) for masks in files],
            "n_images": self.n_images,
        }

    def as_text(self) -> str:
        """Format the result as a short table."""
        best, area = self.best, f"; masks under {self.best.min_area} pixels are emptied" if self.best.min_area else ""
        lines = [
            f"images           {self.n_images} in {self.n_files} mask file{'s' if self.n_files > 1 else ''}",
            f"metric           {self.metric}   ({METRICS[self.metric].about})",
            f"best threshold   {best.threshold:.6g}   (equally good from {best.low:.6g} to {best.high:.6g}{area})",
            f"fitted score     {best.score:.5f}   (on the images used for the fit)",
            f"score at .5      {self.score_at_half:.5f}",
        ]
        return "\n".join([*lines, cross_fitted_line(self.cross_fitted, self.n_files)])


def fit_files(files: Sequence[Masks], truth_fn: str | None, min_areas: Sequence[int]) -> Fit:
    """Fit threshold and minimum area on the images of all files.

    Args:
        files: at least one; several files are the parts of the cross-fit.
        truth_fn: as for `true_masks`.
        min_areas: minimum areas to try; 0 is always included.

    Raises:
        UserError: the truth is missing, a value is not a probability, a file has no images, or an image is in two
            files.
        UsageError: a minimum area is below 0.
    """
    pooled = steps_of_files(files, truth_fn, min_areas)
    best, n_images = best_joint(pooled), pooled[0].n_images
    parts = partition([len(masks.ids) for masks in files])
    return Fit(
        best=best,
        score_at_half=int(pooled[0].tenths_at(0.5).sum()) / (10 * n_images),
        cross_fitted=CrossFitted.of(cross_fit_threshold(pooled, parts), unit=10),
        curve=pooled[best.min_area].mean_curve(),
        n_images=n_images,
        n_files=len(files),
    )


def steps_of_files(files: Sequence[Masks], truth_fn: str | None, min_areas: Sequence[int]) -> ByArea:
    """Return the steps of the images of all files, for minimum area 0 and each of `min_areas`.

    Raises:
        UserError, UsageError: as for `fit_files`.
    """
    areas = tried_areas(min_areas)
    check_files(files)
    return join([_steps_of_file(masks, truth_fn, areas) for masks in files])


def tried_areas(min_areas: Sequence[int]) -> list[int]:
    """Return the minimum areas to try, ascending, with 0; raise UsageError if one is below 0."""
    if min(min_areas, default=0) < 0:
        raise UsageError(f"--min_area {min(min_areas)}: expected a number of pixels, 0 or more")
    return sorted({0, *min_areas})


def _steps_of_file(masks: Masks, truth_fn: str | None, areas: Sequence[int]) -> ByArea:
    truths = true_masks(masks, truth_fn)
    try:
        return steps_of(masks.array, truths, areas)
    except ValueError as error:
        raise UserError(f"{masks.path}: {error}") from None


def plot_threshold(paths: Sequence[str | Path], fit: Fit) -> None:
    """Plot the score as a step function of the threshold, with the optimal interval, into png files, all the same."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot, because it keeps every figure in memory and needs a display

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    (values, scores), best = fit.curve, fit.best
    axes.step(np.append(values, 1), np.append(scores, scores[-1]), where="post", color="#1f4e79", linewidth=1.2)
    axes.axvspan(
        best.low,
        best.high,
        color="#e8a33d",
        alpha=0.5,
        linewidth=1,
        label=f"optimal: {best.low:.6g} to {best.high:.6g}",
    )
    axes.axvline(0.5, color="grey", linewidth=0.8, linestyle=":", label="0.5")
    axes.set(xlabel="threshold", ylabel=f"score ({fit.metric})", xlim=(0, 1))
    area = f", masks under {best.min_area} pixels emptied" if best.min_area else ""
    axes.set_title(f"best {best.score:.4f} at threshold {best.threshold:.6g}{area}")
    axes.legend(loc="lower center", facecolor="white", framealpha=1, edgecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
    for path in paths:
        with atomic_file(path) as part:
            figure.savefig(part, format="png", dpi=150)
