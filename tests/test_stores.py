"""Raw and compact folders of the same images: training, prediction, thresholds and submission give the same bytes."""

import shutil

import numpy as np
import pytest
from helpers.scripts import assert_refused, run_here
from test_mixed_sizes import TINY, write_set

from utils.core.files import read_json
from utils.core.tables import read_table
from utils.data.compact_rows import CompactRows, open_predictions
from utils.masks.mask_file import open_masks


def ok(*words):
    done = run_here(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["mixed sizes", "ships"])
def stores(request, tmp_path_factory):
    """Return a folder with the same set packed in two ways, raw/ and compact/."""
    place = tmp_path_factory.mktemp("stores")
    if request.param == "ships":
        ok("utils/make_demo.py", "--kind", "ships", "--out_dir", place / "data", "--n_train", 12, "--n_test", 3)
        size = ("--size", "64x64")
    else:
        write_set(place / "data")
        size = ()
    for store in ("raw", "compact"):
        ok("utils/stack_and_save.py", "--data_dir", place / "data", "--out_dir", place / store, "--store", store, *size)
        ok("utils/make_folds.py", "--path", place / store / "train.csv", "--n_splits", 3)
    return place


def test_a_network_learns_and_predicts_the_same(stores):
    for store in ("raw", "compact"):
        run = stores / f"{store}_run"
        ok("train_border.py", "--data_dir", stores / store, *TINY, "--experiment_dir", run)
        words = ("--data_dir", stores / store, "--snapshot", run, "--masks_fn")
        ok("predict_tta.py", *words, run / "val.npy", "--part", "val")
        ok("optimize_threshold.py", "--masks_fn", run / "val.npy", "--objective", "objects")
        out = ("--submission_dir", run / "submission", "--th", 0.4, "--objects")
        ok("predict_tta.py", *words, run / "test.npy", *out)
    ok("report.py", stores / "compact_run", "--out", stores / "page.html")
    raw, compact = stores / "raw_run", stores / "compact_run"
    for name in ("val.npy", "test.npy"):
        assert (raw / name).read_bytes() == (compact / name).read_bytes(), name
    assert [path.read_text() for path in sorted((raw / "submission").glob("*.csv"))] == [
        path.read_text() for path in sorted((compact / "submission").glob("*.csv"))
    ]
    assert list((raw / "submission").glob("*.csv"))
    one, other = (read_table(run / "log.csv") for run in (raw, compact))
    assert [one[name] for name in ("train_loss", "val_loss", "iout")] == [
        other[name] for name in ("train_loss", "val_loss", "iout")
    ]


def test_compressed_masks_are_used_like_others(stores, monkeypatch):
    raw, words = stores / "raw_run", ("--data_dir", stores / "raw", "--snapshot", stores / "raw_run", "--masks_fn")
    monkeypatch.setattr("utils.data.compact_rows.COMPACT_FROM", -1)
    small = stores / "small"
    ok("predict_tta.py", *words, small / "val.npy", "--part", "val")
    ok("predict_tta.py", *words, small / "test.npy", "--submission_dir", small / "submission", "--th", 0.4, "--objects")
    ok("predict_fold_avg.py", small / "test.npy", raw / "test.npy", "--masks_fn", small / "mean.npy", "--th", 0.4)
    plain, packed = open_masks(raw / "test.npy"), open_masks(small / "test.npy")
    labels = [
        open_predictions(one / "test_labels.npy", read_json(one / "test_labels.json"), "uint16") for one in (raw, small)
    ]
    assert isinstance(labels[1], CompactRows)
    assert all(np.array_equal(one, other) for one, other in zip(*labels, strict=True))
    for found in (packed, open_masks(small / "mean.npy")):
        assert isinstance(found.planes, CompactRows)
        assert all(np.array_equal(one, other) for one, other in zip(found.array, plain.array, strict=True))
        assert all(np.array_equal(one, other) for one, other in zip(found.border, plain.border, strict=True))
    assert [path.read_text() for path in sorted((raw / "submission").glob("*.csv"))] == [
        path.read_text() for path in sorted((small / "submission").glob("*.csv"))
    ]
    for run in (raw, small):
        fitted = ("--objective", "objects", "--out", run / "fitted.json")
        ok("optimize_threshold.py", "--masks_fn", run / "val.npy", *fitted)
    found = [read_json(run / "fitted.json") for run in (raw, small)]
    assert all(one.pop("masks") for one in found)
    assert found[0] == found[1]
    ok("utils/look.py", "--masks_fn", small / "val.npy", "--out", stores / "look.png")
    cut = small / "val.npy"
    np.save(cut, np.load(cut)[:-3])
    assert_refused(run_here("optimize_threshold.py", "--masks_fn", cut), 1, cut, "found the ends of")


def test_masks_of_one_store_belong_to_the_other(stores):
    words = ("optimize_threshold.py", "--masks_fn", stores / "raw_run/val.npy", "--out", stores / "threshold.json")
    first = ok(*words)
    (stores / "raw").rename(stores / "away")
    shutil.copytree(stores / "compact", stores / "raw")
    assert ok(*words) == first


def test_a_classifier_learns_the_same(stores):
    words = ("--n_epochs", 1, "--epoch_size", 8, "--batch_size", 4, "--arch", "resnet18")
    for store in ("raw", "compact"):
        ok("train_classifier.py", "--data_dir", stores / store, *words, "--experiment_dir", stores / f"{store}_gate")
    one, other = (read_table(stores / f"{store}_gate/log.csv") for store in ("raw", "compact"))
    assert one["train_loss"] == other["train_loss"]
    assert np.isfinite(float(one["train_loss"][0]))
