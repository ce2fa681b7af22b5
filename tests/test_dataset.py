"""The batches of an epoch: every row once, the same whoever prepares them."""

import numpy as np
import pytest
import torch

from net.augmentations import TRAIN_AUGS
from net.dataset import EpochBatches, TrainingRows, normalised, training_loader
from net.tasks import MASK
from utils.stack import open_stack


@pytest.mark.parametrize(("n", "size"), [(64, 32), (65, 32), (33, 32), (7, 3), (5, 8), (1, 4), (5, 1), (3, 2)])
def test_every_row_once_and_no_single_image_at_the_end(n, size):
    batches = EpochBatches(np.arange(100, 100 + n), size, seed=1)
    sizes = [len(batch) for batch in batches]
    assert sorted(row for batch in batches for _, row in batch) == list(range(100, 100 + n))
    assert len(sizes) == len(batches)
    assert max(sizes) <= size
    if n > 1 and size > 2:
        assert min(sizes) > 1


def test_order_depends_on_seed_and_epoch_alone():
    batches, same, other = (EpochBatches(np.arange(50), 8, seed) for seed in (1, 1, 2))
    first = list(batches)
    assert list(same) == first != list(other)
    batches.epoch = 1
    assert [[row for _, row in batch] for batch in batches] != [[row for _, row in batch] for batch in first]


def test_workers_change_nothing(survey):
    stack = open_stack(survey)
    seen = []
    for workers in (0, 1, 2):
        batches = EpochBatches(np.arange(12), 4, seed=3)
        batches.epoch = 2
        loader = training_loader(TrainingRows(stack, MASK, TRAIN_AUGS["train_128_v1"], 3), batches, workers, False)
        seen.append([torch.cat([images.flatten(), targets.flatten()]) for images, targets in loader])
    assert all(torch.equal(a, b) for other in seen[1:] for a, b in zip(seen[0], other, strict=True))


def test_pixels_are_normalised_about_zero():
    grey = normalised(torch.full((2, 1, 4, 4), 115, dtype=torch.uint8))
    assert grey.abs().max() < 0.02
    rgb = normalised(torch.tensor([124, 116, 104], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 4, 4))
    assert rgb.abs().max() < 0.02
