"""Find the best rules that make instances of probabilities, with a cross-fitted score.

A coarse grid of thresholds comes first, then the neighbours of the best, ever nearer. For each pair of thresholds an
image is labelled once; filled holes and every minimum area follow from that almost for nothing. An image of 256x256
with 25 objects takes .3 s with borders and .05 s without, on one core. Of more than MOST_SEARCHED images so many are
searched, drawn from all parts alike, and what is found is scored on all: .02 s each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from utils.core.errors import UsageError, UserError
from utils.core.names import pick
from utils.core.progress import progress_bar
from utils.masks.ground_truth import true_instances
from utils.masks.instances import InstanceRules, fill_instance_holes, grow_instances
from utils.masks.mask_file import Masks
from utils.scoring.cross_fit import CrossFitted, check_files, cross_fitted_line, leave_one_out, partition
from utils.scoring.instance_metrics import INSTANCE_METRICS, counts_without_small, match_instances

# noisy probabilities of 26 nuclei images, three kinds: as good as all 361 pairs in steps of .05, or better, with 49
COARSE = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Thresholds of the first grid, of the mask and of the seeds."""
COARSE_ALONE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Thresholds of the mask where there are no borders, so no seeds."""
FINER = (0.1, 0.05, 0.025)
"""Steps in which the neighbours of the best are tried then."""
Pair = tuple[float, float | None]
"""th and seed_th; None: as if there were no border."""
Found = tuple[Pair, int]
"""A pair of thresholds, and a place in RuleScores.cleanups."""


class RuleScores:
    """The scores of images under every clean-up, for the pairs of thresholds that were asked for.

    Images are numbered through all files. What is kept is a score for each image, pair and clean-up, no pixels.

    Args:
        files: mask files, all with borders or none.
        truth_fn: as for `true_instances`.
        min_areas: least areas, ascending.
        metric: a name in INSTANCE_METRICS.
    """

    def __init__(self, files: Sequence[Masks], truth_fn: str | None, min_areas: Sequence[int], metric: str) -> None:
        self._files, self._truth_fn, self._min_areas = files, truth_fn, np.array(min_areas)
        self._metric = INSTANCE_METRICS[metric]
        self._known: dict[Pair, dict[int, np.ndarray]] = {}
        self.cleanups: list[tuple[bool, int]] = list(product((False, True), min_areas))
        """(fill_holes, min_area)."""

    def need(self, requests: Iterable[tuple[Iterable[Pair], np.ndarray]]) -> None:
        """Compute what is not known yet of (pairs, images (n,) int64), image by image."""
        missing: dict[int, dict[Pair, None]] = {}
        for pairs, images in requests:
            for pair in pairs:
                known = self._known.setdefault(pair, {})
                for image in images.tolist():
                    if image not in known:
                        missing.setdefault(image, {})[pair] = None
        start = 0
        with progress_bar(None, "search", "image", total=len(missing)) as bar:
            for masks in self._files:
                rows = [image - start for image in sorted(missing) if start <= image < start + len(masks.ids)]
                truths = true_instances(masks, self._truth_fn, rows) if rows else ()
                for row, truth in zip(rows, truths, strict=True):
                    pairs = list(missing[start + row])
                    for pair, scores in zip(pairs, self._of_image(masks, row, truth, pairs), strict=True):
                        self._known[pair][start + row] = scores
                    bar.update()
                start += len(masks.ids)

    def table(self, pair: Pair, images: np.ndarray) -> np.ndarray:
        """(clean-ups, images) float64, 0..1, of what was needed before."""
        known = self._known[pair]
        return np.stack([known[image] for image in images.tolist()], axis=1)

    def of(self, found: Found, images: np.ndarray) -> np.ndarray:
        """(images,) float64, 0..1."""
        pair, cleanup = found
        self.need([([pair], images)])
        return self.table(pair, images)[cleanup]

    def rules(self, found: Found) -> InstanceRules:
        """What was found as `label_instances` takes it."""
        (th, seed_th), cleanup = found
        fill_holes, min_area = self.cleanups[cleanup]
        return InstanceRules(th, InstanceRules.seed_th if seed_th is None else seed_th, min_area, fill_holes)

    def _of_image(self, masks: Masks, row: int, truth: np.ndarray, pairs: Sequence[Pair]) -> np.ndarray:
        """(pairs, clean-ups) float64."""
        mask = _probabilities(masks.array[row], masks, row)
        border = None if masks.border is None else _probabilities(masks.border[row], masks, row)
        counts = []
        for th, seed_th in pairs:
            labels = grow_instances(mask, None if seed_th is None else border, th, seed_th or 0.0)
            as_grown = counts_without_small(match_instances(labels, truth), self._min_areas)
            filled = fill_instance_holes(labels)
            unchanged = filled is labels
            as_filled = as_grown if unchanged else counts_without_small(match_instances(filled, truth), self._min_areas)
            counts += [as_grown, as_filled]
        return self._metric(np.concatenate(counts)).reshape(len(pairs), len(self.cleanups))


def _probabilities(plane: np.ndarray, masks: Masks, row: int) -> np.ndarray:
    plane = np.array(plane)  # read once, not once for each pair
    if not (plane.min() >= 0 and plane.max() <= 1):  # also when there is a NaN
        raise UserError(
            f"{masks.path}: row {row}: expected probabilities in [0, 1], found {plane.min():g} to {plane.max():g}"
        )
    return plane


def search(scores: RuleScores, fits: Sequence[np.ndarray], has_border: bool) -> list[Found]:
    """The best rules for each set of images; a set has no say in where another one is searched."""
    grid = list(product(COARSE, COARSE) if has_border else product(COARSE_ALONE, [None]))
    tried: list[dict[Pair, None]] = [dict.fromkeys(grid) for _ in fits]
    found: list[Found] = []
    for step in (0.0, *FINER):
        for (pair, _), pairs in zip(found, tried, strict=False):
            pairs.update(dict.fromkeys(_around(pair, step)))
        scores.need(zip(tried, fits, strict=True))
        found = [_best(scores, images, pairs) for images, pairs in zip(fits, tried, strict=True)]
    return found


def _around(pair: Pair, step: float) -> list[Pair]:
    """The pair and its neighbours at a distance of `step` in one threshold or both, where they are in (0, 1)."""

    def near(value: float | None) -> list[float | None]:
        if value is None:
            return [None]
        return [place for sign in (-1, 0, 1) if 0 < (place := round(value + sign * step, 6)) < 1]

    return list(product(near(pair[0]), near(pair[1])))


def _best(scores: RuleScores, images: np.ndarray, pairs: Iterable[Pair]) -> Found:
    """The best mean score; of equal ones thresholds near .5, then holes left alone, then the smallest area."""

    def order(candidate: tuple[float, Found]) -> tuple[float, ...]:
        mean, ((th, seed_th), cleanup) = candidate
        return -mean, round(abs(th - 0.5) + abs((seed_th or 0.5) - 0.5), 6), th, cleanup

    candidates = []
    for pair in pairs:
        means = scores.table(pair, images).mean(axis=1).round(12)  # equal is equal in whatever order it was added up
        at = int(means.argmax())
        candidates.append((float(means[at]), (pair, at)))
    return min(candidates, key=order)[1]


MIN_AREAS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Least areas that are tried where none are named; 0 always is."""
MOST_SEARCHED = 300
COMPONENTS: Found = ((0.5, None), 0)
"""Threshold .5, no border, no clean-up."""


