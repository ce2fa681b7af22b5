"""The search for the best object rules: a coarse grid of thresholds, then the neighbours of the best, ever nearer.

For each pair of thresholds an image is labelled once; holes filled or not and every least area follow from that almost
for nothing.
"""

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np

from utils.errors import UserError
from utils.mask_file import Masks
from utils.object_metrics import OBJECT_METRICS, counts_without_small, match_objects
from utils.objects import ObjectRules, fill_object_holes, grown_objects
from utils.progress import progress_bar
from utils.truth import labels_of

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
        truth_fn: as for `labels_of`.
        min_areas: least areas, ascending.
        metric: a name in OBJECT_METRICS.
    """

    def __init__(self, files: Sequence[Masks], truth_fn: str | None, min_areas: Sequence[int], metric: str) -> None:
        self._files, self._truth_fn, self._min_areas = files, truth_fn, np.array(min_areas)
        self._metric = OBJECT_METRICS[metric]
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
                truths = labels_of(masks, self._truth_fn, rows) if rows else ()
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

    def rules(self, found: Found) -> ObjectRules:
        """What was found as `label_objects` takes it."""
        (th, seed_th), cleanup = found
        fill_holes, min_area = self.cleanups[cleanup]
        return ObjectRules(th, ObjectRules.seed_th if seed_th is None else seed_th, min_area, fill_holes)

    def _of_image(self, masks: Masks, row: int, truth: np.ndarray, pairs: Sequence[Pair]) -> np.ndarray:
        """(pairs, clean-ups) float64."""
        mask = _probabilities(masks.array[row], masks, row)
        border = None if masks.border is None else _probabilities(masks.border[row], masks, row)
        counts = []
        for th, seed_th in pairs:
            labels = grown_objects(mask, None if seed_th is None else border, th, seed_th or 0.0)
            as_grown = counts_without_small(match_objects(labels, truth), self._min_areas)
            filled = fill_object_holes(labels)
            unchanged = filled is labels
            as_filled = as_grown if unchanged else counts_without_small(match_objects(filled, truth), self._min_areas)
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
