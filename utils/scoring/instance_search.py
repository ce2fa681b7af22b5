"""Find the best rules that turn probabilities into instances, with a cross-fitted score.

The rules are a search: a coarse grid of thresholds comes first, then the neighbours of the best, ever nearer; better
ones may lie between those that are tried. For each pair of thresholds an image is labelled once; filled holes and every
minimum area follow from that at almost no cost. An image of 256x256 with 25 instances takes .3 s with borders and .05 s
without, on one core. If there are more than MOST_SEARCHED images, so many are searched, drawn from all parts alike, and
the rules that are found are scored on all images, .02 s each.

With a gate an image that is gated out scores as if nothing were predicted in it. For each set of rules that is tried
the best gate threshold is exact, on the images that are searched: the images are sorted by the gate's probability, and
cumulative sums compare their scores with those of empty predictions. The search goes on around two sets of rules, the
best without the gate and the best with it.
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
from utils.masks.instances import InstanceRules, fill_instance_holes, grow_instances
from utils.masks.mask_file import Masks
from utils.masks.probability_file import Probabilities
from utils.scoring.cross_fit import CrossFitted, check_files, cross_fitted_line, leave_one_out, partition
from utils.scoring.gate_search import Gate, GateCrossFitted, difference_lines, gate_line, gate_means, widest_gate
from utils.scoring.instance_metrics import INSTANCE_METRICS, counts_without_small, match_counts, match_instances

# on noisy probabilities of 26 nuclei images, of three kinds, the 49 pairs of such a search were as good as all 361 in
# steps of .05, or better
COARSE = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Thresholds of the first grid, of the mask and of the seeds."""
COARSE_ALONE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Thresholds of the first grid where there are no borders, so no seeds."""
FINER = (0.1, 0.05, 0.025)
"""Distances at which the neighbours of the best are tried next."""
Pair = tuple[float, float | None]
"""th and seed_th; None: as if there were no border."""


class Found(NamedTuple):
    """The best rules for a set of images."""

    pair: Pair
    cleanup: int
    """place in RuleScores.cleanups."""
    gate: Gate | None = None
    """None: every image is let through."""


class Bests(NamedTuple):
    """The best rules for a set of images, without a gate and with one; without gate probabilities both are the same."""

    without: Found
    gated: Found


class RuleScores:
    """The scores of images under every clean-up, for the pairs of thresholds that are asked for.

    Images are numbered through all files. A score is kept for each image, pair and clean-up, and no pixels.

    Args:
        files: mask files, all with borders or none.
        truth_fn: as for `true_instances`.
        min_areas: minimum areas, ascending.
        metric: a name in INSTANCE_METRICS.
        gate: (N,) float64, the probability that there is anything in each image; None: there is no gate.
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
        """Compute the scores of (pairs, images (n,) int64) that are not known yet, image by image."""
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
        """Return the scores (clean-ups, images) float64, 0..1, of a pair and images that were needed before."""
        known = self._known[pair]
        return np.stack([known[image] for image in images.tolist()], axis=1)

    def when_empty(self, images: np.ndarray) -> np.ndarray:
        """Return the scores (images,) float64, 0..1, of empty predictions, for images that were needed before."""
        return np.array([self._when_empty[image] for image in images.tolist()])

    def of(self, found: Found, images: np.ndarray) -> np.ndarray:
        """Return the scores (images,) float64, 0..1, with the rules that were found, and with their gate."""
        self.need([([found.pair], images)])
        scores = self.table(found.pair, images)[found.cleanup]
        if found.gate is None:
            return scores
        return np.where(gated_out(self.gate[images], found.gate.threshold), self.when_empty(images), scores)

    def rules(self, found: Found) -> InstanceRules:
        """Return the rules that were found, for `label_instances`."""
        th, seed_th = found.pair
        fill_holes, min_area = self.cleanups[found.cleanup]
        return InstanceRules(th, InstanceRules.seed_th if seed_th is None else seed_th, min_area, fill_holes)

    def _of_image(self, masks: Masks, row: int, truth: np.ndarray, pairs: Sequence[Pair]) -> np.ndarray:
        """Return the scores (pairs, clean-ups) float64, 0..1."""
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

    def _of_empty(self, truth: np.ndarray) -> float:
        return float(self._metric(match_counts(np.zeros_like(truth), truth)[None])[0])


def _probabilities(plane: np.ndarray, masks: Masks, row: int) -> np.ndarray:
    plane = np.array(plane)  # read once, not once for each pair
    if not (plane.min() >= 0 and plane.max() <= 1):  # also when there is a NaN
        raise UserError(
            f"{masks.path}: row {row}: expected probabilities in [0, 1], found {plane.min():g} to {plane.max():g}"
        )
    return plane


def search(scores: RuleScores, fits: Sequence[np.ndarray], has_border: bool) -> list[Bests]:
    """Find the best rules for each set of images; where one set is searched does not depend on the others."""
    grid = list(product(COARSE, COARSE) if has_border else product(COARSE_ALONE, [None]))
    tried: list[dict[Pair, None]] = [dict.fromkeys(grid) for _ in fits]
    bests: list[Bests] = []
    for step in (0.0, *FINER):
        for found, pairs in zip(bests, tried, strict=False):  # nothing is found before the first step
            for best in found:
                pairs.update(dict.fromkeys(_around(best.pair, step)))
        scores.need(zip(tried, fits, strict=True))
        bests = [_bests(scores, images, pairs) for images, pairs in zip(fits, tried, strict=True)]
    return bests


