"""How images are brought to the net's size, varied in training, and how masks find the way back.

Three tables by name: TRAIN_AUGS, VAL_AUGS, VAL_TRANSFORMS. Images are (h, w, C) uint8, [0, 255], targets (h, w, K)
uint8, 0 or 1; what leaves is square. albumentations is known in this file only, and imported when it is used.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from utils.errors import UsageError
from utils.names import pick

if TYPE_CHECKING:
    import torch

cv2.setNumThreads(0)  # images are small, and the cores belong to the network and the loader's workers


@dataclass(frozen=True)
class Fit:
    """Where an image of `shape` (h, w) sits in the net's square: scaled to (height, width), then reflected outwards."""

    shape: tuple[int, int]
    size: int
    height: int
    width: int

    @classmethod
    def whole_factor(cls, shape: tuple[int, int], size: int) -> "Fit":
        """Enlarged by the largest whole factor that fits (101 -> 202 in 256), shrunk only if larger than `size`."""
        longest = max(shape)
        factor = size // longest if longest <= size else size / longest
        return cls(shape, size, max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor)))

    @classmethod
    def stretched(cls, shape: tuple[int, int], size: int) -> "Fit":
        """Both sides resized to `size`, the proportions given up."""
        return cls(shape, size, size, size)

    @property
    def top(self) -> int:
        return (self.size - self.height) // 2

    @property
    def left(self) -> int:
        return (self.size - self.width) // 2

    def scale(self, image: np.ndarray, nearest: bool = False) -> np.ndarray:
        """The image at (height, width): repeated pixels where `nearest`, else area means down and bilinear up."""
        if image.shape[:2] == (self.height, self.width):
            return image
        smooth = cv2.INTER_AREA if self.height < image.shape[0] else cv2.INTER_LINEAR
        scaled = cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_NEAREST if nearest else smooth)
        return scaled.reshape(self.height, self.width, image.shape[2])  # OpenCV drops a single channel's axis

    def pad(self, image: np.ndarray) -> np.ndarray:
        """The scaled image in the middle of its square, continued by reflection (as often as it takes)."""
        rows = _reflected(self.size, self.top, self.height)
        columns = _reflected(self.size, self.left, self.width)
        return image[rows[:, None], columns[None, :]]

    def apply(self, image: np.ndarray, nearest: bool = False) -> np.ndarray:
        """(h, w, C) -> (size, size, C)."""
        return self.pad(self.scale(image, nearest))

    def invert(self, masks: "torch.Tensor") -> "torch.Tensor":
        """(B, size, size) float -> (B, h, w): crops the reflection off, then undoes the scaling.

        Exact for a mask that was enlarged by a whole factor or only padded: the mean over each block is its pixel.
        """
        from torch.nn.functional import interpolate

        inner = masks[:, self.top : self.top + self.height, self.left : self.left + self.width]
        if inner.shape[1:] == self.shape:
            return inner
        whole = self.height % self.shape[0] == 0 and self.width % self.shape[1] == 0
        how: dict[str, Any] = {"mode": "area"} if whole else {"mode": "bilinear", "align_corners": False}
        return interpolate(inner[:, None], self.shape, **how)[:, 0]


def _reflected(size: int, before: int, length: int) -> np.ndarray:
    """Indices into 0 .. length - 1 for `size` places, the first `before` of them outside; edges are not repeated."""
    period = max(2 * (length - 1), 1)
    place = np.abs(np.arange(size) - before) % period
    return np.minimum(place, period - place) if length > 1 else np.zeros(size, np.int64)


@dataclass(frozen=True)
class ValAug:
    """How an image is brought to the net's size without chance."""

    size: int
    fit: Callable[[tuple[int, int], int], Fit]

    def __call__(self, shape: tuple[int, int]) -> Fit:
        return self.fit(shape, self.size)


VAL_AUGS: dict[str, ValAug] = {
    "val_128": ValAug(128, Fit.whole_factor),
    "val_128_resize": ValAug(128, Fit.stretched),
    "val_256": ValAug(256, Fit.whole_factor),
}

VAL_TRANSFORMS: dict[str, str] = {  # the way back -> the val_augs that it undoes; the geometry is that of their Fit
    "crop_from_128": "val_128",
    "resize_from_any": "val_128_resize",
    "crop_resize_from_256": "val_256",
}


@dataclass(frozen=True)
class TrainAug:
    """How a training image is varied: scaled as in validation, changed by chance, padded to the net's size."""

    size: int
    build: Callable[[int], Any]
    """Takes the net's size and returns the albumentations Compose to apply between scaling and padding."""

    def maker(self) -> Callable[[np.ndarray, np.ndarray, list[int]], tuple[np.ndarray, np.ndarray]]:
        """The function (image, target, seed words) -> (image, target); the same seed words give the same pixels.

        Every sample brings its own seed, because albumentations' generators repeat across loader workers and epochs.
        """
        change = self.build(self.size)

        def apply(image: np.ndarray, target: np.ndarray, seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
            fit = Fit.whole_factor(image.shape[:2], self.size)
            generator = np.random.default_rng(seed)
            change.set_random_state(generator, random.Random(int(generator.integers(2**63))))
            changed = change(image=fit.scale(image), mask=fit.scale(target, nearest=True))
            return fit_anew(changed["image"], self.size), fit_anew(changed["mask"], self.size)

        return apply


def fit_anew(image: np.ndarray, size: int) -> np.ndarray:
    """Pad what an augmentation returned (no larger than `size`) to the net's square."""
    height, width = image.shape[:2]
    return Fit((height, width), size, height, width).pad(image)


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


def check_names(train_augs: str, val_augs: str, val_transforms: str) -> None:
    """Refuse unknown names and sets that cannot go together, before anything heavy loads.

    Raises:
        UsageError: the message names the flags and the fitting value.
    """
    train, val = pick(TRAIN_AUGS, train_augs, "--train_augs"), pick(VAL_AUGS, val_augs, "--val_augs")
    undone = pick(VAL_TRANSFORMS, val_transforms, "--val_transforms")
    if undone != val_augs:
        fitting = next(name for name, of in VAL_TRANSFORMS.items() if of == val_augs)
        raise UsageError(f"--val_transforms {val_transforms} undoes {undone}, not --val_augs {val_augs}; use {fitting}")
    if train.size != val.size:
        fitting = " or ".join(name for name, aug in TRAIN_AUGS.items() if aug.size == val.size)
        raise UsageError(
            f"--train_augs {train_augs} trains at {train.size}, --val_augs {val_augs} validates at {val.size}; "
            f"use {fitting}, or other --val_augs"
        )
