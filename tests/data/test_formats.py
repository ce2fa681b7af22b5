"""Submission formats: columns, rows and pixel order of each competition, from masks to the score; and objects."""

import re
from typing import get_args, get_type_hints

import cv2
import numpy as np
import pytest
from helpers.masks import blobs, files_in, submit, write_masks, write_packed
from helpers.scripts import assert_refused, run_here
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from skimage.measure import label

from utils.competition.submission_check import check_submission
from utils.core.errors import UsageError, UserError
from utils.core.files import read_json, write_json
from utils.core.prediction_settings import RuleSettings, SubmissionSettings
from utils.core.tables import read_rows, read_table
from utils.data import rle
from utils.data.formats import FORMATS, format_of, read_format
from utils.masks.ground_truth import true_instances, true_masks
from utils.masks.mask_file import open_masks

SHAPE = (30, 41)
LABELS = npst.arrays(
    np.uint16, npst.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 0, 1, 2, 5, 65535])
)


def finish(path, fn="sub", data_dir=None, **flags):
    """Write the submission of a mask file at threshold .5, into a folder next to it; return its path."""
    chosen = SubmissionSettings(th=0.5, submission_dir=str(path.parent / "subs"), fn=fn, **flags)
    return submit(open_masks(path), chosen, RuleSettings(), [], data_dir)


def discs(n_images, shape=SHAPE):
    """Return label maps (N, H, W) of one or two discs that do not touch; every third image is empty."""
    masks = blobs(n_images, shape)[1] | blobs(n_images, shape, seed=1)[1]
    return np.stack([label(mask, connectivity=1) for mask in masks])


def pixel_numbers(mask, by_row):
    """Return the 1-indexed numbers of the mask's pixels, as a competition counts them."""
    return 1 + np.flatnonzero(mask if by_row else mask.T)


def test_the_flag_has_every_format():
    (names, _) = get_args(get_type_hints(SubmissionSettings)["format"])
    assert get_args(names) == tuple(FORMATS)


@pytest.mark.parametrize(
    ("header", "name", "expected"),
    [
        (["id", "rle_mask"], "a", "tgs"),
        (["ImageId", "EncodedPixels"], "a", "dsb2018"),
        (["ImageId", "EncodedPixels"], "00a1.jpg", "airbus"),
        (["img", "rle_mask"], "00a1.jpg", "carvana"),
        (["id", "z", "EncodedPixels"], "a.jpg", "tgs"),
    ],
)
def test_the_format_is_found_by_the_columns(tmp_path, header, name, expected):
    found = format_of(header, [name])
    assert found.name == expected
    assert set(found.columns) <= set(header)
    path = tmp_path / "table.csv"
    path.write_text(",".join(header) + "\n" + ",".join([name] + [""] * (len(header) - 1)) + "\n")
    assert read_format(path) == found


def test_unknown_columns_are_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("id,tags\na,cat\n")
    with pytest.raises(UserError, match=r"labels.csv: no column rle_mask or EncodedPixels"):
        read_format(tmp_path / "labels.csv")


# --- run-lengths of objects, and row by row


def test_by_row_on_an_example():
    mask = np.array([[0, 1], [1, 1], [0, 0]])
    assert rle.encode(mask, by_row=True) == "2 3"
    assert rle.encode(mask) == "2 1 4 2"
    np.testing.assert_array_equal(rle.decode("2 3", (3, 2), by_row=True), mask)
    np.testing.assert_array_equal(rle.decode_instances(["2 3", "5 1"], (3, 2), True), [[0, 1], [1, 1], [2, 0]])


@settings(derandomize=True, deadline=None)
@given(LABELS, st.booleans())
def test_label_maps_survive_a_round_trip(labels, by_row):
    cells = rle.encode_instances(labels, by_row)
    numbers = np.unique(labels[labels != 0])
    assert cells == [rle.encode(labels == number, by_row) for number in numbers]
    back = rle.decode_instances(cells or [""], labels.shape, by_row)
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, np.searchsorted(numbers, labels, side="right") * (labels != 0))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1 3", "5 1", "3 1 6 1"], "object 3: overlap: it shares 1 pixels with object 1"),
        (["1 3", ""], "object 2: it has no pixels"),
        (["1 3", "4 9"], "object 2: run 4 9 ends at pixel 12"),
        (["1 1"] * 65536, "expected at most 65535 objects, found 65536"),
    ],
)
def test_invalid_objects_are_refused(cells, message):
    with pytest.raises(ValueError, match=message):
        rle.decode_instances(cells, (2, 3))


