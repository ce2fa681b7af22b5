"""Small residual U-Nets that learn fast: strata_s, strata_m, strata_l, and the same decoder over other encoders.

They spend little time at full size: the image is folded into half size at the start (space to depth), there is no other
early downsampling, the decoder is thin, and the logits are predicted at half size and unfolded (pixel shuffle).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Widths(NamedTuple):
    """Channels and residual blocks of a network."""

    encoder: tuple[int, ...]
    """Channels at strides 2, 4, 8 and 16."""
    blocks: tuple[int, ...]
    """Residual blocks at these strides."""
    decoder: tuple[int, ...]
    """Channels of the decoder at strides 8, 4 and 2."""


SMALL = Widths((16, 32, 64, 128), (1, 1, 1, 1), (32, 24, 16))
MEDIUM = Widths((24, 48, 96, 192), (1, 1, 1, 1), (48, 32, 24))
LARGE = Widths((48, 96, 192, 384), (1, 2, 3, 3), (96, 64, 48))


class Residual(nn.Module):
    """Two 3x3 convolutions added to their input; the second BatchNorm starts at zero, so the block starts as identity.

    Zero initialisation: Goyal et al. 2017, arXiv 1706.02677.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


class Gate(nn.Module):
    """Weights channels by the mean over the image: squeeze and excitation (Hu et al. 2017, arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, channels // 4), nn.Linear(channels // 4, channels)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * weights[..., None, None]


class StrataEncoder(nn.Module):
    """Encoder of the strata networks: four feature maps, at strides 2, 4, 8 and 16.

    Args:
        channels_in: channels of the image.
        widths: channels and blocks.
    """

    def __init__(self, channels_in: int, widths: Widths) -> None:
        super().__init__()
        self.out_channels = widths.encoder
        before = (4 * channels_in, *widths.encoder[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(_convolution(inner, outer), *(Residual(outer) for _ in range(n_blocks)))
            for inner, outer, n_blocks in zip(before, widths.encoder, widths.blocks, strict=True)
        )
        self.gate = Gate(widths.encoder[-1])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of normalised images (B, C, H, W), deepest last.

        Each has half the sides of the one before it, rounded up.
        """
        x, maps = F.pixel_unshuffle(_padded(images, 2), 2), []
        for number, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 2, ceil_mode=True) if number else x)
            maps.append(x)
        return [*maps[:-1], self.gate(x)]


class StrataNet(nn.Module):
    """Residual U-Net with a thin decoder.

    Args:
        encoder: a StrataEncoder, or an encoder of smp; its maps have strides 2, 4, 8 and so on.
        channels_out: logits per pixel.
        decoder: channels of the decoder, deepest first, the last ones at stride 2.
        multiple: images are padded to sides that are multiples of this, which some encoders need.
    """

    def __init__(self, encoder: nn.Module, channels_out: int, decoder: tuple[int, ...], multiple: int = 1) -> None:
        super().__init__()
        self.encoder, self.multiple = encoder, multiple
        self.dropped = 0.0
        """Share of the deepest map's channels that are zero in a training step (Tompson et al. 2014, 1411.4280)."""
        *skips, deepest = encoder.out_channels[-len(decoder) - 1 :]
        before = (deepest, *decoder[:-1])
        self.blocks = nn.ModuleList(
            nn.Sequential(_convolution(deeper + skip, channels), Residual(channels))
            for deeper, skip, channels in zip(before, skips[::-1], decoder, strict=True)
        )
        self.deepest = nn.Conv2d(deepest, decoder[-1], 1, bias=False)
        self.head = nn.Conv2d(2 * decoder[-1], 4 * channels_out, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, channels_out, H, W) of normalised images (B, C, H, W)."""
        *skips, deepest = self.encoder(_padded(images, self.multiple))[-len(self.blocks) - 1 :]
        if self.dropped and self.training:
            deepest = F.dropout2d(deepest, self.dropped)
        x = deepest
        for block, skip in zip(self.blocks, skips[::-1], strict=True):
            x = block(torch.cat([_enlarged(x, 2, skip), skip], dim=1))
        # a 1x1 convolution gives the same result before upsampling as after it, at a 64th of the cost
        wide = _smoothly_enlarged(self.deepest(deepest), 2 ** len(self.blocks), x)  # or its pixels would be seen
        logits = F.pixel_shuffle(self.head(torch.cat([x, wide], dim=1)), 2)
        return logits[..., : images.shape[-2], : images.shape[-1]]


def _padded(images: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of images (B, C, H, W) until both sides are multiples of a number."""
    below, right = (-side % multiple for side in images.shape[-2:])
    return F.pad(images, (0, right, 0, below), mode="replicate") if below or right else images


def _enlarged(x: Tensor, factor: int, like: Tensor) -> Tensor:
    """Enlarge a map by a factor, and cut off what exceeds the map `like`."""
    enlarged = F.interpolate(x, scale_factor=float(factor), mode="nearest")
    return enlarged[..., : like.shape[-2], : like.shape[-1]]


def _smoothly_enlarged(x: Tensor, factor: int, like: Tensor) -> Tensor:
    """Enlarge a map bilinearly, and cut off what exceeds the map `like`.

    Two matrix products take a fifth of the time of torch's interpolation and its gradient on a CPU, and on a GPU their
    gradient is the same in every run without the sorting that torch needs for that.
    """
    rows, columns = (
        F.interpolate(torch.eye(side, dtype=x.dtype, device=x.device)[None], scale_factor=float(factor), mode="linear")
        for side in x.shape[-2:]
    )
    enlarged = (rows.mT @ x @ columns)[..., : like.shape[-2], : like.shape[-1]]
    return enlarged.contiguous(memory_format=torch.channels_last)


def _convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()
    )
