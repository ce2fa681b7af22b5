"""Search for the best rules that turn probabilities into instances, with a cross-fitted score.

The search tries a coarse grid of thresholds and then neighbours of the best at decreasing distances. It is not exact:
better thresholds may exist between those that are tried. Each image is labelled once for each pair of thresholds; hole
filling and all minimum areas are derived from that at almost no cost. An image of 256x256 with 25 instances takes .3 s
with borders and .05 s without, on one core. If there are more than MOST_SEARCHED images, the search uses that many,
drawn equally from all parts, and the rules that are found are scored on all images, .02 s each.

With a gate, an image that is gated out scores as if nothing were predicted in it. For each set of rules that is tried,
the best gate threshold is exact on the searched images: the images are sorted by the gate's probability, and cumulative
sums compare their scores with those of empty predictions. The search then refines two sets of rules, the best without
the gate and the best with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from utils.core.errors import UsageError, UserError
from utils.core.names import pick
from utils.core.progress import progress_bar
from utils.masks.gate import OPEN, gate_probability, gated_out
from utils.masks.ground_truth import true_instances
from utils.masks.instances import InstanceRules, fill_instance_holes, grow_instances, window_around
from utils.masks.mask_file import Masks, binarize
from utils.masks.probability_file import Probabilities
from utils.scoring.cross_fit import CrossFitted, check_files, cross_fitted_line, leave_one_out, partition, scores_by_id
from utils.scoring.gate_search import Gate, GateCrossFitted, difference_lines, gate_line, gate_means, widest_gate
from utils.scoring.instance_metrics import INSTANCE_METRICS, counts_without_small, match_counts, match_instances

# on noisy probabilities of 26 nuclei images of three kinds, the 49 pairs of such a search were at least as good as all
# 361 pairs in steps of .05
COARSE = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Mask and seed thresholds of the first grid."""
COARSE_ALONE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Mask thresholds of the first grid if there are no borders and therefore no seeds."""
FINER = (0.1, 0.05, 0.025)
"""Distances of the neighbours that are tried around the best, one after the other."""
Pair = tuple[float, float | None]
"""th and seed_th; a seed_th of None means that borders are ignored."""


class Found(NamedTuple):
    """The best rules for a set of images."""

    pair: Pair
    cleanup: int
    """index into RuleScores.cleanups."""
    gate: Gate | None = None
    """None if every image is let through."""


class Bests(NamedTuple):
    """The best rules for a set of images, without and with a gate; both are equal without gate probabilities."""

    without: Found
    gated: Found


class RuleScores:
    """Cache of the scores of images under every clean-up, for the requested pairs of thresholds.

    Images are numbered from 0 across all files. Only one score per image, pair and clean-up is kept in memory.

    Args:
        files: mask files, all with borders or all without.
        truth_fn: as for `true_instances`.
        min_areas: minimum areas, ascending.
        metric: a name in INSTANCE_METRICS.
        gate: (N,) float64, the probability that each image contains anything; None if there is no gate.
    """

    def __init__(
        self,
        files: Sequence[Masks],
        truth_fn: str | None,
        min_areas: Sequence[int],
        metric: str,
        gate: np.ndarray | None = None,
    ) -> None:
        self._files, self._truth_fn, self._min_areas = files, truth_fn, np.array(min_areas)
        self._metric = INSTANCE_METRICS[metric]
        self._known: dict[Pair, dict[int, np.ndarray]] = {}
        self._when_empty: dict[int, float] = {}
        self.gate = gate
        self.cleanups: list[tuple[bool, int]] = list(product((False, True), min_areas))
        """(fill_holes, min_area)."""

    def need(self, requests: Iterable[tuple[Iterable[Pair], np.ndarray]]) -> None:
        """Compute the missing scores for requests of (pairs, images (n,) int64), image by image."""
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
                    self._when_empty[start + row] = self._of_empty(truth)
                    pairs = list(missing[start + row])
                    for pair, scores in zip(pairs, self._of_image(masks, row, truth, pairs), strict=True):
                        self._known[pair][start + row] = scores
                    bar.update()
                start += len(masks.ids)

    def table(self, pair: Pair, images: np.ndarray) -> np.ndarray:
        """Return the scores (clean-ups, images) float64, 0..1, for a pair and images passed to `need` before."""
        known = self._known[pair]
        return np.stack([known[image] for image in images.tolist()], axis=1)

    def when_empty(self, images: np.ndarray) -> np.ndarray:
        """Return the scores (images,) float64, 0..1, of empty predictions, for images passed to `need` before."""
        return np.array([self._when_empty[image] for image in images.tolist()])

    def of(self, found: Found, images: np.ndarray) -> np.ndarray:
        """Return the scores (images,) float64, 0..1, with the given rules and their gate."""
        self.need([([found.pair], images)])
        scores = self.table(found.pair, images)[found.cleanup]
        if found.gate is None:
            return scores
        return np.where(gated_out(self.gate[images], found.gate.threshold), self.when_empty(images), scores)

    def rules(self, found: Found) -> InstanceRules:
        """Convert `found` to the rules for `label_instances`."""
        th, seed_th = found.pair
        fill_holes, min_area = self.cleanups[found.cleanup]
        return InstanceRules(th, InstanceRules.seed_th if seed_th is None else seed_th, min_area, fill_holes)

    def _of_image(self, masks: Masks, row: int, truth: np.ndarray, pairs: Sequence[Pair]) -> np.ndarray:
        """Return the scores (pairs, clean-ups) float64, 0..1."""
        mask = _probabilities(masks.array[row], masks, row)
        border = None if masks.border is None else _probabilities(masks.border[row], masks, row)
        window = window_around(binarize(mask, min(th for th, _ in pairs)) | (truth != 0))  # nothing lies outside
        mask, border, truth = mask[window], border if border is None else border[window], truth[window]
        counts = []
        for th, seed_th in pairs:
            labels = grow_instances(mask, None if seed_th is None else border, th, seed_th or 0.0)
            as_grown = counts_without_small(match_instances(labels, truth), self._min_areas)
            filled = fill_instance_holes(labels)
            unchanged = filled is labels
            as_filled = as_grown if unchanged else counts_without_small(match_instances(filled, truth), self._min_areas)
            counts += [as_grown, as_filled]
        return self._metric(np.concatenate(counts)).reshape(len(pairs), len(self.cleanups))

    def _of_empty(self, truth: np.ndarray) -> float:
        return float(self._metric(match_counts(np.zeros_like(truth), truth)[None])[0])


def _probabilities(plane: np.ndarray, masks: Masks, row: int) -> np.ndarray:
    plane = np.array(plane)  # copy, so that the file is read only once for all pairs
    if not (plane.min() >= 0 and plane.max() <= 1):  # written so that NaN fails too
        raise UserError(
            f"{masks.path}: row {row}: expected probabilities in [0, 1], found {plane.min():g} to {plane.max():g}"
        )
    return plane


def search(scores: RuleScores, fits: Sequence[np.ndarray], has_border: bool) -> list[Bests]:
    """Return the best rules for each set of images; each set is searched independently of the others."""
    grid = list(product(COARSE, COARSE) if has_border else product(COARSE_ALONE, [None]))
    tried: list[dict[Pair, None]] = [dict.fromkeys(grid) for _ in fits]
    bests: list[Bests] = []
    for step in (0.0, *FINER):
        for found, pairs in zip(bests, tried, strict=False):  # `bests` is empty in the first step
            for best in found:
                pairs.update(dict.fromkeys(_around(best.pair, step)))
        scores.need(zip(tried, fits, strict=True))
        bests = [_bests(scores, images, pairs) for images, pairs in zip(fits, tried, strict=True)]
    return bests


def _bests(scores: RuleScores, images: np.ndarray, pairs: Iterable[Pair]) -> Bests:
    without = _best(scores, images, pairs, gate=None)
    return Bests(without, without if scores.gate is None else _best(scores, images, pairs, scores.gate[images]))


def _around(pair: Pair, step: float) -> list[Pair]:
    """Return the pair and its neighbours within (0, 1) at a distance of `step` in one threshold or both."""

    def near(value: float | None) -> list[float | None]:
        if value is None:
            return [None]
        return [place for sign in (-1, 0, 1) if 0 < (place := round(value + sign * step, 6)) < 1]

    return list(product(near(pair[0]), near(pair[1])))


def _best(scores: RuleScores, images: np.ndarray, pairs: Iterable[Pair], gate: np.ndarray | None) -> Found:
    """Return the rules with the best mean score, together with the best gate for them if `gate` (images,) is given.

    Ties are resolved in this order: no gate, thresholds near .5, holes not filled, the smallest minimum area, the
    widest interval of gate thresholds.
    """

    def means_of(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        table = scores.table(pair, images)
        if gate is None:  # one column: every image is let through
            return np.array([OPEN]), table.mean(axis=1, keepdims=True).round(12)  # makes equal means equal numbers
        return gate_means(table, scores.when_empty(images), gate)

    def order(candidate: tuple[float, bool, Pair, int]) -> tuple[float, ...]:
        mean, needs_gate, (th, seed_th), cleanup = candidate
        return -mean, needs_gate, round(abs(th - 0.5) + abs((seed_th or 0.5) - 0.5), 6), th, cleanup

    candidates = []
    for pair in pairs:
        _, means = means_of(pair)
        highest = means.max(axis=1)
        needs_gate = means[:, 0] < highest
        at = int(np.lexsort((needs_gate, -highest))[0])
        candidates.append((float(highest[at]), bool(needs_gate[at]), pair, at))
    *_, pair, cleanup = min(candidates, key=order)
    lows, means = means_of(pair)
    return Found(pair, cleanup, widest_gate(lows, means[cleanup]))


MIN_AREAS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Minimum areas that are tried by default, in addition to 0."""
MOST_SEARCHED = 300
COMPONENTS = Found((0.5, None), 0)
"""Threshold .5, no border, no clean-up."""


