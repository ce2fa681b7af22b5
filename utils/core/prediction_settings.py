"""The flags behind the predict scripts: what is predicted, gate, post-processing, submission."""

from dataclasses import dataclass, field
from typing import Literal

from utils.core.training_settings import MachineSettings


@dataclass(frozen=True)
class PredictSettings:
    """What is predicted."""

    data_dir: str = "data"
    """folder with the packed images."""
    part: Literal["test", "val"] = "test"
    """the test images, or the fold that the snapshots were not trained on (for optimize_threshold.py)."""
    arch: str | None = None
    """not needed: a snapshot knows its network; if given and different, that is an error."""
    batch_size: int | None = None
    """images (or tiles) at a time, all views counted; default: 16 on a CPU, 64 on a GPU."""
    tile: int | None = None
    """see large images in squares of so many pixels, a multiple of 32; memory then goes with the tile.
    Masks of networks with global pooling, such as the default one, may differ from those of whole images."""
    overlap: int = 64
    """pixels that neighbouring tiles share, a multiple of 32; a smooth window blends them."""


@dataclass(frozen=True)
class GateSettings:
    """The empty-image gate: what says whether there is anything in an image at all."""

    gate: tuple[str, ...] = ()
    """snapshots or experiment folders of train_classifier.py, or of a deeply supervised net, whose mean it is."""
    gate_th: float | None = None
    """images whose probability is not greater get an empty mask; default: what gate.json says, else .5."""


@dataclass(frozen=True)
class SubmissionSettings:
    """From masks to a submission."""

    th: float | None = None
    """a pixel is mask where its probability is greater; default: threshold.json (objects: objects.json), else .5."""
    masks_fn: str = "masks.npy"
    """file for the raw probability masks; its ids go beside it, in .json."""
    fn: str = "submission"
    """start of the submission's name: <submission_dir>/<fn>_<date>_<time>.csv."""
    submission_dir: str = "submissions"
    """folder for submissions."""
    format: Literal["tgs", "dsb2018", "airbus", "carvana"] | None = None
    """the competition whose rules it follows; default: by the sample submission's columns, else tgs."""
    objects: bool = False
    """one row an object, and the label maps as <masks_fn>_labels.npy; dsb2018 and airbus are so anyway."""
    label_pngs: str | None = None
    """folder for the label maps as 16-bit PNGs of each image's own size."""


@dataclass(frozen=True)
class RuleSettings:
    """Rules of thumb, each off by default; utils/masks/postprocessing.py has their order."""

    min_area: int | None = None
    """masks (objects) of fewer pixels vanish; default: what threshold.json (objects.json) says, else 0."""
    seed_th: float | None = None
    """objects: a seed is where mask minus border is greater; default: what objects.json says, else .5."""
    fill_holes: bool | None = None
    """background that a mask (an object) encloses belongs to it; default: what objects.json says, else not."""
    keep_largest: int | None = None
    """keep so many of an image's connected components (objects), the largest."""
    constant_is_empty: bool = False
    """an image of one single colour has an empty mask."""
    full_is_empty: bool = False
    """a mask that covers the whole image becomes empty."""
    crf: bool = False
    """fit the probabilities to the edges in the image first (dense CRF; needs: pip install -e '.[crf]')."""


@dataclass(frozen=True)
class PredictionSettings:
    """The flags that all predict scripts share."""

    predict: PredictSettings = field(default_factory=PredictSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    submission: SubmissionSettings = field(default_factory=SubmissionSettings)
    rules: RuleSettings = field(default_factory=RuleSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    debug: bool = False
    """show the traceback of an error."""
