"""Folds: every image in one fold, equal sizes, repeatable, stratified as requested, and groups kept together."""

import csv
import io
import warnings

import numpy as np
import pytest
from helpers.masks import files_in, write_packed
from helpers.scripts import assert_refused, run_here, run_script
from helpers.sources import contents
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.core.tables import read_table, write_table
from utils.data.stratification import classes_of, deciles, pool_rare, split

SCRIPT = "utils/make_folds.py"


@pytest.fixture
def train_csv(tmp_path):
    """Return a train.csv of 60 images: coverage (20 empty), depth, classes with a rare one, wells of 5 images each."""
    rng = np.random.default_rng(1)
    n = 60
    coverage = np.where(np.arange(n) % 3 == 0, 0, (1 + rng.permutation(n)) / 100)
    columns = {
        "id": [f"image{row}" for row in range(n)],
        "rle_mask": ["" if value == 0 else f"1 {round(100 * value)}" for value in coverage],
        "coverage": coverage.tolist(),
        "z": (50 + 15 * rng.permutation(n)).tolist(),
        "kind": ["rare" if row < 2 else "ab"[row % 2] for row in range(n)],
        "well": [f"well{row // 5}" for row in range(n)],
    }
    write_table(tmp_path / "train.csv", columns)
    return tmp_path / "train.csv"


def folds_of(train_csv, *words):
    done = run_here(SCRIPT, "-p", train_csv.name, *words, cwd=train_csv.parent)
    assert done.returncode == 0, done.stderr
    return np.array(read_table(train_csv.with_name("train_with_folds.csv"), "fold")["fold"], int), done.stdout


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(2, 40), st.data())
def test_any_number_of_images_and_folds(n_images, data):
    n_splits = data.draw(st.integers(2, n_images))
    classes = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n_images, max_size=n_images)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folds = split(classes, None, n_splits, 0)
    sizes = np.bincount(folds, minlength=n_splits)
    assert sizes.sum() == n_images
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1
    for name in np.unique(classes):
        if (classes == name).sum() >= n_splits and len(np.unique(pool_rare(classes, n_splits))) == 4:
            spread = np.bincount(folds[classes == name], minlength=n_splits)
            assert spread.max() - spread.min() <= 1


def test_plain_folds_are_even_and_seeded_and_keep_all_columns(train_csv):
    folds, printed = folds_of(train_csv, "-n", 7)
    assert sorted(np.bincount(folds).tolist()) == [8, 8, 8, 9, 9, 9, 9]
    table, before = read_table(train_csv.with_name("train_with_folds.csv")), read_table(train_csv)
    assert list(table) == [*before, "fold"]
    assert {name: table[name] for name in before} == before
    assert (np.diff(folds) < 0).any()  # shuffled
    np.testing.assert_array_equal(folds_of(train_csv, "--n", 7)[0], folds)
    np.testing.assert_array_equal(folds_of(train_csv, "--n_splits", 7, "--seed", 4545)[0], folds)
    assert (folds_of(train_csv, "-n", 7, "--seed", 1)[0] != folds).any()
    assert printed.split()[:3] == ["fold", "images", "empty"]


def test_a_fold_column_is_replaced(train_csv):
    folds, _ = folds_of(train_csv, "-n", 5)
    again = train_csv.with_name("train_with_folds.csv")
    done = run_here(SCRIPT, "-p", again.name, "-n", 3, cwd=train_csv.parent)
    assert done.returncode == 0
    assert len(np.unique(folds)) == 5
    assert set(read_table(again)["fold"]) == {"0", "1", "2"}


@pytest.mark.parametrize("column", ["coverage", "rle_mask"])
def test_coverage(train_csv, column):
    table = read_table(train_csv)
    coverage = np.array(table["coverage"], float)
    write_table(train_csv, {"id": table["id"], column: table[column]})
    folds, printed = folds_of(train_csv, "-n", 5, "--stratify", "coverage")
    assert np.bincount(folds[coverage == 0]).tolist() == [4] * 5  # empty masks are a separate class
    ascending = folds[np.argsort(coverage)][20:].reshape(8, 5)  # 40 images in 8 classes, one of each for every fold
    np.testing.assert_array_equal(np.sort(ascending), [range(5)] * 8)
    assert printed.splitlines()[0].endswith("mean coverage" if column == "coverage" else "mean mask pixels")
    assert "33.3%" in printed


def test_rows_of_an_image_are_merged(tmp_path):
    rows = ["id,rle_mask"]
    for image in range(10):  # five images with two objects of 2 pixels, and five with one object of 4 pixels
        rows += [f"i{image},7 2", f"i{image},1 2"] if image % 2 else [f"i{image},1 4"]
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    folds, printed = folds_of(tmp_path / "train.csv", "-n", 2, "--stratify", "coverage")
    table = read_table(tmp_path / "train_with_folds.csv")
    assert table["id"] == [f"i{image}" for image in range(10)]
    assert table["rle_mask"] == ["1 4", "1 2 7 2"] * 5
    assert len(folds) == 10
    assert [line.split()[-1] for line in printed.splitlines()[1:3]] == ["4", "4"]


