"""The synthetic ships have the competition's exact layout, may touch but not overlap, and no threshold finds them."""

import re

import numpy as np
import pytest
from helpers.scripts import assert_refused, run_here, run_script
from helpers.sources import contents, run_ok
from PIL import Image

from utils.core.tables import read_table
from utils.data.packed_data import open_packed
from utils.data.rle import decode
from utils.make_demo import Settings, main
from utils.synthetic.ship_survey import draw_plan
from utils.synthetic.ships import MIN_PIXELS, scene

N_TRAIN, N_TEST, SIZE = 10, 4, 192
FLAGS = ("--kind", "ships", "--n_train", N_TRAIN, "--n_test", N_TEST, "--size", SIZE)
TABLE = "train_ship_segmentations_v2.csv"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(folder, output of the command)."""
    folder = tmp_path_factory.mktemp("demo") / "ships"
    done = run_script("utils/make_demo.py", "--out_dir", folder, *FLAGS, "--seed", 3)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


@pytest.fixture(scope="module")
def scenes():
    """30 images with ships."""
    return [scene(np.random.default_rng(seed), 256, with_ships=True) for seed in range(30)]


def rows_of(path):
    table = read_table(path)
    assert list(table) == ["ImageId", "EncodedPixels"]
    return list(zip(*table.values(), strict=True))


def test_the_layout_is_that_of_airbus_plus_a_separate_truth_file(demo):
    folder, _ = demo
    assert {path.name for path in folder.iterdir()} == {
        "train_v2",
        "test_v2",
        TABLE,
        "sample_submission_v2.csv",
        "truth.csv",
    }
    for table, part, n in ((TABLE, "train_v2", N_TRAIN), ("truth.csv", "test_v2", N_TEST)):
        ids = {name for name, _ in rows_of(folder / table)}
        assert ids == {path.name for path in (folder / part).iterdir()}
        assert len(ids) == n
        assert all(re.fullmatch(r"[0-9a-f]{9}\.jpg", name) for name in ids)
    truth, sample = rows_of(folder / "truth.csv"), rows_of(folder / "sample_submission_v2.csv")
    assert [name for name, _ in sample] == list(dict.fromkeys(name for name, _ in truth))
    assert {cell for _, cell in sample} == {"1 2"}
    for path in folder.glob("*_v2/*"):
        picture = Image.open(path)
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (SIZE, SIZE))


def test_rows_are_ships_that_do_not_overlap(demo):
    folder, printed = demo
    for table, part in ((TABLE, "train"), ("truth.csv", "test")):
        plan = draw_plan(N_TRAIN, N_TEST, 3)[part]
        union, areas = {name: np.zeros((SIZE, SIZE), int) for name in plan}, []
        for name, cell in rows_of(folder / table):
            union[name] += decode(cell, (SIZE, SIZE))
            areas += [decode(cell, (SIZE, SIZE)).sum()] if cell else []
        assert max(mask.max() for mask in union.values()) == 1
        assert {name: bool(mask.any()) for name, mask in union.items()} == plan
        assert min(areas) >= MIN_PIXELS
        empty = sum(not mask.any() for mask in union.values())
        assert empty == round(0.7 * len(plan))
        counts = f"{len(plan)} images, {empty} ({empty / len(plan):.1%}) without a ship; {len(areas)} ships"
        assert any(table in line and counts in line for line in printed.splitlines())


def test_packing_gives_the_drawn_images_and_labels(demo, tmp_path):
    folder, _ = demo
    printed = run_ok("--data_dir", folder, "--out_dir", tmp_path / "out", cwd=tmp_path)
    assert printed.split()[:2] == ["layout", "airbus"]
    train, plan = open_packed(tmp_path / "out"), draw_plan(N_TRAIN, N_TEST, 3)
    assert train.ids == list(plan["train"])
    for name, label, image in list(zip(train.ids, train.instances, train.images, strict=True))[:5]:
        drawn = scene(np.random.default_rng([3, int(name[:9], 16)]), SIZE, plan["train"][name])
        assert np.array_equal(label, drawn.labels)
        assert np.abs(image.astype(int) - drawn.image).mean() < 6, "more than JPEG compression explains"
    assert open_packed(tmp_path / "out", "test").ids == list(plan["test"])
    table = read_table(tmp_path / "out/train.csv")
    assert table["objects"] == [str(label.max()) for label in train.instances]
    run_here("utils/make_folds.py", "-p", tmp_path / "out/train.csv", "-n", 3, "--stratify", "objects")
    folds = np.array(read_table(tmp_path / "out/train_with_folds.csv")["fold"], int)
    spread = np.bincount(folds[np.array(table["objects"]) == "0"], minlength=3)
    assert spread.max() - spread.min() <= 1


def test_the_same_seed_gives_the_same_files_and_another_seed_different_ones(demo, tmp_path, capsys):
    folder, _ = demo
    main(Settings(str(tmp_path / "again"), N_TRAIN, N_TEST, 3, "ships", SIZE))
    assert contents(tmp_path / "again") == contents(folder)
    main(Settings(str(tmp_path / "other"), 2, 1, 4, "ships", SIZE))
    assert not set(contents(tmp_path / "other").values()) & set(contents(folder).values())
    done = run_here("utils/make_demo.py", "--out_dir", folder, *FLAGS, "--seed", 4)
    assert_refused(done, 2, "--out_dir", "_v2/")
    assert contents(tmp_path / "again") == contents(folder)


def test_empty_images_have_no_ship():
    drawn = [scene(np.random.default_rng(seed), 128, with_ships=False) for seed in range(6)]
    assert not any(one.labels.any() for one in drawn)
    assert len({one.image.tobytes() for one in drawn}) == 6


def test_ships_are_numbered_vary_in_length_and_some_touch(scenes):
    lengths, touching = [], 0
    for one in scenes:
        labels = one.labels.astype(int)
        assert (one.image.dtype, one.image.shape, one.labels.dtype) == (np.uint8, (256, 256, 3), np.uint16)
        assert np.unique(labels).tolist() == list(range(labels.max() + 1))
        assert labels.max() >= 1
        for number in range(1, labels.max() + 1):
            places = np.argwhere(labels == number)
            assert len(places) >= MIN_PIXELS
            lengths.append(np.hypot(*(np.ptp(places, axis=0) + 1)))
        for here, there in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            touching += ((here != there) & (here > 0) & (there > 0)).any()
    assert min(lengths) < 14
    assert 60 < max(lengths) < 135
    assert touching >= 4


def test_brightness_alone_does_not_find_ships(scenes):
    empty = [scene(np.random.default_rng(seed), 256, False) for seed in range(100, 120)]
    grey, none = (np.stack([one.image.max(axis=2) for one in part]) for part in (scenes, empty))
    truth = np.stack([one.labels > 0 for one in scenes])
    of_all, of_ships = (np.bincount(values, minlength=256) for values in (np.append(grey, none), grey[truth]))
    brighter, ships = (counts[::-1].cumsum()[::-1] for counts in (of_all, of_ships))
    assert (2 * ships / (brighter + truth.sum())).max() < 0.5, "best Dice score of a brightness threshold"
    assert np.mean(grey.max(axis=(1, 2))[:, None] > none.max(axis=(1, 2))) < 0.9, "the brightest pixel reveals ships"


def test_ships_differ_in_colour_from_the_water_around_them(scenes):
    contrasts = []
    for one in scenes:
        image, ship = one.image.astype(float), one.labels > 0
        rows, columns = np.where(ship)
        near = np.zeros_like(ship)
        near[max(rows.min() - 6, 0) : rows.max() + 7, max(columns.min() - 6, 0) : columns.max() + 7] = True
        contrasts.append(np.abs(image[ship].mean(axis=0) - image[near & ~ship].mean(axis=0)).max())
    assert np.median(contrasts) > 15
