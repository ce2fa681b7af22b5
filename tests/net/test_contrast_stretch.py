"""--contrast_stretch: dark and bright images of the same objects look alike, in training, prediction and export."""

import shutil

import cv2
import numpy as np
import pytest
from helpers.scripts import TINY_ARCH, run_here

from net.geometry import contrast_stretched
from net.snapshot import load_snapshot
from utils.core.files import read_json
from utils.masks.mask_file import open_masks
from utils.runs.run_folder import find_snapshots


def test_each_channel_is_stretched_between_its_percentiles():
    rng = np.random.default_rng(0)
    image = rng.integers(60, 101, (64, 64, 3), dtype=np.uint8)
    image[..., 2] = 200 - 2 * image[..., 0]
    image[0, :2, 0] = 0, 255  # two pixels are fewer than the percentiles leave out
    seen = contrast_stretched(image)
    assert seen.dtype == np.uint8
    assert seen.min((0, 1)).tolist() == [0, 0, 0]
    assert seen.max((0, 1)).tolist() == [255, 255, 255]
    inside = (image[..., 1] > 62) & (image[..., 1] < 98)
    line = np.polyfit(image[inside, 1], seen[inside, 1], 1)
    assert np.abs(np.polyval(line, image[inside, 1]) - seen[inside, 1]).max() < 1
    assert line[0] == pytest.approx(255 / 40, rel=0.03)


def test_an_image_of_noise_alone_is_not_stretched_to_the_full_range():
    noise = np.random.default_rng(0).integers(50, 53, (64, 64, 1), dtype=np.uint8)
    assert contrast_stretched(noise).max() == round(2 * 255 / 8)
    assert contrast_stretched(np.full((8, 8, 1), 77, np.uint8)).max() == 0


@pytest.fixture
def exposures(survey, tmp_path):
    """Return the packed survey with half of its brightness, and with a quarter."""
    folders = tmp_path / "bright", tmp_path / "dark"
    for folder, factor in zip(folders, (2, 1), strict=True):
        shutil.copytree(survey, folder)
        for part in ("train", "test"):
            images = np.load(folder / f"{part}_images.npy")
            np.save(folder / f"{part}_images.npy", images // 4 * factor)
    return folders


def test_a_network_predicts_the_same_for_another_exposure(exposures, tmp_path):
    bright, dark = exposures
    run = tmp_path / "run"
    words = ("--arch", TINY_ARCH, "--n_epochs", 1, "--batch_size", 8, "--fold", 0)
    done = run_here("train.py", "--data_dir", bright, *words, "--contrast_stretch", True, "--experiment_dir", run)
    assert done.returncode == 0, done.stderr
    assert load_snapshot(find_snapshots([str(run)])[0]).info.contrast_stretch
    masks = []
    for data in exposures:
        out = tmp_path / f"{data.name}.npy"
        done = run_here("predict.py", "--data_dir", data, "--snapshot", run, "--masks_fn", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        masks.append(open_masks(out).array)
    assert np.array_equal(*masks)
    assert masks[0].std() > 0

    out = tmp_path / "val.npy"
    done = run_here("predict.py", "--data_dir", bright, "--snapshot", run, "--part", "val", "--masks_fn", out)
    assert done.returncode == 0, done.stderr
    (kept,) = (run / "snapshots").glob("val_masks_*.npy")
    assert np.array_equal(open_masks(out).array, open_masks(kept).array)

    again = tmp_path / "again"
    done = run_here("train.py", "--data_dir", dark, *words, "--contrast_stretch", True, "--experiment_dir", again)
    assert done.returncode == 0, done.stderr
    losses = [read_json(one / "summary.json")["val_loss"] for one in (run, again)]
    assert losses[0] == losses[1]


def test_the_recipe_stretches_colour_images_of_different_sizes(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "mine" / "train" / kind).mkdir(parents=True)
    for number in range(12):
        mask = np.zeros((48, 48 + 16 * (number % 2)), np.uint8)
        mask[8:30, 10:36] = 255
        image = rng.integers(0, 20, (*mask.shape, 3), dtype=np.uint8) + mask[..., None] // 4
        cv2.imwrite(str(tmp_path / "mine" / "train" / "images" / f"{number}.png"), image)
        cv2.imwrite(str(tmp_path / "mine" / "train" / "masks" / f"{number}.png"), mask)
    run, out = tmp_path / "run", tmp_path / "val.npy"
    words = ("--arch", "strata_s", "--n_epochs", 1, "--epoch_size", 8, "--fold", 0, "--experiment_dir", run)
    data = ("--data_dir", tmp_path / "mine")
    for command in (
        ("utils/stack_and_save.py", *data),
        ("utils/make_folds.py", "--path", tmp_path / "mine" / "train.csv", "--n_splits", 3),
        ("train.py", *data, *words),
        ("predict.py", *data, "--snapshot", run, "--part", "val", "--masks_fn", out),
    ):
        done = run_here(*command)
        assert done.returncode == 0, done.stderr
        assert ("--contrast_stretch True" in done.stdout) == (command[0] == "train.py")
    assert load_snapshot(find_snapshots([str(run)])[0]).info.contrast_stretch
    found = open_masks(out)
    assert sorted(set(found.shapes)) == [(48, 48), (48, 64)]
