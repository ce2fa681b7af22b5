"""Packing of every layout, with the real command line."""

import helpers.sources as sources
import numpy as np
import pytest
from helpers.scripts import run_here, run_script
from helpers.sources import SCRIPT, SIZE, as_rgb, noise, save
from PIL import Image

from utils.core.files import read_json
from utils.core.tables import read_table, write_table
from utils.data.folds import fold_numbers, fold_rows
from utils.data.image_classes import read_classes
from utils.data.layouts import LAYOUTS, find_source
from utils.data.packed_data import open_packed


def packed(folder, tmp_path, *words):
    """Pack with the real command line; return its standard output and the packed images by part."""
    done = run_script(SCRIPT, "--data_dir", folder, "--out_dir", tmp_path / "out", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    parts = read_json(tmp_path / "out/manifest.json")["parts"]
    return done.stdout, {part: open_packed(tmp_path / "out", part) for part in parts}


def labelled(folder):
    sources.labelled(folder, ["cat", "dog"])


FOLDERS = {
    "salt": sources.salt,
    "flat": sources.flat,
    "pairs": sources.pairs,
    "carvana": sources.carvana,
    "dsb2018": sources.dsb2018,
    "airbus": sources.airbus,
    "labels": labelled,
}
"""Layout -> function that creates a folder with this layout."""


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_detected(tmp_path, name):
    FOLDERS[name](tmp_path)
    source = find_source(tmp_path)
    assert (source.layout, source.folder) == (name, str(tmp_path))
    assert (source.class_table is not None) == (name == "labels")
    assert source.train


def test_salt(tmp_path):
    images, masks = sources.salt(tmp_path / "data")
    printed, stacks = packed(tmp_path / "data", tmp_path)
    train, test = stacks["train"], stacks["test"]
    assert printed.splitlines()[0].split() == ["layout", "salt", "(train/images", "and", "train/masks)"]
    assert (train.ids, test.ids) == (list("dbac"), list("zxy")), "not in the order of the csv files"
    assert train.images.shape == (4, *SIZE, 1), "grey stored as RGB is one channel"
    assert np.array_equal(train.images[..., 0], [images[name] for name in "dbac"])
    assert np.array_equal(test.images[..., 0], [images[name] for name in "zxy"])
    assert np.array_equal(train.masks, [masks[name] for name in "dbac"])
    assert train.instances is None
    assert test.masks is None
    assert train.sizes is None
    for name in ("train.csv", "depths.csv", "sample_submission.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "data" / name).read_bytes()


def test_salt_without_csv_is_sorted(tmp_path):
    _, masks = sources.salt(tmp_path / "data")
    for name in ("train.csv", "sample_submission.csv", "depths.csv"):
        (tmp_path / "data" / name).unlink()
    source = find_source(tmp_path / "data")
    assert [item.id for item in source.train] == list("abcd")
    assert [item.id for item in source.test] == list("xyz")
    _, stacks = packed(tmp_path / "data", tmp_path)
    table = read_table(tmp_path / "out/train.csv")
    assert list(table) == ["id", "height", "width", "coverage", "background"]
    assert table["id"] == list("abcd")
    assert set(table["height"]) == {"12"}
    assert set(table["width"]) == {"10"}
    assert [float(cell) for cell in table["coverage"]] == [round(masks[name].mean(), 6) for name in "abcd"]
    assert stacks["train"].ids == list("abcd")


def test_flat(tmp_path):
    images, masks = sources.flat(tmp_path / "data")
    printed, stacks = packed(tmp_path / "data", tmp_path)
    assert "layout" in printed
    assert "flat" in printed.splitlines()[0]
    assert (stacks["train"].ids, stacks["test"].ids) == (list("dbac"), list("zxy"))
    assert np.array_equal(stacks["train"].images[..., 0], [images[name] for name in "dbac"])
    assert np.array_equal(stacks["train"].masks, [masks[name] for name in "dbac"])
    assert np.array_equal(stacks["test"].images[..., 0], [images[name] for name in "zxy"])


def test_flat_keeps_the_ids_of_the_sample_submission(tmp_path):
    sources.flat(tmp_path)
    write_table(tmp_path / "sample_submission.csv", {"id": ["y.png", "x.png", "z.png"], "rle_mask": [""] * 3})
    source = find_source(tmp_path)
    assert [item.id for item in source.test] == ["y.png", "x.png", "z.png"]
    assert [item.id for item in source.train] == list("dbac")


def test_flat_with_only_a_sample_submission(tmp_path):
    sources.flat(tmp_path)
    (tmp_path / "train.csv").unlink()
    source = find_source(tmp_path)
    assert source.layout == "flat"
    assert [item.id for item in source.train] == list("abcd")
    assert [item.id for item in source.test] == list("zxy")


def test_pairs_of_several_formats(tmp_path):
    images, masks = sources.pairs(tmp_path / "data")
    printed, stacks = packed(tmp_path / "data", tmp_path)
    assert "pairs" in printed.splitlines()[0]
    assert list(stacks) == ["train"]
    assert stacks["train"].ids == sorted(images)
    assert np.array_equal(stacks["train"].images[..., 0], [images[name] for name in sorted(images)])
    assert np.array_equal(stacks["train"].masks, [masks[name] for name in sorted(images)])


def test_carvana(tmp_path):
    masks = sources.carvana(tmp_path / "data")
    printed, stacks = packed(tmp_path / "data", tmp_path)
    assert "carvana" in printed.splitlines()[0]
    assert stacks["train"].ids == ["car_01", "car_02"]
    assert stacks["test"].ids == ["car_09"]
    assert stacks["train"].images.shape == (2, *SIZE, 3)
    with Image.open(tmp_path / "data/train/car_02.jpg") as picture:
        assert np.array_equal(stacks["train"].images[1], np.asarray(picture))
    assert np.array_equal(stacks["train"].masks, [masks["car_01"], masks["car_02"]])


def test_dsb2018(tmp_path):
    labels = sources.dsb2018(tmp_path / "data")
    printed, stacks = packed(tmp_path / "data", tmp_path)
    train = stacks["train"]
    assert "dsb2018" in printed.splitlines()[0]
    assert (train.ids, stacks["test"].ids) == (["a", "b"], ["t"])
    assert np.array_equal(train.images, [noise(ord(name), channels=4)[..., :3] for name in "ab"]), "alpha is dropped"
    assert train.instances.dtype == np.uint16
    assert np.array_equal(train.instances, [labels["a"], labels["b"]]), "the first object keeps a shared pixel"
    assert np.array_equal(train.masks, train.instances != 0)
    counts = read_json(tmp_path / "out/manifest.json")["report"]["train"]["counts"]
    assert (counts["objects"], counts["overlapping_pixels"], counts["objects_without_pixels"]) == (3, 2, 1)
    assert read_table(tmp_path / "out/train.csv")["objects"] == ["1", "2"]


def test_masks_of_dsb2018_are_compared_with_its_csv(tmp_path):
    labels = sources.dsb2018(tmp_path / "data")
    from utils.data.rle import encode

    cells = [encode(labels["a"] == 1), encode(labels["b"] == 1), encode(labels["b"] == 2)]
    table = tmp_path / "data/stage1_train_labels.csv"
    write_table(table, {"ImageId": ["a", "b", "b"], "EncodedPixels": cells})
    _, _ = packed(tmp_path / "data", tmp_path)
    assert read_json(tmp_path / "out/manifest.json")["report"]["train"]["counts"]["masks_unlike_csv"] == 0
    write_table(table, {"ImageId": ["a", "b"], "EncodedPixels": cells[:2]})
    packed(tmp_path / "data", tmp_path)
    report = read_json(tmp_path / "out/manifest.json")["report"]["train"]
    assert report["counts"]["masks_unlike_csv"] == 1
    assert report["examples"]["masks_unlike_csv"] == ["b"]


def test_airbus(tmp_path):
    labels = sources.airbus(tmp_path / "data")
    printed, stacks = packed(tmp_path / "data", tmp_path)
    train = stacks["train"]
    assert "airbus" in printed.splitlines()[0]
    assert train.ids == ["c.jpg", "a.jpg", "b.jpg"], "ids and order of the csv"
    assert stacks["test"].ids == ["z.jpg", "y.jpg"]
    assert np.array_equal(train.instances, list(labels.values()))
    assert np.array_equal(train.masks, train.instances != 0)
    counts = read_json(tmp_path / "out/manifest.json")["report"]["train"]["counts"]
    assert (counts["objects"], counts["empty_masks"], counts["objects_without_pixels"]) == (3, 1, 0)
    assert read_table(tmp_path / "out/train.csv")["objects"] == ["2", "0", "1"]


def test_airbus_does_not_train_on_the_truth_of_test_images(tmp_path):
    sources.airbus(tmp_path)
    write_table(tmp_path / "truth.csv", {"ImageId": ["z.jpg", "y.jpg"], "EncodedPixels": ["", "1 2"]})
    source = find_source(tmp_path)
    assert source.run_length_table.name == "train_ship_segmentations_v2.csv"
    assert [item.id for item in source.train] == ["c.jpg", "a.jpg", "b.jpg"]


def test_run_lengths_may_be_in_train_csv_beside_a_folder_of_images(tmp_path):
    labels = sources.airbus(tmp_path / "data")
    (tmp_path / "data/train_v2").rename(tmp_path / "data/images")
    (tmp_path / "data/train_ship_segmentations_v2.csv").rename(tmp_path / "data/train.csv")
    _, stacks = packed(tmp_path / "data", tmp_path)
    assert np.array_equal(stacks["train"].instances, list(labels.values()))


def test_airbus_without_sample_submission_uses_file_names_as_ids(tmp_path):
    sources.airbus(tmp_path)
    (tmp_path / "sample_submission_v2.csv").unlink()
    assert [item.id for item in find_source(tmp_path).test] == ["y.jpg", "z.jpg"]


def test_one_colour_image_gives_three_channels_to_all(tmp_path):
    images, _ = sources.salt(tmp_path / "data")
    colour = noise(1, channels=3)
    save(tmp_path / "data/test/images/y.png", colour)  # the very last one
    _, stacks = packed(tmp_path / "data", tmp_path)
    assert np.array_equal(stacks["train"].images, [as_rgb(images[name]) for name in "dbac"])
    assert np.array_equal(stacks["test"].images[2], colour)


def test_mixed_sizes_are_resized_on_request(tmp_path):
    sources.dsb2018(tmp_path / "data")
    for name, size in (("c", (24, 20)), ("d", (6, 30))):
        image = np.full((*size, 3), 7, np.uint8)
        image[:, size[1] // 2 :] = 201
        label = np.zeros(size, np.uint8)
        label[: size[0] // 2] = 255
        save(tmp_path / f"data/stage1_train/{name}/images/{name}.png", image)
        save(tmp_path / f"data/stage1_train/{name}/masks/whole.png", label)
    save(tmp_path / "data/stage1_train/e/images/e.png", noise(5, (20, 20), 3))
    save(tmp_path / "data/stage1_train/e/masks/all.png", np.full((20, 20), 255, np.uint8))
    speck = np.zeros((24, 20), np.uint8)
    speck[0, 0] = 255  # no pixel of the resized image falls on it
    save(tmp_path / "data/stage1_train/c/masks/a_speck.png", speck)
    _, stacks = packed(tmp_path / "data", tmp_path, "--size", "12x10")
    train = stacks["train"]
    assert train.sizes == [(12, 10), (12, 10), (24, 20), (6, 30), (20, 20)]
    assert (train.instances[4] == 1).all(), "an image without background"
    assert stacks["test"].sizes is None, "these were not resized"
    half = np.zeros(SIZE, np.uint8)
    half[:6] = 1
    for row in (2, 3):
        assert np.array_equal(train.masks[row], half)
        assert np.array_equal(train.instances[row], half), "numbers have no gap where an object was lost"
        assert (train.images[row][:, :4] == 7).all()
        assert (train.images[row][:, 6:] == 201).all()
    counts = read_json(tmp_path / "out/manifest.json")["report"]["train"]["counts"]
    assert counts["objects_lost_by_resizing"] == 1
    table = read_table(tmp_path / "out/train.csv")
    assert (table["height"], table["width"]) == (["12", "12", "24", "6", "20"], ["10", "10", "20", "30", "20"])
    assert table["objects"] == ["1", "2", "1", "1", "1"]


def test_classes_in_train_csv(tmp_path):
    sources.labelled(tmp_path, ["cat", "dog", "dog", "cat"])
    written = (tmp_path / "train.csv").read_bytes()
    for time in range(2):
        done = run_here(SCRIPT, "--data_dir", tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"{tmp_path}/train.csv (columns: label)" in done.stdout
        assert ("already packed" in done.stdout) == bool(time)
    assert (tmp_path / "train.csv").read_bytes() == written
    train, test = open_packed(tmp_path), open_packed(tmp_path, "test")
    assert (train.ids, test.ids) == (["a_3", "a_2", "a_1", "a_0"], ["b_1", "b_0"]), "not in the order of the csv files"
    assert np.array_equal(train.images[0], noise(3, (32, 32), 3))
    assert (train.masks, train.instances, (tmp_path / "train_masks.npy").exists()) == (None, None, False)
    assert "empty_masks" not in read_json(tmp_path / "manifest.json")["report"]["train"]["counts"]


def test_classes_in_the_layout_of_planet(tmp_path):
    folder, words = tmp_path / "data", {"columns": ("image_name", "tags"), "parts": ("train-jpg", "test-jpg")}
    sources.labelled(folder, ["haze primary", "clear"], "train_v2.csv", **words)
    _, stacks = packed(folder, tmp_path)
    assert (stacks["train"].ids, stacks["test"].ids) == (["a_1", "a_0"], ["b_0"])
    assert read_table(tmp_path / "out/train.csv") == {"id": ["a_1", "a_0"], "tags": ["clear", "haze primary"]}
    sample = "sample_submission_v2.csv"
    assert (tmp_path / "out" / sample).read_bytes() == (folder / sample).read_bytes()
    write_table(folder / "train_v2.csv", {"image_name": ["a_0", "a_1"], "tags": ["clear", "clear haze"]})
    _, stacks = packed(folder, tmp_path)  # the csv that packing wrote is replaced
    assert stacks["train"].ids == read_table(tmp_path / "out/train.csv")["id"] == ["a_0", "a_1"]


def test_ids_of_classes_are_file_names(tmp_path):
    """Packing in place keeps labels.csv as the source, next to the train.csv that is written from it."""
    sources.labelled(tmp_path, ["0", "1", "1", "0"], "labels.csv", ("filename", "cactus"), suffix=".png")
    for _ in range(2):
        done = run_here(SCRIPT, "--data_dir", tmp_path)
        assert done.returncode == 0, done.stderr
        assert "labels.csv (columns: cactus)" in done.stdout
    assert "already packed" in done.stdout
    assert open_packed(tmp_path, "test").ids == ["b_1.png", "b_0.png"], "the ids that a submission needs"
    assert list(read_table(tmp_path / "train.csv")) == ["id", "cactus"]
    done = run_here("utils/make_folds.py", "--path", tmp_path / "train.csv", "--n", 2, "--stratify", "cactus")
    assert done.stdout.splitlines()[:2] == ["fold  images      0      1", "   0       2  50.0%  50.0%"], done.stderr
    assert fold_numbers(tmp_path) == [0, 1]
    ids = open_packed(tmp_path).ids
    assert ids[0] == "a_3"
    assert sorted(np.concatenate(fold_rows(tmp_path, ids, 1)).tolist()) == [0, 1, 2, 3]
    assert read_classes(tmp_path / "train_with_folds.csv", "cactus", ids).matrix[:, 1].tolist() == [0, 1, 1, 0]
