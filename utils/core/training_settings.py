"""Settings of the training scripts: each field is a flag, and its docstring is the flag's help.

The groups that everybody needs come first, the advanced ones after them. A group is defined here if several scripts
have it or if `net` reads it; a script defines the settings that only it has.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from utils.core.errors import UsageError
from utils.core.settings import OptionalBias, OptionalFloat, OptionalInt, OptionalSwitch, OptionalText, Texts


@dataclass(frozen=True)
class RecipeSettings:
    """Time, and what is chosen for you."""

    minutes: OptionalFloat = None
    """time for the run (with --folds all: for all folds together); image sizes and epochs are planned so that it ends
    within 5 % of it."""
    recipe: Literal["auto", "original"] = "auto"
    """auto: every flag that is left out is chosen from the images and the time, and printed with the reason; original:
    the defaults of 2018 (unet_resnet34_v1, imagenet, BCE, adam_1e-4, 100 epochs)."""


@dataclass(frozen=True)
class DataSettings:
    """Images, fold and augmentation."""

    data_dir: str = "data"
    """folder with the packed images (utils/stack_and_save.py) and train_with_folds.csv (utils/make_folds.py)."""
    fold: int = 0
    """fold to validate on; the network trains on all other folds."""
    folds: Literal["one", "all"] = "one"
    """all: train every fold in <experiment_dir>_fold<k>, skip finished folds, continue interrupted ones, and write the
    out-of-fold predictions of all images to <experiment_dir>_oof.npy."""
    train_augs: OptionalText = None
    """random augmentation and input size in training: train_128_v1, train_128_v2, train_128_v3, train_256_v1;
    affine_128, affine_256 (fast: the whole batch at once); with _d4 (train_128_d4, affine_256_d4) for images without an
    up and down."""
    val_augs: OptionalText = None
    """how images are fitted to the input size in validation and prediction: val_128 and val_256 (padded),
    val_128_resize (resized); with --crop images keep their size, so it has no effect."""


@dataclass(frozen=True)
class NetSettings:
    """Network and initial weights."""

    arch: OptionalText = None
    """a named network (strata_s, strata_m, strata_l, unet_resnet18, wide_resnet_v1, ds_resnet_34, ...) or
    <decoder>_<encoder> of smp and timm."""
    encoder_weights: OptionalText = None
    """imagenet (downloaded once), none, or a file with the encoder's state dict."""
    snapshot: OptionalText = None
    """start from the weights of this snapshot, or of the best snapshot in this experiment folder."""


@dataclass(frozen=True)
class LearnSettings:
    """Loss, optimizer and length of the training."""

    loss: Texts = ()
    """BCE, lovasz, focal, bce_lovasz, BCEJaccard, BCEDice, symmetric_lovasz_bce; for ds_resnet_34 also combined,
    combined_hyper. Border networks: boundary_bce, boundary_lovasz, boundary_bce_lovasz, boundary_bce_dice,
    boundary_symmetric_lovasz_bce. Classifiers: BCE, focal. Several losses follow each other, each from a share of the
    training on: BCE symmetric_lovasz_bce:.55."""
    optimizer: OptionalText = None
    """<adam|adamw|sgd|muon>_<learning rate>; sgd has a momentum of .9; muon (such as muon_0.02) trains the filters,
    and AdamW at a tenth of the rate all other weights."""
    scheduler: OptionalText = None
    """learning rate schedule: none, linear (to zero), rex (to zero, slowly at first), cosine, onecycle, plateau,
    step_<epochs>_<factor> (01 is .1, 05 is .5)."""
    n_epochs: OptionalInt = None
    """epochs in total; default: planned from --minutes, else the sum of --stages, else chosen by --recipe."""
    batch_size: OptionalInt = None
    """images per batch, over all processes."""


@dataclass(frozen=True)
class RunSettings:
    """Experiment folder, resuming and repeating."""

    experiment_dir: str = "experiments/run_fold0"
    """folder for config.json, log.csv and snapshots; one folder per run."""
    resume: bool = False
    """continue the run in this folder after its last finished epoch."""
    config: OptionalText = None
    """config.json of another run: repeat that run; flags on the command line override it."""

    @property
    def path(self) -> Path:
        return Path(self.experiment_dir)