def test_depth_is_read_from_train_csv_or_depths_csv(train_csv):
    table = read_table(train_csv)
    depth = np.array(table["z"], float)
    here, _ = folds_of(train_csv, "-n", 5, "--stratify", "depth")
    for tenth in here[np.argsort(depth)].reshape(10, 6):
        assert set(tenth) == set(range(5))
    write_table(train_csv, {"id": table["id"]})
    rest = {"id": [*table["id"][::-1], "test image"], "z": [*table["z"][::-1], 3]}
    write_table(train_csv.with_name("depths.csv"), rest)
    beside, _ = folds_of(train_csv, "-n", 5, "--stratify", "depth")
    np.testing.assert_array_equal(beside, here)


def test_a_column_of_classes_with_a_rare_one(train_csv):
    kinds = np.array(read_table(train_csv)["kind"])
    folds, printed = folds_of(train_csv, "-n", 5, "--stratify", "kind")
    spread = np.bincount(folds[kinds == "b"], minlength=5)
    assert spread.max() - spread.min() <= 1
    assert "1 classes of --stratify have fewer images than there are folds" in printed
    assert {"a", "b", "rare"} <= set(printed.splitlines()[1].split())


def test_joined_stratifiers_are_combined(tmp_path):
    rng = np.random.default_rng(2)
    kinds = np.array(["dark"] * 60 + ["bright"] * 20 + ["odd"] * 7)
    objects = rng.integers(1, 30, 87) + np.where(kinds == "bright", 100, 0)
    objects[:10] = 0
    write_table(tmp_path / "train.csv", {"id": range(87), "background": kinds.tolist(), "objects": objects.tolist()})
    folds, printed = folds_of(tmp_path / "train.csv", "-n", 5, "--stratify", "background+objects")
    for inside in (kinds == "dark", kinds == "bright", kinds == "odd", (kinds == "dark") & (objects == 0)):
        spread = np.bincount(folds[inside], minlength=5)
        assert spread.max() - spread.min() <= 1
    for kind in ("dark", "bright"):  # every fold has images with few and with many objects of each kind
        ascending = folds[kinds == kind][np.argsort(objects[kinds == kind], kind="stable")]
        for half in np.array_split(ascending, 2):
            assert np.bincount(half, minlength=5).min() >= len(half) // 5 - 1
    assert printed.splitlines()[0].split() == ["fold", "images", "dark", "bright", "odd", "mean", "objects"]


def test_a_rare_combination_stays_in_its_first_class():
    values = {"background": np.array(["a"] * 20 + ["b"] * 8), "kind": np.array(["x"] * 17 + ["y"] * 3 + ["z"] * 8)}
    classes = classes_of(values, 28, 4)
    assert len(set(classes[:20])) == 1, "three of a kind cannot be in each of 4 folds"
    assert set(classes[:20]).isdisjoint(classes[20:])
    assert classes_of({}, 3, 2).tolist() == [0, 0, 0]


@pytest.mark.parametrize("columns", ["ImageId,EncodedPixels", "id,rle_mask"])
def test_objects_are_counted_by_their_rows(tmp_path, columns):
    rows = [columns]
    for image in range(30):  # 10 images each with zero, one and four objects
        number = (0, 1, 4)[image % 3]
        rows += [f"i{image},{10 * place + 1} 2" for place in range(number)] or [f"i{image},"]
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    folds, printed = folds_of(tmp_path / "train.csv", "-n", 5, "--stratify", "objects")
    objects = np.array(read_table(tmp_path / "train_with_folds.csv")["objects"], int)
    assert objects.tolist() == [0, 1, 4] * 10
    assert [np.bincount(folds[objects == number]).tolist() for number in (0, 1, 4)] == [[2] * 5] * 3
    assert {line.split()[-1] for line in printed.splitlines()[1:6]} == {"1.6667"}


def test_groups_stay_together(train_csv):
    wells = np.array(read_table(train_csv)["well"])
    for stratify in ("none", "kind"):
        folds, _ = folds_of(train_csv, "-n", 4, "--group", "well", "--stratify", stratify)
        assert all(len(set(folds[wells == well])) == 1 for well in np.unique(wells))
        assert np.bincount(folds).tolist() == [15] * 4
    other, _ = folds_of(train_csv, "-n", 4, "--group", "well", "--seed", 7)
    assert (other != folds_of(train_csv, "-n", 4, "--group", "well")[0]).any()


def test_folds_of_groups_are_stratified():
    classes, groups = np.repeat([0, 1], 20), [f"group{image // 5}" for image in range(40)]
    folds = split(classes, groups, 4, 0)
    assert [np.bincount(classes[folds == fold]).tolist() for fold in range(4)] == [[5, 5]] * 4


def test_deciles():
    assert np.bincount(deciles(np.random.default_rng(0).permutation(100.0 * np.arange(100)), 10)).tolist() == [10] * 10
    assert np.bincount(deciles(np.arange(20.0), 5)).tolist() == [5] * 4  # a tenth would be too few for 5 folds
    assert deciles(np.arange(3.0), 5).tolist() == [0, 0, 0]
    assert deciles(np.zeros(0), 5).tolist() == []


