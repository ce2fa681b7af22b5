"""Every layout through the real command line, and every way in which a source can be wrong."""

import numpy as np
import pytest
import source_helpers as sources
from mask_helpers import files_in
from PIL import Image
from script_helpers import assert_refused, run_here, run_script
from source_helpers import SIZE, as_rgb, blob, noise, save

from utils import samples
from utils.files import read_json
from utils.layouts import LAYOUTS, find_source
from utils.stack import open_stack
from utils.tables import read_table, write_table

SCRIPT = "utils/stack_and_save.py"


def packed(folder, tmp_path, *words):
    """Pack by the real command line; what it printed, and the stacks by part."""
    done = run_script(SCRIPT, "--data_dir", folder, "--out_dir", tmp_path / "out", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    parts = read_json(tmp_path / "out/manifest.json")["parts"]
    return done.stdout, {part: open_stack(tmp_path / "out", part) for part in parts}


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
    assert train.labels is None
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
    assert list(table) == ["id", "height", "width", "coverage"]
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


def test_flat_with_a_sample_submission_alone(tmp_path):
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
    assert train.labels.dtype == np.uint16
    assert np.array_equal(train.labels, [labels["a"], labels["b"]]), "the first object keeps a shared pixel"
    assert np.array_equal(train.masks, train.labels != 0)
    counts = read_json(tmp_path / "out/manifest.json")["report"]["train"]["counts"]
    assert (counts["objects"], counts["overlapping_pixels"], counts["objects_without_pixels"]) == (3, 2, 1)
    assert read_table(tmp_path / "out/train.csv")["objects"] == ["1", "2"]


def test_dsb2018_compares_with_its_csv(tmp_path):
    labels = sources.dsb2018(tmp_path / "data")
    from utils.rle import encode

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
    assert np.array_equal(train.labels, list(labels.values()))
    assert np.array_equal(train.masks, train.labels != 0)
    counts = read_json(tmp_path / "out/manifest.json")["report"]["train"]["counts"]
    assert (counts["objects"], counts["empty_masks"], counts["objects_without_pixels"]) == (3, 1, 0)
    assert read_table(tmp_path / "out/train.csv")["objects"] == ["2", "0", "1"]


def test_airbus_without_sample_submission_names_the_files(tmp_path):
    sources.airbus(tmp_path)
    (tmp_path / "sample_submission_v2.csv").unlink()
    assert [item.id for item in find_source(tmp_path).test] == ["y.jpg", "z.jpg"]


def test_colour_anywhere_means_three_channels_everywhere(tmp_path):
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
    speck[0, 0] = 255  # no pixel of the small image lies on it
    save(tmp_path / "data/stage1_train/c/masks/a_speck.png", speck)
    _, stacks = packed(tmp_path / "data", tmp_path, "--size", "12x10")
    train = stacks["train"]
    assert train.sizes == [(12, 10), (12, 10), (24, 20), (6, 30), (20, 20)]
    assert (train.labels[4] == 1).all(), "an image without background"
    assert stacks["test"].sizes is None, "these were not resized"
    half = np.zeros(SIZE, np.uint8)
    half[:6] = 1
    for row in (2, 3):
        assert np.array_equal(train.masks[row], half)
        assert np.array_equal(train.labels[row], half), "numbers without a gap where an object got lost"
        assert (train.images[row][:, :4] == 7).all()
        assert (train.images[row][:, 6:] == 201).all()
    counts = read_json(tmp_path / "out/manifest.json")["report"]["train"]["counts"]
    assert counts["objects_lost_by_resizing"] == 1
    table = read_table(tmp_path / "out/train.csv")
    assert (table["height"], table["width"]) == (["12", "12", "24", "6", "20"], ["10", "10", "20", "30", "20"])
    assert table["objects"] == ["1", "2", "1", "1", "1"]


def refused(folder, code, *words, flags=()):
    """The command fails with one line that has `words` in it, and leaves nothing behind."""
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


def test_unknown_layout_says_what_was_looked_for(tmp_path):
    save(tmp_path / "data/pictures/a.png", noise(1))
    refused(tmp_path / "data", 1, "pictures/", *LAYOUTS, "stage1_train", "train_masks")


@pytest.mark.parametrize("size", ["256", "0x5", "12x", "axb", "-4x4", "12x10x3", "12.5x10", ""])
def test_malformed_size(tmp_path, size):
    sources.salt(tmp_path / "data")
    refused(tmp_path / "data", 2, f"--size {size}", "256x256", flags=[f"--size={size}"])


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def rewrite(table, change):
    """Change the rows of a csv: `change` takes and returns a list of (id, cell)."""
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
    "truncated image": (lambda d: cut(d / "train/images/c.png"), ["train/images/c.png", "truncated"]),
    "truncated test image": (lambda d: cut(d / "test/images/y.png"), ["test/images/y.png", "truncated"]),
    "truncated mask": (lambda d: cut(d / "train/masks/c.png"), ["train/masks/c.png", "broken"]),
    "zero bytes": (lambda d: (d / "train/masks/c.png").write_bytes(b""), ["train/masks/c.png", "0 bytes"]),
    "text": (lambda d: (d / "train/images/c.png").write_text("404"), ["train/images/c.png", "no known picture"]),
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
        ["train.csv", "q has no image", "train/images", "1 such of 5"],
    ),
    "image not in csv": (
        lambda d: rewrite(d / "train.csv", lambda rows: rows[:-2]),
        ["train/images", "a is not listed", "train.csv", "2 such of 4"],
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
def test_truncated_pictures_of_other_formats(tmp_path, suffix):
    sources.pairs(tmp_path / "data", (".png", ".bmp"))
    path = tmp_path / f"data/images/cut{suffix}"
    save(path, noise(1, (40, 40)))
    save(tmp_path / "data/masks/cut.png", blob(1, (40, 40)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    refused(tmp_path / "data", 1, f"images/cut{suffix}", "broken", flags=["--size", "40x40"])


def test_several_frames(tmp_path):
    sources.pairs(tmp_path / "data", (".png", ".gif"))
    frames = [Image.fromarray(noise(seed)) for seed in (1, 2)]
    path = tmp_path / "data/images/picture.gif.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    refused(tmp_path / "data", 1, path.name, "several frames")


def test_mixed_sizes_are_listed(tmp_path):
    sources.salt(tmp_path / "data")
    save(tmp_path / "data/train/images/b.png", noise(1, (9, 8)))
    save(tmp_path / "data/train/masks/b.png", blob(1, (9, 8)))
    save(tmp_path / "data/test/images/x.png", noise(1, (30, 8)))
    refused(tmp_path / "data", 1, "12x10 (5)", "9x8 (1)", "30x8 (1)", "--size 12x10")


def test_wrong_flat(tmp_path):
    sources.flat(tmp_path / "both")
    rewrite(tmp_path / "both/sample_submission.csv", lambda rows: [*rows, ("a", "")])
    refused(tmp_path / "both", 1, "sample_submission.csv", "a is in train.csv too")
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
    refused(tmp_path / "data", 1, "--data_dir", "test images only")


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
    refused(tmp_path / "many", 1, "stage1_train/b/masks", "at most 1 objects")


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
    refused(tmp_path / "cell", 1, table, "c.jpg", "odd count")
    sources.airbus(tmp_path / "two")
    (tmp_path / "two/old.csv").write_text("ImageId,EncodedPixels\n")
    refused(tmp_path / "two", 1, table, "old.csv", "one csv")