@dataclass(frozen=True)
class InstanceFit:
    """The result of optimize_threshold.py for instances."""

    rules: InstanceRules
    """the best rules on all images, or on the images that were searched if there are too many."""
    metric: str
    score: float
    """score of these rules on all images."""
    score_of_components: float
    """score of the connected components at threshold .5, without borders and clean-up."""
    cross_fitted: CrossFitted | None
    """None if there is only one image."""
    image_scores: dict[str, float]
    """cross-fitted score of each image by its id; empty if there is only one image."""
    n_images: int
    n_files: int
    n_searched: int
    has_border: bool

    def as_json(self, files: Sequence[Masks]) -> dict[str, Any]:
        """Return the contents of objects.json."""
        return {
            **asdict(self.rules),
            "metric": self.metric,
            "score": self.score,
            "score_of_components": self.score_of_components,
            "cross_fitted": self.cross_fitted and asdict(self.cross_fitted),
            "image_scores": self.image_scores,
            "masks": [str(masks.path) for masks in files],
            "n_images": self.n_images,
        }

    def as_text(self) -> str:
        """Format the result as a short table."""
        rules, count = self.rules, f"{self.n_images} in {self.n_files} mask file{'s' if self.n_files > 1 else ''}"
        searched = f", {self.n_searched} of them used in the search" if self.n_searched < self.n_images else ""
        seeds = f"seeds above {rules.seed_th:.6g}" if self.has_border else "connected components, no border"
        holes = "filled" if rules.fill_holes else "left alone"
        lines = [
            f"images           {count}{searched}",
            f"best threshold   {rules.th:.6g}   ({seeds})",
            f"clean-up         objects under {rules.min_area} pixels are removed, holes are {holes}",
            f"fitted score     {self.score:.5f}   ({self.metric}, on the images used for the fit)",
            f"components at .5 {self.score_of_components:.5f}   (connected components without clean-up)",
        ]
        return "\n".join([*lines, cross_fitted_line(self.cross_fitted, self.n_files)])