@dataclass(frozen=True)
class SizeSettings:
    """Crops, growing image sizes, contrast, strength of the augmentation."""

    crop: OptionalInt = None
    """train on random square crops of this many pixels at the images' original scale; validate on whole images."""
    crop_foreground: float = 0.5
    """share of the crops that are guaranteed to contain foreground, in images that have any."""
    stages: Texts = ()
    """train at several sizes in turn, each as <size>:<epochs>, such as 256:20 512:10 (with --crop: the crop sizes); or
    as sizes with shares of the time, 256:.4 512:.6, whose epochs are planned."""
    only_nonempty: bool = False
    """leave images with an empty mask out of training, but not out of validation; for use with a gate."""
    contrast_stretch: OptionalSwitch = None
    """stretch the contrast of each colour of an image from its 1st to its 99.8th percentile, in training and
    prediction, so that different exposures and stains look alike; default: for colour images of different sizes."""
    aug_strength: OptionalFloat = None
    """strength of the random changes of affine_128 and the like: 0.5 means ranges half as wide; default: 1, or 1.5 if
    images are seen often."""
    cutmix: OptionalFloat = None
    """share of the training samples in which a rectangle is replaced by that of another image and its mask (CutMix),
    so that images are not learned by heart; default: 0, or 0.5 if few images are seen often."""
    val_transforms: OptionalText = None
    """inverse of --val_augs; follows from it, so it is never needed."""


@dataclass(frozen=True)
class StepSettings:
    """Start, optimization steps, averaging of weights, randomness."""

    average: OptionalText = None
    """predict with averaged weights: ema_<decay> averages over steps (ema_.999), swa_<epoch> averages the weights after
    each epoch from this epoch of the cycle on (swa_10)."""
    channel_dropout: OptionalFloat = None
    """share of the channels of the deepest map that are dropped in training (strata networks); default: 0, or 0.2 if
    images are seen often."""
    head_bias: OptionalBias = None
    """bias of the last layer at the start; prior: the share of foreground in the training images, so that rare
    foreground is learned from the first step."""
    encoder_rate: OptionalFloat = None
    """learning rate of the encoder as a share of that of the other layers; default: 1, or 0.1 with pretrained
    weights."""
    cycles: int = 1
    """restart optimizer and schedule this many times; each cycle keeps its own snapshots (snapshots/cycle_<k>/)."""
    epoch_size: OptionalInt = None
    """images per epoch; default: planned from --minutes, else all. Successive epochs still visit every image once."""
    nonempty_share: OptionalText = None
    """share of images with a mask that is not empty in each epoch: .5, or from the first epoch to the last .8:true
    (true: their share in the set); default: as in the set."""
    minutes_hard: bool = False
    """end after the epoch in which --minutes are over, even if the plan is not finished because the machine became
    slower."""
    accumulate: int = 1
    """batches per optimizer step: gradients are accumulated, for a larger batch in the same memory."""
    grad_clip: OptionalFloat = None
    """maximum norm of the gradient; default: no limit."""
    warmup: OptionalInt = None
    """steps at the start of each cycle in which the learning rate rises from zero."""
    sync_batchnorm: bool = False
    """compute the statistics of BatchNorm over all processes instead of in each one."""
    on_nan: Literal["stop", "skip"] = "stop"
    """if a loss or gradient is not finite: stop the run, or skip the step."""
    seed: int = 4545
    """seed of weights, order and augmentation; the same seed gives bit-identical snapshots."""


@dataclass(frozen=True)
class MachineSettings:
    """Hardware; affects speed and rounding only."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 if the machine has instructions for it, else float32; a resumed run keeps its precision."""
    compile: bool = False
    """use torch.compile; worth its start-up time in long runs on a GPU, no gain on a CPU; --minutes does not count
    it."""
    autotune: bool = False
    """let cuDNN choose the fastest kernels on a GPU; results are then not bit-identical."""


@dataclass(frozen=True)
class TrainingMachineSettings(MachineSettings):
    """Hardware; affects speed and rounding only."""

    loader_workers: OptionalInt = None
    """processes that prepare training images; default: 0 on a CPU, the number of cores (at most 8) for a GPU."""