def _bests(scores: RuleScores, images: np.ndarray, pairs: Iterable[Pair]) -> Bests:
    without = _best(scores, images, pairs, gate=None)
    return Bests(without, without if scores.gate is None else _best(scores, images, pairs, scores.gate[images]))


def _around(pair: Pair, step: float) -> list[Pair]:
    """Return the pair and its neighbours at a distance of `step` in one threshold or both, if they are in (0, 1)."""

    def near(value: float | None) -> list[float | None]:
        if value is None:
            return [None]
        return [place for sign in (-1, 0, 1) if 0 < (place := round(value + sign * step, 6)) < 1]

    return list(product(near(pair[0]), near(pair[1])))


def _best(scores: RuleScores, images: np.ndarray, pairs: Iterable[Pair], gate: np.ndarray | None) -> Found:
    """Return the rules with the best mean score, with the best gate for them where `gate` (images,) is given.

    Of equal ones: no gate, then thresholds near .5, then holes left alone, then the smallest area, then the widest
    interval of gates.
    """

    def means_of(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        table = scores.table(pair, images)
        if gate is None:  # one column: every image is let through
            return np.array([OPEN]), table.mean(axis=1, keepdims=True).round(12)  # equal means are equal numbers
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
"""Minimum areas that are tried if none are named; 0 always is."""
MOST_SEARCHED = 300
COMPONENTS = Found((0.5, None), 0)
"""Threshold .5, no border, no clean-up."""


@dataclass(frozen=True)
class InstanceFit:
    """The result of optimize_threshold.py for instances."""

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
        """Return the contents of objects.json."""
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
        """Format the result as a short table."""
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


@dataclass(frozen=True)
class GatedInstanceFit(InstanceFit):
    """The result of optimize_threshold.py for instances and a gate; rules and score are with the gate."""

    cross_fitted: GateCrossFitted | None
    gate: Gate | None
    """None: no gate is as good as the best one, every image is let through."""
    score_without: float
    """with the best rules without a gate, on all images."""
    n_gated_out: int
    gate_probs: list[str]
    """files of the gate's probabilities."""

    def as_json(self, files: Sequence[Masks]) -> dict[str, Any]:
        """Return the contents of objects.json; gate_threshold, gate_low and gate_high are null if no gate is best."""
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
        """Format the result as a short table, and a sentence that says whether the gate helps."""
        lines = [
            gate_line(self.gate, self.n_gated_out, self.n_images),
            f"score without it {self.score_without:.5f}   (fitted on these images)",
        ]
        return "\n".join([super().as_text(), *lines, *difference_lines(self.cross_fitted)])


def fit_instances(
    files: Sequence[Masks],
    truth_fn: str | None = None,
    min_areas: Sequence[int] = (),
    metric: str = "dsb2018",
    gate: Sequence[Probabilities] = (),
) -> InstanceFit:
    """Fit the rules on the images of all files, together with a gate if there is one; one image is in memory at a time.

    For the cross-fitted score each part's images are scored with what the same search finds without them.

    Args:
        files: at least one, each a part of the cross-fit; all with borders, or none.
        truth_fn: as for `true_instances`.
        min_areas: minimum areas to try, none: MIN_AREAS; 0 is always among them.
        metric: a name in INSTANCE_METRICS.
        gate: probabilities that there is anything, of nets that did not learn from these images; none: no gate.

    Returns:
        a GatedInstanceFit if there is a gate.

    Raises:
        UserError: no truth, or one that does not tell instances apart; a value that is no probability, a file without
            images, an image in two files or not in the gate's, files with borders together with files without.
        UsageError: a minimum area below 0, an unknown metric.
    """
    if min(min_areas, default=0) < 0:
        raise UsageError(f"--min_area {min(min_areas)}: a number of pixels is not negative")
    pick(INSTANCE_METRICS, metric, "--metric")
    check_files(files)
    _check_alike(files)
    probabilities = np.concatenate([gate_probability(gate, masks.ids) for masks in files]) if gate else None
    parts, has_border = partition([len(masks.ids) for masks in files]), files[0].border is not None
    drawn = [_drawn(part, -(-MOST_SEARCHED // len(parts))) for part in parts]
    scores = RuleScores(files, truth_fn, sorted({0, *(min_areas or MIN_AREAS)}), metric, probabilities)
    # all are searched together, so that an image is read once for all of them
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
    if probabilities is None:
        return InstanceFit(**common, cross_fitted=CrossFitted.of(without))
    with_gate = [scores.of(bests.gated, part) for bests, part in zip(of_others, parts, strict=False)]
    found = best.gated.gate
    return GatedInstanceFit(
        **common,
        cross_fitted=GateCrossFitted.paired(with_gate, without),
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
            raise UserError(f"{has.path} has borders, {lacks.path} has none; give files of one kind of net")
