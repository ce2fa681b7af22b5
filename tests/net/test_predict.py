"""predict.py and predict_tta.py: masks, means, thresholds and submissions."""

import csv
import json
import shutil

import numpy as np
import pytest
from helpers.scripts import TINY_ARCH, assert_refused, run_here, succeed

from utils.data.rle import decode
from utils.masks.mask_file import binarize, open_masks
from utils.runs.run_folder import snapshots_in


@pytest.fixture
def out(tmp_path):
    return {"--masks_fn": tmp_path / "masks.npy", "--submission_dir": tmp_path / "submissions"}


def words(options):
    return [word for pair in options.items() for word in pair]


def test_predict_writes_masks_with_ids_and_a_checked_submission(survey, trained, out):
    done = run_here("predict.py", "--snapshot", trained, "--data_dir", survey, *words(out), "--fn", "mine")
    assert done.returncode == 0, done.stderr
    masks = open_masks(out["--masks_fn"])
    assert (masks.array.shape, masks.array.dtype) == ((8, 101, 101), np.float16)
    assert 0 <= masks.array.min() <= masks.array.max() <= 1
    (submission,) = out["--submission_dir"].glob("mine_????-??-??_??-??.csv")
    with open(submission, newline="") as file:
        rows = list(csv.DictReader(file))
    with open(survey / "sample_submission.csv", newline="") as file:
        assert [row["id"] for row in rows] == [row["id"] for row in csv.DictReader(file)]
    assert "threshold 0.5 (no threshold.json found)" in done.stdout
    assert "valid: 8 rows" in done.stdout
    by_id = dict(zip(masks.ids, masks.array, strict=True))
    for row in rows:
        assert np.array_equal(decode(row["rle_mask"], (101, 101)) > 0, binarize(by_id[row["id"]], 0.5))


def test_views_that_the_training_never_showed_are_named(survey, trained, out):
    base = ("predict_tta.py", "--snapshot", trained, "--data_dir", survey, *words(out))
    done = run_here(*base, "--tta", "d4")
    assert done.returncode == 0, done.stderr
    (note,) = [line for line in done.stdout.splitlines() if "never showed" in line]
    assert note == (
        "note: training with --train_augs train_128_v1 never showed the network the views vflip, rot90, rot180, "
        "rot270, transpose, transverse; use --tta null_hflip, or train with --train_augs train_128_d4"
    )
    assert "never showed" not in run_here(*base, "--tta", "null_hflip").stdout


def test_several_snapshots_are_averaged(survey, trained, out, tmp_path):
    single = []
    files = [file.path for file in snapshots_in(trained)][:2]
    assert len(files) == 2
    for number, path in enumerate(files):
        name = tmp_path / f"{number}.npy"
        run_here("predict.py", "--snapshot", path, "--data_dir", survey, *words(out | {"--masks_fn": name}))
        single.append(open_masks(name).array.astype(np.float32))
    done = run_here("predict.py", "--snapshot", *files, "--data_dir", survey, *words(out))
    assert done.returncode == 0, done.stderr
    mean = open_masks(out["--masks_fn"]).array
    assert np.abs(mean - np.mean(single, axis=0)).max() < 2e-3
    assert np.abs(single[0] - single[1]).max() > 1e-2


def test_tta_is_the_mean_over_views_regardless_of_the_batch_size(survey, trained, out, tmp_path):
    base = ["--snapshot", trained, "--data_dir", survey, "--precision", "float32"]
    for name, tta in (("null", "null"), ("flip", "hflip"), ("both", "null_hflip")):
        options = out | {
            "--masks_fn": tmp_path / f"{name}.npy",
            "--tta": tta,
            "--batch_size": 8 if tta == "null" else 3,
        }
        assert run_here("predict_tta.py", *base, *words(options)).returncode == 0
    null, flip, both = (
        open_masks(tmp_path / f"{name}.npy").array.astype(np.float32) for name in ("null", "flip", "both")
    )
    assert np.abs(both - (null + flip) / 2).max() < 1e-3
    assert np.abs(null - flip).max() > 1e-3


def test_the_stored_threshold_is_used_and_printed(survey, trained, out, tmp_path):
    run = tmp_path / "run_fold0"
    shutil.copytree(trained, run)
    done = run_here(
        "predict_tta.py", "--snapshot", run, "--data_dir", survey, "--part", "val", "--masks_fn", run / "v.npy"
    )
    assert done.returncode == 0, done.stderr
    assert "validation fold: iout" in done.stdout
    assert not list(tmp_path.glob("submissions/*"))
    succeed("optimize_threshold.py", "--masks_fn", run / "v.npy")
    th = json.loads((run / "threshold.json").read_text())["threshold"]
    done = run_here("predict.py", "--snapshot", run, "--data_dir", survey, *words(out))
    assert f"threshold {th:.6g} ({run}/threshold.json)" in done.stdout
    done = run_here("predict.py", "--snapshot", run, "--data_dir", survey, *words(out), "--th", "0.25")
    assert "threshold 0.25 (--th)" in done.stdout