@dataclass(frozen=True)
class ReportingSettings:
    """Output, tracking, snapshots on disk."""

    quiet: bool = False
    """print only warnings, errors and the last line."""
    tracker: OptionalText = None
    """mlflow: also log flags, metrics and files there (MLFLOW_TRACKING_URI, else mlflow.db next to the run)."""
    metric: OptionalText = None
    """score of masks that ranks snapshots: iout (of the salt competition), iou, dice (means over images), pooled_iou,
    pooled_dice (over all pixels); border networks also objects."""
    keep: int = 5
    """snapshots to keep in each cycle, ranked by the measure in their names (--metric; auc, accuracy or f2); the
    best by validation loss and by every other measure are kept as well, with their validation masks."""
    val_limit: OptionalInt = None
    """validate each epoch on this many images of the fold, always the same ones, with the fold's amounts of foreground;
    default: all, but 2,000 of a fold of more than 4,000, and no more than --minutes has time for."""
    score_fold: OptionalSwitch = None
    """with --val_limit: score the best snapshot on the whole fold at the end; default: yes, unless that would take more
    than a tenth of --minutes."""
    debug: bool = False
    """show the traceback of an error."""


Recipe = Annotated[RecipeSettings, arg(name="recipe")]
Network = Annotated[NetSettings, arg(name="network")]
Learning = Annotated[LearnSettings, arg(name="training")]
Sizes = Annotated[SizeSettings, arg(name="advanced: sizes")]
Step = Annotated[StepSettings, arg(name="advanced: steps")]
MachineFlags = Annotated[TrainingMachineSettings, arg(name="advanced: machine")]
Reporting = Annotated[ReportingSettings, arg(name="advanced: reporting")]


@dataclass(frozen=True)
class TrainSettings:
    """All flags of train.py."""

    data: DataSettings = field(default_factory=DataSettings)
    recipe: Recipe = field(default_factory=RecipeSettings)
    net: Network = field(default_factory=NetSettings)
    learn: Learning = field(default_factory=LearnSettings)
    run: RunSettings = field(default_factory=RunSettings)
    sizes: Sizes = field(default_factory=SizeSettings)
    step: Step = field(default_factory=StepSettings)
    machine: MachineFlags = field(default_factory=TrainingMachineSettings)
    reporting: Reporting = field(default_factory=ReportingSettings)


def parse_stage(text: str) -> tuple[int, int]:
    """Return the (size, epochs) of a stage; raise UsageError if it is not <size>:<epochs>, each 1 or more."""
    size, _, epochs = text.partition(":")
    if not (size.isdecimal() and epochs.isdecimal() and 0 < int(size) < 10**5 and 0 < int(epochs) < 10**6):
        raise UsageError(f"--stages {text}: expected <size>:<epochs> such as 256:20, or <size>:<share> for all sizes")
    return int(size), int(epochs)


def epochs_in_cycle(settings: TrainSettings) -> int:
    """Return the number of epochs in each cycle, after checking every number among the training flags.

    Raises:
        UsageError: a number is out of its range, or numbers contradict each other; the message names the first one.
    """
    learn, step, stages = settings.learn, settings.step, settings.sizes.stages
    if stages and (planned := sum(epochs for _, epochs in map(parse_stage, stages))) != learn.n_epochs:
        raise UsageError(
            f"--stages {' '.join(stages)} has {planned} epochs in total, --n_epochs is {learn.n_epochs}; leave "
            "--n_epochs out"
        )
    at_least_one = {"batch_size": learn.batch_size, "n_epochs": learn.n_epochs, "cycles": step.cycles}
    at_least_one |= {"epoch_size": step.epoch_size, "accumulate": step.accumulate, "keep": settings.reporting.keep}
    at_least_one |= {"val_limit": settings.reporting.val_limit}
    for name, value in at_least_one.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: expected 1 or more")
    if learn.n_epochs % step.cycles:
        raise UsageError(f"--n_epochs {learn.n_epochs} cannot be divided into --cycles {step.cycles} of equal length")
    if step.seed < 0:
        raise UsageError(f"--seed {step.seed}: expected a whole number, 0 or more")
    if step.warmup < 0:
        raise UsageError(f"--warmup {step.warmup}: expected a number of steps, 0 or more")
    if not 0 < step.encoder_rate <= 1:
        raise UsageError(f"--encoder_rate {step.encoder_rate:g}: expected a share greater than 0, at most 1")
    if step.grad_clip is not None and not step.grad_clip > 0:
        raise UsageError(f"--grad_clip {step.grad_clip}: expected a norm greater than 0, such as 1")
    return learn.n_epochs // step.cycles
