"""Errors in source folders: each gives one line and leaves no files behind."""

import shutil

import helpers.sources as sources
import numpy as np
import pytest
from helpers.masks import files_in
from helpers.scripts import assert_refused, run_here
from helpers.sources import SCRIPT, SIZE, blob, noise, save
from PIL import Image

from utils.core.tables import read_table, write_table
from utils.data import samples
from utils.data.layouts import LAYOUTS


def refused(folder, code, *words, flags=()):
    """Check that the command fails with one line that contains `words`, and leaves no files behind."""
    out = folder.parent / "refused"
    before = files_in(folder)
    done = run_here(SCRIPT, "--data_dir", folder, "--out_dir", out, *flags, cwd=folder.parent)
    assert_refused(done, code, *words)
    assert not out.exists() or files_in(out) == []
    if folder.exists():
        assert files_in(folder) == before


def test_no_folder_and_empty_folder(tmp_path):
    refused(tmp_path / "typo", 1, "--data_dir", "typo", "no such folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", 1, "--data_dir", "empty folder")


def test_an_unknown_layout_lists_the_known_ones(tmp_path):
    save(tmp_path / "data/pictures/a.png", noise(1))
    refused(tmp_path / "data", 1, "pictures/", *LAYOUTS, "stage1_train", "train_masks")


@pytest.mark.parametrize("size", ["256", "0x5", "12x", "axb", "-4x4", "12x10x3", "12.5x10", ""])
def test_malformed_size(tmp_path, size):
    sources.salt(tmp_path / "data")
    refused(tmp_path / "data", 2, f"--size {size}", "256x256", flags=[f"--size={size}"])


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def rewrite(table, change):
    """Change the rows of a csv; `change` takes and returns a list of (id, cell)."""
    columns = read_table(table)
    rows = change(list(zip(*columns.values(), strict=True)))
    write_table(table, dict(zip(columns, zip(*rows, strict=True), strict=True)))


WRONG_SALT = {
    "no mask": (lambda d: (d / "train/masks/a.png").unlink(), ["train/images", "a has no mask"]),
    "no image": (
        lambda d: (
            (d / "train/images/a.png").unlink(),
            rewrite(d / "train.csv", lambda rows: [row for row in rows if row[0] != "a"]),
        ),
        ["train/masks", "a has no image"],
    ),
    "no images": (lambda d: [path.unlink() for path in (d / "test/images").iterdir()], ["test/images", "found none"]),
    "truncated image": (lambda d: cut(d / "train/images/c.png"), ["train/images/c.png", "is truncated"]),
    "truncated test image": (lambda d: cut(d / "test/images/y.png"), ["test/images/y.png", "is truncated"]),
    "truncated mask": (lambda d: cut(d / "train/masks/c.png"), ["train/masks/c.png", "truncated or invalid file"]),
    "zero bytes": (lambda d: (d / "train/masks/c.png").write_bytes(b""), ["train/masks/c.png", "0 bytes"]),
    "text": (lambda d: (d / "train/images/c.png").write_text("404"), ["train/images/c.png", "unknown image format"]),
    "32 bits": (
        lambda d: (
            (d / "train/images/c.png").unlink(),
            save(d / "train/images/c.tif", np.ones(SIZE, np.float32)),
        ),
        ["train/images/c.tif", "32 bits"],
    ),
    "mask of another size": (
        lambda d: save(d / "train/masks/b.png", blob(1, (10, 12))),
        ["train/masks/b.png", "12x10", "train/images/b.png", "10x12"],
    ),
    "no id column": (lambda d: (d / "train.csv").write_text("name,rle_mask\na,\n"), ["train.csv", "id", "name"]),
    "csv id without image": (
        lambda d: rewrite(d / "train.csv", lambda rows: [*rows, ("q", "")]),
        ["train.csv", "q has no image", "train/images", "affected: 1 of 5"],
    ),
    "image not in csv": (
        lambda d: rewrite(d / "train.csv", lambda rows: rows[:-2]),
        ["train/images", "a is not listed", "train.csv", "affected: 2 of 4"],
    ),
    "test id without image": (
        lambda d: rewrite(d / "sample_submission.csv", lambda rows: [*rows, ("q", "")]),
        ["sample_submission.csv", "q has no image", "test/images"],
    ),
    "test image not in csv": (
        lambda d: rewrite(d / "sample_submission.csv", lambda rows: rows[1:]),
        ["test/images", "z is not listed", "sample_submission.csv"],
    ),
    "id twice": (
        lambda d: rewrite(d / "train.csv", lambda rows: [*rows, rows[1]]),
        ["train.csv", "b has several rows"],
    ),
    "malformed run-length": (
        lambda d: rewrite(d / "train.csv", lambda rows: [*rows[:-1], ("c", "5 x")]),
        ["train.csv", "mask of c", "'x'"],
    ),
    "run-length out of the image": (
        lambda d: rewrite(d / "train.csv", lambda rows: [*rows[:-1], ("c", "118 9")]),
        ["train.csv", "mask of c", "120"],
    ),
    "two files of one stem": (
        lambda d: save(d / "train/images/a.jpg", noise(1)),
        ["train/images", "a.jpg", "a.png", "same stem"],
    ),
}


