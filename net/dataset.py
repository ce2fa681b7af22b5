"""Rows of the stack -> tensors: the batches of an epoch in training, plain batches in validation and prediction."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from net.augmentations import Fit, TrainAug
from net.tasks import Task
from utils.stack import Stack

Key = tuple[int, int]
"""(epoch, row of the stack): with the seed, all that a training sample depends on."""


class TrainingRows(Dataset[tuple[Tensor, Tensor]]):
    """Augmented samples; (epoch, row) -> image (C, S, S) uint8 and target (K, S, S) uint8.

    A sample depends on (seed, epoch, row) alone, so that neither workers nor a resume change it.
    """

    def __init__(self, stack: Stack, task: Task, aug: TrainAug, seed: int) -> None:
        self.stack, self.task, self.aug, self.seed = stack, task, aug, seed
        self._change: Callable[[np.ndarray, np.ndarray, list[int]], tuple[np.ndarray, np.ndarray]] | None = None

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        if self._change is None:  # built where it is used: in each worker
            self._change = self.aug.maker()
        epoch, row = key
        image, target = self._change(self.stack.images[row], self.task.target(self.stack, row), [self.seed, epoch, row])
        return _planes(image), _planes(target)


def _planes(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


class EpochBatches:
    """The batches of one epoch: every row once, in an order that (seed, epoch) decides.

    A last batch of a single image is avoided (BatchNorm cannot take it): the one before gives it an image.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.rows)
        cuts = list(range(self.batch_size, len(order), self.batch_size))
        if cuts and self.batch_size > 2 and len(order) - cuts[-1] == 1:
            cuts[-1] -= 1
        for part in np.split(order, cuts):
            yield [(self.epoch, int(row)) for row in part]


def training_loader(samples: TrainingRows, batches: EpochBatches, workers: int, pin_memory: bool) -> DataLoader:
    """Batches of (images (B, C, S, S) uint8, targets (B, K, S, S) uint8) for the epoch that `batches` is set to."""
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
    )


def fitted(images: np.ndarray, fit: Fit, nearest: bool = False) -> Tensor:
    """Images or targets (B, h, w, C) uint8 at the net's size: (B, C, S, S) uint8."""
    return torch.stack([_planes(fit.apply(image, nearest)) for image in images])


def normalised(images: Tensor) -> Tensor:
    """(B, C, S, S) uint8, [0, 255] -> float32 about zero, channels last; by ImageNet's means, grey by their average."""
    mean, deviation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if images.shape[1] == 3 else ((0.449,), (0.226,))
    shift = torch.tensor(mean, device=images.device)[:, None, None]
    scale = torch.tensor(deviation, device=images.device)[:, None, None]
    return ((images.float() / 255 - shift) / scale).contiguous(memory_format=torch.channels_last)
