"""Holding out a fold: every image in exactly one part, masks of the fold only in truth.csv, no incomplete folder."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers.masks import files_in
from helpers.scripts import ROOT, assert_refused, run_here, run_script
from helpers.sources import KILLED, SIZE, blob, contents, noise, run_ok, save

from utils.core.files import read_json
from utils.core.tables import read_table, write_table
from utils.data.compact_rows import digest_of_rows, row_digest
from utils.data.folds import fold_rows
from utils.data.packed_data import open_packed, read_manifest
from utils.data.rle import decode, encode

SCRIPT = "utils/hold_out.py"
IDS = [f"image{number:02}" for number in range(40)]
FOLDS = np.array([(7 * number) % 4 for number in range(40)])


@pytest.fixture
def salt(tmp_path):
    """Return a packed folder of 40 images with masks, an additional column, and 4 folds."""
    for number, name in enumerate(IDS):
        save(tmp_path / f"data/train/images/{name}.png", noise(number))
        save(tmp_path / f"data/train/masks/{name}.png", blob(number) * 255)
    cells = [encode(blob(number)) for number in range(40)]
    columns = {"id": IDS, "rle_mask": cells, "well": [f"w{number}" for number in range(40)]}
    write_table(tmp_path / "data/train.csv", columns)
    write_table(tmp_path / "data/depths.csv", {"id": IDS, "z": list(range(40))})
    run_ok("--data_dir", tmp_path / "data", cwd=tmp_path)
    write_table(tmp_path / "data/train_with_folds.csv", {**columns, "fold": FOLDS.tolist()})
    return tmp_path / "data"


@pytest.fixture
def ships(tmp_path):
    """Return a packed folder of 40 resized images with 0 to 3 objects each, and 4 folds."""
    rows = []
    for number, name in enumerate(IDS):
        save(tmp_path / f"ships/train_v2/{name}.jpg", noise(number, (24, 20), 3))
        objects = [np.zeros((24, 20), np.uint8) for _ in range(number % 5 % 4)]
        for place, one in enumerate(objects):
            one[8 * place : 8 * place + 6, number % 10 : number % 10 + 8] = 1
        rows += [(f"{name}.jpg", encode(one)) for one in objects] or [(f"{name}.jpg", "")]
    ids, cells = zip(*rows, strict=True)
    write_table(tmp_path / "ships/train_ship_segmentations_v2.csv", {"ImageId": ids, "EncodedPixels": cells})
    run_ok("--data_dir", tmp_path / "ships", "--size", "12x10", cwd=tmp_path)
    table = read_table(tmp_path / "ships/train.csv")
    write_table(tmp_path / "ships/train_with_folds.csv", {**table, "fold": FOLDS.tolist()})
    return tmp_path / "ships"


def held_out(data, *words, fold=2, out="held"):
    done = run_here(SCRIPT, "--data_dir", data, "--fold", fold, "--out_dir", data.parent / out, *words)
    assert done.returncode == 0, done.stderr
    return data.parent / out, done.stdout


def test_every_image_is_in_one_part(salt):
    held, printed = held_out(salt)
    whole, train, test = open_packed(salt), open_packed(held), open_packed(held, "test")
    assert train.ids == [name for name, fold in zip(IDS, FOLDS, strict=True) if fold != 2]
    assert test.ids == [name for name, fold in zip(IDS, FOLDS, strict=True) if fold == 2]
    assert np.array_equal(train.images, whole.images[FOLDS != 2])
    assert np.array_equal(train.masks, whole.masks[FOLDS != 2])
    assert np.array_equal(test.images, whole.images[FOLDS == 2])
    assert (test.masks, test.instances, train.instances, train.sizes) == (None, None, None, None)
    assert ["train", "images", "30"] in [line.split() for line in printed.splitlines()]
    for part in read_manifest(held).parts.values():
        for entry in part.arrays.values():
            array = np.load(held / entry.file)
            assert entry.sha256 == digest_of_rows(row_digest(row) for row in array)


def test_folds_are_renumbered_and_columns_kept(salt):
    held, _ = held_out(salt)
    table, plain, before = (
        read_table(path) for path in (held / "train_with_folds.csv", held / "train.csv", salt / "train.csv")
    )
    kept = np.flatnonzero(FOLDS != 2)
    assert list(plain) == ["id", "rle_mask", "well"]
    assert plain == {name: [column[row] for row in kept] for name, column in before.items()}
    assert table == {**plain, "fold": [str({0: 0, 1: 1, 3: 2}[fold]) for fold in FOLDS[kept]]}
    ids = open_packed(held).ids
    assert [ids[row] for row in fold_rows(held, ids, 2)[1]] == [IDS[row] for row in np.flatnonzero(FOLDS == 3)]
    assert (held / "depths.csv").read_bytes() == (salt / "depths.csv").read_bytes()
    assert read_json(held / "held_out.json")["fold"] == 2


def test_truth_of_masks(salt):
    held, _ = held_out(salt)
    truth, sample = read_table(held / "truth.csv"), read_table(held / "sample_submission.csv")
    assert list(truth) == list(sample) == ["id", "rle_mask"]
    assert truth["id"] == sample["id"] == open_packed(held, "test").ids
    masks = open_packed(salt).masks[FOLDS == 2]
    assert np.array_equal([decode(cell, SIZE) for cell in truth["rle_mask"]], masks)
    done = run_here(
        "utils/submission.py", "score", held / "truth.csv", "--truth", held / "truth.csv", "--data_dir", held
    )
    assert "1.00000" in done.stdout


def test_truth_of_objects_at_the_packed_size(ships):
    held, _ = held_out(ships)
    truth, sample = read_table(held / "truth.csv"), read_table(held / "sample_submission.csv")
    assert list(truth) == list(sample) == ["ImageId", "EncodedPixels"]
    assert sample["ImageId"] == list(dict.fromkeys(truth["ImageId"])) == open_packed(held, "test").ids
    labels = open_packed(ships).instances[FOLDS == 2]
    assert np.array_equal(open_packed(held).instances, open_packed(ships).instances[FOLDS != 2])
    for name, label in zip(sample["ImageId"], labels, strict=True):
        cells = [cell for one, cell in zip(truth["ImageId"], truth["EncodedPixels"], strict=True) if one == name]
        assert cells == ([encode(label == number) for number in range(1, label.max() + 1)] or [""])
    assert (labels.max(axis=(1, 2)) == 0).any(), "the fold has no image without objects"
    assert open_packed(ships).sizes is not None
    assert open_packed(held).sizes is None
    assert set(read_table(held / "train.csv")) >= {"id", "objects", "background"}


def test_run_lengths_of_a_resized_set_are_written_again(salt):
    run_ok("--data_dir", salt, "--size", "6x5", cwd=salt.parent)
    held, _ = held_out(salt)
    train = open_packed(held)
    cells = read_table(held / "train.csv")["rle_mask"]
    assert np.array_equal([decode(cell, (6, 5)) for cell in cells], train.masks)


def test_a_second_run_does_nothing_or_repairs_the_folder(salt):
    held, _ = held_out(salt)
    before = contents(held)
    assert "already there" in held_out(salt)[1]
    (held / "truth.csv").unlink()
    (held / "train_masks.npy").write_bytes(b"")
    assert "already there" not in held_out(salt)[1]
    assert contents(held) == before


def test_folders_with_other_contents_are_refused_and_kept(salt):
    held, _ = held_out(salt)
    before = contents(salt.parent)
    write = ("--data_dir", salt, "--out_dir")
    assert_refused(run_here(SCRIPT, *write, held, "--fold", 3), 2, "--out_dir", "fold 2 of", "new or empty")
    assert_refused(run_here(SCRIPT, *write, salt, "--fold", 3), 2, "--out_dir", "new or empty")
    assert_refused(run_here(SCRIPT, *write, salt / "train.csv", "--fold", 3), 2, "--out_dir", "a file")
    assert_refused(run_here(SCRIPT, *write, salt.parent / "new", "--fold", 4), 2, "--fold 4", "0, 1, 2, 3")
    assert_refused(run_here(SCRIPT, "--data_dir", held / "no", "--out_dir", "new", "--fold", 0), 1, "no such folder")
    assert contents(salt.parent) == before
    table = read_table(salt / "train_with_folds.csv")
    write_table(salt / "train_with_folds.csv", {**table, "fold": [fold % 2 for fold in FOLDS.tolist()]})
    assert_refused(run_here(SCRIPT, *write, held, "--fold", 2), 2, "--fold 2")
    assert_refused(run_here(SCRIPT, *write, held, "--fold", 1), 2, "--out_dir")
    assert_refused(run_here(SCRIPT, *write, salt.parent / "new", "--fold", 1), 1, "two or more folds", "make more")
    (salt / "train_with_folds.csv").unlink()
    assert_refused(run_here(SCRIPT, *write, salt.parent / "new", "--fold", 1), 1, "make_folds.py")
    assert not (salt.parent / "new").exists()


@pytest.mark.parametrize(
    ("place", "n_calls"),
    [(("utils.core.arrays", "ArrayWriter", "append"), 5), (("os", "", "replace"), 4), (("os", "", "replace"), 9)],
)
def test_a_killed_run_leaves_nothing_that_looks_complete(salt, place, n_calls):
    whole, _ = held_out(salt, out="quiet")
    words = ["--data_dir", str(salt), "--fold", "2", "--out_dir", str(salt.parent / "held")]
    killed = [sys.executable, "-c", KILLED.replace("utils/stack_and_save.py", SCRIPT), *place, str(n_calls), *words]
    assert subprocess.run(killed, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    assert not (salt.parent / "held/manifest.json").exists()
    assert "already there" not in held_out(salt)[1]
    assert contents(salt.parent / "held") == contents(whole)


def test_real_command_line(salt):
    done = run_script(SCRIPT, "--data_dir", "data", "--fold", 0, "--out_dir", "held", cwd=salt.parent)
    assert (done.returncode, done.stderr) == (0, "")
    tables = {"depths.csv", "sample_submission.csv", "train.csv", "train_with_folds.csv", "truth.csv"}
    arrays = {"test_images.npy", "train_images.npy", "train_masks.npy"}
    assert set(files_in(salt.parent / "held")) == tables | arrays | {"held_out.json", "manifest.json"}