@dataclass(frozen=True)
class GatedInstanceFit(InstanceFit):
    """The result of optimize_threshold.py for instances and a gate; `rules` and `score` are those with the gate."""

    cross_fitted: GateCrossFitted | None
    gate: Gate | None
    """None if no gate scores better than letting every image through."""
    score_without: float
    """score of the best rules without a gate, on all images."""
    n_gated_out: int
    gate_probs: list[str]
    """files with the gate's probabilities."""

    def as_json(self, files: Sequence[Masks]) -> dict[str, Any]:
        """Return the contents of objects.json; gate_threshold, gate_low and gate_high are null without a gate."""
        gate = self.gate
        return {
            **super().as_json(files),
            "gate_threshold": gate and gate.threshold,
            "gate_low": gate and gate.low,
            "gate_high": gate and gate.high,
            "score_without": self.score_without,
            "helps": self.cross_fitted is not None and self.cross_fitted.helps,
            "gate_probs": self.gate_probs,
            "n_gated_out": self.n_gated_out,
        }

    def as_text(self) -> str:
        """Format the result as a short table and a sentence on whether the gate helps."""
        lines = [
            gate_line(self.gate, self.n_gated_out, self.n_images),
            f"fitted, no gate  {self.score_without:.5f}   (on the images used for the fit)",
        ]
        return "\n".join([super().as_text(), *lines, *difference_lines(self.cross_fitted)])


