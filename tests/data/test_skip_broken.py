"""Packing with --skip_broken: broken training images are left out and listed, and nothing else changes."""

import signal
import subprocess
import sys

import helpers.sources as sources
import numpy as np
import pytest
from helpers.masks import files_in
from helpers.scripts import ROOT, assert_refused, run_here
from helpers.sources import KILLED, SCRIPT, blob, contents, noise, run_ok, save

from utils.core.tables import read_table, write_table
from utils.data.folds import fold_rows
from utils.data.packed_data import open_packed, read_manifest


def cut(path):
    """Remove the last bytes of a file, as an interrupted download does; its header stays."""
    path.write_bytes(path.read_bytes()[:-40])


def rewrite(table, change):
    """Change the rows of a csv; `change` takes and returns a list of tuples of cells."""
    columns = read_table(table)
    rows = change(list(zip(*columns.values(), strict=True)))
    write_table(table, dict(zip(columns, zip(*rows, strict=True), strict=True)))


def skipped_in(folder):
    return read_manifest(folder).report["train"]["skipped"]


BROKEN = {
    "truncated image": (lambda d: cut(d / "train/images/b.png"), ["train/images/b.png", "is truncated"]),
    "no image": (lambda d: (d / "train/images/b.png").write_text("404"), ["images/b.png", "unknown image format"]),
    "empty file": (lambda d: (d / "train/images/b.png").write_bytes(b""), ["train/images/b.png", "0 bytes"]),
    "truncated mask": (lambda d: cut(d / "train/masks/b.png"), ["train/masks/b.png", "truncated or invalid file"]),
    "mask of another size": (
        lambda d: save(d / "train/masks/b.png", blob(1, (10, 12))),
        ["train/masks/b.png", "12x10", "10x12"],
    ),
    "malformed run-lengths": (
        lambda d: rewrite(d / "train.csv", lambda rows: [(name, "5 x" if name == "b" else rle) for name, rle in rows]),
        ["train.csv", "mask of b", "'x'"],
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_image_is_left_out_and_listed(tmp_path, fault):
    spoil, words = BROKEN[fault]
    sources.salt(tmp_path / "data")
    spoil(tmp_path / "data")
    refused = run_here(SCRIPT, "--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out")
    assert_refused(refused, 1, *words, "or leave such images out with --skip_broken")
    printed = run_ok("--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out", "--skip_broken", cwd=tmp_path)
    assert list(skipped_in(tmp_path / "out")) == ["b"]
    assert all(word in skipped_in(tmp_path / "out")["b"] for word in words)
    lines = [line.split() for line in printed.splitlines()]
    assert ["train", "images", "3"] in lines
    assert ["skipped", "images", "1", "(left", "out", "because", "they", "are", "broken)"] in lines
    assert f"b: {skipped_in(tmp_path / 'out')['b']}" in [line.strip() for line in printed.splitlines()]
    sources.salt(tmp_path / "without", train="dac")
    run_ok("--data_dir", tmp_path / "without", cwd=tmp_path)
    for part in ("train", "test"):
        found, expected = (read_manifest(tmp_path / name) for name in ("out", "without"))
        assert found.parts[part] == expected.parts[part], "not the same as packing the folder without the image"
        assert found.report[part]["counts"] == expected.report[part]["counts"]


def test_broken_images_do_not_affect_size_and_channels(tmp_path):
    sources.salt(tmp_path)
    save(tmp_path / "train/images/d.png", noise(1, (40, 40), 3))  # coloured and large, with the mask of a small one
    save(tmp_path / "train/images/a.png", noise(2, (50, 50), 3))
    cut(tmp_path / "train/images/a.png")
    run_ok("--data_dir", tmp_path, "--skip_broken", cwd=tmp_path)
    assert list(skipped_in(tmp_path)) == ["d", "a"]
    assert open_packed(tmp_path).images.shape == (2, 12, 10, 1)


def test_folds_after_packing_with_skipped_images(tmp_path):
    sources.salt(tmp_path / "data", train="dbacefgh")
    cut(tmp_path / "data/train/images/b.png")
    rewrite(tmp_path / "data/train.csv", lambda rows: [(name, "1" if name == "f" else rle) for name, rle in rows])
    run_ok("--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out", "--skip_broken", cwd=tmp_path)
    table = tmp_path / "out/train.csv"
    assert read_table(table)["id"] == list("dbacefgh"), "the source's csv is copied unchanged"
    done = run_here("utils/make_folds.py", "-p", table, "-n", 3, "--stratify", "coverage", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 broken images that packing skipped are not in any fold" in done.stdout.splitlines()
    assert read_table(tmp_path / "out/train_with_folds.csv")["id"] == list("dacegh")
    train, val = fold_rows(tmp_path / "out", open_packed(tmp_path / "out").ids, 1)
    assert sorted([*train, *val]) == list(range(6))


@pytest.mark.parametrize("table", ["train.csv", "train_ship_segmentations_v2.csv"])
def test_airbus_with_its_corrupt_image(tmp_path, table):
    labels = sources.airbus(tmp_path)
    save(tmp_path / "train_v2/e.jpg", noise(5, channels=3))
    save(tmp_path / "train_v2/f.jpg", noise(6, channels=3))
    cut(tmp_path / "train_v2/e.jpg")
    more = [("f.jpg", "1 2"), ("f.jpg", "7")]  # the second run-length has no end
    rewrite(tmp_path / "train_ship_segmentations_v2.csv", lambda rows: [("e.jpg", "1 2"), *rows, *more])
    done = run_here(SCRIPT, "--data_dir", tmp_path)
    assert_refused(done, 1, "train_v2/e.jpg", "is truncated", "--skip_broken")
    printed = run_ok("--data_dir", tmp_path, "--skip_broken", cwd=tmp_path)
    assert list(skipped_in(tmp_path)) == ["e.jpg", "f.jpg"]
    assert "e.jpg: " in printed
    assert "odd number of values" in skipped_in(tmp_path)["f.jpg"]
    packed = open_packed(tmp_path)
    assert packed.ids == ["c.jpg", "a.jpg", "b.jpg"]
    assert np.array_equal(packed.instances, list(labels.values()))
    assert read_table(tmp_path / "train.csv")["id"] == packed.ids, "the csv that packing writes lists the packed images"
    done = run_here("utils/make_folds.py", "-p", tmp_path / table, "-n", 3, "--stratify", "objects")
    assert done.returncode == 0, done.stderr
    assert "2 broken images that packing skipped are not in any fold" in done.stdout
    held_out = [fold_rows(tmp_path, packed.ids, fold)[1].tolist() for fold in range(3)]
    assert sorted(held_out) == [[0], [1], [2]]


def test_a_broken_object_leaves_its_image_out(tmp_path):
    sources.dsb2018(tmp_path)
    cut(tmp_path / "stage1_train/b/masks/object2.png")
    run_ok("--data_dir", tmp_path, "--skip_broken", cwd=tmp_path)
    assert "stage1_train/b/masks/object2.png" in skipped_in(tmp_path)["b"]
    assert open_packed(tmp_path).ids == ["a"]


def test_classes_in_a_csv_whose_ids_have_suffixes(tmp_path):
    sources.labelled(tmp_path, ["cat", "dog", "dog", "cat", "dog"], suffix=".png")
    cut(tmp_path / "train/a_2.png")
    run_ok("--data_dir", tmp_path, "--skip_broken", cwd=tmp_path)
    done = run_here("utils/make_folds.py", "-p", tmp_path / "train.csv", "-n", 2, "--stratify", "label")
    assert done.returncode == 0, done.stderr
    packed = open_packed(tmp_path)
    assert "a_2" not in " ".join([*packed.ids, *read_table(tmp_path / "train_with_folds.csv")["id"]])
    assert len(fold_rows(tmp_path, packed.ids, 0)[1]) == 2


def test_a_broken_test_image_is_never_left_out(tmp_path):
    sources.salt(tmp_path / "data")
    cut(tmp_path / "data/train/images/a.png")
    cut(tmp_path / "data/test/images/y.png")
    done = run_here(SCRIPT, "--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out", "--skip_broken")
    words = ["test/images/y.png", "download it again", "only training images", "a submission needs every test image"]
    assert_refused(done, 1, *words)
    assert not (tmp_path / "out").exists() or files_in(tmp_path / "out") == []


def test_a_source_with_only_broken_images_is_refused(tmp_path):
    sources.pairs(tmp_path / "data")
    for path in (tmp_path / "data/images").iterdir():
        path.write_bytes(b"")
    done = run_here(SCRIPT, "--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out", "--skip_broken")
    assert_refused(done, 1, "all 4 training images are broken", "picture.bmp.bmp", "0 bytes")
    assert not (tmp_path / "out").exists()


def test_already_packed_depends_on_the_flag(tmp_path):
    sources.salt(tmp_path / "data")
    words = ["--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out"]
    run_ok(*words, cwd=tmp_path)
    assert "already packed" not in run_ok(*words, "--skip_broken", cwd=tmp_path)
    cut(tmp_path / "data/train/images/b.png")
    assert "already packed" not in run_ok(*words, "--skip_broken", cwd=tmp_path)
    assert "already packed" in run_ok(*words, "--skip_broken", cwd=tmp_path)
    before = contents(tmp_path / "out")
    assert_refused(run_here(SCRIPT, *words), 1, "train/images/b.png", "--skip_broken")
    assert contents(tmp_path / "out") == before
    save(tmp_path / "data/train/images/b.png", noise(7))
    run_ok(*words, "--skip_broken", cwd=tmp_path)
    assert open_packed(tmp_path / "out").ids == list("dbac")
    assert "skipped" not in read_manifest(tmp_path / "out").report["train"]


@pytest.mark.parametrize(
    "place", [("utils.data.packing_plan", "", "check_item"), ("utils.data.packing_chunks", "", "load_sample")]
)
def test_a_killed_run_leaves_nothing_that_looks_complete(tmp_path, place):
    sources.salt(tmp_path / "data")
    cut(tmp_path / "data/train/images/b.png")
    words = ["--data_dir", str(tmp_path / "data"), "--out_dir", str(tmp_path / "out"), "--skip_broken"]
    killed = [sys.executable, "-c", KILLED, *place, "3", *words]
    assert subprocess.run(killed, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "out/manifest.json").exists()
    run_ok(*words, cwd=tmp_path)
    run_ok(*words[:2], "--out_dir", tmp_path / "quiet", "--skip_broken", cwd=tmp_path)
    assert contents(tmp_path / "out") == contents(tmp_path / "quiet")
