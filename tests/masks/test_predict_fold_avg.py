"""Mean of mask files: its values, their order, the submission, and refused input."""

import numpy as np
import pytest
from helpers.masks import blobs, files_in, write_masks, write_packed
from helpers.scripts import assert_refused, run_here, run_script

from utils.core.files import write_json
from utils.core.tables import read_table
from utils.data.rle import decode
from utils.masks import mask_averaging as average
from utils.masks.mask_averaging import check_weights, open_agreeing, weighted_mean
from utils.masks.mask_file import PredictionInfo, binarize, mask_writer, open_masks
from utils.masks.probability_file import write_probabilities

SCRIPT = "predict_fold_avg.py"
IDS = [f"image{row}" for row in range(6)]


@pytest.fixture
def folder(tmp_path):
    """Folder with three mask files of six images, the second in another order, and the packed images."""
    write_packed(tmp_path / "data", {"test": (IDS, None, (31, 31))})
    (tmp_path / "data" / "sample_submission.csv").write_text("id,rle_mask\n" + "".join(f"{name},\n" for name in IDS))
    for fold in range(3):
        probabilities, ids = blobs(6, seed=fold)[0], IDS
        if fold == 1:
            probabilities, ids = probabilities[::-1], IDS[::-1]
        write_masks(tmp_path / f"m{fold}.npy", ids, probabilities, data_dir="data", part="test")
    return tmp_path


def mean_by_hand(folder, weights):
    arrays = [open_masks(folder / f"m{fold}.npy").array.astype(np.float64) for fold in range(3)]
    arrays[1] = arrays[1][::-1]
    return sum(weight * array for weight, array in zip(weights, arrays, strict=True)) / sum(weights)


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 0.5, 2)])
def test_weighted_mean(folder, weights, monkeypatch):
    monkeypatch.setattr(average, "PIXELS_AT_ONCE", 4 * 31 * 31)  # two batches
    files = open_agreeing([str(folder / f"m{fold}.npy") for fold in range(3)])
    batches = list(weighted_mean(files, check_weights(weights, 3)))
    assert [(batch.dtype, len(batch)) for batch in batches] == [(np.float32, 4), (np.float32, 2)]
    np.testing.assert_allclose(np.concatenate(batches), mean_by_hand(folder, weights), atol=1e-6)


def test_equal_weights_are_the_default():
    np.testing.assert_array_equal(check_weights((), 4), [0.25] * 4)


