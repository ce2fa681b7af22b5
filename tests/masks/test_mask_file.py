"""Mask files: their descriptions, and the detection of images that were packed again under the same ids."""

import pytest
from helpers.masks import blobs, submit, write_masks, write_packed
from helpers.scripts import assert_refused, run_here

from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.core.prediction_settings import RuleSettings, SubmissionSettings
from utils.data.packed_data import open_packed
from utils.masks.ground_truth import true_masks
from utils.masks.mask_file import PredictionInfo, open_masks

IDS = ["a", "b", "c"]


@pytest.fixture
def folder(tmp_path):
    """A packed folder (three train images with masks, three test images), and val.npy and test.npy with masks."""
    probabilities, truth = blobs(3)
    write_packed(tmp_path / "data", {"train": (IDS, truth, truth.shape[1:]), "test": (IDS, None, truth.shape[1:])})
    set_digest(tmp_path, "1" * 64)
    for part, name in (("train", "val"), ("test", "test")):
        digest = open_packed(tmp_path / "data", part).images_digest
        info = {"data_dir": str(tmp_path / "data"), "part": part, "images_digest": digest, "tta": "null"}
        write_masks(tmp_path / f"{name}.npy", IDS, probabilities, **info, snapshots=("s1", "s2"))
    return tmp_path


def set_digest(folder, digest):
    """Set the digest of the images' pixels in the manifest."""
    manifest = read_json(folder / "data/manifest.json")
    for part in manifest["parts"].values():
        part["arrays"]["images"]["sha256"] = digest
    write_json(folder / "data/manifest.json", manifest)


def test_a_file_describes_its_predictions(folder):
    info = open_masks(folder / "val.npy").info
    assert info == PredictionInfo(str(folder / "data"), "train", "1" * 16, snapshots=("s1", "s2"), tta="null")
    assert set(read_json(folder / "val.json")) == {"ids", "data_dir", "part", "images_digest", "snapshots", "tta"}


def test_a_file_of_an_earlier_version_has_fewer_fields(folder):
    write_json(folder / "val.json", {"ids": IDS, "ids_digest": "of a field that is gone"})
    assert open_masks(folder / "val.npy").info == PredictionInfo()
    for wrong in ({"part": 3}, {"snapshots": "s"}, {"fold": "0"}):
        write_json(folder / "val.json", {"ids": IDS, **wrong})
        with pytest.raises(UserError, match=r"val\.json: expected .* under"):
            open_masks(folder / "val.npy")


def test_images_packed_again_under_the_same_ids_are_noticed(folder):
    masks, submission = open_masks(folder / "test.npy"), SubmissionSettings(submission_dir=str(folder))
    assert len(list(true_masks(open_masks(folder / "val.npy")))) == 3
    submit(masks, submission, RuleSettings())
    set_digest(folder, "2" * 64)
    with pytest.raises(UserError, match=r"val\.npy: was predicted from other images than .*data holds now"):
        true_masks(open_masks(folder / "val.npy"))
    with pytest.raises(UserError, match=r"test\.npy: was predicted from other images"):
        submit(masks, submission, RuleSettings())
    assert len(list(true_masks(open_masks(folder / "val.npy"), str(folder / "data")))) == 3  # not checked if named


def test_predictions_from_other_images_are_not_averaged(folder):
    info = {"data_dir": str(folder / "data"), "part": "test", "images_digest": "2" * 16}
    write_masks(folder / "other.npy", IDS, blobs(3, seed=1)[0], **info)
    done = run_here("predict_fold_avg.py", "test.npy", "other.npy", "--masks_fn", "mean.npy", cwd=folder)
    assert_refused(done, 1, "other.npy: was predicted from other images than test.npy")
    assert not (folder / "mean.npy").exists()
