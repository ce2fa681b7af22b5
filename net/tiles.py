"""Large images in tiles: the network sees one tile at a time, and a smooth window blends them.

The result is the mean of what the network predicts for each tile, weighted by the windows. How close that is to its
prediction for the whole image depends on the network:

- A pixel of a network of convolutions depends on those within its reach: at most 297 pixels for a U-Net with resnet18,
  529 with resnet34. Further than that from where a tile was cut, the result is that of the whole image, up to rounding.
  Nearer, it differs, because a tile goes on with zeros where the image goes on with pixels; most so right at the cut,
  where the window gives the tile little weight.
- A pixel of a network that looks at the whole image (`sees_whole_image`) depends on all of them. Such parts see the
  tile instead, so that the result may differ everywhere.

bench/tiles.py measures how much.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from net.geometry import STEP
from utils.core.errors import UsageError


@dataclass(frozen=True)
class Tiles:
    """Squares of `size` pixels that overlap by `overlap`, both multiples of 32: a network that halves five times sees
    every tile on the same raster as the whole image.

    Raises:
        UsageError: other numbers.
    """

    size: int
    overlap: int

    def __post_init__(self) -> None:
        for flag, value, least in (("--tile", self.size, STEP), ("--overlap", self.overlap, 0)):
            if value < least or value % STEP:
                raise UsageError(f"{flag} {value}: expected a multiple of {STEP}, {least} or more")
        if 2 * self.overlap > self.size:
            raise UsageError(f"--overlap {self.overlap}: more than half of --tile {self.size}; take a smaller one")

    def starts(self, length: int) -> list[int]:
        """Where tiles begin along a side of `length` (a multiple of 32, at least the tile); the last ends with it."""
        last = length - self.size
        return [*range(0, last, self.size - self.overlap), last]

    def window(self, start: int, length: int) -> Tensor:
        """(size,) float32 weights along one axis: rising in the overlap with the tile before, falling with the next.

        A raised cosine; at the image's own ends, where no other tile is, it stays 1.
        """
        weights = torch.ones(self.size)
        if self.overlap:
            rise = torch.sin(torch.pi / 2 * (torch.arange(self.overlap) + 0.5) / self.overlap) ** 2
            if start > 0:
                weights[: self.overlap] = rise
            if start + self.size < length:
                weights[-self.overlap :] = torch.minimum(weights[-self.overlap :], rise.flip(0))
        return weights

    def blended(self, image: Tensor, channels: int, answer: Callable[[Tensor], Tensor], at_once: int) -> Tensor:
        """What a network answers for a large image.

        Args:
            image: (C, H, W) uint8, sides multiples of 32 and at least the tile.
            channels: K, planes of the answer.
            answer: (b, C, size, size) uint8 -> (b, K, size, size) float32.
            at_once: tiles that the network sees at a time.

        Returns:
            (K, H, W) float32: the mean over tiles, weighted by their windows.
        """
        height, width = image.shape[1:]
        corners = [(top, left) for top in self.starts(height) for left in self.starts(width)]
        total, weight = torch.zeros(channels, height, width), torch.zeros(height, width)
        for start in range(0, len(corners), at_once):
            some = corners[start : start + at_once]
            cut = [image[:, top : top + self.size, left : left + self.size] for top, left in some]
            for (top, left), planes in zip(some, answer(torch.stack(cut)).cpu(), strict=True):
                window = self.window(top, height)[:, None] * self.window(left, width)[None, :]
                place = (..., slice(top, top + self.size), slice(left, left + self.size))
                total[place] += planes * window
                weight[place] += window
        return total / weight


TILES_DIFFER = (
    "--tile: this network has parts that look at the whole image (global pooling or normalisation, as in scSE); in a "
    "tile they see the tile alone, so masks and scores may differ from those of whole images"
)
POOLING = ("SEModule", "EffectiveSEModule", "SqueezeExcite", "EcaModule", "SplitAttn", "GlobalResponseNorm")
"""Names of timm's modules that take the mean or the norm over the image themselves, without a pooling layer."""


def sees_whole_image(network: nn.Module) -> bool:
    """Return whether a network has parts whose output at every pixel depends on the whole image.

    Looks for global pooling (scSE, squeeze and excitation, ASPP, pyramid pooling) and normalisation over the image
    (GroupNorm, InstanceNorm). Does not know attention, as in the encoders mit_b0 and vit.
    """
    return any(_sees_all(module) for module in network.modules())


def _sees_all(module: nn.Module) -> bool:
    if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
        return module.output_size in (1, (1, 1))  # the 7x7 of VGG is left over from its classifier and never runs
    return isinstance(module, (nn.GroupNorm, nn.InstanceNorm2d)) or type(module).__name__ in POOLING


def tiles_for(tile: int | None, overlap: int, shape: tuple[int, int]) -> Tiles | None:
    """The tiles that flags ask for, for images of `shape` (h, w).

    Raises:
        UsageError: a tile that is larger than the images, or numbers that are no multiples of 32.
    """
    if tile is None:
        return None
    tiles = Tiles(tile, overlap)
    if tile > min(shape):
        raise UsageError(f"--tile {tile}: larger than the images of {shape[0]}x{shape[1]}; leave it out, or take less")
    return tiles
