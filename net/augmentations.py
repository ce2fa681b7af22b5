"""Random augmentation of training images, by name in TRAIN_AUGS.

The train_ augmentations change one image after another, with albumentations; only this file uses the package, and it
imports it on first use. The others change a whole batch at once (net/batch_augmentation.py): affine_, scaled_ (other
proportions) and stained_ (tints, dim objects and inverted brightness as well).

Images are (h, w, C) uint8, [0, 255]; masks and label maps are (h, w, 1) uint8 or uint16; the results are square.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from net.batch_augmentation import BatchChange
from net.geometry import VAL_AUGS, VAL_TRANSFORMS, Fit, contrast_stretched
from net.tta import VIEWS
from utils.core.errors import UsageError
from utils.core.names import pick

MIRRORED = frozenset({"null", "hflip"})
ALL_VIEWS = frozenset(VIEWS)

Vary = Callable[[np.ndarray, np.ndarray | None, list[int]], tuple[np.ndarray, np.ndarray | None]]
"""(image, truth or None, seed) -> (image, truth) at the input size; the same seed gives the same pixels."""


@dataclass(frozen=True)
class Crop:
    """Random square crops at the images' original scale, instead of whole images scaled to the input size."""

    foreground: float
    """Share of the crops that are guaranteed to contain foreground, in images that have any."""

    def window(
        self, truth: np.ndarray | None, shape: tuple[int, int], size: int, rng: np.random.Generator
    ) -> tuple[slice, slice]:
        """Return the (rows, columns) of a random square of `size` in an image of `shape`.

        It is a rectangle where the image is smaller than that.
        """
        height, width = (min(size, side) for side in shape)
        top, left = int(rng.integers(shape[0] - height + 1)), int(rng.integers(shape[1] - width + 1))
        if truth is not None and rng.random() < self.foreground and len(places := np.flatnonzero(truth)):
            row, column = divmod(int(places[rng.integers(len(places))]), shape[1])
            top, left = (
                int(rng.integers(max(0, place - length + 1), min(place, side - length) + 1))
                for place, side, length in ((row, shape[0], height), (column, shape[1], width))
            )
        return np.s_[top : top + height, left : left + width]


@dataclass(frozen=True)
class TrainAug:
    """Augmentation of one training image: crop or scale it, change it at random, pad it to the input size."""

    size: int
    """Default input size in pixels; the input is square."""
    build: Callable[[int], Any] | None
    """Takes the input size and returns the albumentations Compose to apply between scaling and padding, if any."""
    views: frozenset[str] = MIRRORED
    """Views of an image (net/tta.py) that the network sees in training."""
    batch: BatchChange | None = None
    """Change of the whole batch, applied after the change of each image."""

    def maker(self, size: int | None = None, crop: Crop | None = None, contrast_stretch: bool = False) -> Vary:
        """Return the function that augments a sample for an input of `size`.

        It takes a seed for every sample, because albumentations' own generators repeat across workers and epochs.
        """
        size = size or self.size
        change = self.build(size) if self.build else None

        def vary(image: np.ndarray, truth: np.ndarray | None, seed: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
            generator = np.random.default_rng(seed)
            if change:
                change.set_random_state(generator, random.Random(int(generator.integers(2**63))))
            if contrast_stretch:
                image = contrast_stretched(image)
            if crop:
                window = crop.window(truth, image.shape[:2], size, generator)
                image, truth = image[window], None if truth is None else truth[window]
            fit = Fit.padded(image.shape[:2], size) if crop else Fit.integer_factor(image.shape[:2], size)
            if not change:
                return fit.apply(image), None if truth is None else fit.apply(truth, nearest=True)
            if truth is None:
                return pad_to_square(change(image=fit.scale(image))["image"], size), None
            changed = change(image=fit.scale(image), mask=fit.scale(truth, nearest=True))
            return pad_to_square(changed["image"], size), pad_to_square(changed["mask"], size)

        return vary

    def alone(self, size: int | None = None) -> Vary:
        """Return the function that augments one sample completely: as `maker`, then the change of a batch of one."""
        vary, batch = self.maker(size), self.batch
        return (lambda *sample: batch.apply_to_one(*vary(*sample), sample[2])) if batch else vary


def pad_to_square(image: np.ndarray, size: int) -> np.ndarray:
    """Pad an augmented image, at most `size` pixels high and wide, to a square of `size`."""
    height, width = image.shape[:2]
    return Fit((height, width), (size, size), height, width).pad(image)


def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise it looks for updates on the internet
    import albumentations

    return albumentations


def _v1(_size: int) -> Any:
    """Build v1: mirror, one of shift-scale-rotate / elastic / grid, one of brightness / gamma / contrast."""
    return _moved_and_lit(_albumentations().HorizontalFlip(p=0.5))


def _d4(_size: int) -> Any:
    """Build d4: as v1, but with all eight symmetries of the square instead of the mirror image alone."""
    return _moved_and_lit(_albumentations().D4(p=1))


def _moved_and_lit(symmetry: Any) -> Any:
    a, reflect = _albumentations(), {"border_mode": cv2.BORDER_REFLECT_101}
    return a.Compose(
        [
            symmetry,
            a.OneOf(
                [
                    a.Affine(scale=(0.9, 1.1), translate_percent=(-0.06, 0.06), rotate=(-10, 10), p=1, **reflect),
                    a.ElasticTransform(alpha=60, sigma=8, p=1, **reflect),
                    a.GridDistortion(num_steps=5, distort_limit=0.2, p=1, **reflect),
                ],
                p=0.5,
            ),
            a.OneOf(
                [
                    a.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0, p=1),
                    a.RandomGamma(gamma_limit=(80, 120), p=1),
                    a.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.15, p=1),
                ],
                p=0.5,
            ),
        ]
    )


