"""Packing: manifest and report, packing again, memory, and the numbers of objects."""

import os
import shutil
import tracemalloc
from collections import Counter

import helpers.sources as sources
import numpy as np
import pytest
from helpers.masks import files_in
from helpers.scripts import assert_refused, run_here, run_script
from helpers.sources import SCRIPT, SIZE, as_rgb, blob, contents, noise, run_ok, save

from utils.core.tables import read_table, write_table
from utils.data.compact_rows import digest_of_rows, row_digest
from utils.data.folds import fold_rows
from utils.data.layouts import find_source
from utils.data.packed_data import open_packed, read_manifest
from utils.data.packing import fingerprint, pack
from utils.data.packing_plan import make_plan
from utils.data.rle import encode
from utils.data.samples import number_instances

LONG_AGO = 1_000_000_000
"""Modification time in seconds, so old that a rewritten file differs even if the clock of the disk is coarse."""


def counts_of(folder, part="train"):
    return read_manifest(folder).report[part]["counts"]


def test_manifest_describes_the_arrays(tmp_path):
    sources.salt(tmp_path)
    run_ok("--data_dir", tmp_path, cwd=tmp_path)
    manifest = read_manifest(tmp_path)
    assert (manifest.layout, list(manifest.parts)) == ("salt", ["train", "test"])
    assert {part: list(entry.arrays) for part, entry in manifest.parts.items()} == {
        "train": ["images", "masks"],
        "test": ["images"],
    }
    for part, described in manifest.parts.items():
        assert described.sizes is None
        for name, entry in described.arrays.items():
            array = np.load(tmp_path / entry.file)
            assert entry.file == f"{part}_{name}.npy"
            assert entry.shape == array.shape
            assert entry.dtype == str(array.dtype) == "uint8"
            assert entry.sha256 == digest_of_rows(row_digest(row) for row in array)


def test_the_report_counts_findings(tmp_path):
    sources.salt(tmp_path, train="abcdefgh", test="wxyz")
    train, masks, test = tmp_path / "train/images", tmp_path / "train/masks", tmp_path / "test/images"
    empty = np.zeros(SIZE, np.uint8)
    save(train / "a.png", np.full(SIZE, 9, np.uint8))  # constant
    save(train / "b.png", np.full(SIZE, 9, np.uint8))  # constant, and a duplicate
    save(train / "c.png", np.full((*SIZE, 3), (1, 2, 1), np.uint8))  # one colour, but several values
    save(train / "d.png", as_rgb(noise(ord("e"))))  # another duplicate
    save(test / "w.png", noise(ord("f")))  # also in train
    save(test / "x.png", noise(ord("f")))  # also in train, and a duplicate
    save(masks / "a.png", empty)
    save(masks / "b.png", empty)  # differs from its csv row
    grades = blob(3) * 200
    grades[0, 0], grades[-1, -1] = 100, 255
    save(masks / "c.png", grades)  # three values, and different from its csv row
    save(masks / "d.png", blob(ord("d")) * 100)  # nothing above half of the range, so all but 0 is mask
    cells = {name: encode(blob(ord(name))) for name in "abcdefgh"} | {"a": ""}
    write_table(tmp_path / "train.csv", {"id": list(cells), "rle_mask": list(cells.values())})
    printed = run_ok("--data_dir", tmp_path, "--out_dir", tmp_path / "out", cwd=tmp_path)
    report = read_manifest(tmp_path / "out").report
    assert report["train"]["images"] == 8
    assert report["train"]["sizes"] == {"12x10": 8}
    assert report["train"]["counts"] == {
        "constant_images": 2,
        "exact_duplicates": 2,
        "empty_masks": 2,
        "masks_not_binary": 1,
        "masks_unlike_csv": 2,
        "masks_too_dark": 1,
    }
    assert report["test"]["counts"] == {"constant_images": 0, "exact_duplicates": 1, "images_also_in_train": 2}
    assert report["train"]["examples"]["masks_unlike_csv"] == ["b", "c"]
    assert report["train"]["examples"]["exact_duplicates"] == ["b", "e"]
    lines = [line.split() for line in printed.splitlines()]
    assert ["train", "images", "8"] in lines
    assert ["empty", "masks", "2"] in lines
    assert ["masks", "unlike", "csv", "2", "such", "as", "b,", "c"] in lines
    assert len({line.index(line.split("  ")[-1].strip()) for line in printed.splitlines()[:3]}) == 1, "not aligned"


def test_images_of_different_shapes_are_not_duplicates(tmp_path):
    for name, size in (("a", (12, 10)), ("b", (10, 12)), ("c", (10, 12))):
        save(tmp_path / f"images/{name}.png", np.full(size, 7, np.uint8))
        save(tmp_path / f"masks/{name}.png", blob(1, size))
    run_ok("--data_dir", tmp_path, "--size", "8x8", cwd=tmp_path)
    assert counts_of(tmp_path)["exact_duplicates"] == 1


