"""The parts of an epoch: every image once a pass, the same whoever prepares them and however many processes share."""

import numpy as np
import pytest
import torch

from net.augmentations import TRAIN_AUGS
from net.dataset import EpochBatches, TrainingRows, normalised, training_loader
from net.tasks import mask_task
from utils.data.packed_data import open_packed


def rows_in(parts):
    return [row for part in parts for _, row in part.keys]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("n", "size"), [(64, 32), (65, 32), (33, 32), (7, 3), (5, 8), (1, 4), (5, 1), (3, 2)])
def test_every_row_once_in_parts_of_about_the_same_size(n, size, accumulate):
    plan = EpochBatches(np.arange(100, 100 + n), size, seed=1, accumulate=accumulate)
    parts = plan.microbatches()
    sizes = [len(part.keys) for part in parts]
    assert sorted(rows_in(parts)) == list(range(100, 100 + n))
    assert len(parts) == len(plan) == len(list(plan))
    assert sum(part.last for part in parts) == plan.steps == -(-n // (size * accumulate))
    assert parts[-1].last
    assert max(sizes) <= size
    assert plan.smallest == min(sizes) >= max(sizes) // 2


def test_a_group_says_how_many_images_it_has_and_is_that_of_a_larger_batch():
    parts = EpochBatches(np.arange(23), 4, seed=1, accumulate=3).microbatches()
    groups, current = [], []
    for part in parts:
        current.append(part)
        if part.last:
            assert {one.batch_size for one in current} == {len(rows_in(current))}
            groups.append(rows_in(current))
            current = []
    assert groups == [rows_in([part]) for part in EpochBatches(np.arange(23), 12, seed=1).microbatches()]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_part_without_a_gap(processes):
    whole = EpochBatches(np.arange(23), 8, seed=1, accumulate=2).microbatches()
    shares = [
        EpochBatches(np.arange(23), 8, seed=1, accumulate=2, share=(number, processes)).microbatches()
        for number in range(processes)
    ]
    for part, *pieces in zip(whole, *shares, strict=True):
        assert rows_in(pieces) == rows_in([part])
        assert {(piece.batch_size, piece.last) for piece in pieces} == {(part.batch_size, part.last)}
        assert max(len(piece.keys) for piece in pieces) - min(len(piece.keys) for piece in pieces) <= 1


@pytest.mark.parametrize("epoch_size", [4, 7, 10, 25])
def test_epochs_of_another_size_go_through_the_passes_without_a_gap(epoch_size):
    plan, seen = EpochBatches(np.arange(10), 3, seed=1, epoch_size=epoch_size), []
    for plan.epoch in range(30):
        keys = [key for part in plan.microbatches() for key in part.keys]
        assert len(keys) == epoch_size
        seen += keys
    for turn in range(4):
        one_pass = seen[10 * turn : 10 * turn + 10]
        assert {number for number, _ in one_pass} == {turn}
        assert sorted(row for _, row in one_pass) == list(range(10))
    by_pass = EpochBatches(np.arange(10), 3, seed=1)
    by_pass.epoch = 2
    assert seen[20:30] == [key for part in by_pass.microbatches() for key in part.keys]


def test_order_depends_on_seed_and_epoch_alone():
    plan, same, other = (EpochBatches(np.arange(50), 8, seed) for seed in (1, 1, 2))
    first = list(plan)
    assert list(same) == first != list(other)
    plan.epoch = 1
    assert [[row for _, row in part] for part in plan] != [[row for _, row in part] for part in first]


def test_workers_change_nothing(survey):
    packed = open_packed(survey)
    seen = []
    for workers in (0, 1, 2):
        plan = EpochBatches(np.arange(12), 4, seed=3)
        plan.epoch = 2
        loader = training_loader(
            TrainingRows(packed, mask_task(packed), TRAIN_AUGS["train_128_v1"].maker, 3), plan, workers, False
        )
        seen.append([torch.cat([images.flatten(), targets.flatten()]) for images, targets in loader])
    assert all(torch.equal(a, b) for other in seen[1:] for a, b in zip(seen[0], other, strict=True))


def test_a_sample_depends_on_seed_pass_and_row_alone(survey):
    """Every pass varies an image anew, whatever stands beside it in the batch."""
    packed = open_packed(survey)
    one, other = (TrainingRows(packed, mask_task(packed), TRAIN_AUGS["train_128_v1"].maker, seed) for seed in (3, 4))
    alone = one[(1, 5)][0]
    assert torch.equal(one.__getitems__([(1, 7), (1, 5)])[1][0], alone)
    assert not torch.equal(one[(2, 5)][0], alone)
    assert not torch.equal(other[(1, 5)][0], alone)


def test_pixels_are_normalised_about_zero():
    grey = normalised(torch.full((2, 1, 4, 4), 115, dtype=torch.uint8))
    assert grey.abs().max() < 0.02
    rgb = normalised(torch.tensor([124, 116, 104], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 4, 4))
    assert rgb.abs().max() < 0.02
