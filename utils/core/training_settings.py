"""The flags that the training scripts share.

A group belongs here when several scripts show it or `net` takes it; settings of one script alone stand in that script.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from utils.core.errors import UsageError


@dataclass(frozen=True)
class DataSettings:
    """Which images."""

    data_dir: str = "data"
    """folder with the packed images (utils/stack_and_save.py) and train_with_folds.csv (utils/make_folds.py)."""
    fold: int = 0
    """the fold that is held out to validate on; the others are trained on."""
    folds: Literal["one", "all"] = "one"
    """all: train every fold to <experiment_dir>_fold<k> (what is finished is skipped, what was interrupted goes on),
    and write the out-of-fold predictions of all images to <experiment_dir>_oof.npy."""
    train_augs: str = "train_128_v1"
    """how training images are varied: train_128_v1, train_128_v2, train_128_v3, train_256_v1."""
    val_augs: str = "val_128"
    """how images are brought to the net's size: val_128, val_128_resize, val_256; val_native with --crop."""
    val_transforms: str = "crop_from_128"
    """the inverse of val_augs: crop_from_128, resize_from_any, crop_resize_from_256, crop_from_native."""
    loader_workers: int | None = None
    """processes that prepare training images; default: none on a CPU, the cores (at most 8) for a GPU."""


@dataclass(frozen=True)
class SizeSettings:
    """At what size it learns, where the images are large."""

    crop: int | None = None
    """train on random squares of so many pixels, at the images' own size; validation sees whole images."""
    crop_foreground: float = 0.5
    """share of the crops that are sure to hold a pixel of the mask, of images that have any."""
    stages: tuple[str, ...] = ()
    """<size>:<epochs> one after the other, such as 256:20 512:10: the size of the net, or of the crops."""
    only_nonempty: bool = False
    """leave images with an empty mask out of training (not out of validation): what a gate lets through."""


@dataclass(frozen=True)
class NetSettings:
    """Which network, from which weights."""

    arch: str = "unet_resnet34_v1"
    """a named network (unet_resnet18, wide_resnet_v1, ds_resnet_34, ...) or <decoder>_<encoder> of smp and timm."""
    encoder_weights: str = "imagenet"
    """imagenet (downloaded once), none, or a file with the encoder's state dict."""
    snapshot: str | None = None
    """start from the weights of this snapshot, or of the best one of this experiment folder."""


@dataclass(frozen=True)
class LearnSettings:
    """How it learns."""

    loss: str = "BCE"
    """BCE, lovasz, focal, bce_lovasz, BCEJaccard, BCEDice; combined, combined_hyper (ds_resnet_34).
    Borders: boundary_bce, boundary_lovasz, boundary_bce_lovasz, boundary_bce_dice. ImageClasses: BCE, focal."""
    optimizer: str = "adam_1e-4"
    """<adam|adamw|sgd>_<rate>; sgd has momentum .9."""
    scheduler: str = "none"
    """none, step_<epochs>_<gamma in tenths: 01 = 0.1 to 09 = 0.9>, cosine, onecycle, plateau."""
    cycles: int = 1
    """restarts of optimizer and schedule; each cycle keeps its own snapshots (snapshots/cycle_<k>/)."""
    batch_size: int = 32
    """images that are learned from at once, over all processes."""
    n_epochs: int = 100
    """epochs in all, over all cycles."""
    epoch_size: int | None = None
    """images in an epoch, where a pass over all takes hours; every image still comes once a pass."""
    seed: int = 4545
    """decides weights, order and augmentation: the same seed gives the same snapshots, bit for bit."""


@dataclass(frozen=True)
class StepSettings:
    """How a step is taken, and which weights predict."""

    accumulate: int = 1
    """batches whose gradients make one step: a batch size that many times as large, in the same memory."""
    grad_clip: float | None = None
    """the longest gradient; a longer one is scaled down to it."""
    warmup: int = 0
    """steps in which the learning rate rises to the full one, at the start of each cycle."""
    ema: float | None = None
    """decay of a running mean of the weights over steps, such as .999; the mean is validated, kept, and predicts."""
    swa: int | None = None
    """epoch of each cycle from which on the equal mean of the weights after each epoch predicts."""
    sync_batchnorm: bool = False
    """BatchNorm's statistics are those of the whole batch, not of each process' share."""
    on_nan: Literal["stop", "skip"] = "stop"
    """at a loss or gradient that is no finite number: stop the run, or leave the step out."""