def fit_instances(
    files: Sequence[Masks],
    truth_fn: str | None = None,
    min_areas: Sequence[int] = (),
    metric: str = "dsb2018",
    gate: Sequence[Probabilities] = (),
) -> InstanceFit:
    """Fit the rules on the images of all files, together with a gate if there is one.

    Only one image is in memory at a time. For the cross-fitted score, the images of each part are scored with the
    result of the same search on the other parts.

    Args:
        files: at least one; several files are the parts of the cross-fit. All have borders, or none has.
        truth_fn: as for `true_instances`.
        min_areas: minimum areas to try, MIN_AREAS if empty; 0 is always included.
        metric: a name in INSTANCE_METRICS.
        gate: probabilities that an image contains anything, from networks that were not trained on these images; empty
            if there is no gate.

    Returns:
        a GatedInstanceFit if there is a gate.

    Raises:
        UserError: the truth is missing or does not tell instances apart, a value is not a probability, a file has no
            images, an image is in two files or has no gate probability, or only some of the files have borders.
        UsageError: a minimum area is below 0, or the metric is unknown.
    """
    if min(min_areas, default=0) < 0:
        raise UsageError(f"--min_area {min(min_areas)}: expected a number of pixels, 0 or more")
    pick(INSTANCE_METRICS, metric, "--metric")
    check_files(files)
    _check_alike(files)
    probabilities = np.concatenate([gate_probability(gate, masks.ids) for masks in files]) if gate else None
    parts, has_border = partition([len(masks.ids) for masks in files]), files[0].border is not None
    drawn = [_drawn(part, -(-MOST_SEARCHED // len(parts))) for part in parts]
    scores = RuleScores(files, truth_fn, sorted({0, *(min_areas or MIN_AREAS)}), metric, probabilities)
    # all sets are searched together, so that each image is read only once per step
    best, *of_others = search(scores, [np.concatenate(drawn), *leave_one_out(drawn)], has_border)
    everything = np.concatenate(parts)

    def mean_score(found: Found) -> float:
        return float(scores.of(found, everything).mean())

    without = [scores.of(bests.without, part) for bests, part in zip(of_others, parts, strict=False)]
    common = {
        "rules": scores.rules(best.gated),
        "metric": metric,
        "score": mean_score(best.gated),
        "score_of_components": mean_score(COMPONENTS),
        "n_images": len(everything),
        "n_files": len(files),
        "n_searched": sum(map(len, drawn)),
        "has_border": has_border,
    }
    ids = [name for masks in files for name in masks.ids]
    if probabilities is None:
        by_id = scores_by_id(ids, parts, without)
        return InstanceFit(**common, cross_fitted=CrossFitted.of(without), image_scores=by_id)
    with_gate = [scores.of(bests.gated, part) for bests, part in zip(of_others, parts, strict=False)]
    found = best.gated.gate
    return GatedInstanceFit(
        **common,
        cross_fitted=GateCrossFitted.paired(with_gate, without),
        image_scores=scores_by_id(ids, parts, with_gate),
        gate=found,
        score_without=mean_score(best.without),
        n_gated_out=int(gated_out(probabilities, found.threshold).sum()) if found else 0,
        gate_probs=[str(file.path) for file in gate],
    )


def _drawn(images: np.ndarray, most: int) -> np.ndarray:
    if len(images) <= most:
        return images
    return np.sort(np.random.default_rng(4545).choice(images, most, replace=False))


def _check_alike(files: Sequence[Masks]) -> None:
    for masks in files:
        if (masks.border is None) != (files[0].border is None):
            has, lacks = (files[0], masks) if masks.border is None else (masks, files[0])
            raise UserError(
                f"{has.path} has borders, but {lacks.path} has none; pass mask files from one kind of network"
            )
