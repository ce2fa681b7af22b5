"""Submissions of masks: the check finds each kind of error, and written submissions pass it."""

import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from helpers.masks import blobs, files_in, submit, write_masks, write_packed

from utils.competition.submission_check import check_submission
from utils.competition.submission_names import named_after, timestamped_file
from utils.core.errors import UserError
from utils.core.prediction_settings import RuleSettings, SubmissionSettings
from utils.core.tables import read_table
from utils.data.packed_data import shapes_of
from utils.data.rle import decode, encode
from utils.masks.mask_file import PredictionInfo, binarize, open_masks

GOOD = "id,rle_mask\na,1 3\nb,\nc,5 2 9 1\n"
SAMPLE = "id,rle_mask\na,1 1\nb,1 1\nc,1 1\n"


def problems_of(tmp_path, text, sample=SAMPLE, shapes=(3, 4)):
    (tmp_path / "sub.csv").write_text(text)
    (tmp_path / "sample.csv").write_text(sample or "")
    return check_submission(tmp_path / "sub.csv", tmp_path / "sample.csv" if sample else None, shapes)


def test_a_valid_submission(tmp_path):
    for sample in (SAMPLE, None):
        verdict = problems_of(tmp_path, GOOD, sample)
        assert (verdict.problems, verdict.warnings) == ([], [])
        assert (verdict.n_rows, verdict.n_empty) == (3, 1)
        assert verdict.as_text() == "valid: 3 rows, 1 empty (33.3%)"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("id,rle_mask", "id,mask", "header"),
        ("id,rle_mask", "ID,rle_mask", "header"),
        ("id,rle_mask", "ImageId,EncodedPixels", "header"),
        ("id,rle_mask\na,1 3\nb,\n", "rle_mask,id\n1 3,a\n,b\n", "header"),
        ("b,\n", "", "1 of the sample are missing (such as b)"),
        ("b,\n", "x,\n", "1 are not in the sample (such as x)"),
        ("b,\n", "b,\nb,\n", "1 rows repeat an id (such as b)"),
        ("a,1 3\nb,\n", "b,\na,1 3\n", "image 1 is b, in the sample it is a"),
        ("1 3\n", "[]\n", "line 2 (a): expected numbers separated by blanks, found a printed list"),
        ("1 3\n", '"[1, 3]"\n', "line 2 (a): expected numbers separated by blanks, found a printed list"),
        ("1 3\n", "0 3\n", "line 2 (a): expected starts of at least 1, found 0"),
        ("1 3\n", "1 0\n", "expected lengths of at least 1, found 0"),
        ("1 3\n", "1 -3\n", "'-3'"),
        ("1 3\n", "1 3 5\n", "odd number of values, 3"),
        ("1 3\n", "nan\n", "'nan'"),
        ("1 3\n", "1 13\n", "ends at pixel 13"),
        ("5 2 9 1", "9 1 5 2", "line 4 (c): expected ascending starts"),
        ("5 2 9 1", "5 5 9 1", "overlap"),
        ("5 2 9 1", "5 2 7 1", "line 4 (c): run-lengths are not in canonical form"),
        ("5 2 9 1", "5 2  9 1", "not in canonical form"),
    ],
)
def test_each_error_is_found(tmp_path, old, new, said):
    assert old in GOOD
    verdict = problems_of(tmp_path, GOOD.replace(old, new))
    assert any(said in problem for problem in verdict.problems), verdict.problems
    assert verdict.as_text().splitlines()[-1].startswith("not valid: ")


def test_header_without_a_sample(tmp_path):
    assert "header" in problems_of(tmp_path, GOOD.replace("rle_mask", "pixels"), sample=None).problems[0]
    assert "header" in problems_of(tmp_path, "id,z,rle_mask\na,1,1 3\n", sample=None).problems[0]


def test_at_most_ten_problems_are_shown(tmp_path):
    rows = "".join(f"image{row},0 1\n" for row in range(25))
    verdict = problems_of(tmp_path, "id,rle_mask\n" + rows, sample=None)
    assert len(verdict.problems) == 25
    assert len(verdict.as_text().splitlines()) == 11 + len(verdict.warnings)
    assert "25 problems" in verdict.as_text()


@pytest.mark.parametrize(("cell", "said"), [("", "every mask is empty"), ("1 3", "no mask is empty")])
def test_a_warning_if_all_or_no_masks_are_empty(tmp_path, cell, said):
    verdict = problems_of(tmp_path, f"id,rle_mask\na,{cell}\nb,{cell}\nc,{cell}\n")
    assert (verdict.problems, verdict.warnings) == ([], [said])


