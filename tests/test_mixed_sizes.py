"""Sets whose images have different sizes: every step keeps the size of each image."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers.scripts import assert_refused, run_here
from PIL import Image

from net.augmentations import TRAIN_AUGS, Crop
from net.dataset import EpochBatches, TrainingBatches, TrainingRows
from net.device import machine
from net.geometry import VAL_AUGS
from net.loops import best_scales
from net.network_kinds import PixelKind
from net.predict_and_submit import BEST_OF
from net.predictor import Predictor
from net.stages import Stage
from net.tasks import border_task
from utils.core.files import read_json
from utils.core.tables import read_table, write_table
from utils.core.training_settings import MachineSettings
from utils.data.packed_data import open_packed
from utils.data.rle import decode_union, encode
from utils.masks.mask_file import binarize, open_masks

SIZES = [(48, 64), (40, 40), (101, 77), (64, 64), (8, 150)]
TINY = ("--arch", "strata_s", "--batch_size", 4, "--n_epochs", 1, "--epoch_size", 8)


def write_set(folder, train=20, test=5):
    """Write images with one or two bright squares, each an object of its own, in the layout of the 2018 bowl."""
    rng = np.random.default_rng(0)
    for number in range(train + test):
        part, (height, width) = "stage1_train" if number < train else "stage1_test", SIZES[number % len(SIZES)]
        image, place = rng.integers(0, 60, (height, width)).astype(np.uint8), folder / part / f"i{number:02d}"
        (place / "images").mkdir(parents=True)
        objects = []
        for left in (2, width // 2):
            mask = np.zeros((height, width), np.uint8)
            mask[1:7, left : left + 6 + number % 3] = 255
            image[mask > 0] += 120
            objects.append(mask)
        Image.fromarray(image).save(place / "images" / f"{place.name}.png")
        (place / "masks").mkdir()
        for count, mask in enumerate(objects if number < train else ()):
            Image.fromarray(mask).save(place / "masks" / f"{count}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed") / "data"
    write_set(folder)
    said = ok("utils/stack_and_save.py", "--data_dir", folder)
    assert "48x64 (4), 40x40 (4), 101x77 (4), 64x64 (4), 8x150 (4)" in said
    ok("utils/make_folds.py", "--path", folder / "train.csv", "--n_splits", 4)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = run_here("train_border.py", "--data_dir", data, *TINY, "--experiment_dir", folder)
    assert done.returncode == 0, done.stderr
    assert "--crop 64" in done.stdout
    assert "images are smaller than the crop of 64" in done.stdout
    return folder


def ok(script, *words, **where):
    done = run_here(script, *words, **where)
    assert done.returncode == 0, f"{script} {words}: {done.stderr}"
    return done.stdout


def shapes_of(masks):
    return {name: masks.array[row].shape for row, name in enumerate(masks.ids)}


def test_packing_keeps_every_pixel(data):
    packed = open_packed(data)
    assert packed.mixed
    assert packed.shape is None
    for row, name in enumerate(packed.ids):
        image = np.asarray(Image.open(data / "stage1_train" / name / "images" / f"{name}.png"))
        assert np.array_equal(packed.images[row][..., 0], image)
        assert packed.shapes[row] == image.shape
        masks = sorted((data / "stage1_train" / name / "masks").iterdir())
        assert np.array_equal(packed.masks[row] != 0, np.any([np.asarray(Image.open(one)) for one in masks], axis=0))
        assert packed.instances[row].max() == 2
    table = read_table(data / "train.csv")
    assert [(int(h), int(w)) for h, w in zip(table["height"], table["width"], strict=True)] == packed.shapes


def test_one_size_is_a_plain_array(tmp_path, data):
    ok("utils/stack_and_save.py", "--data_dir", data, "--out_dir", tmp_path, "--size", "32x32")
    assert np.load(tmp_path / "train_images.npy").shape == (20, 32, 32, 1)
    assert not open_packed(tmp_path).mixed


def test_the_number_of_workers_changes_nothing(data):
    packed, name = open_packed(data), "affine_128_d4"
    task = border_task(packed, "touching", 1, 1.0)
    vary = Stage(48, 1, "val_native", Crop(0.5)).vary
    seen = []
    for workers in (0, 1):
        samples = TrainingRows(packed, task, partial(vary, name), 3, TRAIN_AUGS[name].batch)
        loader = TrainingBatches(samples, task, EpochBatches(np.arange(20), 5, seed=3), workers, torch.device("cpu"))
        seen.append([torch.cat([images.flatten(), targets.flatten()]) for images, targets in loader])
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


def test_predictions_thresholds_and_submission_have_the_sizes_of_the_images(data, run, tmp_path):
    masks, packed = run / "val.npy", open_packed(data)
    words = ("--data_dir", data, "--snapshot", run, "--masks_fn")
    done = run_here("predict_tta.py", *words, masks, "--part", "val", "--tta", "d4")
    assert done.returncode == 0, done.stderr
    assert "objects (DSB2018's score): 0." in done.stdout
    assert "objects by size: " in done.stdout
    found = open_masks(masks)
    assert shapes_of(found) == {name: packed.shapes[packed.ids.index(name)] for name in found.ids}
    for objective in ((), ("--objective", "objects")):
        done = run_here("optimize_threshold.py", "--masks_fn", masks, *objective)
        assert done.returncode == 0, done.stderr
    threshold = read_json(run / "threshold.json")["threshold"]

    done = run_here("predict_tta.py", *words, tmp_path / "test.npy", "--format", "dsb2018", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "valid" in done.stdout
    found, test = open_masks(tmp_path / "test.npy"), open_packed(data, "test")
    assert shapes_of(found) == dict(zip(test.ids, test.shapes, strict=True))
    labels = np.load(tmp_path / "test_labels.npy")
    assert labels.shape == (sum(height * width for height, width in test.shapes),)
    objects = read_json(run / "objects.json")
    (file,) = (tmp_path / "submissions").iterdir()
    rows = read_table(file)
    for row, name in enumerate(found.ids):
        cells = [cell for one, cell in zip(rows["ImageId"], rows["EncodedPixels"], strict=True) if one == name]
        mask = decode_union([cell for cell in cells if cell], found.shapes[row]) != 0
        assert not (mask & ~binarize(found.array[row], min(threshold, objects["th"]))).any() or objects["fill_holes"]


def test_an_image_is_predicted_as_it_would_be_alone(data, run, tmp_path):
    """Network and size are the same, so only the batch differs."""
    together = tmp_path / "all.npy"
    ok("predict.py", "--data_dir", data, "--snapshot", run, "--masks_fn", together, cwd=tmp_path)
    one = tmp_path / "one"
    for part, name in (("stage1_train", "i00"), ("stage1_test", "i22")):
        for file in (data / part / name).rglob("*.png"):
            target = one / file.relative_to(data)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    ok("utils/stack_and_save.py", "--data_dir", one)
    alone = tmp_path / "alone.npy"
    ok("predict.py", "--data_dir", one, "--snapshot", run, "--masks_fn", alone, cwd=tmp_path)
    found, expected = open_masks(alone), open_masks(together)
    row = expected.ids.index("i22")
    np.testing.assert_allclose(np.asarray(found.array[0]), expected.array[row], atol=2e-3)


def test_each_image_is_predicted_at_its_best_scale(data, run, tmp_path):
    words = ("--data_dir", data, "--snapshot", run, "--part", "val", "--masks_fn")
    said = ok("predict.py", *words, tmp_path / "best.npy")
    assert "each image is predicted at the scale at which they are most certain" in said
    asked = ok("predict.py", *words, tmp_path / "asked.npy", "--scales", "best")
    assert "most certain" not in asked
    found = open_masks(tmp_path / "best.npy")
    assert found.info.views == "null at the best scale"
    single = []
    for scale in BEST_OF:
        ok("predict.py", *words, tmp_path / f"{scale}.npy", "--scales", scale)
        single.append(open_masks(tmp_path / f"{scale}.npy"))
    for row, mask in enumerate(found.array):
        assert np.array_equal(mask, open_masks(tmp_path / "asked.npy").array[row])
        assert any(np.allclose(mask, one.array[row], atol=2e-3) for one in single)


class SquareFinder(torch.nn.Module):
    """Network that is certain of two bright squares of 24 pixels, and less of larger and smaller ones."""

    def forward(self, images):
        bright = images > 0
        area = bright.sum((1, 2, 3), keepdim=True).clamp(min=1)
        return torch.where(bright, 5 - 2.2 * (area / 1152).log2().abs(), -6)


def test_the_best_scale_makes_objects_as_large_as_in_training():
    images = np.zeros((3, 256, 256, 1), np.uint8)
    for image, side in zip(images, (24, 48, 0), strict=True):
        image[32 : 32 + side, 32 : 32 + side] = image[160 : 160 + side, 160 : 160 + side] = 255
    kind, here = PixelKind("mask", ("mask",)), machine(MachineSettings(device="cpu", precision="float32"))
    network = Predictor(SquareFinder(), kind, VAL_AUGS["val_native"], here)
    assert best_scales([network, network], images, BEST_OF) == [1.0, 0.5, 1.0]


def test_tiles_averages_held_out_parts_and_pages(data, run, tmp_path):
    words = ("--data_dir", data, "--snapshot", run, "--part", "val", "--masks_fn")
    whole, tiles, mean = (tmp_path / f"{name}.npy" for name in ("whole", "tiles", "mean"))
    ok("predict.py", *words, whole, "--scales", 1)
    ok("predict.py", *words, tiles, "--scales", 1, "--tile", 32, "--overlap", 0)
    done = run_here("predict.py", *words, tmp_path / "large.npy", "--tile", 256)
    assert_refused(done, 2, "--tile 256", "larger than all images")
    ok("predict_fold_avg.py", whole, tiles, "--masks_fn", mean, cwd=tmp_path)
    one, other, found = (open_masks(path) for path in (whole, tiles, mean))
    assert found.shapes == one.shapes
    for row in range(len(found.ids)):
        middle = (one.array[row].astype(np.float32) + other.array[row]) / 2
        np.testing.assert_allclose(np.asarray(found.array[row], np.float32), middle, atol=1e-3)
    scales = tmp_path / "scales.npy"
    done = run_here("predict_tta.py", *words, scales, "--scales", 0.5, 1, 2)
    assert done.returncode == 0, done.stderr
    assert "iou by size: " in done.stdout
    ok("predict.py", *words, tmp_path / "double.npy", "--scales", 2)
    ok("predict.py", *words, tmp_path / "half.npy", "--scales", 0.5)
    parts = [open_masks(tmp_path / f"{name}.npy") for name in ("half", "whole", "double")]
    ok("predict.py", *words, scales, "--scales", 0.5, 1, 2)
    for row, together in enumerate(open_masks(scales).array):
        middle = sum(part.array[row].astype(np.float32) for part in parts) / 3
        np.testing.assert_allclose(np.asarray(together, np.float32), middle, atol=2e-3)
    assert open_masks(scales).info.views == "null at scales 0.5 1 2"
    for wrong in ("0", "half"):
        assert_refused(run_here("predict.py", *words, scales, "--scales", wrong), 2, f"--scales {wrong}", ".75 1 1.5")
    held = tmp_path / "held"
    ok("utils/hold_out.py", "--data_dir", data, "--fold", 1, "--out_dir", held)
    packed, kept = open_packed(data), open_packed(held)
    for row, name in enumerate(kept.ids):
        assert np.array_equal(kept.instances[row], packed.instances[packed.ids.index(name)])
    ok("report.py", run, "--out", tmp_path / "page.html")
    assert "IoU by image size" in (tmp_path / "page.html").read_text()
    ok("optimize_threshold.py", "--masks_fn", run / "val.npy")
    assert "| image size | images |" in (run / "MODEL_CARD.md").read_text()
    ok("utils/look.py", "--masks_fn", whole, "--out", tmp_path / "look.png")
    assert (tmp_path / "look.png").stat().st_size > 0


def test_all_folds_a_gate_and_a_resumed_run(data, tmp_path):
    flags = ("--data_dir", data, *TINY[:4], "--epoch_size", 8)
    ok("train.py", *flags, "--n_epochs", 1, "--folds", "all", "--experiment_dir", tmp_path / "all")
    joined, packed = open_masks(tmp_path / "all_oof.npy"), open_packed(data)
    assert joined.ids == packed.ids
    assert joined.shapes == packed.shapes
    ok("optimize_threshold.py", "--masks_fn", tmp_path / "all_oof.npy")
    ok("train_classifier.py", *flags, "--n_epochs", 1, "--fold", 0, "--experiment_dir", tmp_path / "gate")
    words = ("--data_dir", data, "--snapshot", tmp_path / "all_fold0", "--gate", tmp_path / "gate", "--part", "val")
    ok("predict.py", *words, "--masks_fn", tmp_path / "gated.npy")
    run = tmp_path / "run"
    slow = (*flags, "--loss", "BCE", "--scheduler", "none", "--crop", 64, "--warmup", 0)
    ok("train.py", *slow, "--n_epochs", 2, "--experiment_dir", tmp_path / "whole")
    ok("train.py", *slow, "--n_epochs", 1, "--experiment_dir", run)
    ok("train.py", "--resume", "--experiment_dir", run, "--n_epochs", 2)
    logs = [read_table(folder / "log.csv") for folder in (run, tmp_path / "whole")]
    assert logs[0]["val_loss"] == logs[1]["val_loss"]


def test_images_may_be_long_or_brought_to_one_size(data, tmp_path):
    long = tmp_path / "long"
    for part, names in (("images", "abc"), ("masks", "abc")):
        (long / "train" / part).mkdir(parents=True)
        for place, name in enumerate(names):
            picture = np.full((8, 5000) if name == "a" else (40, 30), 20, np.uint8)
            picture[2:6, 4 + place : 20] = 255
            Image.fromarray(picture).save(long / "train" / part / f"{name}.png")
    ok("utils/stack_and_save.py", "--data_dir", long)
    ok("utils/make_folds.py", "--path", long / "train.csv", "--n_splits", 3)
    for fold, flags in ((0, ()), (1, ("--crop", 64))):
        words = (*TINY, *flags, "--fold", fold, "--experiment_dir", tmp_path / f"run{fold}")
        said = ok("train.py", "--data_dir", long, *words)
    assert "note: 2 of 2 images are smaller than the crop of 64; they are reflected" in said
    words = ("--snapshot", tmp_path / "run0", "--part", "val", "--masks_fn", tmp_path / "val.npy")
    ok("predict.py", "--data_dir", long, *words)

    fitted = ("--train_augs", "affine_128", "--val_augs", "val_128_resize", "--experiment_dir", tmp_path / "fitted")
    said = ok("train.py", "--data_dir", data, *TINY, *fitted)
    assert "images of 5 sizes are brought to 128x128 by val_128_resize" in said
    ok(
        "predict.py",
        "--data_dir",
        data,
        "--snapshot",
        tmp_path / "fitted",
        "--masks_fn",
        tmp_path / "a.npy",
        cwd=tmp_path,
    )
    assert sorted(open_masks(tmp_path / "a.npy").shapes) == sorted(open_packed(data, "test").shapes)


def test_sizes_that_do_not_belong_together_are_refused(data, run, tmp_path):
    small = tmp_path / "small"
    ok("utils/stack_and_save.py", "--data_dir", data, "--out_dir", small, "--size", "32x32")
    masks = tmp_path / "val.npy"
    ok("predict.py", "--data_dir", data, "--snapshot", run, "--part", "val", "--masks_fn", masks)
    done = run_here("optimize_threshold.py", "--masks_fn", masks, "--truth_fn", small)
    assert_refused(done, 1, "expected a mask of 32x32", "val.npy")
    ok("predict.py", "--data_dir", small, "--snapshot", run, "--masks_fn", tmp_path / "a.npy", cwd=tmp_path)
    ok("predict.py", "--data_dir", data, "--snapshot", run, "--masks_fn", tmp_path / "b.npy", cwd=tmp_path)
    done = run_here("predict_fold_avg.py", tmp_path / "a.npy", tmp_path / "b.npy", "--masks_fn", tmp_path / "c.npy")
    assert_refused(done, 1, "b.npy", "(2, 48, 64)", "(2, 32, 32)")
    assert not (tmp_path / "c.npy").exists()

    beside = masks.with_suffix(".json")
    kept = beside.read_text()
    beside.write_text(kept.replace("101", "100"))
    assert_refused(run_here("optimize_threshold.py", "--masks_fn", masks), 1, "val.npy", "rows of several shapes")
    beside.write_text(kept.replace("101", '"a"'))
    assert_refused(run_here("optimize_threshold.py", "--masks_fn", masks), 1, "val.json", "the shape of each mask")
    other = tmp_path / "other"
    write_set(other, test=0)
    name = "i02"
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(other / "stage1_train" / name / "masks" / "1.png")
    assert_refused(run_here("utils/stack_and_save.py", "--data_dir", other), 1, "101x77", "50x50", "--skip_broken")


def test_truth_in_a_csv_is_read_at_the_size_of_each_image(data, run, tmp_path):
    masks, packed = tmp_path / "val.npy", open_packed(data)
    ok("predict.py", "--data_dir", data, "--snapshot", run, "--part", "val", "--masks_fn", masks)
    cells = [encode(packed.masks[row]) for row in range(len(packed.ids))]
    write_table(tmp_path / "truth.csv", {"id": packed.ids, "rle_mask": cells})
    words = ("optimize_threshold.py", "--masks_fn", masks)
    assert (
        run_here(*words).stdout.splitlines()[:6]
        == run_here(*words, "--truth_fn", tmp_path / "truth.csv").stdout.splitlines()[:6]
    )