def test_packing_in_place_does_not_touch_train_csv(tmp_path):
    sources.salt(tmp_path)
    os.utime(tmp_path / "train.csv", (LONG_AGO, LONG_AGO))
    before = contents(tmp_path)
    run_ok("--data_dir", tmp_path, cwd=tmp_path)
    after = contents(tmp_path)
    assert (tmp_path / "train.csv").stat().st_mtime == LONG_AGO, "written again, even if with the same content"
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"manifest.json", "train_images.npy", "train_masks.npy", "test_images.npy"}


def test_a_train_csv_that_packing_wrote_is_not_a_source_and_is_updated(tmp_path):
    sources.pairs(tmp_path)
    run_ok("--data_dir", tmp_path, cwd=tmp_path)
    save(tmp_path / "images/new.png", noise(1))
    save(tmp_path / "masks/new.png", blob(1))
    printed = run_ok("--data_dir", tmp_path, cwd=tmp_path)
    assert "pairs" in printed.splitlines()[0], "its own train.csv made it another layout"
    assert "new" in open_packed(tmp_path).ids
    assert read_table(tmp_path / "train.csv")["id"] == open_packed(tmp_path).ids
    write_table(tmp_path / "train_with_folds.csv", {"id": open_packed(tmp_path).ids, "fold": [0, 1, 0, 1, 1]})
    assert fold_rows(tmp_path, open_packed(tmp_path).ids, 1)[1].tolist() == [1, 3, 4]


def test_a_train_csv_that_packing_did_not_write_is_never_replaced(tmp_path):
    sources.pairs(tmp_path / "pairs")
    sources.salt(tmp_path / "salt")
    out = tmp_path / "out"
    out.mkdir()
    (out / "train.csv").write_text("id,notes\nq,mine\n")
    run_ok("--data_dir", tmp_path / "pairs", "--out_dir", out, cwd=tmp_path)
    assert (out / "train.csv").read_text() == "id,notes\nq,mine\n"
    before = contents(out)
    done = run_here(SCRIPT, "--data_dir", tmp_path / "salt", "--out_dir", out, cwd=tmp_path)
    assert_refused(done, 1, out / "train.csv", tmp_path / "salt/train.csv", "--out_dir")
    assert contents(out) == before


def test_a_second_run_does_nothing(tmp_path):
    sources.dsb2018(tmp_path / "data")
    words = ("--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out")
    run_ok(*words, cwd=tmp_path)
    before = files_in(tmp_path / "out")
    for name in before:
        os.utime(tmp_path / "out" / name, (LONG_AGO, LONG_AGO))
    for data_dir, cwd in ((tmp_path / "data", tmp_path), ("data", tmp_path), ("./data/", tmp_path), (".", words[1])):
        printed = run_ok("--data_dir", data_dir, *words[2:], cwd=cwd)
        assert "already packed" in printed
        assert {name: (tmp_path / "out" / name).stat().st_mtime for name in files_in(tmp_path / "out")} == (
            dict.fromkeys(before, LONG_AGO)
        )