@dataclass(frozen=True)
class InstanceFit:
    """What optimize_threshold.py finds for objects."""

    rules: InstanceRules
    """the best on all images (or on those that were searched)."""
    metric: str
    score: float
    """with these rules, on all images."""
    score_of_components: float
    """of the connected components at threshold .5: no border, no clean-up."""
    cross_fitted: CrossFitted | None
    """None if there is one image only."""
    n_images: int
    n_files: int
    n_searched: int
    has_border: bool

    def as_json(self, files: Sequence[Masks]) -> dict[str, Any]:
        """What objects.json holds."""
        return {
            **asdict(self.rules),
            "metric": self.metric,
            "score": self.score,
            "score_of_components": self.score_of_components,
            "cross_fitted": self.cross_fitted and asdict(self.cross_fitted),
            "masks": [str(masks.path) for masks in files],
            "n_images": self.n_images,
        }

    def as_text(self) -> str:
        """The same as a short table."""
        rules, count = self.rules, f"{self.n_images} of {self.n_files} mask file{'s' if self.n_files > 1 else ''}"
        searched = f", {self.n_searched} of them searched" if self.n_searched < self.n_images else ""
        seeds = f"seeds above {rules.seed_th:.6g}" if self.has_border else "connected components, no border"
        holes = "filled" if rules.fill_holes else "left alone"
        lines = [
            f"images           {count}{searched}",
            f"best threshold   {rules.th:.6g}   ({seeds})",
            f"clean-up         objects under {rules.min_area} pixels vanish, holes {holes}",
            f"score there      {self.score:.5f}   ({self.metric}; fitted on these images)",
            f"components at .5 {self.score_of_components:.5f}   (no clean-up)",
        ]
        return "\n".join([*lines, cross_fitted_line(self.cross_fitted, self.n_files)])


