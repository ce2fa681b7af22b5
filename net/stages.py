"""Stages of a run: the input sizes at which it trains and validates, epoch by epoch."""

from dataclasses import dataclass, replace

from net.augmentations import TRAIN_AUGS, Crop, Vary, check_names
from net.geometry import VAL_AUGS, ValAug
from utils.core.errors import UsageError
from utils.core.training_settings import DataSettings, SizeSettings, parse_stage


@dataclass(frozen=True)
class Stage:
    """Successive epochs at one input size."""

    size: int
    """Side of the square input in training, in pixels."""
    epochs: int
    val_augs: str
    crop: Crop | None
    contrast_stretch: bool = False

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


def stages_of(data: DataSettings, sizes: SizeSettings, n_epochs: int) -> list[Stage]:
    """Return the stages of a run, at least one.

    Raises:
        UsageError: augmentations that contradict each other, a crop without pixels.
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
    return [Stage(size, epochs, val_augs, crop, bool(sizes.contrast_stretch)) for size, epochs in pairs]


def stage_of_epoch(stages: list[Stage], epoch: int) -> Stage:
    """Return the stage of an epoch, counted from 0."""
    for stage in stages:
        if epoch < stage.epochs:
            return stage
        epoch -= stage.epochs
    return stages[-1]
