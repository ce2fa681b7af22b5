"""Settings of the prediction scripts: images, gate, submission, post-processing."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import arg

from utils.core.settings import OptionalFloat, OptionalFormat, OptionalInt, OptionalSwitch, OptionalText, Texts
from utils.core.training_settings import MachineSettings


@dataclass(frozen=True)
class PredictSettings:
    """Images, network input and tiles."""

    data_dir: str = "data"
    """folder with the packed images."""
    part: Literal["test", "val"] = "test"
    """test: the test images; val: the held-out fold of the snapshots, for optimize_threshold.py."""
    arch: OptionalText = None
    """never needed, because a snapshot names its network; an error if it is another one."""
    batch_size: OptionalInt = None
    """images (or tiles) per batch, counting every view; default: 16 on a CPU, 64 on a GPU."""
    tile: OptionalInt = None
    """predict large images in square tiles of this many pixels, a multiple of 32, to limit the memory.
    Networks that pool over the whole image, such as the default one, may give other masks than on whole images."""
    scales: Texts = ()
    """predict at these scales, relative to training, and average: .75 1 1.5. best: at the one of .35 .5 .7 1 1.4 at
    which the networks are most certain of the mask, chosen for each image. Default: best for networks trained on crops
    of images of different sizes, else 1."""
    overlap: int = 64
    """overlap of neighbouring tiles in pixels, a multiple of 32; a smooth window blends them."""


@dataclass(frozen=True)
class GateSettings:
    """Gate: a classifier that decides whether a mask is empty."""

    gate: Texts = ()
    """snapshots or experiment folders of train_classifier.py (or of a deeply supervised network), to average."""
    gate_th: OptionalFloat = None
    """masks are emptied where the gate's probability is not greater than this; default: from gate.json (for objects
    from objects.json), else .5."""


@dataclass(frozen=True)
class SubmissionSettings:
    """Threshold, mask file and submission file."""

    th: OptionalFloat = None
    """threshold: pixels with a greater probability are mask; default: from threshold.json (with objects: objects.json),
    else .5."""
    masks_fn: str = "masks.npy"
    """file to write with the mask probabilities; the ids go to a .json file of the same name."""
    fn: str = "submission"
    """first part of the submission's name, <submission_dir>/<fn>_<date>_<time>.csv; {weights} stands for the names of
    the runs that predicted."""
    submission_dir: str = "submissions"
    """folder for submissions."""
    format: OptionalFormat = None
    """competition whose submission rules apply; default: by the columns of the sample submission, else tgs
    (dsb2018 with --objects)."""
    objects: bool = False
    """write one row per object, and label maps beside the mask file, masks_labels.npy; dsb2018 and airbus always do."""
    label_pngs: OptionalText = None
    """folder for label maps as 16-bit PNGs at each image's original size."""


@dataclass(frozen=True)
class RuleSettings:
    """Post-processing of masks and objects; off by default."""

    min_area: OptionalInt = None
    """remove masks (objects) with fewer pixels; default: from threshold.json (objects.json), else 0."""
    seed_th: OptionalFloat = None
    """objects: seeds are where mask minus border is greater than this; default: from objects.json, else .5."""
    fill_holes: OptionalSwitch = None
    """fill the holes of masks (objects); default: from objects.json, else False."""
    keep_largest: OptionalInt = None
    """keep only the K largest connected components (objects) of each image."""
    constant_is_empty: bool = False
    """empty the masks of images that have a single colour."""
    full_is_empty: bool = False
    """empty masks that cover the whole image."""
    crf: bool = False
    """refine the probabilities with a dense CRF before the threshold; install it with: make crf."""


Rules = Annotated[RuleSettings, arg(name="post processing")]


@dataclass(frozen=True)
class PredictionSettings:
    """Flags that all prediction scripts share."""

    predict: Annotated[PredictSettings, arg(name="images")] = field(default_factory=PredictSettings)
    submission: Annotated[SubmissionSettings, arg(name="submission")] = field(default_factory=SubmissionSettings)
    gate: Annotated[GateSettings, arg(name="gate")] = field(default_factory=GateSettings)
    rules: Rules = field(default_factory=RuleSettings)
    machine: Annotated[MachineSettings, arg(name="advanced: machine")] = field(default_factory=MachineSettings)
    debug: bool = False
    """show the traceback of an error."""


Prediction = Annotated[PredictionSettings, arg(name="")]
"""Type of the field with these flags in the settings of a script; its name does not show in --help."""
