"""Deterministic preparation: bring images to the input size of the network, and masks back to the size of the images.

Images are (h, w, C) uint8, [0, 255]; targets are (h, w, K) uint8 or uint16. Both end up in a frame, which is a square
of the input size, or the size of the image rounded up to multiples of 32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    import torch

cv2.setNumThreads(0)  # images are small; the cores are for the network and the DataLoader workers


PERCENTILES = (1.0, 99.8)
"""Percentiles of a channel between which its contrast is stretched."""
STEP = 32
"""Sides of the network's input have to be divisible by this, because encoders halve them five times."""


@dataclass(frozen=True)
class Fit:
    """Position of an image of `shape` (h, w) in its `frame`: scaled to (height, width), then padded by reflection."""

    shape: tuple[int, int]
    frame: tuple[int, int]
    height: int
    width: int

    @classmethod
    def integer_factor(cls, shape: tuple[int, int], size: int) -> "Fit":
        """Enlarge by the largest integer factor that fits (101 -> 202 in 256); shrink only if larger than `size`."""
        longest = max(shape)
        factor = size // longest if longest <= size else size / longest
        return cls(shape, (size, size), max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor)))

    @classmethod
    def stretched(cls, shape: tuple[int, int], size: int) -> "Fit":
        """Resize both sides to `size`, without keeping the proportions."""
        return cls(shape, (size, size), size, size)

    @classmethod
    def padded(cls, shape: tuple[int, int], size: int) -> "Fit":
        """Keep the size of the image, which is at most `size`, and pad it to a square."""
        return cls(shape, (size, size), *shape)

    @classmethod
    def native(cls, shape: tuple[int, int], _size: int | None = None) -> "Fit":
        """Keep the size of the image and pad it to the next multiples of 32, which every decoder accepts."""
        return cls(shape, (-(-shape[0] // STEP) * STEP, -(-shape[1] // STEP) * STEP), *shape)

    def scaled(self, scale: float) -> "Fit":
        """Return the fit of the same images at another scale, in a frame with sides that are multiples of 32."""
        height, width = (max(1, round(side * scale)) for side in (self.height, self.width))
        frame = tuple(-(-max(1, round(side * scale)) // STEP) * STEP for side in self.frame)
        return Fit(self.shape, (frame[0], frame[1]), height, width)

    @property
    def top(self) -> int:
        return (self.frame[0] - self.height) // 2

    @property
    def left(self) -> int:
        return (self.frame[1] - self.width) // 2

    def scale(self, image: np.ndarray, nearest: bool = False) -> np.ndarray:
        """Scale an image to (height, width).

        The interpolation is nearest neighbour if `nearest`, else area averages to shrink and bilinear to enlarge.
        """
        if image.shape[:2] == (self.height, self.width):
            return image
        smooth = cv2.INTER_AREA if self.height < image.shape[0] else cv2.INTER_LINEAR
        scaled = cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_NEAREST if nearest else smooth)
        return scaled.reshape(self.height, self.width, image.shape[2])  # OpenCV drops a single channel's axis

    def pad(self, image: np.ndarray) -> np.ndarray:
        """Place a scaled image in the middle of its frame and pad it by reflection, several times if necessary."""
        if image.shape[:2] == self.frame:
            return image
        rows = _reflected(self.frame[0], self.top, self.height)
        columns = _reflected(self.frame[1], self.left, self.width)
        return image[rows[:, None], columns[None, :]]

    def apply(self, image: np.ndarray, nearest: bool = False) -> np.ndarray:
        """Scale and pad an image: (h, w, C) -> (*frame, C)."""
        return self.pad(self.scale(image, nearest))

    def invert(self, masks: "torch.Tensor") -> "torch.Tensor":
        """Crop the padding off and undo the scaling: (B, K, *frame) float -> (B, K, h, w).

        Exact for masks that were enlarged by an integer factor or only padded: a pixel is the mean over its block.
        """
        from torch.nn.functional import interpolate

        inner = masks[..., self.top : self.top + self.height, self.left : self.left + self.width]
        if inner.shape[2:] == self.shape:
            return inner
        whole = self.height % self.shape[0] == 0 and self.width % self.shape[1] == 0
        how: dict[str, Any] = {"mode": "area"} if whole else {"mode": "bilinear", "align_corners": False}
        return interpolate(inner, self.shape, **how)


def _reflected(size: int, before: int, length: int) -> np.ndarray:
    """Return indices into 0 .. length - 1 for `size` places, from `before` places outside; edges are not repeated."""
    period = max(2 * (length - 1), 1)
    place = np.abs(np.arange(size) - before) % period
    return np.minimum(place, period - place) if length > 1 else np.zeros(size, np.int64)


def contrast_stretched(image: np.ndarray) -> np.ndarray:
    """Stretch each channel of an image (h, w, C) uint8 from its 1st and 99.8th percentile to 0 and 255.

    Images of different exposures and stains then look alike. A range of fewer than 8 grey values counts as 8, so that
    the noise of an empty image stays weak.
    """
    height, width, channels = image.shape
    table = np.empty((1, 256, channels), np.uint8)
    for channel in range(channels):
        counts = cv2.calcHist([image], [channel], None, [256], [0, 256]).astype(np.int64).cumsum()
        low, high = np.searchsorted(counts, np.array(PERCENTILES) / 100 * height * width)
        table[0, :, channel] = ((np.arange(256) - low) * (255 / max(high - low, 8))).clip(0, 255).round()
    return cv2.LUT(image, table).reshape(image.shape)  # OpenCV drops a single channel's axis


@dataclass(frozen=True)
class ValAug:
    """Deterministic transform of images to the input size."""

    size: int | None
    """Side of the network's input square; None if images keep their own size."""
    fit: Callable[[tuple[int, int], int | None], Fit]

    scale: float = 1.0
    """Scale at which images are seen, relative to the one in training."""
    contrast_stretch: bool = False
    """Stretch the contrast of each image first."""

    def __call__(self, shape: tuple[int, int]) -> Fit:
        fit = self.fit(shape, self.size)
        return fit if self.scale == 1 else fit.scaled(self.scale)


VAL_AUGS: dict[str, ValAug] = {
    "val_128": ValAug(128, Fit.integer_factor),
    "val_128_resize": ValAug(128, Fit.stretched),
    "val_256": ValAug(256, Fit.integer_factor),
    "val_native": ValAug(None, Fit.native),
}

VAL_TRANSFORMS: dict[str, str] = {  # inverse -> the val_augs that it undoes, whose Fit defines the geometry
    "crop_from_128": "val_128",
    "resize_from_any": "val_128_resize",
    "crop_resize_from_256": "val_256",
    "crop_from_native": "val_native",
}