def test_invalid_flags_and_files_are_refused_before_anything_is_predicted(survey, trained, out, tmp_path):
    run = tmp_path / "run_fold0"
    shutil.copytree(trained, run)
    words_of = ["predict.py", "--snapshot", run, "--data_dir", survey, *words(out)]
    said = "sample_submission.csv, which has the columns id,rle_mask, has one row per image"
    assert_refused(run_here(*words_of, "--objects"), 2, "--objects: ", said)
    assert_refused(
        run_here(*words_of, "--seed_th", 0.5, "--format", "dsb2018"), 2, "--seed_th 0.5", "predict no border"
    )
    for name, more in (("threshold", ()), ("objects", ("--format", "airbus")), ("gate", ("--gate", trained))):
        (run / f"{name}.json").write_text('{"threshold": null}')
        assert_refused(run_here(*words_of, *more), 1, f"{name}.json: expected ", "run optimize_threshold.py again")
        (run / f"{name}.json").unlink()
    assert not out["--masks_fn"].exists()


def test_notes_report_a_threshold_of_other_views_and_thresholds_that_differ(survey, trained, out, tmp_path):
    runs = [tmp_path / f"run_fold{fold}" for fold in (0, 1)]
    for run, th, n_images in zip(runs, (0.25, 0.375), (8, 9), strict=True):
        shutil.copytree(trained, run)
        stored = {"threshold": th, "min_area": 0, "tta": "null_hflip", "n_snapshots": 1, "n_images": n_images}
        (run / "threshold.json").write_text(json.dumps(stored))
    base = ["--data_dir", survey, *words(out)]
    alike = run_here("predict_tta.py", "--snapshot", runs[0], *base)
    assert "note:" not in alike.stdout
    done = run_here("predict.py", "--snapshot", *runs, *base)
    assert done.returncode == 0, done.stderr
    first, second = [line for line in done.stdout.splitlines() if line.startswith("note: ")]
    assert f"using {runs[1]}/threshold.json (fitted on 9 images), which differs from {runs[0]}/threshold.json" in first
    assert "was fitted on masks of the views null_hflip, but these masks are of null" in second
    assert f"threshold 0.375 ({runs[1]}/threshold.json)" in done.stdout


def test_masks_of_images_packed_smaller_are_submitted_at_the_original_size(trained, tmp_path):
    """The images are packed at 64x64 and the competition expects 101x101, so run-lengths have the original size."""
    data = tmp_path / "data"
    succeed("utils/make_demo.py", "--out_dir", data, "--n_train", 6, "--n_test", 4, "--seed", 3)
    succeed("utils/stack_and_save.py", "--data_dir", data, "--out_dir", tmp_path / "small", "--size", "64x64")
    out = {"--masks_fn": tmp_path / "masks.npy", "--submission_dir": tmp_path / "submissions"}
    done = run_here(
        "predict.py", "--snapshot", trained, "--data_dir", tmp_path / "small", *words(out), "--th", "0.0001"
    )
    assert done.returncode == 0, done.stderr
    assert open_masks(out["--masks_fn"]).array.shape == (4, 64, 64)
    (submission,) = out["--submission_dir"].glob("*.csv")
    text = succeed("utils/submission.py", "score", submission, "--truth", data / "truth.csv", "--shape", "101x101")
    assert "score (iout)" in text
    with open(submission, newline="") as file:
        areas = [int(decode(row["rle_mask"], (101, 101)).sum()) for row in csv.DictReader(file)]
    assert max(areas) > 64 * 64  # larger than any mask at 64x64


def test_arch_must_be_that_of_the_snapshot(survey, trained, out):
    done = run_here("predict.py", "--snapshot", trained, "--data_dir", survey, *words(out), "--arch", "unet_resnet34")
    assert done.returncode == 2
    assert f"is a {TINY_ARCH}; leave --arch out" in done.stderr
    assert not out["--masks_fn"].exists()
    assert (
        run_here("predict.py", "--snapshot", trained, "--data_dir", survey, *words(out), "--arch", TINY_ARCH).returncode
        == 0
    )