CHANGES = {
    "image": lambda d, o: save(d / "train/images/a.png", noise(99)),
    "mask": lambda d, o: save(d / "train/masks/a.png", blob(99)),
    "run-lengths": lambda d, o: (d / "train.csv").write_text((d / "train.csv").read_text() + "\n"),
    "one image fewer": lambda d, o: ((d / "test/images/x.png").unlink(), (d / "sample_submission.csv").unlink()),
    "an array is cut": lambda d, o: (o / "train_masks.npy").write_bytes((o / "train_masks.npy").read_bytes()[:-1]),
    "an array is gone": lambda d, o: (o / "test_images.npy").unlink(),
    "a csv is gone": lambda d, o: (o / "train.csv").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_source_or_output_is_packed_again(tmp_path, change):
    data, out = tmp_path / "data", tmp_path / "out"
    sources.salt(data)
    run_ok("--data_dir", data, "--out_dir", out, cwd=tmp_path)
    CHANGES[change](data, out)
    assert "already" not in run_ok("--data_dir", data, "--out_dir", out, cwd=tmp_path)
    run_ok("--data_dir", data, "--out_dir", tmp_path / "fresh", cwd=tmp_path)
    assert contents(out) | {"sample_submission.csv": b""} == contents(tmp_path / "fresh") | {
        "sample_submission.csv": b""
    }


def test_a_changed_object_is_packed_again(tmp_path):
    sources.dsb2018(tmp_path)
    run_ok("--data_dir", tmp_path, cwd=tmp_path)
    save(tmp_path / "stage1_train/a/masks/object1.png", np.full(SIZE, 255, np.uint8))
    run_ok("--data_dir", tmp_path, cwd=tmp_path)
    assert (open_packed(tmp_path).instances[0] == 1).all()


def test_another_size_packs_again_and_removes_old_arrays(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    sources.salt(data)
    run_ok("--data_dir", data, "--out_dir", out, cwd=tmp_path)
    run_ok("--data_dir", data, "--out_dir", out, "--size", "8x8", cwd=tmp_path)
    assert open_packed(out).shape == (8, 8)
    shutil.rmtree(data / "test")
    run_ok("--data_dir", data, "--out_dir", out, "--size", "8x8", cwd=tmp_path)
    assert not (out / "test_images.npy").exists(), "an array that is not in the manifest"


def test_help_lists_the_flags(tmp_path):
    done = run_script(SCRIPT, "--help", cwd=tmp_path)
    assert done.returncode == 0
    for flag in ("--data_dir", "--out_dir", "--size"):
        assert flag in done.stdout


def peak_of_packing(folder, n_images):
    """Return the peak memory in bytes of packing n colour images of 64x64."""
    for row in range(n_images):
        save(folder / f"data/images/{row:04}.bmp", noise(row, (64, 64), 3))
        save(folder / f"data/masks/{row:04}.bmp", blob(row, (64, 64)) * 255)
    source = find_source(folder / "data")
    tracemalloc.start()
    try:
        pack(source, make_plan(source, None), folder / "out", fingerprint(source, None))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.core.parallel.cores", lambda: 1)
    monkeypatch.setattr("utils.data.packing.CHUNK", 8)
    peak_of_packing(tmp_path / "warm", 4)  # imports and caches
    few, many = peak_of_packing(tmp_path / "few", 40), peak_of_packing(tmp_path / "many", 400)
    one_image = 64 * 64 * 3
    assert many - few < 360 * one_image / 10, f"{few} bytes for 40 images, {many} for 400"


def test_instances_are_numbered():
    first, second, inside, nothing = (np.zeros((4, 6), np.uint8) for _ in range(4))
    first[:, :3], second[:, 2:5], inside[1, 1] = 1, 1, 1
    seen = Counter()
    labels = number_instances([first, inside, nothing, second], (4, 6), seen)
    assert labels[0].tolist() == [1, 1, 1, 2, 2, 0]
    assert labels.dtype == np.uint16
    assert seen == {"overlapping_pixels": 5, "objects_hidden": 1, "objects_without_pixels": 1}


def test_the_report_explains_overlapping_objects(tmp_path):
    sources.airbus(tmp_path)
    assert "claimed" not in run_ok("--data_dir", tmp_path, cwd=tmp_path)
    table = tmp_path / "train_ship_segmentations_v2.csv"
    columns = read_table(table)
    ids, cells = [*columns["ImageId"], "a.jpg", "a.jpg", "a.jpg"], [*columns["EncodedPixels"], "1 5", "2 5", "3 1"]
    write_table(table, {"ImageId": ids, "EncodedPixels": cells})
    lines = run_ok("--data_dir", tmp_path, cwd=tmp_path).splitlines()
    overlap, hidden = ([line for line in lines if name in line] for name in ("overlapping pixels", "objects hidden"))
    assert len(overlap) == len(hidden) == 1
    assert overlap[0].split()[:6] == ["overlapping", "pixels", "5", "such", "as", "a.jpg"]
    assert overlap[0].endswith("(claimed by several objects; the first one keeps them)")
    assert hidden[0].split()[:6] == ["objects", "hidden", "1", "such", "as", "a.jpg"]
    assert "left out" in hidden[0]
    assert np.unique(open_packed(tmp_path).instances[1]).tolist() == [0, 1, 2], "numbers with a gap"


def test_background_is_found_from_the_pixels(tmp_path):
    grey = np.full(SIZE, 20, np.uint8)
    grey[:4] = 250  # bright objects on a dark background
    tissue = np.full((*SIZE, 3), (225, 222, 230), np.uint8)
    tissue[:3, :6] = (120, 40, 130)
    for name, image in (("dark", grey), ("bright", 255 - grey), ("stored", as_rgb(255 - grey)), ("tissue", tissue)):
        save(tmp_path / f"images/{name}.png", image)
        save(tmp_path / f"masks/{name}.png", blob(1))
    run_ok("--data_dir", tmp_path, cwd=tmp_path)
    table = read_table(tmp_path / "train.csv")
    assert list(table)[-1] == "background"
    expected = {"dark": "dark", "bright": "bright", "stored": "bright", "tissue": "coloured"}
    assert dict(zip(table["id"], table["background"], strict=True)) == expected


@pytest.mark.parametrize("last", [[], ["objects"]])
def test_a_train_csv_that_an_earlier_version_wrote_is_recognised(tmp_path, last):
    sources.pairs(tmp_path)
    write_table(tmp_path / "train.csv", {name: ["1", "2"] for name in ["id", "height", "width", "coverage", *last]})
    assert run_ok("--data_dir", tmp_path, cwd=tmp_path).splitlines()[0].split()[1] == "pairs"
    assert read_table(tmp_path / "train.csv")["id"] == open_packed(tmp_path).ids
