"""Augmentation of a whole batch as one tensor operation, on a CPU or a GPU, with a seed of its own for every sample.

Each sample draws a few numbers (an affine map, contrast, brightness) from (seed, pass, row) where it is loaded, so that
neither the batch nor the number of workers changes them; the batch is then warped at once on the device of the network.
Before that, a sample may get a rectangle of another image (CutMix), which is drawn in the same way.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

NUMBERS = 12
"""Numbers that a sample draws: the affine map (2, 3), contrast, brightness, whether to invert, and three gains."""
GROUND = 4
"""Every so many pixels across and down are looked at for the median of an image."""
PASTED = (0.1, 0.5)
"""Area of the rectangles of CutMix: shares of the image."""

_MIRRORED = ((1, 0, 0, 1), (-1, 0, 0, 1))
_EIGHT = (*_MIRRORED, (1, 0, 0, -1), (-1, 0, 0, -1), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0))


@dataclass(frozen=True)
class BatchChange:
    """Ranges of the random changes.

    Mirroring is derandomised (arXiv 2404.00498): an image starts with a symmetry of its own and has the next one in
    each pass, so that it is never seen twice the same way while another view of it is missing.
    """

    all_symmetries: bool = False
    """Use all eight symmetries of the square instead of the mirror image alone."""
    scale: float = 0.2
    """Largest change of the scale; 0.2 means factors of 1/1.2 to 1.2."""
    shift: float = 0.1
    """Largest shift, as a share of the side."""
    rotation: float = 10.0
    """Largest rotation in degrees, of half the samples."""
    contrast: float = 0.2
    """Largest change of the contrast, as a share."""
    brightness: float = 0.1
    """Largest change of the brightness, as a share of 255."""
    aspect: float = 0.0
    """Largest change of the proportions; 0.2 means that one side is up to 1.2 times as long beside the other."""
    tint: float = 0.0
    """Largest change of the contrast to the ground in each colour, as a share: other stains and cameras."""
    dimmed: float = 1.0
    """Largest factor by which this contrast is lowered in all colours, in half of the samples: dim objects, other
    exposures."""
    inverted: float = 0.0
    """Share of samples whose brightness is inverted: dark objects on light ground become light ones on dark ground."""

    def times(self, strength: float) -> "BatchChange":
        """Return the same changes with ranges multiplied by `strength`; mirroring, stains and inversion stay."""
        ranges = ("scale", "shift", "rotation", "contrast", "brightness", "aspect")
        return replace(self, **{name: strength * getattr(self, name) for name in ranges})

    def apply_to_one(
        self, image: np.ndarray, truth: np.ndarray | None, words: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Change a single image (S, S, C) and mask (S, S, 1) uint8; `words` are (seed, pass, row)."""
        both = (image, np.zeros((*image.shape[:2], 1), np.uint8) if truth is None else truth)
        pixels, mask = (torch.from_numpy(one).permute(2, 0, 1)[None] for one in both)
        pixels, mask = self.apply(pixels, mask, torch.from_numpy(self.draw(*words))[None])
        back = pixels[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
        return back, None if truth is None else mask[0].permute(1, 2, 0).numpy()

    def draw(self, seed: int = 0, turn: int = 0, row: int = 0) -> np.ndarray:
        """Return the numbers (NUMBERS,) float32 of a sample: pass `turn` of the packed image `row`."""
        rng = np.random.default_rng([seed, turn, row])
        zoom, across, down, tilt, tilted, contrast, brightness = rng.uniform(-1, 1, 7)
        symmetries = _EIGHT if self.all_symmetries else _MIRRORED
        start = zlib.crc32(f"{seed} {row}".encode())
        a, b, c, d = symmetries[(start + turn) % len(symmetries)]
        angle = math.radians(self.rotation) * tilt * (tilted > 0)
        size = (1 + self.scale) ** zoom
        cosine, sine = math.cos(angle) / size, math.sin(angle) / size
        stretch, invert, *gains = rng.uniform(-1, 1, 5)
        wide = (1 + self.aspect) ** (stretch / 2)
        seen = self.dimmed ** -max(0.0, rng.uniform(-1, 1))
        return np.array(
            [
                (a * cosine + b * sine) * wide,
                (b * cosine - a * sine) * wide,
                2 * self.shift * across,  # the coordinates of grid_sample go from -1 to 1
                (c * cosine + d * sine) / wide,
                (d * cosine - c * sine) / wide,
                2 * self.shift * down,
                1 + self.contrast * contrast,
                255 * self.brightness * brightness,
                float(invert < 2 * self.inverted - 1),
                *(seen * (1 + self.tint * gain) for gain in gains),
            ],
            np.float32,
        )

    def apply(self, images: Tensor, truths: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Change a batch.

        Args:
            images: (B, C, S, S) uint8, [0, 255].
            truths: masks (B, K, S, S) uint8, 0 or 1, or label maps (B, K, S, S) int32, warped like the images; classes
                (B, K) uint8 of the images are kept as they are.
            numbers: (B, NUMBERS) float32, one row of `draw` for each sample.

        Returns:
            images (B, C, S, S) float32, [0, 255], and truths of the given dtype.
        """
        grid = F.affine_grid(numbers[:, :6].view(-1, 2, 3), list(images.shape), align_corners=False)
        warp = partial(F.grid_sample, grid=grid, padding_mode="reflection", align_corners=False)
        pixels = images.float()
        if truths.ndim < 4:
            pixels = warp(pixels)
        elif truths.dtype == torch.uint8:  # at once with the image, which is faster
            pixels, masks = warp(torch.cat([pixels, truths.float()], dim=1)).tensor_split([images.shape[1]], dim=1)
            truths = (masks >= 0.5).to(torch.uint8)
        else:
            pixels, truths = warp(pixels), warp(truths.float(), mode="nearest").to(truths.dtype)
        contrast, brightness = numbers[:, 6, None, None, None], numbers[:, 7, None, None, None]
        mean = pixels.mean((1, 2, 3), keepdim=True)
        pixels = ((pixels - mean) * contrast + mean + brightness).clamp(0, 255)
        if self.tint:
            ground = pixels[:, :, ::GROUND, ::GROUND].flatten(2).median(2).values[..., None, None]
            pixels = (ground + (pixels - ground) * numbers[:, 9 : 9 + pixels.shape[1], None, None]).clamp(0, 255)
        if self.inverted:
            pixels = torch.where(numbers[:, 8, None, None, None] > 0, 255 - pixels, pixels)
        return pixels, truths


@dataclass(frozen=True)
class CutMix:
    """Samples with a rectangle of another training image (arXiv 1905.04899), which are harder to learn by heart.

    The mask is pasted like the image, so that every pixel keeps its own truth.
    """

    share: float
    """Share of the samples that get a rectangle, 0 to 1."""
    rows: np.ndarray
    """Packed rows from which the rectangles are taken."""

    def draw(self, side: int, seed: int, turn: int, row: int) -> tuple[int, tuple[int, int, int, int]]:
        """Draw the rectangle for pass `turn` of the packed image `row`, whose side is `side` pixels.

        Returns:
            packed row of the other image, and (top, bottom, left, right) in pixels; `row` itself and an empty rectangle
            if the sample is not to be mixed.
        """
        rng = np.random.default_rng([seed, turn, row, 77])  # other numbers than those of the sample
        if rng.random() >= self.share:
            return row, (0, 0, 0, 0)
        other = int(self.rows[rng.integers(len(self.rows))])
        length, aspect = side * rng.uniform(*PASTED) ** 0.5, 2 ** rng.uniform(-0.5, 0.5)
        height, width = (min(side, max(1, round(one))) for one in (length * aspect, length / aspect))
        top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
        return other, (top, top + height, left, left + width)


def pasted(samples: Sequence[Tensor], others: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Paste rectangles of other images and of their truths into those of a batch.

    Args:
        samples: images (B, C, S, S) uint8 and truths (B, 1, S, S): masks uint8, or label maps int32.
        others: images and truths of the same shapes, from which the rectangles are taken.
        boxes: (B, 4) int64: top, bottom, left and right of each rectangle, in pixels.

    Returns:
        images and truths; objects of label maps that were pasted have other numbers than those that were there.
    """
    (images, truths), (other_images, other_truths) = samples, others
    place, box = torch.arange(images.shape[-1], device=images.device), boxes[..., None]
    down, across = ((place >= box[:, edge]) & (place < box[:, edge + 1]) for edge in (0, 2))
    inside = (down[:, :, None] & across[:, None, :])[:, None]
    if truths.dtype != torch.uint8:
        other_truths = torch.where(other_truths > 0, other_truths + truths.amax((1, 2, 3), keepdim=True), 0)
    return torch.where(inside, other_images, images), torch.where(inside, other_truths, truths)
