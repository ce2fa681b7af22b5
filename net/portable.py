"""A network with its way in and its way out as one module of torch's operations alone, which exporters can follow.

images (B, C, h, w) uint8, [0, 255] -> probabilities (B, K, h, w) float32, [0, 1], or (B, K) for labels.
"""

import numpy as np
import torch
from torch import Tensor, nn

from net.dataset import normalised
from net.geometry import STEP, Fit
from net.tasks import Kind

LEAST = STEP + 1
"""Pixels a side of images of any size: the deepest map has more than one, and a reflection turns round but once."""


class Answers(nn.Module):
    """Images at the network's size (B, C, H, W) uint8 -> probabilities (B, K, H, W) or (B, K) float32.

    Args:
        network: with its weights, in evaluation mode.
        kind: what it answers.
        channels: C, 1 or 3.
    """

    def __init__(self, network: nn.Module, kind: Kind, channels: int) -> None:
        super().__init__()
        self.network, self.kind = network, kind
        # the numbers of `normalised`, as buffers: those move to a GPU with the file, constants of a graph do not
        black, white = (normalised(torch.full((1, channels, 1, 1), grey, dtype=torch.uint8)) for grey in (0, 255))
        self.register_buffer("black", black.contiguous())
        self.register_buffer("gain", ((white - black) / 255).contiguous())

    def forward(self, images: Tensor) -> Tensor:
        return self.kind.probabilities(self.network(self.black + images.float() * self.gain))


class OneSize(nn.Module):
    """Images scaled for a Fit, (B, C, height, width) uint8 -> answers at the size of its shape."""

    def __init__(self, answers: Answers, fit: Fit) -> None:
        super().__init__()
        self.answers, self.fit = answers, fit
        places = fit.pad(np.stack(np.indices((fit.height, fit.width)), axis=-1))
        self.register_buffer("rows", torch.tensor(places[:, 0, 0]))
        self.register_buffer("columns", torch.tensor(places[0, :, 1]))

    def forward(self, images: Tensor) -> Tensor:
        found = self.answers(images.index_select(2, self.rows).index_select(3, self.columns))
        return self.fit.invert(found) if self.answers.kind.of_pixels else found


class AnySize(nn.Module):
    """Images (B, C, h, w) uint8 of any size from LEAST on -> answers at their size, as `Fit.native` has it.

    Sizes are unknown while the graph is made, so that indices are computed in it; slices would tie it to one size.
    """

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2], images.shape[3]
        rows, top = _reflected(height, images.device)
        columns, left = _reflected(width, images.device)
        found = self.answers(images.index_select(2, rows).index_select(3, columns))
        if not self.answers.kind.of_pixels:
            return found
        inner_rows = torch.arange(height, device=images.device) + top
        inner_columns = torch.arange(width, device=images.device) + left
        return found.index_select(2, inner_rows).index_select(3, inner_columns)


def _reflected(length: int, device: torch.device) -> tuple[Tensor, int]:
    """For a side: the pixel at each place of its frame (int64), and how many places come before the first pixel."""
    frame = (length + STEP - 1) // STEP * STEP
    before = (frame - length) // 2
    place = (torch.arange(frame, device=device) - before).abs()
    return torch.minimum(place, 2 * (length - 1) - place), before
