"""Command line of optimize_threshold.py: results equal to brute force, their files, and refused input."""

import json

import numpy as np
import pytest
from helpers.masks import blobs, every_threshold, files_in, score_at, write_masks, write_packed
from helpers.scripts import assert_refused, run_here, run_script

from utils.core.files import read_json, write_json
from utils.data.rle import encode
from utils.masks.mask_file import PredictionInfo
from utils.masks.probability_file import write_probabilities
from utils.scoring.stored_thresholds import read_threshold
from utils.scoring.threshold_search import best, steps_of

SCRIPT = "optimize_threshold.py"


def test_folds_of_two_runs(tmp_path):
    probabilities, truth = blobs(24)
    ids = [f"image{number}" for number in range(24)]
    write_packed(tmp_path / "data", {"train": (ids, truth, (31, 31))})
    about = {"data_dir": "data", "part": "train"}
    order = np.arange(24)[::-1]  # another order than in the packed folder
    for fold in (0, 1):
        run = tmp_path / "experiments" / f"fold{fold}"
        rows = order[fold::2]
        write_masks(run / "snapshots" / "val.npy", [ids[row] for row in rows], probabilities[rows], **about)
        write_json(run / "config.json", {})
    files = [f"experiments/fold{fold}/snapshots/val.npy" for fold in (0, 1)]
    done = run_script(SCRIPT, "--masks_fn", *files, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trust this score" in done.stdout
    assert "note:" not in done.stdout
    stored = read_json(tmp_path / "experiments/fold0/threshold.json")
    assert stored == read_json(tmp_path / "experiments/fold1/threshold.json")
    halved = probabilities.astype(np.float16)
    scores = {th: score_at(halved, truth, th) for th in every_threshold(halved)}
    assert stored["score"] == max(scores.values()) == score_at(halved, truth, stored["threshold"])
    assert stored["low"] <= stored["threshold"] < stored["high"]
    assert stored["score_at_half"] == score_at(halved, truth, 0.5)
    assert (stored["n_images"], stored["masks"], stored["min_area"]) == (24, files, 0)
    cross = stored["cross_fitted"]
    assert cross["n_parts"] == 2
    assert cross["low"] <= cross["score"] <= cross["high"]
    parts = [steps_of(halved[order[fold::2]], truth[order[fold::2]]) for fold in (0, 1)]
    expected = [  # each fold at the threshold of the other
        score_at(halved[order[fold::2]], truth[order[fold::2]], best(parts[1 - fold][0]).threshold) for fold in (0, 1)
    ]
    assert cross["score"] == pytest.approx(np.mean(expected))
    for fold in (0, 1):
        assert (tmp_path / f"experiments/fold{fold}/threshold.png").read_bytes().startswith(b"\x89PNG")
        assert read_threshold(tmp_path / f"experiments/fold{fold}").value == (stored["threshold"], 0)


@pytest.mark.parametrize("kind", ["csv", "npy", "folder"])
def test_one_file_and_explicit_truth(tmp_path, kind):
    probabilities, truth = blobs(11)
    ids = [f"image{number}" for number in range(11)]
    write_masks(tmp_path / "v.npy", ids, probabilities)
    if kind == "csv":
        source = tmp_path / "train.csv"
        rows = [f"{name},{encode(mask)}\n" for name, mask in zip(ids, truth, strict=True)]
        source.write_text("id,rle_mask\n" + "".join(reversed(rows)))
    elif kind == "npy":
        source = tmp_path / "truth.npy"
        np.save(source, truth[::-1])
        write_json(tmp_path / "truth.json", {"ids": ids[::-1]})
    else:
        source = write_packed(tmp_path / "packed", {"train": (ids[::-1], truth[::-1], (31, 31))})
    words = ("--masks_fn", "v.npy", "--truth_fn", source, "--out", "best.json", "--min_area", 20)
    done = run_here(SCRIPT, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5 interleaved parts of the file" in done.stdout
    stored = json.loads((tmp_path / "best.json").read_text())
    halved = probabilities.astype(np.float16)
    assert stored["score"] == score_at(halved, truth, stored["threshold"], stored["min_area"])
    thresholds = every_threshold(halved)
    assert stored["score"] == max(score_at(halved, truth, th, area) for th in thresholds for area in (0, 20))
    assert stored["cross_fitted"]["n_parts"] == 5
    assert (tmp_path / "best.png").is_file()
    assert not (tmp_path / "threshold.json").exists()


def test_run_lengths_are_of_the_source_images_and_are_resized_like_the_masks(tmp_path):
    probabilities, truth = blobs(8)
    ids = list("abcdefgh")
    write_packed(tmp_path / "data", {"train": (ids, truth, (31, 31))}, sizes=[(93, 62)] * 8)
    write_masks(tmp_path / "v.npy", ids, probabilities, data_dir="data", part="train")
    sources = [np.kron(mask, np.ones((3, 2), np.uint8)) for mask in truth]
    (tmp_path / "train.csv").write_text(
        "id,rle_mask\n" + "".join(f"{name},{encode(mask)}\n" for name, mask in zip(ids, sources, strict=True))
    )
    found = [run_here(SCRIPT, "--masks_fn", "v.npy", *more, cwd=tmp_path) for more in ((), ("--truth_fn", "train.csv"))]
    assert [done.returncode for done in found] == [0, 0], found
    assert found[0].stdout == found[1].stdout


def test_without_a_run_the_result_is_next_to_the_masks_and_a_single_image_is_accepted(tmp_path):
    probabilities, truth = blobs(2)
    write_masks(tmp_path / "sub" / "v.npy", ["a"], probabilities[1:])
    (tmp_path / "t.csv").write_text(f"id,rle_mask\na,{encode(truth[1])}\n")
    done = run_here(SCRIPT, "--masks_fn", "sub/v.npy", "--truth_fn", "t.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "sub" / "threshold.json")["cross_fitted"] is None
    assert "note: the predict scripts read thresholds from run folders only" in done.stdout


def test_out_of_fold_masks_are_drawn_at_the_threshold_that_was_fitted_on_them(tmp_path):
    probabilities, truth = blobs(6)
    ids, run = list("abcdef"), tmp_path / "experiments" / "unet_fold0"
    write_packed(tmp_path / "data", {"train": (ids, truth, (31, 31))})
    write_json(run / "config.json", {})
    joined = (f"{run}/snapshots/val.npy",)
    oof = write_masks(tmp_path / "oof.npy", ids, probabilities, data_dir="data", part="train", joined_from=joined)
    assert "stored in experiments/unet_fold0/threshold.json" in run_here(SCRIPT, "--masks_fn", oof, cwd=tmp_path).stdout
    write_packed(tmp_path / "other", {"train": (["x"], truth[:1], (31, 31))})
    done = run_here("utils/look.py", "--masks_fn", "oof.npy", "--data_dir", "other", cwd=tmp_path)
    assert_refused(done, 1, "--data_dir other: 6 images of oof.npy are not in it (such as a)")
    done = run_here("utils/look.py", "--masks_fn", "oof.npy", cwd=tmp_path)
    assert f"{read_threshold(run).threshold:.6g} (experiments/unet_fold0/threshold.json)" in done.stdout


def test_invalid_input_is_refused(tmp_path):
    probabilities, truth = blobs(4)
    ids = list("abcd")
    write_packed(tmp_path / "data", {"train": (ids, truth, (31, 31)), "test": (["e"], None, (31, 31))})
    write_packed(tmp_path / "small", {"train": (ids, truth[:, :9, :9], (9, 9))})
    about = {"data_dir": "data", "part": "train"}
    write_masks(tmp_path / "v0.npy", ids[:2], probabilities[:2], **about)
    write_masks(tmp_path / "v1.npy", ids[1:], probabilities[1:], **about)
    write_masks(tmp_path / "test.npy", ["e"], probabilities[:1], data_dir="data", part="test")
    write_masks(tmp_path / "gone.npy", ids, probabilities, data_dir="nowhere", part="train")
    write_masks(tmp_path / "other.npy", ["x", "a"], probabilities[:2], **about)
    write_masks(tmp_path / "logits.npy", ids, 9 * probabilities, **about)
    write_probabilities(tmp_path / "oof.npy", ids, np.full((4, 1), 0.5), ["not_empty"], PredictionInfo(**about))
    (tmp_path / "lists.csv").write_text('id,rle_mask\na,"[1, 3]"\nb,\n')
    (tmp_path / "columns.csv").write_text("id,mask\na,1 3\n")
    before = files_in(tmp_path)
    for words, code, said in (
        (("v0.npy", "v1.npy"), 1, ("image b", "v0.npy", "v1.npy")),
        (("v0.npy", "v0.npy"), 1, ("image a",)),
        (("none.npy",), 1, ("none.npy", "no such file")),
        (("data",), 1, ("data: expected a .npy file, found a folder",)),
        (("v0.json",), 1, ("v0.json: expected a .npy file, found something else",)),
        (("oof.npy",), 1, ("oof.npy", "a probability file of image classes")),
        (("test.npy",), 2, ("test images", "--truth_fn")),
        (("gone.npy",), 1, ("nowhere", "--truth_fn")),
        (("other.npy",), 1, ("no true mask for 1 of the 2", "x")),
        (("logits.npy",), 1, ("logits.npy", "[0, 1]")),
        (("v0.npy", "--truth_fn", "small"), 1, ("size of the true masks in small", "31x31", "9x9")),
        (("v0.npy", "--truth_fn", "lists.csv"), 1, ("lists.csv", "printed list")),
        (("v0.npy", "--truth_fn", "columns.csv"), 1, ("rle_mask",)),
        (("v0.npy", "--truth_fn", "v1.npy"), 1, ("0 and 1",)),
        (("v0.npy", "--truth_fn", "none"), 1, ("--truth_fn none: expected a packed folder", "no such file or folder")),
        (("v0.npy", "--truth_fn", "."), 1, ("--truth_fn .: expected", "found a folder that is not packed")),
        (("v0.npy", "--truth_fn", "none.csv"), 1, ("none.csv",)),
        (("v0.npy", "--min_area", "-1"), 2, ("--min_area -1",)),
        ((), 2, ("--masks_fn",)),
    ):
        assert_refused(run_here(SCRIPT, "--masks_fn", *words, cwd=tmp_path), code, *said)
    assert_refused(run_script(SCRIPT, "--masks_fn", "none.npy", cwd=tmp_path), 1, "none.npy")
    misspelt = run_script(SCRIPT, "--masks_fm", "v0.npy", cwd=tmp_path)
    assert (misspelt.returncode, "Traceback" in misspelt.stderr) == (2, False)
    assert files_in(tmp_path) == before
