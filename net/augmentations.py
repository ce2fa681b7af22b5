"""How training images are varied: TRAIN_AUGS by name.

Images are (h, w, C) uint8, [0, 255]; their truth is (h, w, 1) uint8 or uint16; what leaves is square. albumentations is
known in this file only, and imported when it is used.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from net.geometry import VAL_AUGS, VAL_TRANSFORMS, Fit
from utils.core.errors import UsageError
from utils.core.names import pick

Vary = Callable[[np.ndarray, np.ndarray | None, list[int]], tuple[np.ndarray, np.ndarray | None]]
"""(image, truth or None, seed words) -> (image, truth) of the net's size; the same words give the same pixels."""


@dataclass(frozen=True)
class Crop:
    """Squares of training images at their own size, instead of whole images scaled to the net's size."""

    foreground: float
    """Share of the crops that are sure to hold a pixel of the mask, of images that have any."""

    def window(
        self, truth: np.ndarray | None, shape: tuple[int, int], size: int, rng: np.random.Generator
    ) -> tuple[slice, slice]:
        """(rows, columns) of a random square of `size` in an image of `shape`."""
        top, left = (int(rng.integers(side - size + 1)) for side in shape)
        if truth is not None and rng.random() < self.foreground and len(places := np.flatnonzero(truth)):
            row, column = divmod(int(places[rng.integers(len(places))]), shape[1])
            top, left = (
                int(rng.integers(max(0, place - size + 1), min(place, side - size) + 1))
                for place, side in zip((row, column), shape, strict=True)
            )
        return np.s_[top : top + size, left : left + size]


@dataclass(frozen=True)
class TrainAug:
    """How a training image is varied: cropped or scaled, changed by chance, padded to the net's size."""

    size: int
    """Of the net's square, where nothing else is asked for."""
    build: Callable[[int], Any]
    """Takes the net's size and returns the albumentations Compose to apply between scaling and padding."""

    def maker(self, size: int | None = None, crop: Crop | None = None) -> Vary:
        """The function that varies a sample, for a net of `size`.

        Every sample brings its own seed, because albumentations' generators repeat across loader workers and epochs.
        """
        size = size or self.size
        change = self.build(size)

        def vary(image: np.ndarray, truth: np.ndarray | None, seed: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
            generator = np.random.default_rng(seed)
            change.set_random_state(generator, random.Random(int(generator.integers(2**63))))
            if crop:
                window = crop.window(truth, image.shape[:2], size, generator)
                image, truth = image[window], None if truth is None else truth[window]
            fit = Fit.whole_factor(image.shape[:2], size)
            if truth is None:
                return fit_anew(change(image=fit.scale(image))["image"], size), None
            changed = change(image=fit.scale(image), mask=fit.scale(truth, nearest=True))
            return fit_anew(changed["image"], size), fit_anew(changed["mask"], size)

        return vary


def fit_anew(image: np.ndarray, size: int) -> np.ndarray:
    """Pad what an augmentation returned (no larger than `size`) to the net's square."""
    height, width = image.shape[:2]
    return Fit((height, width), (size, size), height, width).pad(image)


def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for news otherwise
    import albumentations

    return albumentations


def _moved_and_lit(_size: int) -> Any:
    """v1: mirror, one of shift-scale-rotate / elastic / grid, one of brightness / gamma / contrast."""
    a, reflect = _albumentations(), {"border_mode": cv2.BORDER_REFLECT_101}
    return a.Compose(
        [
            a.HorizontalFlip(p=0.5),
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


def _moved_a_little(_size: int) -> Any:
    """v2: mirror, small rotation and shift, brightness."""
    a = _albumentations()
    small = {"translate_percent": (-0.04, 0.04), "rotate": (-5, 5), "border_mode": cv2.BORDER_REFLECT_101}
    return a.Compose(
        [
            a.HorizontalFlip(p=0.5),
            a.Affine(p=0.5, **small),
            a.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0, p=0.5),
        ]
    )


def _cropped_and_blurred(size: int) -> Any:
    """v3: mirror, a random crop resized to the net's size or the whole image resized to it, light noise or blur."""
    a = _albumentations()
    return a.Compose(
        [
            a.HorizontalFlip(p=0.5),
            a.RandomResizedCrop(size=(size, size), scale=(0.6, 1.0), ratio=(0.9, 1.1), p=0.7),
            a.Resize(size, size),
            a.OneOf([a.GaussNoise(std_range=(0.01, 0.03), p=1), a.GaussianBlur(blur_limit=3, p=1)], p=0.3),
        ]
    )


TRAIN_AUGS: dict[str, TrainAug] = {
    "train_128_v1": TrainAug(128, _moved_and_lit),
    "train_128_v2": TrainAug(128, _moved_a_little),
    "train_128_v3": TrainAug(128, _cropped_and_blurred),
    "train_256_v1": TrainAug(256, _moved_and_lit),
}


def check_names(train_augs: str, val_augs: str, val_transforms: str, cropped: bool = False) -> None:
    """Refuse unknown names and sets that cannot go together, before anything heavy loads.

    With `cropped`, images keep their own size whatever the sizes in these names are.

    Raises:
        UsageError: the message names the flags and the fitting value.
    """
    train, val = pick(TRAIN_AUGS, train_augs, "--train_augs"), pick(VAL_AUGS, val_augs, "--val_augs")
    undone = pick(VAL_TRANSFORMS, val_transforms, "--val_transforms")
    if cropped:
        return
    if undone != val_augs:
        fitting = next(name for name, of in VAL_TRANSFORMS.items() if of == val_augs)
        raise UsageError(f"--val_transforms {val_transforms} undoes {undone}, not --val_augs {val_augs}; use {fitting}")
    if val.size is None:
        raise UsageError(f"--val_augs {val_augs}: images keep their own size only in training on crops; add --crop")
    if train.size != val.size:
        fitting = " or ".join(name for name, aug in TRAIN_AUGS.items() if aug.size == val.size)
        raise UsageError(
            f"--train_augs {train_augs} trains at {train.size}, --val_augs {val_augs} validates at {val.size}; "
            f"use {fitting}, or other --val_augs"
        )