def test_pool_rare():
    assert pool_rare(np.array([0, 0, 0, 1, 1, 1]), 3).tolist() == [0, 0, 0, 1, 1, 1]
    assert pool_rare(np.array([0, 0, 0, 1, 1, 2]), 3).tolist() == [0, 0, 0, -1, -1, -1]
    assert pool_rare(np.array([0, 0, 0, 0, 1, 1, 1, 2]), 3).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert len(np.unique(pool_rare(np.array([0, 1, 2]), 3))) == 1


def test_real_command_line(train_csv):
    done = run_script(SCRIPT, "--path", "train.csv", "--n_splits", 3, "--stratify", "coverage", cwd=train_csv.parent)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = list(csv.reader(io.StringIO(train_csv.with_name("train_with_folds.csv").read_text())))
    assert len(rows) == 61
    done = run_script(SCRIPT, "--p", "train.csv", "--n", 61, cwd=train_csv.parent)
    assert_refused(done, 2, "--n_splits 61", "60 images")


def test_a_csv_of_other_images_than_the_packed_ones_is_refused(train_csv):
    folder, ids = train_csv.parent, read_table(train_csv)["id"]
    write_packed(folder, {"train": (ids, np.zeros((60, 2, 2)), (2, 2))})
    done = run_here(SCRIPT, "-p", "train.csv", "-n", 3, cwd=folder)
    assert "next: python train.py --data_dir . --folds all" in done.stdout
    before = contents(folder)
    for name, listed, said in (
        ("depths.csv", [*ids, "t1", "t2"], "depths.csv: 2 ids in it are not packed (such as t1); name the train.csv"),
        ("few.csv", ids[1:], "few.csv: 1 packed images have no row (such as image0); name the train.csv"),
    ):
        write_table(folder / name, {"id": listed})
        assert_refused(run_here(SCRIPT, "-p", name, "-n", 3, cwd=folder), 1, said)
        (folder / name).unlink()
    assert contents(folder) == before


def test_wrong_flags_and_tables_are_refused(train_csv):
    folder = train_csv.parent
    for name, text in (
        ("twice.csv", "id,z\na,1\nb,1\na,2\n"),
        ("twice_rle.csv", "id,rle_mask\na,1 2\nb,\na,1 2\n"),
        ("no_id.csv", "name,z\na,1\nb,2\n"),
        ("no_rows.csv", "id,z\n"),
        ("words.csv", "id,z\na,deep\nb,2\n"),
        ("nan.csv", "id,coverage\na,nan\nb,2\n"),
        ("broken.csv", 'id,rle_mask\na,"[1, 2]"\nb,\n'),
        ("plain.csv", "id\na\nb\n"),
        ("two_groups.csv", "id,well\na,x\nb,x\nc,y\n"),
    ):
        (folder / name).write_text(text)
    before = files_in(folder)
    for words, code, messages in (
        (("none.csv",), 1, ("none.csv", "no such file")),
        ((".",), 2, ("--path .: expected a csv file, found a folder; use for example train.csv",)),
        (("train.csv", "-n", 1), 2, ("--n_splits 1",)),
        (("train.csv", "-n", 61), 2, ("--n_splits 61",)),
        (("train.csv", "--seed", -1), 2, ("--seed -1",)),
        (("train.csv", "--stratify", "covrage"), 2, ("covrage", "coverage")),
        (("train.csv", "--group", "wel"), 2, ("--group wel", "well")),
        (("train.csv", "--stratify", "kind+wel"), 2, ("--stratify wel", "well")),
        (("train.csv", "--stratify", "kind+"), 2, ("--stratify kind+: expected names joined by +",)),
        (("train.csv", "--stratify", "kind+kind"), 2, ("--stratify kind+kind", "twice")),
        (("plain.csv", "-n", 2, "--stratify", "objects"), 2, ("--stratify objects", "neither")),
        (("twice.csv", "-n", 2), 1, ("the id a has 2 rows",)),
        (("twice_rle.csv", "-n", 2), 1, ("the id a has 2 rows",)),
        (("no_id.csv", "-n", 2), 1, ("no column id",)),
        (("no_rows.csv", "-n", 2), 1, ("no images",)),
        (("words.csv", "-n", 2, "--stratify", "depth"), 1, ("column z", "deep")),
        (("nan.csv", "-n", 2, "--stratify", "coverage"), 1, ("not finite",)),
        (("broken.csv", "-n", 2, "--stratify", "coverage"), 1, ("run-lengths of a", "printed list")),
        (("plain.csv", "-n", 2, "--stratify", "coverage"), 2, ("neither",)),
        (("plain.csv", "-n", 2, "--stratify", "depth"), 1, ("depths.csv",)),
        (("two_groups.csv", "-n", 3, "--group", "well"), 1, ("folds (3), found 2",)),
    ):
        assert_refused(run_here(SCRIPT, "-p", *words, cwd=folder), code, *messages)
    assert files_in(folder) == before