def _v2(_size: int) -> Any:
    """Build v2: mirror, small rotation and shift, brightness."""
    a = _albumentations()
    small = {"translate_percent": (-0.04, 0.04), "rotate": (-5, 5), "border_mode": cv2.BORDER_REFLECT_101}
    return a.Compose(
        [
            a.HorizontalFlip(p=0.5),
            a.Affine(p=0.5, **small),
            a.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0, p=0.5),
        ]
    )


def _v3(size: int) -> Any:
    """Build v3: mirror, a random crop or the whole image resized to the input size, light noise or blur."""
    a = _albumentations()
    return a.Compose(
        [
            a.HorizontalFlip(p=0.5),
            a.RandomResizedCrop(size=(size, size), scale=(0.6, 1.0), ratio=(0.9, 1.1), p=0.7),
            a.Resize(size, size),
            a.OneOf([a.GaussNoise(std_range=(0.01, 0.03), p=1), a.GaussianBlur(blur_limit=3, p=1)], p=0.3),
        ]
    )


MIXED = {"scale": 0.25, "aspect": 0.2}
"""Ranges for images of different sizes; other magnifications are left to the choice of the scale in prediction."""
STAINS = {"tint": 0.3, "dimmed": 4.0, "inverted": 0.25}
"""Ranges for colour images of different stains and lighting."""

TRAIN_AUGS: dict[str, TrainAug] = {
    "train_128_v1": TrainAug(128, _v1),
    "train_128_v2": TrainAug(128, _v2),
    "train_128_v3": TrainAug(128, _v3),
    "train_256_v1": TrainAug(256, _v1),
    "train_128_d4": TrainAug(128, _d4, ALL_VIEWS),
    "train_256_d4": TrainAug(256, _d4, ALL_VIEWS),
    "affine_128": TrainAug(128, None, batch=BatchChange()),
    "affine_256": TrainAug(256, None, batch=BatchChange()),
    "affine_128_d4": TrainAug(128, None, ALL_VIEWS, BatchChange(all_symmetries=True)),
    "affine_256_d4": TrainAug(256, None, ALL_VIEWS, BatchChange(all_symmetries=True)),
    "scaled_128": TrainAug(128, None, batch=BatchChange(**MIXED)),
    "scaled_256": TrainAug(256, None, batch=BatchChange(**MIXED)),
    "scaled_128_d4": TrainAug(128, None, ALL_VIEWS, BatchChange(all_symmetries=True, **MIXED)),
    "scaled_256_d4": TrainAug(256, None, ALL_VIEWS, BatchChange(all_symmetries=True, **MIXED)),
    "stained_128": TrainAug(128, None, batch=BatchChange(**MIXED, **STAINS)),
    "stained_256": TrainAug(256, None, batch=BatchChange(**MIXED, **STAINS)),
    "stained_128_d4": TrainAug(128, None, ALL_VIEWS, BatchChange(all_symmetries=True, **MIXED, **STAINS)),
    "stained_256_d4": TrainAug(256, None, ALL_VIEWS, BatchChange(all_symmetries=True, **MIXED, **STAINS)),
}


def check_names(train_augs: str, val_augs: str, val_transforms: str | None, cropped: bool = False) -> None:
    """Check the names of augmentations, and that they belong together.

    With `cropped`, images keep their original size, whatever the sizes in the names.

    Raises:
        UsageError: an unknown name, or names that contradict each other; the message has the right value.
    """
    train, val = pick(TRAIN_AUGS, train_augs, "--train_augs"), pick(VAL_AUGS, val_augs, "--val_augs")
    undone = val_augs if val_transforms is None else pick(VAL_TRANSFORMS, val_transforms, "--val_transforms")
    if cropped:
        return
    if undone != val_augs:
        raise UsageError(
            f"--val_transforms {val_transforms} is the inverse of {undone}, not of --val_augs {val_augs}; "
            f"leave it out, or use {inverse_of(val_augs)}"
        )
    if val.size is None:
        raise UsageError(f"--val_augs {val_augs}: keeps the images' size, which only training on crops can; add --crop")
    if train.size != val.size:
        fitting = " or ".join(name for name, aug in TRAIN_AUGS.items() if aug.size == val.size)
        raise UsageError(
            f"--train_augs {train_augs} trains at {train.size}, --val_augs {val_augs} validates at {val.size}; "
            f"use {fitting}, or other --val_augs"
        )


def inverse_of(val_augs: str) -> str:
    """Return the name in VAL_TRANSFORMS of the inverse of `val_augs`."""
    return next(name for name, undone in VAL_TRANSFORMS.items() if undone == val_augs)
