"""Packed rows as tensors: microbatches of an epoch for training, plain batches for validation and prediction."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from net.augmentations import Vary
from net.batch_augmentation import BatchChange, CutMix, pasted
from net.geometry import Fit, ValAug, contrast_stretched
from net.network_kinds import planes
from net.tasks import Task
from utils.data.packed_data import PackedImages

Key = tuple[int, int]
"""(pass over the images, row of the packed images); together with the seed it determines a training sample."""

HELD_AT_ONCE = 256
"""Images that are moved to the memory of the device at once."""

Sample = tuple[Tensor, Tensor, Tensor]
"""Image, truth, and the numbers that the change of the whole batch takes (none if the batch is not changed)."""


class TrainingRows(Dataset[Sample]):
    """Augmented samples: (pass, row) -> image (C, S, S) uint8, truth (1, S, S), or (K,) uint8 for labels, and numbers.

    A sample depends only on (seed, pass, row), so neither workers nor a resume change it.

    Args:
        packed: images that the rows refer to.
        task: defines the truth.
        make_vary: creates the augmentation function; called once in each worker, when the first sample is read.
        seed: seed of all samples.
        change: change of the whole batch, for which the samples draw numbers.
        cutmix: rectangles of other images that are pasted; None pastes nothing.
    """

    def __init__(
        self,
        packed: PackedImages,
        task: Task,
        make_vary: Callable[[], Vary],
        seed: int,
        change: BatchChange | None = None,
        cutmix: CutMix | None = None,
    ) -> None:
        self.packed, self.make_vary, self.seed, self.change = packed, make_vary, seed, change
        self.cutmix = cutmix
        self.kind, self.truth = task.kind, task.truth  # losses cannot be sent to a worker
        self._vary: Vary | None = None

    def __getitem__(self, key: Key) -> Sample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """Return the samples of a batch, reading all their images at once."""
        samples = zip(self.unmixed(keys), keys, strict=True)
        return [(*self._mixed(sample, *key), self.numbers(*key)) for sample, key in samples]

    def unmixed(self, keys: Sequence[Key]) -> list[tuple[Tensor, Tensor]]:
        """Return images and truths of a batch before anything is pasted."""
        if self._vary is None:
            self._vary = self.make_vary()
        images = self.packed.images[[row for _, row in keys]]
        return [self._sample(image, *key) for image, key in zip(images, keys, strict=True)]

    def _mixed(self, sample: tuple[Tensor, Tensor], turn: int, row: int) -> tuple[Tensor, Tensor]:
        """Paste the rectangle of another image that is drawn for a sample, if there is one."""
        other, box = self.rectangle(sample[0].shape[-1], turn, row)
        if other == row:
            return sample
        both = ([tensor[None] for tensor in one] for one in (sample, *self.unmixed([(turn, other)])))
        image, truth = pasted(*both, torch.tensor([box]))
        return image[0], truth[0]

    def rectangle(self, side: int, turn: int, row: int) -> tuple[int, tuple[int, int, int, int]]:
        """Return the row and the rectangle that are pasted into a sample; its own row if there is nothing to paste."""
        return self.cutmix.draw(side, self.seed, turn, row) if self.cutmix else (row, (0, 0, 0, 0))

    def _sample(self, image: np.ndarray, turn: int, row: int) -> tuple[Tensor, Tensor]:
        varied, truth = self.kind.augmented(self._vary, image, self.truth(self.packed, row), [self.seed, turn, row])
        return planes(varied), self.kind.truth_tensor(truth)

    def numbers(self, turn: int, row: int) -> Tensor:
        """Return the numbers that the change of the whole batch takes for a sample."""
        return torch.from_numpy(self.change.draw(self.seed, turn, row) if self.change else np.empty(0, np.float32))


@dataclass(frozen=True)
class Microbatch:
    """Share of a batch that one process learns from at once; weights are updated once per batch."""

    keys: list[Key]
    batch_size: int
    """Number of images in the batch, over all its microbatches and all processes."""
    last: bool
    """True if the weights are updated after this microbatch."""


@dataclass(frozen=True)
class Passes:
    """Endless sequence of passes over rows, each in an order of its own."""

    rows: np.ndarray
    seed: Sequence[int]
    """Determines the order, together with the number of the pass."""

    def between(self, first: int, end: int) -> list[Key]:
        """Return the keys at the positions from `first` up to, but not including, `end`."""
        if first == end:
            return []
        turns = range(first // len(self.rows), (end - 1) // len(self.rows) + 1)
        keys = [
            (turn, int(row))
            for turn in turns
            for row in np.random.default_rng([self.seed[0], turn, *self.seed[1:]]).permutation(self.rows)
        ]
        return keys[first - turns[0] * len(self.rows) : end - turns[0] * len(self.rows)]


@dataclass(frozen=True)
class Mix:
    """Share of non-empty images in each epoch."""

    nonempty: np.ndarray
    """True for the rows whose mask is not empty; there are rows of both kinds."""
    start: float
    """Share in the first epoch, 0 to 1; the others lie between it and `end`."""
    end: float
    """Share in the last epoch."""
    n_epochs: int

    def count(self, epoch: int, size: int) -> int:
        """Return the number of non-empty images in an epoch of `size` images, counted from 0."""
        done = epoch / max(1, self.n_epochs - 1)
        return round((self.start + (self.end - self.start) * min(1.0, done)) * size)


class EpochBatches:
    """Batches of one epoch, in an order that depends on (seed, pass); each image occurs exactly once per pass.

    Passes follow each other without a gap, and an epoch consists of the next `epoch_size` images. An epoch is cut into
    batches of at most accumulate x batch_size images, and a batch into microbatches of at most batch_size images. The
    cuts are as equal as possible, so that no batch has only a few images. Each process takes its share of every
    microbatch. The batches do not depend on the number of processes, and batches with `accumulate` k are equal to
    batches with a batch size k times as large.

    Args:
        rows: packed rows to train on.
        batch_size: images per microbatch, over all processes.
        seed: determines the order, together with the pass.
        accumulate: microbatches per batch.
        epoch_size: images per epoch; None means one pass.
        share: (rank of this process, number of processes).
        mix: share of non-empty images; non-empty and empty images then have passes of their own.
    """

    def __init__(
        self,
        rows: np.ndarray,
        batch_size: int,
        seed: int,
        accumulate: int = 1,
        epoch_size: int | None = None,
        share: tuple[int, int] = (0, 1),
        mix: Mix | None = None,
    ) -> None:
        self.rows, self.batch_size, self.seed, self.accumulate = rows, batch_size, seed, accumulate
        self.size = epoch_size or len(rows)
        self.share, self.mix = share, mix
        self.epoch = 0
        """Number of the next epoch, from 0."""

    @property
    def steps(self) -> int:
        """Number of batches in an epoch."""
        return -(-self.size // (self.batch_size * self.accumulate))

    @property
    def smallest(self) -> int:
        """Number of images in the smallest microbatch, which all processes have to share."""
        return min(len(piece) for batch in self._batches() for piece in batch)

    def _batches(self) -> Iterator[list[np.ndarray]]:
        """Yield each batch as its microbatches, which are arrays of places in the epoch."""
        for batch in np.array_split(np.arange(self.size), self.steps):
            yield np.array_split(batch, -(-len(batch) // self.batch_size))

    def _keys(self) -> list[Key]:
        """Return the keys of the epoch, in order."""
        if self.mix is None:
            return Passes(self.rows, [self.seed]).between(self.epoch * self.size, (self.epoch + 1) * self.size)
        before = sum(self.mix.count(epoch, self.size) for epoch in range(self.epoch))
        count, keys = self.mix.count(self.epoch, self.size), []
        for nonempty, first, number in (
            (True, before, count),
            (False, self.epoch * self.size - before, self.size - count),
        ):
            passes = Passes(self.rows[self.mix.nonempty == nonempty], [self.seed, int(nonempty)])
            keys += passes.between(first, first + number)
        order = np.random.default_rng([self.seed, self.epoch, 2]).permutation(len(keys))
        return [keys[place] for place in order]

    def microbatches(self) -> list[Microbatch]:
        """Return the microbatches of this process."""
        keys, (number, processes) = self._keys(), self.share
        found = []
        for batch in self._batches():
            for piece in batch:
                own = [keys[place] for place in np.array_split(piece, processes)[number]]
                found.append(Microbatch(own, sum(map(len, batch)), piece is batch[-1]))
        return found

    def __len__(self) -> int:
        return sum(map(len, self._batches()))

    def __iter__(self) -> Iterator[list[Key]]:
        return (microbatch.keys for microbatch in self.microbatches())


class HeldSamples:
    """Batches of samples that lie in the memory of a device, for samples that only the change of the batch varies.

    All images are read and fitted once; an iteration yields what a DataLoader would: images (B, C, S, S) uint8, truths
    (B, 1, S, S), or (B, K) uint8, and numbers (B, n) float32.

    Args:
        samples: samples by key, which look the same in every pass.
        batches: keys of the microbatches.
        device: where the network is.
    """

    def __init__(self, samples: TrainingRows, batches: EpochBatches, device: torch.device) -> None:
        self.samples, self.batches, self.device = samples, batches, device
        self.place = {int(row): place for place, row in enumerate(batches.rows)}
        chunks = np.array_split(batches.rows, -(-len(batches.rows) // HELD_AT_ONCE))
        held: list[Tensor] = []
        for chunk in chunks:
            read = default_collate(samples.unmixed([(0, int(row)) for row in chunk]))
            held = held or [
                torch.empty(len(batches.rows), *one.shape[1:], dtype=one.dtype, device=device) for one in read
            ]
            for whole, part in zip(held, read, strict=True):
                whole[self.place[int(chunk[0])] :][: len(part)] = part
        self.images, self.truths = held

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Tensor]]:
        for keys in self.batches:
            sample = self._at([row for _, row in keys])
            if self.samples.cutmix:
                others, boxes = zip(*(self.samples.rectangle(self.images.shape[-1], *key) for key in keys), strict=True)
                sample = pasted(sample, self._at(others), torch.tensor(boxes).to(self.device, non_blocking=True))
            yield [*sample, torch.stack([self.samples.numbers(*key) for key in keys])]

    def _at(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        places = torch.tensor([self.place[row] for row in rows]).to(self.device, non_blocking=True)
        return self.images[places], self.truths[places]


class TrainingBatches:
    """Microbatches of an epoch on the device of the network, augmented.

    The target is computed last, from the augmented truth, so that a border has its width whatever the scale.

    An iteration yields images (B, C, S, S) uint8 or float32, [0, 255], and targets (B, K, S, S) or (B, K) uint8; they
    are those of the epoch that `batches` is set to.

    Args:
        samples: samples by key.
        task: makes targets of truths.
        batches: keys of the microbatches.
        workers: number of DataLoader workers.
        device: where the network is.
        held: keep all samples in the memory of the device; they have to look the same in every pass.
    """

    def __init__(
        self,
        samples: TrainingRows,
        task: Task,
        batches: EpochBatches,
        workers: int,
        device: torch.device,
        held: bool = False,
    ) -> None:
        self.change, self.target, self.device = samples.change, task.target, device
        self.loader = HeldSamples(samples, batches, device) if held else _loader(samples, batches, workers, device)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            images, truths, numbers = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            if self.change:
                images, truths = self.change.apply(images, truths, numbers)
            yield images, self.target(truths)


def _loader(samples: TrainingRows, batches: EpochBatches, workers: int, device: torch.device) -> DataLoader:
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )


def fitted(images: Sequence[np.ndarray], val: ValAug) -> Tensor:
    """Bring images (h, w, C) uint8 of one size to the input size: (B, C, *frame) uint8."""
    fit = val(images[0].shape[:2])
    seen = map(contrast_stretched, images) if val.contrast_stretch else images
    return torch.stack([planes(fit.apply(image)) for image in seen])


def fitted_targets(task: Task, packed: PackedImages, rows: np.ndarray, fit: Fit) -> Tensor:
    """Return the targets of validation images at the input size: (B, K, *frame) uint8, or (B, K) for labels."""
    truths = (task.kind.fitted(task.truth(packed, int(row)), fit) for row in rows)
    return task.target(torch.stack([task.kind.truth_tensor(truth) for truth in truths]))


def normalised(images: Tensor) -> Tensor:
    """Normalise images (B, C, S, S) uint8 or float32, [0, 255], to float32 around zero, in channels-last memory format.

    RGB images use ImageNet's means and deviations, grey images the averages of these over the channels.
    """
    scaled = images.float() / 255
    if images.shape[1] == 3:  # channel by channel: numbers, unlike tensors, need no copy to a GPU
        means, deviations = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        channels = zip(scaled.split(1, dim=1), means, deviations, strict=True)
        scaled = torch.cat([(channel - mean) / deviation for channel, mean, deviation in channels], dim=1)
    else:
        scaled = (scaled - 0.449) / 0.226
    return scaled.contiguous(memory_format=torch.channels_last)
