"""Crops, stages and tiles: training on parts of large images, and predicting them part by part."""

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.scripts import TINY, assert_refused, run_here
from torch import nn

from bench.kill_resume import differences
from bench.warm import start
from net.architectures import build_network
from net.augmentations import TRAIN_AUGS, Crop
from net.device import Machine
from net.geometry import VAL_AUGS
from net.network_kinds import PixelKind
from net.predictor import Predictor
from net.prepare_run import check_validated_whole
from net.snapshot import load_snapshot, save_snapshot
from net.stages import stage_of_epoch, stages_of
from net.tiles import Tiles, sees_whole_image
from net.tta import views_by_name
from utils.core.errors import UsageError
from utils.core.training_settings import DataSettings, SizeSettings
from utils.masks.mask_file import open_masks
from utils.runs.run_folder import RunFolder, snapshots_in

CPU = Machine(torch.device("cpu"), torch.float32)


def stages(n_epochs=5, **sizes):
    data = DataSettings(train_augs="train_128_v1", val_augs="val_128")
    return stages_of(data, SizeSettings(**sizes), n_epochs)


def test_a_crop_holds_foreground_as_often_as_asked():
    truth, rng = np.zeros((60, 80, 1), np.uint8), np.random.default_rng(0)
    truth[55, 3] = 1
    for share, least, most in ((0.0, 0, 30), (0.5, 80, 130), (1.0, 200, 200)):
        windows = [Crop(share).window(truth, (60, 80), 16, rng) for _ in range(200)]
        assert all(truth[window].shape == (16, 16, 1) for window in windows)
        assert least <= sum(bool(truth[window].any()) for window in windows) <= most
    places = {Crop(1.0).window(truth, (60, 80), 16, rng)[1].start for _ in range(200)}
    assert places == {0, 1, 2, 3}  # the pixel may be anywhere in the crop, within the image's bounds
    assert Crop(1.0).window(np.zeros_like(truth), (60, 80), 16, rng)[0].stop <= 60  # an empty image can be cropped too


def test_crops_keep_size_and_dtype_and_are_repeatable():
    image = np.arange(90 * 70, dtype=np.uint16).astype(np.uint8).reshape(90, 70, 1)
    for size in (32, 64):
        vary = TRAIN_AUGS["train_128_v2"].maker(size, Crop(0.5))
        varied, truth = vary(image, (image > 127).astype(np.uint16), [1, 2, 3])
        assert varied.shape == truth.shape == (size, size, 1)
        assert (truth.dtype, set(np.unique(truth)) <= {0, 1}) == (np.uint16, True)
        again, _ = vary(image, (image > 127).astype(np.uint16), [1, 2, 3])
        assert np.array_equal(varied, again)


def test_images_smaller_than_the_crop_are_reflected_up_to_it_at_their_own_scale():
    image = np.arange(20 * 50, dtype=np.uint16).astype(np.uint8).reshape(20, 50, 1)
    vary = TRAIN_AUGS["affine_128"].maker(32, Crop(0.5))
    varied, truth = vary(image, (image > 127).astype(np.uint16), [1, 2, 3])
    assert varied.shape == truth.shape == (32, 32, 1)
    assert np.array_equal(truth, varied > 127)
    inner = varied[6:26, :, 0]
    assert any(np.array_equal(inner, image[:, left : left + 32, 0]) for left in range(19))
    assert np.array_equal(varied[5], varied[7])  # mirrored at the upper edge


def test_image_and_truth_are_cropped_at_the_same_place():
    rows, columns = np.indices((90, 70))
    truth = ((rows - 30) ** 2 + (columns - 40) ** 2 < 400).astype(np.uint16)[..., None]
    vary = TRAIN_AUGS["train_128_v2"].maker(32, Crop(1.0))
    for seed in range(8):
        varied, cut = vary((50 + 150 * truth).astype(np.uint8), truth, [seed])
        assert ((varied > 125) == (cut == 1)).mean() > 0.95


