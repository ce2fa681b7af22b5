"""Kinds of networks by what they predict: probabilities of pixels, or of images; each knows how it is read and stored.

A snapshot names its kind and its outputs. What training needs beyond that (target, losses, scores) is a Task.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from net.architectures import build_classifier, build_network
from net.augmentations import Vary
from net.geometry import Fit
from net.outputs import DeepOutput, Output, fused
from net.tta import View
from utils.core.names import pick
from utils.masks.mask_file import PredictionInfo, mask_writer
from utils.masks.probability_file import write_probabilities

See = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) uint8 at the network's size -> probabilities."""


class RowWriter(Protocol):
    """Takes predictions (B, ...) in order."""

    def append(self, rows: np.ndarray) -> None: ...


@dataclass(frozen=True)
class PixelKind:
    """Probabilities of each pixel: a mask, or a mask and a border."""

    name: str
    """mask or border."""
    outputs: tuple[str, ...]
    """A name for each of the K logits of a pixel."""

    def build(self, arch: str, channels_in: int, encoder_weights: str = "none") -> nn.Module:
        """Build a network with these outputs; raises as `build_network` does."""
        return build_network(arch, channels_in, len(self.outputs), encoder_weights)

    def probabilities(self, output: Output) -> Tensor:
        """Output of the network -> (B, K, S, S) float32, [0, 1]."""
        return torch.sigmoid(fused(output).float())

    def at_image_size(self, probabilities: Tensor, fit: Fit) -> Tensor:
        """(B, K, *frame) at the network's size -> (B, K, h, w) at the images' own."""
        return fit.invert(probabilities)

    def mean_over_views(self, see: See, images: Tensor, views: Sequence[View]) -> Tensor:
        """(B, C, *frame) uint8 -> the mean of probabilities over views, each turned back; a square's go together."""
        if images.shape[2] != images.shape[3]:  # a quarter turn has another shape
            seen = [see(view.see(images)) for view in views]
        else:
            seen = see(torch.cat([view.see(images) for view in views])).chunk(len(views))
        return torch.stack([view.undo(one) for view, one in zip(views, seen, strict=True)]).mean(0)

    def stored(self, probabilities: Tensor) -> np.ndarray:
        """Probabilities as files hold them: (B, h, w), or (B, 2, h, w) with borders, float16."""
        half = probabilities.half().cpu().numpy()  # numpy's own conversion takes a tenth of the network's time
        return half[:, 0] if half.shape[1] == 1 else half

    def writer(
        self, path: str | Path, ids: Sequence[str], shape: tuple[int, int], info: PredictionInfo
    ) -> AbstractContextManager[RowWriter]:
        """Open a mask file for images `ids` of `shape` (h, w), in order; it appears when all are there."""
        planes = (len(self.outputs),) if len(self.outputs) > 1 else ()
        return mask_writer(path, ids, (*planes, *shape), info)

    def augmented(
        self, vary: Vary, image: np.ndarray, truth: np.ndarray, seed: list[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vary an image (h, w, C) and its truth (h, w) together; both come back at the network's size."""
        varied, moved = vary(image, truth[..., None], seed)
        return varied, moved[..., 0]

    def fitted(self, truth: np.ndarray, fit: Fit) -> np.ndarray:
        """Bring a truth (h, w) to the network's size, without mixing its values."""
        return fit.apply(truth[..., None], nearest=True)[..., 0]

    def target_tensor(self, target: np.ndarray) -> Tensor:
        """(S, S, K) uint8 -> (K, S, S)."""
        return planes(target)

    def target_shape(self, size: int) -> tuple[int, ...]:
        """Shape of the target of one image at the network's size."""
        return len(self.outputs), size, size


@dataclass(frozen=True)
class ImageKind:
    """Probabilities of whole images: one of several classes, any number of them, or whether there is anything."""

    name: str
    """label (exactly one of the classes) or labels (any number of them)."""
    outputs: tuple[str, ...]
    """A name for each of the K logits of an image."""

    @property
    def exclusive(self) -> bool:
        """True if an image has exactly one of the classes."""
        return self.name == "label"

    def build(self, arch: str, channels_in: int, encoder_weights: str = "none") -> nn.Module:
        """Build a network with these outputs; raises as `build_classifier` does."""
        return build_classifier(arch, channels_in, len(self.outputs), encoder_weights)

    def probabilities(self, output: Output) -> Tensor:
        """Output of the network -> (B, K) float32, [0, 1]."""
        if isinstance(output, DeepOutput):  # a mask net's own class: is there anything?
            return torch.sigmoid(output.image[:, None])
        return torch.softmax(output.float(), 1) if self.exclusive else torch.sigmoid(output.float())

    def at_image_size(self, probabilities: Tensor, _fit: Fit) -> Tensor:
        """(B, K), which has no size."""
        return probabilities

    def mean_over_views(self, see: See, images: Tensor, views: Sequence[View]) -> Tensor:
        """(B, C, *frame) uint8 -> the mean of probabilities over views."""
        return torch.stack([see(view.see(images)) for view in views]).mean(0)

    def stored(self, probabilities: Tensor) -> np.ndarray:
        """Probabilities as files hold them: (B, K) float32."""
        return probabilities.float().cpu().numpy()

    @contextmanager
    def writer(
        self, path: str | Path, ids: Sequence[str], _shape: tuple[int, int], info: PredictionInfo
    ) -> Iterator[RowWriter]:
        """Open a probability file for images `ids`, in order; it appears when all are there."""
        rows: list[np.ndarray] = []
        yield rows
        write_probabilities(path, ids, np.concatenate(rows), self.outputs, info)

    def augmented(
        self, vary: Vary, image: np.ndarray, truth: np.ndarray, seed: list[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vary an image (h, w, C); its classes (K,) stay."""
        return vary(image, None, seed)[0], truth

    def fitted(self, truth: np.ndarray, _fit: Fit) -> np.ndarray:
        """Classes (K,), which have no size."""
        return truth

    def target_tensor(self, target: np.ndarray) -> Tensor:
        """(K,) uint8."""
        return torch.from_numpy(target)

    def target_shape(self, _size: int) -> tuple[int, ...]:
        """Shape of the target of one image."""
        return (len(self.outputs),)


Kind = PixelKind | ImageKind
KINDS: dict[str, type[PixelKind] | type[ImageKind]] = {
    "mask": PixelKind,
    "border": PixelKind,
    "labels": ImageKind,
    "label": ImageKind,
}


def kind_by_name(name: str, outputs: Sequence[str]) -> Kind:
    """Return the kind that a snapshot names; raises UsageError for an unknown one."""
    return pick(KINDS, name, "task")(name, tuple(outputs))


def planes(image: np.ndarray) -> Tensor:
    """(h, w, C) -> (C, h, w), a tensor that may be written to."""
    pixels = np.require(image.transpose(2, 0, 1), requirements=["C", "W"])  # a packed row is read-only
    return torch.from_numpy(pixels)
