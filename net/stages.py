"""Stages of a run: the input sizes at which it trains and validates, epoch by epoch."""

from dataclasses import dataclass, replace

from net.augmentations import TRAIN_AUGS, Crop, Vary, check_names
from net.batch_augmentation import BatchChange
from net.geometry import VAL_AUGS, ValAug
from utils.core.errors import UsageError
from utils.core.training_settings import DataSettings, SizeSettings, parse_stage

STRONGEST = 4.0
"""Largest --aug_strength; images are shifted by four tenths of their side then."""


@dataclass(frozen=True)
class Stage:
    """Successive epochs at one input size."""

    size: int
    """Side of the square input in training, in pixels."""
    epochs: int
    val_augs: str
    crop: Crop | None
    contrast_stretch: bool = False
    aug_strength: float = 1.0
    cutmix: float = 0.0
    """Share of the training samples with a rectangle of another image."""

    @property
    def val(self) -> ValAug:
        """Validation at the same input size as training, or on whole images if training uses crops."""
        named = replace(VAL_AUGS[self.val_augs], contrast_stretch=self.contrast_stretch)
        return named if named.size is None else replace(named, size=self.size)

    def is_fixed(self, train_augs: str) -> bool:
        """Return True if an image looks the same in every pass, until the whole batch is changed."""
        return self.crop is None and TRAIN_AUGS[train_augs].build is None

    def vary(self, train_augs: str) -> Vary:
        """Return the function that augments training images at this size."""
        return TRAIN_AUGS[train_augs].maker(self.size, self.crop, self.contrast_stretch)

    def batch_change(self, train_augs: str) -> BatchChange | None:
        """Return the change of the whole batch, if the augmentation has one."""
        change = TRAIN_AUGS[train_augs].batch
        return change and change.times(self.aug_strength)


def stages_of(data: DataSettings, sizes: SizeSettings, n_epochs: int) -> list[Stage]:
    """Return the stages of a run, at least one.

    Raises:
        UsageError: augmentations that contradict each other, a crop without pixels, a share outside 0 to 1, a
            strength that is negative or that the augmentation does not have.
    """
    cropped = sizes.crop is not None
    check_names(data.train_augs, data.val_augs, sizes.val_transforms, cropped)
    if not 0 <= sizes.crop_foreground <= 1:
        raise UsageError(f"--crop_foreground {sizes.crop_foreground}: expected a share, 0 to 1")
    crop = Crop(sizes.crop_foreground) if cropped else None
    val_augs = "val_native" if cropped else data.val_augs
    size = TRAIN_AUGS[data.train_augs].size if sizes.crop is None else sizes.crop
    pairs = [parse_stage(text) for text in sizes.stages] or [(size, n_epochs)]
    if cropped and min(size for size, _ in pairs) < 1:
        raise UsageError(f"--crop {sizes.crop}: expected the side of the crops in pixels, such as 256")
    strength = 1.0 if sizes.aug_strength is None else sizes.aug_strength
    if not 0 <= strength <= STRONGEST:
        raise UsageError(f"--aug_strength {strength:g}: expected 0 to {STRONGEST:g}, usually 1")
    if strength != 1 and TRAIN_AUGS[data.train_augs].batch is None:
        fitting = ", ".join(name for name, aug in TRAIN_AUGS.items() if aug.batch and aug.size == size)
        raise UsageError(
            f"--aug_strength {strength:g}: --train_augs {data.train_augs} has one strength; leave it out, or use "
            f"{fitting or 'affine_128'}"
        )
    mixed = sizes.cutmix or 0.0
    if not 0 <= mixed <= 1:
        raise UsageError(f"--cutmix {mixed:g}: expected a share, 0 to 1, such as 0.5")
    stretched = bool(sizes.contrast_stretch)
    return [Stage(size, epochs, val_augs, crop, stretched, strength, mixed) for size, epochs in pairs]


def stage_of_epoch(stages: list[Stage], epoch: int) -> Stage:
    """Return the stage of an epoch, counted from 0."""
    for stage in stages:
        if epoch < stage.epochs:
            return stage
        epoch -= stage.epochs
    return stages[-1]