@dataclass(frozen=True)
class MachineSettings:
    """On what it runs; none of these changes what is learned, but for rounding."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto is bfloat16 where the machine multiplies it fast, float32 elsewhere."""
    compile: bool = False
    """translate the network into kernels of its own (torch.compile); for long runs on a GPU, a CPU gains nothing."""
    autotune: bool = False
    """let cuDNN time its kernels on a GPU and take the fastest: quicker, but not the same bit for bit."""


@dataclass(frozen=True)
class TellSettings:
    """What it says, and to whom."""

    quiet: bool = False
    """say nothing but the last line, warnings and errors."""
    tracker: str | None = None
    """mlflow: flags, metrics and files go there as well (MLFLOW_TRACKING_URI, else mlflow.db beside the runs)."""
    notify: tuple[str, ...] = ()
    """addresses in apprise's form (mail, Telegram, Slack, ...) that hear how the run ended; also STRATA_NOTIFY."""


@dataclass(frozen=True)
class RunSettings:
    """Where it is written, and how to go on."""

    experiment_dir: str = "experiments/unet_resnet34_v1_fold0"
    """folder for config.json, log.csv and snapshots; one folder a run."""
    keep: int = 5
    """snapshots that stay in each cycle: the best by the measure in their names (iout; objects, auc, accuracy or f2 in
    other tasks); the best by validation loss and by each other measure stays besides."""
    resume: bool = False
    """go on after the last finished epoch of this folder."""
    config: str | None = None
    """a run's config.json: repeats it; other flags override."""
    debug: bool = False
    """show the traceback of an error."""

    @property
    def path(self) -> Path:
        return Path(self.experiment_dir)


@dataclass(frozen=True)
class TrainSettings:
    """All flags of train.py."""

    data: DataSettings = field(default_factory=DataSettings)
    sizes: SizeSettings = field(default_factory=SizeSettings)
    net: NetSettings = field(default_factory=NetSettings)
    learn: LearnSettings = field(default_factory=LearnSettings)
    step: StepSettings = field(default_factory=StepSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    tell: TellSettings = field(default_factory=TellSettings)
    run: RunSettings = field(default_factory=RunSettings)


def epochs_in_cycle(settings: TrainSettings) -> int:
    """The epochs of each cycle, once every number among the flags of a training makes sense.

    Raises:
        UsageError: the first that does not.
    """
    learn, step = settings.learn, settings.step
    at_least_one = {"batch_size": learn.batch_size, "n_epochs": learn.n_epochs, "cycles": learn.cycles}
    at_least_one |= {"epoch_size": learn.epoch_size, "accumulate": step.accumulate, "keep": settings.run.keep}
    for name, value in at_least_one.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: expected 1 or more")
    if learn.n_epochs % learn.cycles:
        raise UsageError(f"--n_epochs {learn.n_epochs} cannot be divided into --cycles {learn.cycles} of equal length")
    epochs = learn.n_epochs // learn.cycles
    if step.warmup < 0:
        raise UsageError(f"--warmup {step.warmup}: expected a number of steps, 0 or more")
    if step.grad_clip is not None and not step.grad_clip > 0:
        raise UsageError(f"--grad_clip {step.grad_clip}: expected a length greater than 0, such as 1")
    if step.ema is not None and not 0 < step.ema < 1:
        raise UsageError(f"--ema {step.ema}: expected a decay between 0 and 1, such as .999")
    if step.swa is not None and not 1 <= step.swa <= epochs:
        raise UsageError(f"--swa {step.swa}: expected an epoch of the cycle, 1 to {epochs}")
    if step.ema is not None and step.swa is not None:
        raise UsageError(f"--ema {step.ema} and --swa {step.swa}: one mean of weights can predict; leave one out")
    return epochs