# --- from masks to the score


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_written_checked_and_scored(tmp_path, name):
    form, truth = FORMATS[name], discs(9)
    ids = [f"i{row}.jpg" if name in ("airbus", "carvana") else f"i{row}" for row in range(9)]
    probabilities = np.where(truth > 0, 0.9, 0.2).astype(np.float32)
    path = finish(write_masks(tmp_path / "m.npy", ids, probabilities, data_dir="gone"), format=name)
    table = read_table(path)
    assert tuple(table) == form.columns
    rows = {}
    for image, cell in zip(*table.values(), strict=True):
        rows.setdefault(image, []).append(cell)
    assert list(rows) == ids
    for image, cells in zip(truth, rows.values(), strict=True):
        objects = [image == number for number in range(1, image.max() + 1)] if form.of_instances else [image > 0]
        assert len(cells) == max(len(objects), 1)
        for cell, wanted in zip(cells, objects or [image > 0], strict=True):
            starts, lengths = np.array(cell.split(), int).reshape(-1, 2).T
            found = [
                pixel for start, length in zip(starts, lengths, strict=True) for pixel in range(start, start + length)
            ]
            assert found == pixel_numbers(wanted, form.by_row).tolist()
    verdict = check_submission(path, None, SHAPE)
    assert (verdict.problems, verdict.warnings, verdict.n_images) == ([], [], 9)
    done = run_here("utils/submission.py", "score", path, "--truth", path, "--shape", "30x41")
    assert re.search(rf"score \({form.metric}\) +1.00000\n", done.stdout)
    # the same csv is read as truth, as masks and as objects
    masks = open_masks(tmp_path / "m.npy")
    np.testing.assert_array_equal(np.stack(list(true_masks(masks, str(path)))), truth > 0)
    if form.of_instances:
        np.testing.assert_array_equal(np.stack(list(true_instances(masks, str(path)))), truth)


def test_the_wrong_order_of_pixels_is_detected(tmp_path):
    for right, wrong, order in (("carvana", "tgs", "column by column"), ("tgs", "carvana", "row by row")):
        path = write_masks(tmp_path / "m.npy", list("abcdefghi"), np.float32(discs(9) > 0), data_dir="gone")
        written = finish(path, format=wrong)
        turned = tmp_path / "turned.csv"
        turned.write_text(written.read_text().replace(FORMATS[wrong].columns[0], FORMATS[right].columns[0], 1))
        verdict = check_submission(turned, None, SHAPE)
        assert verdict.warnings[-1].startswith(f"if pixels are read {order}, the masks ")
        assert check_submission(written, None, SHAPE).warnings == []


