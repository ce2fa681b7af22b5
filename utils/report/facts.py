"""Facts about runs that the page and the model card show."""

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
    """The score of the validation images in one coverage class."""

    name: str
    """empty, thin, half or nearly full, by the share of the image that the true mask covers."""
    n_images: int
    score: float | None
    """mean over the images, 0..1; None if there are none."""
    low: float | None
    """lower end of the 95 % bootstrap interval of the score over images."""
    high: float | None
    """upper end of the interval."""


@dataclass(frozen=True)
class Reliability:
    """Predicted probability and actual share of mask of the pixels with a probability in [low, high)."""

    low: float
    high: float
    n_pixels: int
    probability: float
    """mean predicted probability, 0..1."""
    really: float
    """share of the pixels that are mask, 0..1."""


@dataclass(frozen=True)
class GalleryRow:
    """A validation image in a gallery."""

    row: int
    """row in the mask file."""
    name: str
    """image id."""
    score: float
    """score at the threshold of the run, 0..1."""
    iou: float
    note: str
    """short text with the coverage, and the uncertainty or the number of wrong pixels."""


@dataclass(frozen=True)
class Judged:
    """Scores of the predicted masks of a network on its held-out fold."""

    masks: Masks
    packed: PackedImages
    """the training images that the masks belong to."""
    place: dict[str, int]
    """id -> row of the packed images."""
    origin: str
    """path of the mask file relative to the run: the file the threshold was fitted on, or that of the best snapshot."""
    threshold: float
    min_area: int
    threshold_from: str
    """threshold.json, or "fitted on the same images"."""
    steps: Steps
    """score of all images as a function of the threshold."""
    best: Best
    """the optimal thresholds on these images."""
    tenths: np.ndarray
    """(N,) int64, 0..10: score of each image at the threshold in tenths."""
    cross_scores: np.ndarray
    """(N,) float64, 0..1: cross-fitted score of each image, at the threshold that is best for other images."""
    cross: CrossFitted | None
    """mean of the cross-fitted scores with its interval; None if there is only one image."""
    shares: list[Share]
    """scores by coverage of the true mask."""
    empties: np.ndarray
    """(2, 2) int64: images by [truth has a mask][prediction has a mask]."""
    reliability: list[Reliability]
    galleries: dict[str, list[GalleryRow]]
    """title (Worst, Median, Best, Most uncertain, Wrongly empty, Wrongly non-empty) -> rows, possibly none."""
    ious: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(N,) float64, 0..1: IoU of each image at the threshold; 1 if both masks are empty."""
    sizes: list[Share] = field(default_factory=list)
    """mean IoU of the images of each size, commonest size first; empty if all images have one size."""
    by_area: ByArea = field(default_factory=dict)
    """minimum area -> steps, for each minimum area that was tried: 0 and `min_area`."""


@dataclass(frozen=True)
class RunFacts:
    """The readable content of one experiment folder."""

    path: Path
    name: str
    """short name, unique among the runs of a page."""
    state: RunState
    note: str
    """one line on why the run failed, was interrupted or cannot be read; empty otherwise."""
    settings: dict[str, Any] = field(default_factory=dict)
    """config.json: flag -> value."""
    log: dict[str, list[float]] = field(default_factory=dict)
    """log.csv: column -> one value per epoch; truncated rows are left out."""
    measure: str = "iout"
    """measure that snapshots are ranked by: one of METRICS, objects, auc, accuracy or f2."""
    best: float | None = None
    """the best value of the measure over epochs."""
    best_epoch: int | None = None
    n_epochs: int | None = None
    """number of epochs requested."""
    seconds: float | None = None
    """total time of all epochs so far."""
    images_per_s: float | None = None
    """median over epochs."""
    machine: str = ""
    digest: str | None = None
    """digest of the packed images; None if these are not available."""
    stored: dict[str, Any] | None = None
    """content of threshold.json."""
    judged: Judged | None = None
    """scores of the masks; None for classifiers, and if masks or images are not available."""
    problems: list[str] = field(default_factory=list)
    """one line for each file that could not be read."""
    stored_rules: dict[str, Any] | None = None
    """content of objects.json if the run is ranked by objects, of labels.json if it is a classifier."""

    @property
    def fold(self) -> int | None:
        """Number of the held-out fold."""
        fold = self.settings.get("fold")
        return fold if isinstance(fold, int) and not isinstance(fold, bool) else None


@dataclass(frozen=True)
class Group:
    """A row of the table: runs that differ only in their fold, or a single run."""

    name: str
    runs: list[RunFacts]
    """its runs, ordered by fold."""
    score: float | None
    """mean of `best` over its runs."""
    spread: float | None
    """standard deviation of `best` over folds (n - 1); None for a single run."""
    cross: CrossFitted | None
    """cross-fitted score over all folds together, each fold at the threshold fitted on the others; for a single run its
    own cross-fitted score. For runs ranked by objects or labels, the score stored by optimize_threshold.py, or None."""
    cross_scores: dict[str, float]
    """image id -> cross-fitted iout of its mask, 0..1, predicted by the network whose held-out fold has the image;
    regardless of the measure that the runs are ranked by."""
    difference: "Difference | None" = None
    """difference of `cross_scores` to the group with the best cross-fitted score on the same data; None for that group,
    if no image is in both groups, and if the runs are not ranked by iout."""


@dataclass(frozen=True)
class Overview:
    """All groups of runs on a page, and their settings."""

    groups: list[Group]
    """groups by cross-fitted score, best first; then groups without one by their best score; unreadable runs last."""
    differing: list[str]
    """settings that differ between runs, in the order of the flags; they become columns of the table."""
    equal: dict[str, Any]
    """settings that are the same in all runs; the page shows them in a collapsed list."""
    made: str
    """time of creation, ISO 8601 with the local time zone."""
