"""Kinds of networks by what they predict: probabilities of pixels, or of images.

A kind builds its networks, turns their outputs into probabilities and stores these. A snapshot names its kind and its
outputs. What training needs in addition (target, losses, scores) is in a Task.
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
"""Function from images (B, C, H, W) uint8 at the input size to probabilities."""


class RowWriter(Protocol):
    """Writer of predictions (B, ...), appended in order."""

    def append(self, rows: np.ndarray) -> None: ...


@dataclass(frozen=True)
class PixelKind:
    """Networks that predict probabilities of each pixel: of a mask, or of a mask and a border."""

    name: str
    """Name of the kind: mask or border."""
    outputs: tuple[str, ...]
    """Name of each of the K logits of a pixel."""

    def build(self, arch: str, channels_in: int, encoder_weights: str = "none") -> nn.Module:
        """Build a network with these outputs; raises the errors of `build_network`."""
        return build_network(arch, channels_in, len(self.outputs), encoder_weights)

    def probabilities(self, output: Output) -> Tensor:
        """Return the probabilities (B, K, S, S) float32, [0, 1], for an output of the network."""
        return torch.sigmoid(fused(output).float())

    def at_image_size(self, probabilities: Tensor, fit: Fit) -> Tensor:
        """Bring probabilities (B, K, *frame) at the input size back to the size of the images, (B, K, h, w)."""
        return fit.invert(probabilities)

    def mean_over_views(self, see: See, images: Tensor, views: Sequence[View]) -> Tensor:
        """Return the mean of the probabilities over views, after inverting each view.

        `images` are (B, C, *frame) uint8. All views of square images go through the network in one batch.
        """
        if images.shape[2] != images.shape[3]:  # a quarter turn has another shape, so batching is impossible
            seen = [see(view.see(images)) for view in views]
        else:
            seen = see(torch.cat([view.see(images) for view in views])).chunk(len(views))
        return torch.stack([view.undo(one) for view, one in zip(views, seen, strict=True)]).mean(0)

    def stored(self, probabilities: Tensor) -> np.ndarray:
        """Return probabilities as mask files store them: (B, h, w), or (B, 2, h, w) with borders, float16."""
        half = probabilities.half().cpu().numpy()  # numpy's conversion would take a tenth of the network's time
        return half[:, 0] if half.shape[1] == 1 else half

    def writer(
        self, path: str | Path, ids: Sequence[str], shapes: Sequence[tuple[int, int]], info: PredictionInfo
    ) -> AbstractContextManager[RowWriter]:
        """Open a mask file for images `ids` of `shapes` (h, w), in order; the file appears when all are written."""
        planes = (len(self.outputs),) if len(self.outputs) > 1 else ()
        return mask_writer(path, ids, [(*planes, *shape) for shape in shapes], info)

    def augmented(
        self, vary: Vary, image: np.ndarray, truth: np.ndarray, seed: list[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment an image (h, w, C) and its truth (h, w) together, and return both at the input size."""
        varied, moved = vary(image, truth[..., None], seed)
        return varied, moved[..., 0]

    def fitted(self, truth: np.ndarray, fit: Fit) -> np.ndarray:
        """Bring a truth (h, w) to the input size, without mixing its values (nearest neighbour)."""
        return fit.apply(truth[..., None], nearest=True)[..., 0]

    def truth_tensor(self, truth: np.ndarray) -> Tensor:
        """Convert a truth (S, S) to a tensor (1, S, S): masks uint8, label maps int32."""
        whole = truth if truth.dtype == np.uint8 else truth.astype(np.int32)  # torch does little with uint16
        return planes(whole[..., None])

    def target_shape(self, size: int) -> tuple[int, ...]:
        """Return the shape of the target of one image at the input size `size`."""
        return len(self.outputs), size, size


@dataclass(frozen=True)
class ImageKind:
    """Networks that predict probabilities of images: one of several classes, any number of them, or "not empty"."""

    name: str
    """Name of the kind: label (exactly one of the classes) or labels (any number of them)."""
    outputs: tuple[str, ...]
    """Name of each of the K logits of an image."""

    @property
    def exclusive(self) -> bool:
        """True if an image has exactly one of the classes."""
        return self.name == "label"

    def build(self, arch: str, channels_in: int, encoder_weights: str = "none") -> nn.Module:
        """Build a network with these outputs; raises the errors of `build_classifier`."""
        return build_classifier(arch, channels_in, len(self.outputs), encoder_weights)

    def probabilities(self, output: Output) -> Tensor:
        """Return the probabilities (B, K) float32, [0, 1], for an output of the network."""
        if isinstance(output, DeepOutput):  # the image head of a deeply supervised mask network
            return torch.sigmoid(output.image[:, None])
        return torch.softmax(output.float(), 1) if self.exclusive else torch.sigmoid(output.float())

    def at_image_size(self, probabilities: Tensor, _fit: Fit) -> Tensor:
        """Return the probabilities (B, K) unchanged, because they have no spatial size."""
        return probabilities

    def mean_over_views(self, see: See, images: Tensor, views: Sequence[View]) -> Tensor:
        """Return the mean of the probabilities over views of images (B, C, *frame) uint8."""
        return torch.stack([see(view.see(images)) for view in views]).mean(0)

    def stored(self, probabilities: Tensor) -> np.ndarray:
        """Return probabilities as probability files store them: (B, K) float32."""
        return probabilities.float().cpu().numpy()

    @contextmanager
    def writer(
        self, path: str | Path, ids: Sequence[str], _shapes: Sequence[tuple[int, int]], info: PredictionInfo
    ) -> Iterator[RowWriter]:
        """Open a probability file for images `ids`, in order; the file appears when all are written."""
        rows: list[np.ndarray] = []
        yield rows
        write_probabilities(path, ids, np.concatenate(rows), self.outputs, info)

    def augmented(
        self, vary: Vary, image: np.ndarray, truth: np.ndarray, seed: list[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment an image (h, w, C), and return its classes (K,) unchanged."""
        return vary(image, None, seed)[0], truth

    def fitted(self, truth: np.ndarray, _fit: Fit) -> np.ndarray:
        """Return the classes (K,) unchanged, because they have no spatial size."""
        return truth

    def truth_tensor(self, truth: np.ndarray) -> Tensor:
        """Convert classes (K,) uint8 to a tensor."""
        return torch.from_numpy(truth)

    def target_shape(self, _size: int) -> tuple[int, ...]:
        """Return the shape of the target of one image."""
        return (len(self.outputs),)


Kind = PixelKind | ImageKind
KINDS: dict[str, type[PixelKind] | type[ImageKind]] = {
    "mask": PixelKind,
    "border": PixelKind,
    "labels": ImageKind,
    "label": ImageKind,
}


def kind_by_name(name: str, outputs: Sequence[str]) -> Kind:
    """Return the kind with the name and outputs that a snapshot stores; raise UsageError if the name is unknown."""
    return pick(KINDS, name, "task")(name, tuple(outputs))


def planes(image: np.ndarray) -> Tensor:
    """Convert an image (h, w, C) to a writable tensor (C, h, w)."""
    pixels = np.require(image.transpose(2, 0, 1), requirements=["C", "W"])  # rows of a packed array are read-only
    return torch.from_numpy(pixels)
