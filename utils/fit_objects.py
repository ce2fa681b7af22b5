"""From validation mask files to the rules that make the best objects of them, and an honest score of these.

An image of 256x256 with 25 objects takes .3 s with borders and .05 s without, on one core. Of more than MOST_SEARCHED
images so many are searched, drawn from all parts alike, and what is found is scored on all: .02 s each.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from utils.errors import UsageError, UserError
from utils.fit_threshold import PARTS_OF_ONE_FILE, CrossFitted, check_distinct, cross_fitted_line
from utils.mask_file import Masks
from utils.names import pick
from utils.object_metrics import OBJECT_METRICS
from utils.object_search import Found, RuleScores, search
from utils.objects import ObjectRules
from utils.threshold import mean_interval

MIN_AREAS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Least areas that are tried where none are named; 0 always is."""
MOST_SEARCHED = 300
COMPONENTS: Found = ((0.5, None), 0)
"""Threshold .5, no border, no clean-up."""


@dataclass(frozen=True)
class ObjectFit:
    """What optimize_threshold.py finds for objects."""

    rules: ObjectRules
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


def fit_objects(
    files: Sequence[Masks], truth_fn: str | None = None, min_areas: Sequence[int] = (), metric: str = "dsb2018"
) -> ObjectFit:
    """Fit the rules on the images of all files; one image is in memory at a time.

    The cross-fitted score is of each part's images (of each file's; of one file: of every fifth image) under the rules
    that the same search finds without them.

    Args:
        files: at least one; all with borders, or none.
        truth_fn: as for `labels_of`.
        min_areas: least areas to try, none: MIN_AREAS; 0 is always among them.
        metric: a name in OBJECT_METRICS.

    Raises:
        UserError: no truth or none of objects, something that is no probability, an image in two files, files with
            borders beside files without.
        UsageError: an area below 0, an unknown metric.
    """
    if min(min_areas, default=0) < 0:
        raise UsageError(f"--min_area {min(min_areas)}: a number of pixels is not negative")
    pick(OBJECT_METRICS, metric, "--metric")
    check_distinct(files)
    _check_alike(files)
    parts, has_border = _parts(files), files[0].border is not None
    drawn = [_drawn(part, -(-MOST_SEARCHED // len(parts))) for part in parts]
    others = [np.concatenate(drawn[:part] + drawn[part + 1 :]) for part in range(len(parts)) if len(parts) > 1]
    scores = RuleScores(files, truth_fn, sorted({0, *(min_areas or MIN_AREAS)}), metric)
    best, *without_part = search(scores, [np.concatenate(drawn), *others], has_border)
    everything = np.concatenate(parts)
    return ObjectFit(
        rules=scores.rules(best),
        metric=metric,
        score=float(scores.of(best, everything).mean()),
        score_of_components=float(scores.of(COMPONENTS, everything).mean()),
        cross_fitted=_cross_fit(scores, without_part, parts) if without_part else None,
        n_images=len(everything),
        n_files=len(files),
        n_searched=sum(map(len, drawn)),
        has_border=has_border,
    )


def _cross_fit(scores: RuleScores, without_part: Sequence[Found], parts: Sequence[np.ndarray]) -> CrossFitted:
    honest = np.concatenate([scores.of(found, part) for found, part in zip(without_part, parts, strict=True)])
    return CrossFitted(float(honest.mean()), *mean_interval(honest), len(parts))


def _parts(files: Sequence[Masks]) -> list[np.ndarray]:
    """The numbers of the images of each file, or of every fifth image of one."""
    ends = np.cumsum([0, *(len(masks.ids) for masks in files)])
    if len(files) > 1:
        return [np.arange(start, end) for start, end in pairwise(ends)]
    n_parts = min(PARTS_OF_ONE_FILE, int(ends[-1]))
    return [np.arange(part, ends[-1], n_parts) for part in range(n_parts)]


def _drawn(images: np.ndarray, most: int) -> np.ndarray:
    if len(images) <= most:
        return images
    return np.sort(np.random.default_rng(4545).choice(images, most, replace=False))


def _check_alike(files: Sequence[Masks]) -> None:
    for masks in files:
        if not masks.ids:
            raise UserError(f"{masks.path}: holds no masks")
        if (masks.border is None) != (files[0].border is None):
            has, lacks = (files[0], masks) if masks.border is None else (masks, files[0])
            raise UserError(f"{has.path} has borders, {lacks.path} has none; give files of one kind of net")