def test_stages_follow_each_other_and_validate_at_their_own_size():
    three = stages(stages=("64:2", "96:1", "128:2"))
    assert [stage_of_epoch(three, epoch).size for epoch in range(5)] == [64, 64, 96, 128, 128]
    plan = stages(stages=("64:2", "96:3"))
    assert [(stage_of_epoch(plan, epoch).size, stage_of_epoch(plan, epoch).val.size) for epoch in range(5)] == [
        *[(64, 64)] * 2,
        *[(96, 96)] * 3,
    ]
    cropped = stages(crop=32, stages=("32:1", "64:4"))
    assert [stage.val((90, 70)).frame for stage in cropped] == [(96, 96)] * 2  # whole images, padded to multiples of 32
    assert [stage.size for stage in stages(crop=48)] == [48]
    assert [stage.size for stage in stages()] == [128]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"crop": 0}, ["--crop 0"]),
        ({"crop_foreground": 1.5, "crop": 32}, ["--crop_foreground 1.5"]),
        ({"aug_strength": -1.0}, ["--aug_strength -1", "expected 0 to 4"]),
        ({"aug_strength": 9.0}, ["--aug_strength 9"]),
        ({"aug_strength": 2.0}, ["--train_augs train_128_v1", "use affine_128"]),
        ({"cutmix": 1.5}, ["--cutmix 1.5", "expected a share, 0 to 1"]),
        ({"stages": ("64",)}, ["--stages 64", "256:20"]),
        ({"stages": ("64:0",)}, ["--stages 64:0"]),
    ],
)
def test_invalid_sizes_are_refused(sizes, words):
    with pytest.raises(UsageError) as error:
        stages(**sizes)
    for word in words:
        assert word in str(error.value)


def net():
    """Return a small network that sees 9 pixels around each pixel and works on a halved raster, like a U-Net."""
    torch.manual_seed(0)
    down = nn.Conv2d(3, 4, 5, stride=2, padding=2)
    return nn.Sequential(down, nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 3, padding=1)).eval()


@pytest.mark.parametrize(("size", "overlap"), [(64, 32), (96, 32), (64, 0)])
@pytest.mark.parametrize("views", ["null", "null_hflip_rot90"])
@torch.inference_mode()
def test_tiles_agree_with_the_whole_image_away_from_their_edges(size, overlap, views):
    images = np.random.default_rng(1).integers(0, 256, (2, 150, 170, 3), dtype=np.uint8)
    whole = Predictor(net(), PixelKind("border", ("mask", "border")), VAL_AUGS["val_native"], CPU)
    tiled = Predictor(whole.network, whole.kind, whole.val, CPU, Tiles(size, overlap), tile_batch_size=3)
    expected, found = (predictor.predict(images, views_by_name(views)) for predictor in (whole, tiled))
    assert found.shape == expected.shape == (2, 2, 150, 170)
    difference = (found - expected).abs().amax((0, 1))
    if overlap:  # the inaccurate outermost pixels of a tile have almost no weight
        assert difference.max() < 0.02
        assert difference.median() < 1e-6
    else:
        assert difference.max() > 0.02  # visible seams
        assert difference[10:40, 10:40].max() < 1e-6


def test_tiles_cover_everything_and_their_windows_are_smooth():
    tiles = Tiles(128, 64)
    assert tiles.starts(128) == [0]
    assert tiles.starts(320) == [0, 64, 128, 192]
    assert tiles.starts(352) == [0, 64, 128, 192, 224]
    middle = tiles.window(64, 320)
    assert torch.allclose(middle + middle.roll(64), torch.ones(128))  # the weights of neighbours add up to 1
    assert tiles.window(0, 320)[0] == 1  # full weight at the edge of the image
    flat = torch.randint(0, 255, (3, 160, 192), dtype=torch.uint8)
    blended = tiles.blended(flat, 3, lambda cut: cut.float(), tile_batch_size=2)
    assert torch.allclose(blended, flat.float(), atol=1e-3)


def predictor_of(arch):
    """Return a predictor with random weights, whose predictions differ from pixel to pixel."""
    torch.manual_seed(0)
    network = build_network(arch, 3)
    with torch.no_grad():
        list(network.parameters())[-2].mul_(20)
    return Predictor(network.eval(), PixelKind("mask", ("mask",)), VAL_AUGS["val_native"], CPU)


