"""Microbatches of an epoch: every image occurs once per pass, regardless of the number of workers and processes."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch

from net.augmentations import TRAIN_AUGS, Crop
from net.batch_augmentation import CutMix, pasted
from net.dataset import EpochBatches, Mix, TrainingBatches, TrainingRows, normalised
from net.stages import Stage
from net.tasks import border_task, class_task, mask_task
from utils.data.packed_data import open_packed

CPU = torch.device("cpu")
TASKS = {
    "mask": mask_task,
    "border": lambda packed: border_task(packed, "outline", 2, 1.0),
    "class": lambda packed: class_task(packed, "", None, 0.9),
}


def rows_in(microbatches):
    return [row for microbatch in microbatches for _, row in microbatch.keys]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("n", "size"), [(64, 32), (65, 32), (33, 32), (7, 3), (5, 8), (1, 4), (5, 1), (3, 2)])
def test_every_row_occurs_once_in_microbatches_of_about_the_same_size(n, size, accumulate):
    plan = EpochBatches(np.arange(100, 100 + n), size, seed=1, accumulate=accumulate)
    microbatches = plan.microbatches()
    sizes = [len(microbatch.keys) for microbatch in microbatches]
    assert sorted(rows_in(microbatches)) == list(range(100, 100 + n))
    assert len(microbatches) == len(plan) == len(list(plan))
    assert sum(microbatch.last for microbatch in microbatches) == plan.steps == -(-n // (size * accumulate))
    assert microbatches[-1].last
    assert max(sizes) <= size
    assert plan.smallest == min(sizes) >= max(sizes) // 2


def test_microbatches_know_the_size_of_their_batch_which_is_the_same_as_one_large_microbatch():
    microbatches = EpochBatches(np.arange(23), 4, seed=1, accumulate=3).microbatches()
    batches, current = [], []
    for microbatch in microbatches:
        current.append(microbatch)
        if microbatch.last:
            assert {one.batch_size for one in current} == {len(rows_in(current))}
            batches.append(rows_in(current))
            current = []
    assert batches == [rows_in([large]) for large in EpochBatches(np.arange(23), 12, seed=1).microbatches()]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_microbatch_completely(processes):
    whole = EpochBatches(np.arange(23), 8, seed=1, accumulate=2).microbatches()
    shares = [
        EpochBatches(np.arange(23), 8, seed=1, accumulate=2, share=(number, processes)).microbatches()
        for number in range(processes)
    ]
    for microbatch, *pieces in zip(whole, *shares, strict=True):
        assert rows_in(pieces) == rows_in([microbatch])
        assert {(piece.batch_size, piece.last) for piece in pieces} == {(microbatch.batch_size, microbatch.last)}
        assert max(len(piece.keys) for piece in pieces) - min(len(piece.keys) for piece in pieces) <= 1


@pytest.mark.parametrize("epoch_size", [4, 7, 10, 25])
def test_epochs_of_another_size_go_through_the_passes_without_a_gap(epoch_size):
    plan, seen = EpochBatches(np.arange(10), 3, seed=1, epoch_size=epoch_size), []
    for plan.epoch in range(30):
        keys = [key for microbatch in plan.microbatches() for key in microbatch.keys]
        assert len(keys) == epoch_size
        seen += keys
    for turn in range(4):
        one_pass = seen[10 * turn : 10 * turn + 10]
        assert {number for number, _ in one_pass} == {turn}
        assert sorted(row for _, row in one_pass) == list(range(10))
    by_pass = EpochBatches(np.arange(10), 3, seed=1)
    by_pass.epoch = 2
    assert seen[20:30] == [key for microbatch in by_pass.microbatches() for key in microbatch.keys]


def test_the_share_of_nonempty_images_is_exact_in_every_epoch_and_all_images_take_their_turn():
    rows, nonempty = np.arange(100, 130), np.arange(30) < 6
    mixed = [EpochBatches(rows, 4, 1, epoch_size=20, mix=Mix(nonempty, 0.8, 0.2, 5)) for _ in range(2)]
    seen, times = [], {}
    for epoch in range(5):
        for batches in mixed:
            batches.epoch = epoch
        keys = [key for keys in mixed[0] for key in keys]
        assert keys == [key for keys in mixed[1] for key in keys]
        seen.append(sum(row < 106 for _, row in keys))
        for turn, row in keys:
            times.setdefault(row, []).append(turn)
    assert seen == [16, 13, 10, 7, 4]
    assert all(sorted(turns) == list(range(len(turns))) for turns in times.values())  # pass after pass, without a gap
    assert {len(times[row]) for row in range(100, 106)} == {8, 9}
    assert {len(times[row]) for row in range(106, 130)} == {2, 3}
    late = EpochBatches(rows, 4, 1, epoch_size=20, mix=Mix(nonempty, 0.8, 0.2, 5))
    late.epoch = 4
    assert [key for keys in late for key in keys] == keys
    shares = [EpochBatches(rows, 4, 1, epoch_size=20, share=(n, 2), mix=Mix(nonempty, 0.8, 0.2, 5)) for n in (0, 1)]
    for batches in shares:
        batches.epoch = 4
    together = [key for one, other in zip(*shares, strict=True) for key in [*one, *other]]
    assert together == keys


def test_order_depends_on_seed_and_epoch_only():
    plan, same, other = (EpochBatches(np.arange(50), 8, seed) for seed in (1, 1, 2))
    first = list(plan)
    assert list(same) == first != list(other)
    plan.epoch = 1
    assert [[row for _, row in keys] for keys in plan] != [[row for _, row in keys] for keys in first]


@pytest.mark.parametrize("cutmix", [None, CutMix(0.5, np.arange(12))], ids=["alone", "cutmix"])
@pytest.mark.parametrize("name", ["train_128_v1", "affine_128", "affine_128_d4"])
def test_the_number_of_workers_changes_nothing(survey, name, cutmix):
    packed = open_packed(survey)
    seen = []
    for workers in (0, 1, 2):
        plan = EpochBatches(np.arange(12), 4, seed=3)
        plan.epoch = 2
        task = mask_task(packed)
        samples = TrainingRows(packed, task, TRAIN_AUGS[name].maker, 3, TRAIN_AUGS[name].batch, cutmix)
        loader = TrainingBatches(samples, task, plan, workers, CPU)
        seen.append([torch.cat([images.flatten(), targets.flatten()]) for images, targets in loader])
    assert all(torch.equal(a, b) for other in seen[1:] for a, b in zip(seen[0], other, strict=True))


@pytest.mark.parametrize("make_task", TASKS.values(), ids=TASKS)
def test_batches_held_in_the_memory_of_the_device_are_the_same(survey, make_task):
    packed = open_packed(survey)
    stage = Stage(64, 1, "val_128_resize", None)
    change = TRAIN_AUGS["affine_128_d4"].batch
    task = make_task(packed)
    cutmix = None if task.kind.name == "labels" else CutMix(0.5, np.arange(1, 13))
    samples = TrainingRows(packed, task, partial(stage.vary, "affine_128_d4"), 3, change, cutmix)
    read, held = (
        TrainingBatches(samples, task, EpochBatches(np.arange(1, 13), 5, seed=3), 0, CPU, held)
        for held in (False, True)
    )
    for epoch in (0, 3):
        read.loader.batch_sampler.epoch = held.loader.batches.epoch = epoch
        assert len(read) == len(held) == 3
        for one, other in zip(read, held, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert stage.is_fixed("affine_128_d4")
    assert not stage.is_fixed("train_128_d4")
    assert not Stage(64, 1, "val_native", Crop(0.5)).is_fixed("affine_128_d4")


@pytest.mark.parametrize("make_task", TASKS.values(), ids=TASKS)
def test_samples_can_be_sent_to_workers_memory_maps_by_their_names(survey, make_task):
    packed = open_packed(survey)
    make_vary = partial(Stage(64, 1, "val_128_resize", None).vary, "train_128_v1")
    packet = pickle.dumps(TrainingRows(packed, make_task(packed), make_vary, 3))
    assert len(packet) < packed.images.nbytes / 10
    sent, kept = pickle.loads(packet)[(1, 5)], TrainingRows(packed, make_task(packed), make_vary, 3)[(1, 5)]
    assert all(torch.equal(one, other) for one, other in zip(sent, kept, strict=True))


def test_workers_may_be_started_without_fork(survey):
    """macOS, Windows and Python 3.14 do not fork."""
    packed = open_packed(survey)
    make_vary = partial(Stage(64, 1, "val_128_resize", None).vary, "train_128_v1")
    plan = EpochBatches(np.arange(12), 4, seed=3)
    task = mask_task(packed)
    here, spawned = (
        TrainingBatches(TrainingRows(packed, task, make_vary, 3), task, plan, workers, CPU) for workers in (0, 1)
    )
    spawned.loader.multiprocessing_context = "spawn"
    for one, other in zip(here, spawned, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_a_sample_depends_on_seed_pass_and_row_only(survey):
    """Each pass augments an image differently, regardless of the other images in the batch."""
    packed = open_packed(survey)
    one, other = (TrainingRows(packed, mask_task(packed), TRAIN_AUGS["train_128_v1"].maker, seed) for seed in (3, 4))
    alone = one[(1, 5)][0]
    assert torch.equal(one.__getitems__([(1, 7), (1, 5)])[1][0], alone)
    assert not torch.equal(one[(2, 5)][0], alone)
    assert not torch.equal(other[(1, 5)][0], alone)


def test_cutmix_pastes_a_rectangle_of_another_training_image_and_its_mask(survey):
    packed, rows = open_packed(survey), np.arange(4, 20)
    make_vary = partial(Stage(64, 1, "val_128_resize", None).vary, "affine_128")
    plain = TrainingRows(packed, mask_task(packed), make_vary, 3)
    mixed = TrainingRows(packed, mask_task(packed), make_vary, 3, cutmix=CutMix(0.5, rows))
    keys = [(turn, row) for turn in range(6) for row in range(4, 20)]
    others, areas = set(), []
    for key in keys:
        other, (top, bottom, left, right) = mixed.rectangle(64, *key)
        image, mask, _ = mixed[key]
        expected = [tensor.clone() for tensor in plain[key][:2]]
        for tensor, pasted_one in zip(expected, plain[(key[0], other)][:2], strict=True):
            tensor[:, top:bottom, left:right] = pasted_one[:, top:bottom, left:right]
        assert torch.equal(image, expected[0])
        assert torch.equal(mask, expected[1])
        if other != key[1]:
            others.add(other)
            areas.append((bottom - top) * (right - left) / 64**2)
    assert 0.3 < len(areas) / len(keys) < 0.7
    assert others <= set(rows.tolist())
    assert len(others) > 8
    assert 0.08 < min(areas) < 0.2 < 0.4 < max(areas) < 0.52
    assert not any(CutMix(0.0, rows).draw(64, 3, *key)[1][1] for key in keys)


def test_objects_that_are_pasted_stay_apart_from_those_that_were_there():
    here = torch.tensor([[1, 1, 2, 2]], dtype=torch.int32).expand(4, 4)[None, None]
    there = torch.tensor([[0, 1, 1, 2]], dtype=torch.int32).expand(4, 4)[None, None]
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    _, truths = pasted((images, here), (images, there), torch.tensor([[1, 3, 0, 4]]))
    assert truths[0, 0].tolist() == [[1, 1, 2, 2], [0, 3, 3, 4], [0, 3, 3, 4], [1, 1, 2, 2]]
    assert truths.dtype == torch.int32
    masks = (here > 0).byte(), (there > 0).byte()
    _, truths = pasted((images, masks[0]), (images, masks[1]), torch.tensor([[0, 0, 0, 0]]))
    assert torch.equal(truths, masks[0])


def test_pixels_are_normalised_around_zero():
    grey = normalised(torch.full((2, 1, 4, 4), 115, dtype=torch.uint8))
    assert grey.abs().max() < 0.02
    rgb = normalised(torch.tensor([124, 116, 104], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 4, 4))
    assert rgb.abs().max() < 0.02