def test_script_writes_mean_masks_and_submission(folder):
    done = run_script(
        SCRIPT, "m0.npy", "m1.npy", "m2.npy", "--weights", 1, 1, 2, "--th", 0.35, "--masks_fn", "mean.npy", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    mean = open_masks(folder / "mean.npy")
    np.testing.assert_array_equal(mean.array, mean_by_hand(folder, (1, 1, 2)).astype(np.float32).astype(np.float16))
    assert mean.ids == IDS
    assert mean.info.mean_of == ("m0.npy", "m1.npy", "m2.npy")
    assert (mean.info.data_dir, mean.info.part) == ("data", "test")
    (path,) = (folder / "submissions").iterdir()
    assert path.name.startswith("submission_20")
    table = read_table(path)
    assert table["id"] == IDS
    masks = np.stack([decode(cell, (31, 31)) for cell in table["rle_mask"]])
    np.testing.assert_array_equal(masks, binarize(mean.array, 0.35))
    assert "0.35 (--th)" in done.stdout
    assert "valid: 6 rows" in done.stdout


def test_a_flag_overrides_the_stored_threshold_next_to_the_masks(folder):
    assert "0.5 (no threshold.json found)" in run_here(SCRIPT, "m0.npy", cwd=folder).stdout
    write_json(folder / "threshold.json", {"threshold": 0.25, "min_area": 1000})
    done = run_here(SCRIPT, "m0.npy", "m1.npy", "--fn", "stored", "--masks_fn", "x.npy", cwd=folder)
    assert "0.25 (threshold.json)" in done.stdout
    assert "valid: 6 rows, 6 empty" in done.stdout
    done = run_here(SCRIPT, "m0.npy", "m1.npy", "--th", 0.5, "--min_area", 0, "--masks_fn", "x.npy", cwd=folder)
    assert "6 empty" not in done.stdout


def test_the_stored_threshold_of_the_run_is_used(folder):
    (folder / "run" / "masks").mkdir(parents=True)
    write_json(folder / "run" / "config.json", {})
    write_json(folder / "run" / "threshold.json", {"threshold": 0.125, "min_area": 0})
    for suffix in (".npy", ".json"):
        (folder / f"m0{suffix}").rename(folder / "run" / "masks" / f"m0{suffix}")
    assert "threshold 0.125" in run_here(SCRIPT, "run/masks/m0.npy", "m1.npy", cwd=folder).stdout


def test_invalid_input_is_refused(folder):
    probabilities = blobs(6)[0]
    write_masks(folder / "fewer.npy", IDS[:5], probabilities[:5], data_dir="data", part="test")
    write_masks(folder / "others.npy", [*IDS[:5], "x"], probabilities, data_dir="data", part="test")
    write_masks(folder / "smaller.npy", IDS, probabilities[:, :9], data_dir="data", part="test")
    write_masks(folder / "twice.npy", [*IDS[:5], IDS[0]], probabilities, data_dir="data", part="test")
    write_masks(folder / "logits.npy", IDS, 9 * probabilities, data_dir="data", part="test")
    write_masks(folder / "nan.npy", IDS, np.where(probabilities > 0.9, np.nan, probabilities), data_dir="data")
    for name, ids, digest in (("val.npy", [f"train{row}" for row in range(6)], "1" * 16), ("new.npy", IDS, "2" * 16)):
        write_masks(folder / name, ids, probabilities, data_dir="data", images_digest=digest)
    write_masks(folder / "old.npy", IDS, probabilities, data_dir="data", images_digest="1" * 16)
    (folder / "link.npy").symlink_to(folder / "m0.npy")
    (folder / "link.json").write_text((folder / "m0.json").read_text())
    before = {path: (folder / path).read_bytes() for path in files_in(folder)}
    for words, code, said in (
        ((), 2, ("no mask file",)),
        (("m0.npy", "none.npy"), 1, ("none.npy", "no such file")),
        (("m0.npy", "./m0.npy"), 2, ("m0.npy", "twice", "--weights")),
        (("m0.npy", "fewer.npy"), 1, ("fewer.npy", "image5")),
        (("m0.npy", "others.npy"), 1, ("others.npy", "2 are in only one of the two files")),
        (("new.npy", "val.npy"), 1, ("val.npy", "12 are in only one of the two files", "same part and fold")),
        (("new.npy", "old.npy"), 1, ("old.npy", "packed again")),
        (("m0.npy", "data"), 1, ("data: expected a .npy file, found a folder",)),
        (("m0.npy", "m1.json"), 1, ("m1.json: expected a .npy file, found something else",)),
        (("m0.npy", "smaller.npy"), 1, ("(9, 31)", "(31, 31)")),
        (("twice.npy", "m0.npy"), 1, ("twice.npy", "the same id")),
        (("m0.npy", "logits.npy"), 1, ("logits.npy", "[0, 1]")),
        (("m0.npy", "nan.npy"), 1, ("nan.npy", "[0, 1]")),
        (("m0.npy", "m1.npy", "--weights", "1"), 2, ("--weights: expected one weight", "found 1 for 2 files")),
        (("m0.npy", "m1.npy", "--weights", "1", "0"), 2, ("--weights 0",)),
        (("m0.npy", "m1.npy", "--weights", "1", "-2"), 2, ("--weights -2",)),
        (("m0.npy", "m1.npy", "--weights", "1", "nan"), 2, ("--weights nan",)),
        (("m0.npy", "m1.npy", "--weights", "1", "inf"), 2, ("--weights inf",)),
        (("m0.npy", "m1.npy", "--th", "1.5"), 2, ("--th 1.5",)),
        (("m0.npy", "m1.npy", "--min_area", "-1"), 2, ("--min_area -1",)),
        (("m0.npy", "m1.npy", "--masks_fn", "m1.npy"), 2, ("--masks_fn m1.npy",)),
        (("m0.npy", "m1.npy", "--masks_fn", "link.npy"), 2, ("--masks_fn link.npy",)),
        (("m0.npy", "m1.npy", "--masks_fn", "mean.csv"), 1, ("mean.csv", ".npy")),
        (("m0.npy", "m1.npy", "--submission_dir", "m0.npy"), 2, ("--submission_dir m0.npy: expected a folder",)),
        (("m0.npy", "m1.npy", "--data_dir", "nowhere"), 1, ("--data_dir nowhere",)),
    ):
        assert_refused(run_here(SCRIPT, *words, cwd=folder), code, *said)
    assert_refused(
        run_here(SCRIPT, "old.npy", "--masks_fn", "m0.npy", cwd=folder), 1, "old.npy: was predicted from other"
    )
    assert_refused(run_script(SCRIPT, "m0.npy", "fewer.npy", cwd=folder), 1, "fewer.npy")
    assert {path: (folder / path).read_bytes() for path in files_in(folder)} == before


def test_images_that_are_gated_out_get_empty_masks(folder):
    p = np.array([0.9, 0.2, 0.5, 0.51, 0.1, 0.7], np.float32)
    write_probabilities(folder / "empty.npy", IDS, p[:, None], ["not_empty"], PredictionInfo())
    words = ("m0.npy", "--th", 0.3, "--gate_probs", "empty.npy", "--masks_fn", "mean.npy")
    done = run_here(SCRIPT, *words, cwd=folder)
    assert "gate: 3 of 6 images are gated out at threshold 0.5" in done.stdout, done.stderr
    (submission,) = (folder / "submissions").glob("*.csv")
    empty = [not cell for cell in read_table(submission)["rle_mask"]]
    masks = [not binarize(mask, 0.3).any() for mask in open_masks(folder / "mean.npy").array]
    assert not all(masks)  # the mask file keeps the predictions
    assert empty == [gated_out or mask for gated_out, mask in zip(p <= 0.5, masks, strict=True)]
    assert_refused(run_here(SCRIPT, "m0.npy", "--gate_th", 0.3, cwd=folder), 2, "--gate_th 0.3: needs a gate")
    write_probabilities(folder / "other.npy", ["x"], p[:1, None], ["not_empty"], PredictionInfo())
    refused = run_here(SCRIPT, "m0.npy", "--gate_probs", "other.npy", "--masks_fn", "n.npy", cwd=folder)
    assert_refused(refused, 1, "other.npy", "no gate probability for 6 of 6 images")
    taken = run_here(SCRIPT, "m0.npy", "--masks_fn", "gate.npy", cwd=folder)
    assert_refused(taken, 1, "gate.npy: its description would be gate.json", "choose another")
    assert not (folder / "n.npy").exists()


def test_borders_are_averaged_with_the_masks(folder):
    for fold in range(2):
        planes = np.stack([blobs(6, seed=fold)[0], blobs(6, seed=fold + 7)[0]], axis=1)
        with mask_writer(folder / f"b{fold}.npy", IDS, [(2, 31, 31)] * 6, PredictionInfo("data", "test")) as writer:
            writer.append(planes)
    done = run_here(SCRIPT, "b0.npy", "b1.npy", "--weights", 1, 3, "--masks_fn", "mean.npy", cwd=folder)
    assert done.returncode == 0, done.stderr
    one, other, mean = (
        open_masks(folder / name).planes.astype(np.float64) for name in ("b0.npy", "b1.npy", "mean.npy")
    )
    np.testing.assert_allclose(mean, (one + 3 * other) / 4, atol=1e-3)
    mixed = run_here(SCRIPT, "b0.npy", "m0.npy", "--masks_fn", "n.npy", cwd=folder)
    assert_refused(mixed, 1, "m0.npy", "expected a mask of shape (2, 31, 31) for image0 like b0.npy, found (31, 31)")
