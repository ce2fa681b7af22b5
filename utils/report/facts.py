"""What the page and the model card say of runs: read from their folders, drawn by others."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from utils.data.packed_data import PackedImages
from utils.masks.mask_file import Masks
from utils.scoring.bootstrap import Difference
from utils.scoring.cross_fit import CrossFitted
from utils.scoring.threshold_search import Best, ByArea, Steps

RunState = Literal["running", "finished", "interrupted", "failed", "unreadable"]


@dataclass(frozen=True)
class Share:
    """A part of the validation images and what it scores."""

    name: str
    """empty, thin, half, nearly full: by the share of the image that the true mask covers."""
    n_images: int
    score: float | None
    """mean over its images, 0..1; None where there are none."""
    low: float | None
    """95 % bootstrap interval over images ..."""
    high: float | None
    """... of the score."""


@dataclass(frozen=True)
class Reliability:
    """Of the pixels with a probability in [low, high): how often they really are mask."""

    low: float
    high: float
    n_pixels: int
    probability: float
    """the mean that the net gave, 0..1."""
    really: float
    """the share that is mask, 0..1."""


@dataclass(frozen=True)
class GalleryRow:
    """One validation image of a gallery."""

    row: int
    """Of the mask file."""
    name: str
    """its id."""
    score: float
    """0..1, at the threshold of the run."""
    iou: float
    note: str
    """a few words: its coverage, how uncertain, how many pixels are wrong."""


@dataclass(frozen=True)
class Judged:
    """What the answers of a net on the fold it never saw amount to (nets that predict masks)."""

    masks: Masks
    packed: PackedImages
    """The training images that the masks are of."""
    place: dict[str, int]
    """id -> row of the packed images."""
    origin: str
    """which file of masks this is, relative to the run: of the best snapshot, or what its threshold was fitted on."""
    threshold: float
    min_area: int
    threshold_from: str
    """threshold.json, or "fitted here on the same images"."""
    steps: Steps
    """score against threshold, of all its images."""
    best: Best
    """the optimal interval on these images."""
    tenths: np.ndarray
    """(N,) int64, 0..10: each image's score at the threshold."""
    cross_scores: np.ndarray
    """(N,) float64, 0..1: each image's cross-fitted score, at the threshold that is best for other images."""
    cross: CrossFitted | None
    """their mean, with its interval; None with one image."""
    shares: list[Share]
    """by coverage of the true mask."""
    empties: np.ndarray
    """(2, 2) int64: images by [truth has a mask][prediction has a mask]."""
    reliability: list[Reliability]
    galleries: dict[str, list[GalleryRow]]
    """title (Worst, Median, Best, Most uncertain, Wrongly empty, Wrongly filled) -> rows; an empty one has no rows."""
    ious: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(N,) float64, 0..1: each image's IoU at the threshold; 1 where both masks are empty."""
    by_area: ByArea = field(default_factory=dict)
    """`steps` for each least area that was tried: 0 and `min_area`."""


@dataclass(frozen=True)
class RunFacts:
    """One experiment folder, as far as it can be read."""

    path: Path
    name: str
    """short, and distinct among the runs of a page."""
    state: RunState
    note: str
    """why it failed, was interrupted or cannot be read, one line; empty otherwise."""
    settings: dict[str, Any] = field(default_factory=dict)
    """config.json: flag -> value."""
    log: dict[str, list[float]] = field(default_factory=dict)
    """log.csv: column -> a value an epoch; rows that are cut short are left out."""
    measure: str = "iout"
    """what its snapshots are ranked by: iout, objects, auc, accuracy, f2."""
    best: float | None = None
    """the best value of the measure over epochs."""
    best_epoch: int | None = None
    n_epochs: int | None = None
    """that were asked for."""
    seconds: float | None = None
    """of all epochs so far."""
    images_per_s: float | None = None
    """median over epochs."""
    machine: str = ""
    digest: str | None = None
    """of the packed images; None where they are not at hand."""
    stored: dict[str, Any] | None = None
    """threshold.json."""
    judged: Judged | None = None
    """None for nets of labels, and where masks or images are not at hand."""
    problems: list[str] = field(default_factory=list)
    """what could not be read, a line each."""
    stored_rules: dict[str, Any] | None = None
    """objects.json of a run that is ranked by objects, labels.json of one that is ranked by labels."""

    @property
    def fold(self) -> int | None:
        """The fold held out."""
        fold = self.settings.get("fold")
        return fold if isinstance(fold, int) and not isinstance(fold, bool) else None


@dataclass(frozen=True)
class Group:
    """One row of the table: runs that differ in their fold only; a run without sisters is a group of one."""

    name: str
    runs: list[RunFacts]
    """by fold."""
    score: float | None
    """mean over its runs of `best`."""
    spread: float | None
    """standard deviation over folds (n - 1); None with one run."""
    cross: CrossFitted | None
    """cross-fitted over all its folds together: each fold at the threshold of the others; of one run: its own. Of runs
    that are ranked by objects or labels what optimize_threshold.py has stored, None where it has not."""
    cross_scores: dict[str, float]
    """image id -> the cross-fitted iout of its mask, 0..1, by the net that never saw it; whatever the runs are ranked
    by."""
    difference: "Difference | None" = None
    """of `cross_scores` to the group with the best cross-fitted score on the same data; None for that one, where no
    image is in both, and where runs are not ranked by iout."""


@dataclass(frozen=True)
class Overview:
    """All that a page shows."""

    groups: list[Group]
    """best cross-fitted score first; those without one by their best score, unreadable ones last."""
    differing: list[str]
    """settings that are not the same in all runs, in the order of the flags: columns of the table."""
    equal: dict[str, Any]
    """settings that are: folded away."""
    made: str
    """when, ISO 8601 with the local zone."""