def fit_instances(
    files: Sequence[Masks], truth_fn: str | None = None, min_areas: Sequence[int] = (), metric: str = "dsb2018"
) -> InstanceFit:
    """Fit the rules on the images of all files; one image is in memory at a time.

    The cross-fitted score is of each part's images (of each file's; of one file: of every fifth image) under the rules
    that the same search finds without them.

    Args:
        files: at least one; all with borders, or none.
        truth_fn: as for `true_instances`.
        min_areas: least areas to try, none: MIN_AREAS; 0 is always among them.
        metric: a name in INSTANCE_METRICS.

    Raises:
        UserError: no truth or none of objects, something that is no probability, an image in two files, files with
            borders beside files without.
        UsageError: an area below 0, an unknown metric.
    """
    if min(min_areas, default=0) < 0:
        raise UsageError(f"--min_area {min(min_areas)}: a number of pixels is not negative")
    pick(INSTANCE_METRICS, metric, "--metric")
    check_files(files)
    _check_alike(files)
    parts, has_border = partition([len(masks.ids) for masks in files]), files[0].border is not None
    drawn = [_drawn(part, -(-MOST_SEARCHED // len(parts))) for part in parts]
    scores = RuleScores(files, truth_fn, sorted({0, *(min_areas or MIN_AREAS)}), metric)
    # all are searched together, so that an image is read once for all of them
    best, *of_others = search(scores, [np.concatenate(drawn), *leave_one_out(drawn)], has_border)
    cross_fitted = [scores.of(found, part) for found, part in zip(of_others, parts, strict=False)]
    everything = np.concatenate(parts)
    return InstanceFit(
        rules=scores.rules(best),
        metric=metric,
        score=float(scores.of(best, everything).mean()),
        score_of_components=float(scores.of(COMPONENTS, everything).mean()),
        cross_fitted=CrossFitted.of(cross_fitted),
        n_images=len(everything),
        n_files=len(files),
        n_searched=sum(map(len, drawn)),
        has_border=has_border,
    )


def _drawn(images: np.ndarray, most: int) -> np.ndarray:
    if len(images) <= most:
        return images
    return np.sort(np.random.default_rng(4545).choice(images, most, replace=False))


def _check_alike(files: Sequence[Masks]) -> None:
    for masks in files:
        if (masks.border is None) != (files[0].border is None):
            has, lacks = (files[0], masks) if masks.border is None else (masks, files[0])
            raise UserError(f"{has.path} has borders, {lacks.path} has none; give files of one kind of net")
