"""Prediction of large images in tiles: the network sees one tile at a time, and a smooth window blends the predictions.

The result is the mean of the predictions for the tiles, weighted by their windows. How close it is to the prediction
for the whole image depends on the network:

- If the network only has convolutions, each output pixel depends on the input pixels within its reach: at most 297
  pixels for a U-Net with resnet18, 529 with resnet34. Farther than that from the cut edges of a tile, the prediction is
  that for the whole image, up to rounding. Nearer, it differs, because the tile is padded with zeros where the image
  has more pixels. The difference is largest at the edge, where the window gives the tile little weight.
- If parts of the network look at the whole image (`sees_whole_image`), each output pixel depends on all input pixels.
  In a tile, these parts see only the tile, so the prediction may differ everywhere.

bench/tiles.py measures the difference.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from net.geometry import STEP
from utils.core.errors import UsageError


@dataclass(frozen=True)
class Tiles:
    """Square tiles of `size` pixels that overlap by `overlap` pixels.

    Both are multiples of 32, so that a network with five halvings sees each tile on the same raster as the whole image.

    Raises:
        UsageError: a number is not such a multiple, or the overlap is more than half of the size.
    """

    size: int
    overlap: int

    def __post_init__(self) -> None:
        for flag, value, minimum in (("--tile", self.size, STEP), ("--overlap", self.overlap, 0)):
            if value < minimum or value % STEP:
                raise UsageError(f"{flag} {value}: expected a multiple of {STEP}, {minimum} or more")
        if 2 * self.overlap > self.size:
            raise UsageError(f"--overlap {self.overlap}: more than half of --tile {self.size}; use a smaller overlap")

    def starts(self, length: int) -> list[int]:
        """Return the starts of the tiles along a side of `length` pixels; the last tile ends with the side.

        `length` is a multiple of 32 and at least the size of a tile.
        """
        last = length - self.size
        return [*range(0, last, self.size - self.overlap), last]

    def window(self, start: int, length: int) -> Tensor:
        """Return the weights of a tile along one axis, (size,) float32.

        They follow a raised cosine that rises in the overlap with the previous tile and falls in the overlap with the
        next one. At the edges of the image, where there is no other tile, they stay 1.
        """
        weights = torch.ones(self.size)
        if self.overlap:
            rise = torch.sin(torch.pi / 2 * (torch.arange(self.overlap) + 0.5) / self.overlap) ** 2
            if start > 0:
                weights[: self.overlap] = rise
            if start + self.size < length:
                weights[-self.overlap :] = torch.minimum(weights[-self.overlap :], rise.flip(0))
        return weights

    def blended(
        self, image: Tensor, channels: int, predict: Callable[[Tensor], Tensor], tile_batch_size: int
    ) -> Tensor:
        """Predict a large image tile by tile, and blend the predictions.

        Args:
            image: (C, H, W) uint8; the sides are multiples of 32 and at least the size of a tile.
            channels: K, the number of planes of a prediction.
            predict: function from tiles (b, C, size, size) uint8 to predictions (b, K, size, size) float32.
            tile_batch_size: number of tiles in a call of `predict`.

        Returns:
            (K, H, W) float32: the mean over tiles, weighted by their windows.
        """
        height, width = image.shape[1:]
        corners = [(top, left) for top in self.starts(height) for left in self.starts(width)]
        total, weight = torch.zeros(channels, height, width), torch.zeros(height, width)
        for start in range(0, len(corners), tile_batch_size):
            some = corners[start : start + tile_batch_size]
            cut = [image[:, top : top + self.size, left : left + self.size] for top, left in some]
            for (top, left), planes in zip(some, predict(torch.stack(cut)).cpu(), strict=True):
                window = self.window(top, height)[:, None] * self.window(left, width)[None, :]
                place = (..., slice(top, top + self.size), slice(left, left + self.size))
                total[place] += planes * window
                weight[place] += window
        return total / weight


TILES_NOTE = (
    "--tile: this network has parts that look at the whole image (global pooling or normalisation, as in scSE); in a "
    "tile they see only the tile, so masks and scores may differ from those of whole images"
)
POOLING = ("Gate", "SEModule", "EffectiveSEModule", "SqueezeExcite", "EcaModule", "SplitAttn", "GlobalResponseNorm")
"""Names of modules of this project and of timm that compute a mean or norm over the image without a pooling layer."""


def sees_whole_image(network: nn.Module) -> bool:
    """Return whether a network has parts whose output at every pixel depends on the whole image.

    Global pooling (scSE, squeeze and excitation, ASPP, pyramid pooling) and normalisation over the image (GroupNorm,
    InstanceNorm) are detected. Attention, as in the encoders mit_b0 and vit, is not.
    """
    return any(_sees_all(module) for module in network.modules())


def _sees_all(module: nn.Module) -> bool:
    if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
        return module.output_size in (1, (1, 1))  # VGG's pooling to 7x7 belongs to its classifier and never runs
    return isinstance(module, (nn.GroupNorm, nn.InstanceNorm2d)) or type(module).__name__ in POOLING


def tiles_for(tile: int | None, overlap: int, shapes: Sequence[tuple[int, int]]) -> Tiles | None:
    """Return the tiles that the flags ask for, for images of `shapes` (h, w); None without --tile.

    Raises:
        UsageError: the tile is larger than all images, or the numbers are not valid for `Tiles`.
    """
    if tile is None:
        return None
    tiles = Tiles(tile, overlap)
    largest = max(shapes, key=min)
    if tile > min(largest):
        what = "the images" if len(set(shapes)) == 1 else "all images, even those"
        raise UsageError(
            f"--tile {tile}: larger than {what} of {largest[0]}x{largest[1]}; use a smaller tile or leave it out"
        )
    return tiles