@torch.inference_mode()
def test_a_tiled_prediction_is_the_weighted_mean_of_the_predictions_for_the_tiles():
    """This also holds for the default network, whose predictions depend on the whole image or tile."""
    predictor, tiles, views = predictor_of("unet_resnet34_v1"), Tiles(64, 32), views_by_name("null")
    images = np.random.default_rng(2).integers(0, 256, (1, 96, 128, 3), dtype=np.uint8)
    tiled = Predictor(predictor.network, predictor.kind, predictor.val, CPU, tiles, tile_batch_size=4).predict(
        images, views
    )
    total, weight = np.zeros((96, 128)), np.zeros((96, 128))
    for top in (0, 32):
        for left in (0, 32, 64):
            place = (slice(top, top + 64), slice(left, left + 64))
            window = np.outer(tiles.window(top, 96), tiles.window(left, 128))
            total[place] += window * predictor.predict(images[:, *place], views)[0, 0].numpy()
            weight[place] += window
    np.testing.assert_allclose(tiled[0, 0].numpy(), total / weight, atol=1e-5)
    assert total.std() > 0.01


@pytest.mark.parametrize("arch", ["unet_resnet34", "unet_resnet34_v1"])
@torch.inference_mode()
def test_far_from_its_edges_a_tile_agrees_with_the_whole_image_unless_the_network_pools(arch):
    network = predictor_of(arch).network.double()  # so that rounding does not hide the difference of the two cases
    image = torch.rand(1, 3, 32, 1024, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    image[..., 608:] += 1  # image and tile have different means
    whole, tile = network(image)[..., :608], network(image[..., :608])
    difference = (whole - tile).abs() / whole.std()
    far = difference[..., : 608 - 500]  # a pixel of a U-Net with resnet34 depends on 498 pixels to its right
    assert difference[..., -64:].max() > 0.1, "the edge of the tile"
    if sees_whole_image(network):
        assert far.mean() > 0.01
    else:
        assert far.max() < 1e-9


@pytest.mark.parametrize(
    ("arch", "whole"),
    [
        ("unet_resnet18", False),
        ("strata_s", True),
        ("unet_tu-test_resnet", False),
        ("unet_resnet34_v1", True),
        ("seresnext", True),
        ("ds_resnet_34", True),
        ("fpn_resnet18", True),  # GroupNorm
        ("deeplabv3_resnet18", True),
        ("pspnet_resnet18", True),
        ("unet_efficientnet-b0", True),
        ("unet_tu-efficientnet_b0", True),
    ],
)
def test_networks_that_look_at_the_whole_image_are_detected(arch, whole):
    assert sees_whole_image(build_network(arch, 3)) == whole


def test_side_outputs_are_not_validated_in_tiles():
    check_validated_whole(["combined"], stages(crop=128), [(2048, 2048)])
    check_validated_whole(["bce_lovasz"], stages(crop=128), [(4096, 2048)])
    with pytest.raises(
        UsageError, match="--loss combined: images of more than 2048x2048 pixels are validated in tiles"
    ):
        check_validated_whole(["combined"], stages(crop=128), [(64, 64), (4096, 2048)])


def test_pooling_to_a_grid_is_not_mistaken_for_global_pooling():
    assert not sees_whole_image(nn.AdaptiveAvgPool2d((7, 7)))  # VGG encoders contain one that never runs


@pytest.mark.parametrize(
    ("arch", "flags", "said"),
    [
        ("unet_tu-test_resnet", ("--tile", 64, "--overlap", 32), 0),
        ("unet_resnet34_v1", ("--tile", 64, "--overlap", 32), 1),
        ("unet_resnet34_v1", (), 0),
    ],
)
def test_prediction_notes_when_scores_in_tiles_may_differ(survey, trained, tmp_path, arch, flags, said):
    info = replace(load_snapshot(next(trained.glob("snapshots/epoch_*"))).info, arch=arch)
    save_snapshot(tmp_path / "snapshot", build_network(arch, info.channels_in), info)
    words = ("--snapshot", tmp_path / "snapshot", "--data_dir", survey, "--part", "val", *flags)
    done = run_here("predict.py", *words, "--masks_fn", tmp_path / "m.npy")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("may differ from those of whole images") == said


def test_invalid_tiles_are_refused(survey, trained, tmp_path):
    words = ("--snapshot", trained, "--data_dir", survey, "--masks_fn", tmp_path / "m.npy")
    for flags, said in (
        (["--tile", 512], ["--tile 512", "larger than the images of 101x101"]),
        (["--tile", 100], ["--tile 100", "multiple of 32"]),
        (["--tile", 96, "--overlap", 64], ["--overlap 64", "more than half"]),
    ):
        assert_refused(run_here("predict.py", *words, *flags), 2, *said)
    assert not list(tmp_path.iterdir())


KILLED = """
import os, runpy, signal
from net import snapshot
write = snapshot.write
def write_and_die(path, values):
    write(path, values)
    if path.name == "state.pt":
        os.kill(os.getpid(), signal.SIGKILL)
snapshot.write = write_and_die
runpy.run_path("train.py", run_name="__main__")
"""
"""Script of a training run that is killed as soon as the state of its first epoch is written."""


def test_a_killed_run_resumes_through_its_stages_and_its_snapshots_store_their_size(survey, tmp_path):
    runs = [tmp_path / "whole", tmp_path / "killed"]
    words = ("--data_dir", survey, *TINY, "--stages", "64:2", "128:2", "--keep", 9)
    done = run_here("train.py", *words, "--experiment_dir", runs[0])
    assert done.returncode == 0, done.stderr
    (tmp_path / "killed.py").write_text(KILLED)
    typed = [str(word) for word in (*words, "--experiment_dir", runs[1])]
    killed = start(tmp_path / "killed.py", typed, tmp_path / "said")
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert run_here("train.py", "--experiment_dir", runs[1], "--resume").returncode == 0
    assert differences(RunFolder(runs[0]), RunFolder(runs[1])) == []
    sizes, compared = {}, 0
    for snapshot in sorted(runs[0].glob("snapshots/epoch_*")):
        info = load_snapshot(snapshot).info
        sizes[info.metrics["epoch"]] = info.size
        kept = snapshot.with_name(f"val_masks_{snapshot.name}.npy")
        if not kept.is_file():
            continue
        done = run_here(
            *("predict.py", "--snapshot", snapshot, "--data_dir", survey, "--part", "val"),
            *("--masks_fn", tmp_path / "val.npy"),
        )
        assert done.returncode == 0, done.stderr
        of_epoch, compared = np.load(kept).astype(np.float32), compared + 1
        assert np.abs(np.load(tmp_path / "val.npy").astype(np.float32) - of_epoch).max() < 0.01
    assert compared
    assert set(sizes.items()) <= {(1, 64), (2, 64), (3, 128), (4, 128)}


def test_large_images_are_validated_in_tiles_with_the_scores_of_their_masks(survey, tmp_path, monkeypatch):
    monkeypatch.setattr("net.loops.WHOLE", 64**2)
    monkeypatch.setattr("net.predictor.VALIDATION_TILE", 64)
    monkeypatch.setattr("net.predictor.OVERLAP", 32)
    words = ("--data_dir", survey, *TINY, "--crop", 64, "--val_augs", "val_native", "--n_epochs", 1)
    done = run_here("train.py", *words, "--experiment_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    (best,) = snapshots_in(tmp_path / "run")
    words = ("--data_dir", survey, "--snapshot", tmp_path / "run", "--part", "val", "--masks_fn")
    done = run_here("predict.py", *words, tmp_path / "tiled.npy", "--tile", 64, "--overlap", 32)
    assert done.returncode == 0, done.stderr
    assert run_here("predict.py", *words, tmp_path / "whole.npy").returncode == 0
    paths = (best.val_masks, tmp_path / "tiled.npy", tmp_path / "whole.npy")
    kept, tiled, whole = (open_masks(path).array.astype(float) for path in paths)
    assert np.abs(kept - tiled).max() < np.abs(kept - whole).max() / 5
