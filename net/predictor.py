"""Predictor: a trained network that turns images into probabilities, used in validation and by every predict script."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from net.dataset import fitted, normalised
from net.device import Machine
from net.geometry import VAL_AUGS, ValAug
from net.network_kinds import Kind, kind_by_name
from net.outputs import Output, to_float32
from net.snapshot import Snapshot, SnapshotInfo, fill, load_snapshot
from net.tiles import Tiles
from net.tta import View
from utils.core.errors import UsageError, UserError
from utils.data.packed_data import PackedImages

VALIDATION_TILE, OVERLAP = 1024, 64
"""Side of the tiles in which large images are validated, and their overlap, in pixels."""


@dataclass(frozen=True)
class Predictor:
    """A network in evaluation mode, with the steps that turn images into probabilities at image size."""

    network: nn.Module
    kind: Kind
    val: ValAug
    machine: Machine
    tiles: Tiles | None = None
    """Tiles that images are cut into, unless they are smaller than a tile; None to predict whole images."""
    tile_batch_size: int = 1
    """Number of tiles that the network sees at a time, all views counted."""

    def at_scale(self, scale: float) -> "Predictor":
        """Return the same network that sees images at `scale`, relative to the present one."""
        return replace(self, val=replace(self.val, scale=self.val.scale * scale))

    def output(self, images: Tensor) -> Output:
        """Return the output of the network, float32, for images (B, C, S, S) uint8."""
        images = images.to(self.machine.device, non_blocking=True)
        with self.machine.autocast():
            output = self.network(normalised(images))
        return to_float32(output)

    def output_in_tiles(self, images: Tensor) -> Tensor:
        """Return the logits (B, K, *frame) float32 of large images (B, C, *frame) uint8, seen in tiles of 1024.

        The probabilities of the tiles are blended, so the memory does not grow with the images.
        """
        size = min(VALIDATION_TILE, *images.shape[2:])
        tiles, planes = Tiles(size, OVERLAP if size >= 2 * OVERLAP else 0), len(self.kind.outputs)

        def probabilities(cut: Tensor) -> Tensor:
            return self.kind.probabilities(self.output(cut))

        blended = torch.stack([tiles.blended(image, planes, probabilities, 1) for image in images])
        return torch.logit(blended, eps=1e-6).to(self.machine.device)

    def probabilities(self, output: Output, shape: tuple[int, int]) -> Tensor:
        """Return the probabilities of an output for images of `shape` (h, w).

        Returns:
            (B, K, h, w) float32, or (B, K) for networks that predict classes of images.
        """
        return self.kind.at_image_size(self.kind.probabilities(output), self.val(shape))

    def predict(self, images: np.ndarray, views: Sequence[View]) -> Tensor:
        """Return the mean of the probabilities over views.

        Args:
            images: (B, h, w, C) uint8.
            views: views of each image to average.

        Returns:
            (B, K, h, w) float32, or (B, K) for networks that predict classes of images.
        """
        fit = self.val(images.shape[1:3])
        at_size = fitted(images, self.val)
        if self.tiles is None or self.tiles.size > min(fit.frame):
            return self.kind.at_image_size(self._mean(at_size, views), fit)
        planes, tile_batch_size = len(self.kind.outputs), max(1, self.tile_batch_size // len(views))
        whole = [
            self.tiles.blended(image, planes, lambda cut: self._mean(cut, views), tile_batch_size) for image in at_size
        ]
        return self.kind.at_image_size(torch.stack(whole), fit)

    def _mean(self, images: Tensor, views: Sequence[View]) -> Tensor:
        """Return the mean of the probabilities over views of images (B, C, *frame) uint8, at the input size."""
        return self.kind.mean_over_views(lambda seen: self.kind.probabilities(self.output(seen)), images, views)


def batches_of(
    rows: np.ndarray, packed: PackedImages, batch_size: Callable[[tuple[int, int]], int]
) -> Iterator[np.ndarray]:
    """Yield the rows in order, in batches of images of one size; `batch_size` tells how many of a size (h, w)."""
    for shape, group in groupby(rows.tolist(), key=packed.shapes.__getitem__):
        same, size = np.array(list(group)), batch_size(shape)
        yield from (same[start : start + size] for start in range(0, len(same), size))


def load_predictors(
    paths: Sequence[Path], machine: Machine, packed: PackedImages, arch: str | None = None
) -> tuple[list[Predictor], list[SnapshotInfo]]:
    """Load snapshot files, and return a predictor and the stored record for each of them.

    Raises:
        UsageError: `arch` is given and is not the architecture of a snapshot.
        UserError: a file is not a snapshot, was trained on images with another number of channels, or predicts
            something else than the first one.
    """
    predictors: list[Predictor] = []
    infos: list[SnapshotInfo] = []
    for path in paths:
        snapshot = load_snapshot(path)
        info = snapshot.info
        if arch is not None and arch != info.arch:
            raise UsageError(
                f"--arch {arch}: {path} is a {info.arch}; leave --arch out, because the snapshot stores it"
            )
        if info.channels_in != packed.channels:
            raise UserError(
                f"{path}: expected {info.channels_in}-channel images, as in training, found {packed.channels}-channel "
                "images; use another snapshot or other images"
            )
        kind = kind_of(info)
        if predictors and kind != predictors[0].kind:
            raise UserError(
                f"{path}: a {kind.name} network ({', '.join(kind.outputs)}), but {paths[0]} is a "
                f"{predictors[0].kind.name} network ({', '.join(predictors[0].kind.outputs)}); average networks of one "
                "kind"
            )
        network = rebuild(snapshot, path).to(machine.device, memory_format=torch.channels_last)
        if machine.compiles:
            network.compile()
        predictors.append(Predictor(network, kind, val_of(info), machine))
        infos.append(info)
    return predictors, infos


def val_of(info: SnapshotInfo) -> ValAug:
    """Return the preprocessing of a snapshot's validation images.

    Snapshots from before --stages store no size; the size of their `val_augs` applies to them.
    """
    named = replace(VAL_AUGS[info.val_augs], contrast_stretch=info.contrast_stretch)
    return named if named.size is None else replace(named, size=info.size or named.size)


def kind_of(info: SnapshotInfo) -> Kind:
    """Return the kind of network that a snapshot holds."""
    return kind_by_name(info.task, info.outputs)


def rebuild(snapshot: Snapshot, path: str | Path) -> nn.Module:
    """Build the network of a snapshot with its weights, in evaluation mode; `path` is used in error messages."""
    info = snapshot.info
    network = kind_of(info).build(info.arch, info.channels_in)
    fill(network, snapshot.weights, path)
    return network.eval()
