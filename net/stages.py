"""At what sizes a run trains, epoch by epoch, and at what size it validates meanwhile."""

import re
from dataclasses import dataclass, replace

from net.augmentations import TRAIN_AUGS, Crop, Vary, check_names
from net.geometry import VAL_AUGS, ValAug
from utils.core.errors import UsageError
from utils.core.training_settings import DataSettings, SizeSettings


@dataclass(frozen=True)
class Stage:
    """Some epochs at one size."""

    size: int
    """Of the net's square in training."""
    epochs: int
    val_augs: str
    crop: Crop | None

    @property
    def val(self) -> ValAug:
        """The way to the net's size in validation: the same size as in training, or whole images for crops."""
        named = VAL_AUGS[self.val_augs]
        return named if named.size is None else replace(named, size=self.size)

    def vary(self, train_augs: str) -> Vary:
        """What varies training images."""
        return TRAIN_AUGS[train_augs].maker(self.size, self.crop)


def stages_of(data: DataSettings, sizes: SizeSettings, n_epochs: int, shape: tuple[int, int]) -> list[Stage]:
    """The stages of a run on images of `shape` (h, w), at least one.

    Raises:
        UsageError: names that do not go together, a crop that no image holds, stages that are not `n_epochs` long.
    """
    cropped = sizes.crop is not None
    check_names(data.train_augs, data.val_augs, data.val_transforms, cropped)
    if not 0 <= sizes.crop_foreground <= 1:
        raise UsageError(f"--crop_foreground {sizes.crop_foreground}: expected a share, 0 to 1")
    crop = Crop(sizes.crop_foreground) if cropped else None
    val_augs = "val_native" if cropped else data.val_augs
    size = TRAIN_AUGS[data.train_augs].size if sizes.crop is None else sizes.crop
    pairs = [_parsed(text) for text in sizes.stages] or [(size, n_epochs)]
    for size, _ in pairs if cropped else ():
        if not 1 <= size <= min(shape):
            flag = f"--stages {' '.join(sizes.stages)}" if sizes.stages else f"--crop {size}"
            raise UsageError(f"{flag}: no square of {size} in images of {shape[0]}x{shape[1]}; take a smaller one")
    if (planned := sum(epochs for _, epochs in pairs)) != n_epochs:
        raise UsageError(f"--stages {' '.join(sizes.stages)}: {planned} epochs in all, --n_epochs {n_epochs}")
    return [Stage(size, epochs, val_augs, crop) for size, epochs in pairs]


def stage_of_epoch(stages: list[Stage], epoch: int) -> Stage:
    """The stage that an epoch, counted from 0, belongs to."""
    for stage in stages:
        if epoch < stage.epochs:
            return stage
        epoch -= stage.epochs
    return stages[-1]


def _parsed(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"[1-9]\d{0,4}:[1-9]\d{0,5}", text):
        raise UsageError(f"--stages {text}: expected <size>:<epochs>, such as 256:20")
    size, _, epochs = text.partition(":")
    return int(size), int(epochs)