def test_rows_follow_the_sample_and_label_maps_the_masks(tmp_path):
    truth, ids = discs(5), list("abcde")
    write_packed(tmp_path / "data", {"test": (ids, None, SHAPE)})
    (tmp_path / "data" / "stage1_sample_submission.csv").write_text(
        "ImageId,EncodedPixels\n" + "".join(f"{name},1 1\n" for name in reversed(ids))
    )
    path = write_masks(tmp_path / "m.npy", ids, np.float32(truth > 0), data_dir=str(tmp_path / "data"), part="test")
    table = read_table(finish(path, label_pngs=str(tmp_path / "pngs")), "ImageId", "EncodedPixels")
    assert list(dict.fromkeys(table["ImageId"])) == ids[::-1]
    maps = np.load(tmp_path / "m_labels.npy")
    assert maps.dtype == np.uint16
    np.testing.assert_array_equal(maps, truth)
    described = read_json(tmp_path / "m_labels.json")
    assert described["ids"] == ids
    assert described["objects"]["th"] == 0.5
    for name, labels in zip(ids, truth, strict=True):
        png = cv2.imread(str(tmp_path / "pngs" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert png.dtype == np.uint16
        np.testing.assert_array_equal(png, labels)
    (tmp_path / "data" / "stage1_sample_submission.csv").write_text("ImageId,EncodedPixels\nx,1 1\n")
    with pytest.raises(UserError, match=r"not written.*1 of the sample are missing \(such as x\)"):
        finish(path)


def test_borders_divide_objects_that_touch(tmp_path):
    mask, border = np.zeros((2, 1, 9, 12), np.float32)
    mask[0, 2:7, 1:11], border[0, :, 5:7] = 0.9, 0.9
    path = write_masks(tmp_path / "m.npy", ["a"], np.stack([mask, border], axis=1), data_dir="gone")
    table = read_table(finish(path, objects=True))
    assert len(table["ImageId"]) == 2
    decoded = [rle.decode(cell, (9, 12)) for cell in table["EncodedPixels"]]
    np.testing.assert_array_equal(sum(decoded), mask[0] > 0.5)
    assert (decoded[0][4, 1], decoded[1][4, 10]) == (1, 1)
    one = finish(write_masks(tmp_path / "m.npy", ["a"], mask, data_dir="gone"), objects=True)
    assert len(read_table(one)["ImageId"]) == 1


def test_objects_are_resized_to_the_source(tmp_path):
    mask = np.zeros((2, 20, 20), np.float32)
    mask[0, 2:6, 2:10], mask[0, 12:18, 4:8], mask[0, 9, 9] = 1, 1, 1
    mask[1, 9, 9] = 1
    ids, sizes = ["big", "small"], [(40, 60), (10, 10)]
    write_packed(tmp_path / "data", {"test": (ids, None, (20, 20))}, sizes=sizes)
    path = write_masks(tmp_path / "m.npy", ids, mask, data_dir=str(tmp_path / "data"), part="test")
    table = read_table(finish(path, objects=True))
    assert table["ImageId"] == ["big"] * 3 + ["small"]
    assert table["EncodedPixels"][-1] in ("", rle.encode(mask[1, ::2, ::2]), rle.encode(mask[1, 1::2, 1::2]))
    found = rle.decode_instances(table["EncodedPixels"][:3], sizes[0])
    expected = label(mask[0], connectivity=1).repeat(2, axis=0).repeat(3, axis=1)
    np.testing.assert_array_equal(found, expected)


# --- flags that cannot be combined


def test_flags_that_cannot_be_combined_are_refused(tmp_path):
    write_packed(tmp_path / "data", {"test": (["a"], None, SHAPE)})
    write_masks(tmp_path / "m.npy", ["a"], np.float32(discs(1) > 0), data_dir="data", part="test")
    write_json(tmp_path / "objects.json", {"th": 2})
    before = files_in(tmp_path)
    for words, parts in (
        (("--objects", "--format", "tgs"), ("--objects: --format tgs has one row per image", "--format dsb2018")),
        (("--objects", "--format", "carvana"), ("--objects: --format carvana",)),
        (("--label_pngs", "x", "--format", "tgs"), ("--label_pngs: --format tgs",)),
        (("--seed_th", "0.5", "--format", "tgs"), ("--seed_th: --format tgs",)),
        (("--seed_th", "1.5"), ("--seed_th 1.5",)),
        (("--keep_largest", "0"), ("--keep_largest 0",)),
    ):
        assert_refused(run_here("predict_fold_avg.py", "m.npy", "--masks_fn", "x.npy", *words, cwd=tmp_path), 2, *parts)
    done = run_here("predict_fold_avg.py", "m.npy", "--masks_fn", "x.npy", "--objects", cwd=tmp_path)
    assert_refused(done, 1, "objects.json")
    assert files_in(tmp_path) == before
    with pytest.raises(UsageError, match="--label_pngs: without --objects"):
        finish(tmp_path / "m.npy", data_dir=tmp_path / "data", label_pngs="x")
    (tmp_path / "data" / "sample_submission.csv").write_text("id,rle_mask\na,1 1\n")
    with pytest.raises(UsageError, match=r"--objects: .*sample_submission.csv, which has the columns id,rle_mask"):
        finish(tmp_path / "m.npy", data_dir=tmp_path / "data", objects=True)


def test_blank_lines_of_a_csv_are_skipped(tmp_path):
    (tmp_path / "a.csv").write_text("\nid,z\n\na,1\n\n")
    assert list(read_rows(tmp_path / "a.csv")) == [(2, ["id", "z"]), (4, ["a", "1"])]