@pytest.mark.parametrize("shape", [(30, 41), (41, 30)])
def test_a_wrong_pixel_order_is_detected_in_images_that_are_not_square(tmp_path, shape):
    _, truth = blobs(9, shape)
    right = "".join(f"i{row},{encode(mask)}\n" for row, mask in enumerate(truth))
    assert problems_of(tmp_path, "id,rle_mask\n" + right, None, shape).warnings == []
    wrong = "".join(f"i{row},{encode(mask.T)}\n" for row, mask in enumerate(truth))
    assert "row by row" in problems_of(tmp_path, "id,rle_mask\n" + wrong, None, shape).warnings[0]


def test_objects_of_an_image(tmp_path):
    header, sample = "ImageId,EncodedPixels\n", "ImageId,EncodedPixels\na,1 1\nb,1 1\n"
    assert problems_of(tmp_path, header + "a,1 3\na,5 2\nb,\n", sample).problems == []
    overlapping = problems_of(tmp_path, header + "a,1 3\nb,\na,3 2\n", sample).problems
    assert len(overlapping) == 1
    assert "line 4 (a): overlap: it shares 1 pixels with object 1" in overlapping[0]
    with_empty = problems_of(tmp_path, header + "a,1 3\na,\nb,\n", sample).problems
    assert len(with_empty) == 1
    assert "line 3 (a): it has no pixels" in with_empty[0]


def test_sizes_by_image(tmp_path):
    shapes = {"a": (3, 1), "b": (1, 1), "c": (3, 3)}
    assert problems_of(tmp_path, GOOD, shapes=shapes).problems == []
    assert "pixel 3" in problems_of(tmp_path, GOOD, shapes={**shapes, "a": (2, 1)}).problems[0]
    del shapes["c"]
    assert "the size of this image is unknown" in problems_of(tmp_path, GOOD, shapes=shapes).problems[0]


def test_shapes_of_a_packed_folder(tmp_path):
    write_packed(tmp_path / "same", {"train": (["a"], None, (5, 7)), "test": (["b"], None, (5, 7))})
    assert shapes_of(tmp_path / "same") == (5, 7)
    write_packed(tmp_path / "resized", {"test": (["a", "b"], None, (5, 7))}, sizes=[(3, 4), (6, 2)])
    assert shapes_of(tmp_path / "resized") == {"a": (3, 4), "b": (6, 2)}


# --- names


def test_a_submission_never_overwrites_another_one_finished_or_not(tmp_path, monkeypatch):
    class Clock(datetime):
        @classmethod
        def now(cls):
            return cls(2031, 2, 3, 4, 5, 59)

    monkeypatch.setattr("utils.competition.submission_names.datetime", Clock)
    with timestamped_file(tmp_path, "two nets") as (first, part):
        part.write_text("1")
        with timestamped_file(tmp_path, "two nets") as (second, other):  # another process in the same minute
            other.write_text("2")
    with timestamped_file(tmp_path, "two nets") as (third, part):
        part.write_text("3")
    names = [f"two nets_2031-02-03_04-05{more}.csv" for more in ("", "_2", "_3")]
    assert [path.name for path in (first, second, third)] == names == sorted(path.name for path in tmp_path.iterdir())
    assert [path.read_text() for path in (first, second, third)] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("runs", "name"),
    [
        (["a_fold0"], "a_fold0_tta"),
        (["a_fold0", "a_fold0", "b"], "a_fold0+b_tta"),
        ([f"a_fold{fold}" for fold in range(5)], "a_fold0+4_more_tta"),
        ([], "mean_tta"),
    ],
)
def test_a_submission_can_be_named_after_its_weights(tmp_path, runs, name):
    for run in runs:
        (tmp_path / run).mkdir(exist_ok=True)
        (tmp_path / run / "config.json").write_text("{}")
    snapshots = tuple(str(tmp_path / run / "snapshots" / "epoch_1.loss_0.1.iout_0.9") for run in runs)
    assert named_after("{weights}_tta", PredictionInfo(snapshots=snapshots), Path("mean.npy")) == name
    assert named_after("final", PredictionInfo(snapshots=snapshots), Path("mean.npy")) == "final"