@pytest.mark.parametrize("fault", WRONG_SALT)
def test_wrong_salt(tmp_path, fault):
    sources.salt(tmp_path / "data")
    spoil, words = WRONG_SALT[fault]
    spoil(tmp_path / "data")
    refused(tmp_path / "data", 1, *words)


@pytest.mark.parametrize("suffix", [".gif", ".jpg", ".tif", ".bmp"])
def test_truncated_images_of_other_formats(tmp_path, suffix):
    sources.pairs(tmp_path / "data", (".png", ".bmp"))
    path = tmp_path / f"data/images/cut{suffix}"
    save(path, noise(1, (40, 40)))
    save(tmp_path / "data/masks/cut.png", blob(1, (40, 40)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    refused(tmp_path / "data", 1, f"images/cut{suffix}", "truncated or invalid file", flags=["--size", "40x40"])


def test_several_frames(tmp_path):
    sources.pairs(tmp_path / "data", (".png", ".gif"))
    frames = [Image.fromarray(noise(seed)) for seed in (1, 2)]
    path = tmp_path / "data/images/picture.gif.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    refused(tmp_path / "data", 1, path.name, "several frames")


def test_wrong_flat(tmp_path):
    sources.flat(tmp_path / "both")
    rewrite(tmp_path / "both/sample_submission.csv", lambda rows: [*rows, ("a", "")])
    refused(tmp_path / "both", 1, "sample_submission.csv", "a is also in train.csv (affected: 1)")
    sources.flat(tmp_path / "neither")
    save(tmp_path / "neither/images/q.png", noise(1))
    refused(tmp_path / "neither", 1, "images", "q is in neither train.csv nor sample_submission.csv")
    sources.flat(tmp_path / "absent")
    (tmp_path / "absent/images/b.png").unlink()
    refused(tmp_path / "absent", 1, "train.csv", "b has no image")
    sources.flat(tmp_path / "test")
    (tmp_path / "test/images/y.png").unlink()
    refused(tmp_path / "test", 1, "sample_submission.csv", "y has no image")


def test_test_images_only(tmp_path):
    save(tmp_path / "data/images/a.png", noise(1))
    (tmp_path / "data/masks").mkdir()
    write_table(tmp_path / "data/sample_submission.csv", {"id": ["a"], "rle_mask": [""]})
    refused(tmp_path / "data", 1, "--data_dir", "only test images")


def test_wrong_pairs_and_carvana(tmp_path):
    sources.pairs(tmp_path / "pairs")
    save(tmp_path / "pairs/masks/more.png", blob(1))
    refused(tmp_path / "pairs", 1, "masks", "more has no image")
    sources.carvana(tmp_path / "carvana")
    (tmp_path / "carvana/train_masks/car_01_mask.gif").unlink()
    refused(tmp_path / "carvana", 1, "car_01 has no mask", "train_masks")


def test_wrong_dsb2018(tmp_path, monkeypatch):
    sources.dsb2018(tmp_path / "masks")
    for path in (tmp_path / "masks/stage1_train/a/masks").iterdir():
        path.unlink()
    (tmp_path / "masks/stage1_train/a/masks").rmdir()
    refused(tmp_path / "masks", 1, "stage1_train", "a has no folder masks")
    sources.dsb2018(tmp_path / "images")
    save(tmp_path / "images/stage1_train/a/images/second.png", noise(1))
    refused(tmp_path / "images", 1, "stage1_train/a/images", "found 2")
    sources.dsb2018(tmp_path / "many")
    monkeypatch.setattr(samples, "MAX_OBJECTS", 1)
    refused(tmp_path / "many", 1, "stage1_train/b/masks", "b:", "at most 1 objects", "split the image")
    sources.airbus(tmp_path / "rows")
    refused(tmp_path / "rows", 1, "train_ship_segmentations_v2.csv", "c.jpg:", "at most 1 objects")


def test_wrong_airbus(tmp_path):
    table = "train_ship_segmentations_v2.csv"
    sources.airbus(tmp_path / "column")
    (tmp_path / "column" / table).write_text("ImageId,Pixels\na.jpg,1 2\n")
    refused(tmp_path / "column", 1, table, "EncodedPixels", "Pixels")
    sources.airbus(tmp_path / "image")
    (tmp_path / "image/train_v2/a.jpg").unlink()
    refused(tmp_path / "image", 1, table, "a.jpg has no image", "train_v2")
    sources.airbus(tmp_path / "row")
    save(tmp_path / "row/train_v2/q.jpg", noise(1))
    refused(tmp_path / "row", 1, "train_v2", "q is not listed", table)
    sources.airbus(tmp_path / "cell")
    rewrite(tmp_path / "cell" / table, lambda rows: [("c.jpg", "1"), *rows[1:]])
    refused(tmp_path / "cell", 1, table, "c.jpg", "odd number of values")
    sources.airbus(tmp_path / "two")
    (tmp_path / "two/old.csv").write_text("ImageId,EncodedPixels\n")
    refused(tmp_path / "two", 1, table, "old.csv", "one csv")


def test_wrong_classes(tmp_path):
    data = tmp_path / "data"
    sources.labelled(data, ["cat", "dog", "dog", "cat"])
    for name, spoil, words in (
        ("row", lambda rows: rows[1:], ["train: a_3 is not listed", "train.csv"]),
        ("image", lambda rows: [*rows, ("q", "cat")], ["train.csv: q has no image", "train"]),
        ("twice", lambda rows: [*rows, rows[0]], ["train.csv: a_3 has several rows", "keep one row per image"]),
    ):
        shutil.copytree(data, tmp_path / name)
        rewrite(tmp_path / name / "train.csv", spoil)
        refused(tmp_path / name, 1, *words)
    (data / "labels.csv").write_bytes((data / "train.csv").read_bytes())
    refused(data, 1, "expected one csv with classes, found train.csv, labels.csv; move the others away")
    (data / "train.csv").write_text("name,label\na_0,cat\n")
    (data / "labels.csv").unlink()
    refused(data, 1, "train.csv: no column id (nor ImageId, img", "known: name, label")


def test_a_train_csv_that_packing_did_not_write_is_not_replaced_by_classes(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    sources.labelled(data, ["cat", "dog", "dog", "cat"], "labels.csv")
    out.mkdir()
    (out / "train.csv").write_text("id,label\na_0,cow\n")
    done = run_here(SCRIPT, "--data_dir", data, "--out_dir", out)
    assert_refused(done, 1, f"{out}/train.csv: differs from {data}/labels.csv", "move it away")
    assert files_in(out) == ["train.csv"]


@pytest.mark.parametrize("header", ["id,z", "id,coverage_rle", "id,height,width,coverage", "ImageId,Pixels"])
def test_other_columns_do_not_count_as_classes_if_masks_are_missing(tmp_path, header):
    sources.salt(tmp_path / "data")
    shutil.rmtree(tmp_path / "data/train/masks")
    names = "dbac"
    rows = [",".join([name, *["1"] * header.count(",")]) for name in names]
    (tmp_path / "data/train.csv").write_text("\n".join([header, *rows]) + "\n")
    done = run_here(SCRIPT, "--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out")
    own = header.endswith("coverage")
    expected = ["salt: train/images and train/masks", "found"] if own else ["no column rle_mask or EncodedPixels"]
    assert_refused(done, 1, *expected)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_masks_takes_precedence_over_classes(tmp_path):
    sources.labelled(tmp_path / "data", ["cat", "dog", "dog", "cat"], parts=("train/images", "test"))
    save(tmp_path / "data/train/masks/a_0.png", blob(1, (32, 32)))
    refused(tmp_path / "data", 1, "train/images: a_3 has no mask", "affected: 3 of 4")