def finish(masks, folder, fn="sub", data_dir=None, th=0.5, min_area=0):
    settings = SubmissionSettings(th=th, submission_dir=str(folder), fn=fn)
    return submit(masks, settings, RuleSettings(min_area=min_area), [], data_dir)


@pytest.fixture
def masks(tmp_path):
    """Mask file of 6 test images; their packed folder has a sample submission in another order."""
    probabilities, _ = blobs(6)
    ids = [f"image{row}" for row in range(6)]
    write_packed(tmp_path / "data", {"train": (["t"], None, (31, 31)), "test": (ids, None, (31, 31))})
    sample = "".join(f"{name},1 1\n" for name in reversed(ids))
    (tmp_path / "data" / "sample_submission.csv").write_text("id,rle_mask\n" + sample)
    path = write_masks(tmp_path / "m.npy", ids, probabilities, data_dir=str(tmp_path / "data"), part="test")
    return open_masks(path)


def test_finish_submission(masks, tmp_path, capsys):
    th, min_area = 0.3, 40
    path = finish(masks, tmp_path / "subs", th=th, min_area=min_area)
    table = read_table(path, "id", "rle_mask")
    assert table["id"] == masks.ids[::-1]  # in the order of the sample
    expected = binarize(masks.array, th)
    expected[expected.sum(axis=(1, 2)) < min_area] = False
    assert 0 < sum(cell == "" for cell in table["rle_mask"]) < 6
    for mask, cell in zip(expected[::-1], table["rle_mask"], strict=True):
        np.testing.assert_array_equal(decode(cell, (31, 31)), mask)
    printed = capsys.readouterr().out
    assert str(path) in printed
    assert re.search(r"valid: 6 rows, \d empty", printed)


def test_finish_submission_resizes_back(tmp_path):
    down, across = np.mgrid[:40, :40]
    probabilities = np.stack([down / 39, across / 39]).astype(np.float16)
    sizes = [(20, 10), (40, 80)]
    write_packed(tmp_path / "data", {"test": (["a", "b"], None, (40, 40))}, sizes=sizes)
    path = write_masks(tmp_path / "m.npy", ["b", "a"], probabilities[::-1], data_dir="elsewhere", part="test")
    out = finish(open_masks(path), tmp_path, data_dir=tmp_path / "data")
    table = read_table(out)
    cells = dict(zip(table["id"], table["rle_mask"], strict=True))
    lower, right = decode(cells["a"], (20, 10)), decode(cells["b"], (40, 80))
    np.testing.assert_array_equal(lower, np.arange(20)[:, None] >= np.full(10, 10))
    np.testing.assert_array_equal(right, np.arange(80) >= np.full((40, 1), 40))
    # the minimum area is counted at the size of the mask file, where the threshold was fitted
    data, again = tmp_path / "data", open_masks(path)
    assert read_table(finish(again, tmp_path, "area", data, min_area=800)) == table
    assert "" in read_table(finish(again, tmp_path, "area", data, min_area=801))["rle_mask"]


def test_finish_submission_refuses(masks, tmp_path):
    sample = tmp_path / "data" / "sample_submission.csv"
    sample.write_text(sample.read_text() + "image6,1 1\n")
    before = files_in(tmp_path)
    with pytest.raises(UserError, match=r"not written.*1 of the sample are missing \(such as image6\)"):
        finish(masks, tmp_path / "subs")
    write_packed(tmp_path / "data", {"test": (masks.ids, None, (40, 40))})
    with pytest.raises(UserError, match=r"the mask of image0 is 31x31, but the image in .* is 40x40"):
        finish(masks, tmp_path / "subs")
    write_packed(tmp_path / "data", {"train": (masks.ids, None, (31, 31))})
    with pytest.raises(UserError, match="expected test images"):
        finish(masks, tmp_path / "subs")
    assert [name for name in files_in(tmp_path) if not name.startswith("data")] == ["m.json", "m.npy"]
    assert set(before) <= set(files_in(tmp_path))


def test_validation_masks_are_not_compared_with_the_sample(tmp_path, capsys):
    probabilities, truth = blobs(3)
    folder = write_packed(tmp_path / "data", {"train": (list("abc"), truth, (31, 31))})
    (folder / "sample_submission.csv").write_text("id,rle_mask\nx,\n")
    path = write_masks(tmp_path / "v.npy", list("abc"), probabilities, data_dir=str(folder), part="train")
    finish(open_masks(path), tmp_path)
    assert "ids not compared" in capsys.readouterr().out
