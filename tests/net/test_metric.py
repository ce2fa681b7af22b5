"""--metric: the score of masks that ranks snapshots is logged, recorded, maximised by the threshold, and shown."""

import numpy as np
import pytest
from helpers.scripts import TINY, assert_refused, run_here, succeed
from PIL import Image

from utils.core.files import read_json
from utils.core.tables import read_table
from utils.data.packed_data import open_packed
from utils.masks.mask_file import binarize, open_masks
from utils.runs.run_folder import snapshots_in
from utils.scoring.mask_metrics import METRICS, counts, ratio


def scored(name, masks, truths):
    return float(ratio(*METRICS[name].sums(*counts(masks, truths)).sum(axis=1)))


@pytest.fixture(scope="module")
def run(survey, tmp_path_factory):
    """Train a tiny network whose snapshots are ranked by the pooled IoU; return its folder."""
    folder = tmp_path_factory.mktemp("metric") / "run"
    flags = ("--data_dir", survey, *TINY, "--n_epochs", 3, "--metric", "pooled_iou")
    succeed("train.py", *flags, "--experiment_dir", folder)
    return folder


def test_snapshots_are_ranked_by_the_metric(run, survey):
    packed, log = open_packed(survey), read_table(run / "log.csv")
    scores = [float(value) for value in log["pooled_iou"]]
    files = snapshots_in(run)
    assert all(file.measure == "pooled_iou" for file in files)
    assert files[0].score == pytest.approx(max(scores), abs=6e-4)
    summary = read_json(run / "summary.json")
    assert summary["pooled_iou"] == max(scores)
    assert files[0].val_masks.is_file()
    for file in (one for one in files if one.val_masks.is_file()):
        masks = open_masks(file.val_masks)
        truths = packed.masks[[packed.ids.index(name) for name in masks.ids]]
        assert scores[file.epoch - 1] == scored("pooled_iou", binarize(masks.array, 0.5), truths)
    assert {"iou", "iout"} <= log.keys()


def test_the_threshold_follows_the_metric_of_the_training(run, survey, tmp_path):
    masks = run / "val.npy"
    flags = ("--data_dir", survey, "--snapshot", run, "--part", "val", "--masks_fn", masks)
    done = run_here("predict.py", *flags)
    assert "validation fold: pooled_iou 0." in done.stdout, done.stdout + done.stderr
    done = run_here("optimize_threshold.py", "--masks_fn", masks)
    assert done.returncode == 0, done.stderr
    stored = read_json(run / "threshold.json")
    assert stored["metric"] == "pooled_iou"
    card = (run / "MODEL_CARD.md").read_text()
    score = f"{stored['cross_fitted']['score']:.4f}"
    assert f"| `pooled_iou` | cross-fitted, each part at the threshold of the others | {score} |" in card
    assert "`pooled_iou` | epoch" in card
    page = tmp_path / "report.html"
    succeed("report.py", run.parent, "--out", page)
    text = page.read_text()
    assert "best pooled_iou" in text
    assert f"<dt>cross-fitted pooled_iou</dt><dd>{stored['cross_fitted']['score']:.3f}" in text
    assert f"<dt>threshold</dt><dd>{stored['threshold']:.3f}" in text


def test_the_recipe_chooses_the_metric_and_a_run_without_one_goes_on_without_it(tmp_path):
    folder = tmp_path / "data"
    for name in ("images", "masks"):
        (folder / "train" / name).mkdir(parents=True)
    for number in range(4):
        line = np.zeros((40, 40), np.uint8)
        line[10 + number] = 255
        Image.fromarray(line).save(folder / "train/images" / f"{number}.png")
        Image.fromarray(line).save(folder / "train/masks" / f"{number}.png")
    succeed("utils/stack_and_save.py", "--data_dir", folder)
    succeed("utils/make_folds.py", "--path", folder / "train.csv", "--n_splits", 2)
    words = ("--data_dir", folder, "--batch_size", 2, "--experiment_dir", tmp_path / "run")
    done = run_here("train.py", *words, "--n_epochs", 1)
    assert "--metric pooled_iou" in done.stdout, done.stdout + done.stderr
    assert "objects are small or thin" in done.stdout

    config = tmp_path / "old" / "config.json"
    old = ("--data_dir", folder, *TINY, "--experiment_dir", config.parent)
    succeed("train.py", *old, "--n_epochs", 1)
    assert read_json(config).get("metric") is None
    done = run_here("train.py", *old, "--recipe", "auto", "--n_epochs", 2, "--resume")
    assert done.returncode == 2  # --recipe is fixed
    done = run_here("train.py", "--resume", "--experiment_dir", config.parent, "--n_epochs", 2)
    assert done.returncode == 0, done.stderr
    assert {file.measure for file in snapshots_in(config.parent)} == {"iout"}


def test_other_networks_and_unknown_metrics(survey, tmp_path):
    words = ("--data_dir", survey, "--n_epochs", 1, "--experiment_dir", tmp_path / "run")
    done = run_here("train.py", *words, *TINY, "--metric", "pooled_jaccard")
    assert_refused(done, 2, "--metric pooled_jaccard", "pooled_iou")
    done = run_here("train_classifier.py", *words, "--recipe", "original", "--metric", "iou")
    assert_refused(done, 2, "--metric iou", "masks")
    done = run_here("train_border.py", *words, *TINY, "--metric", "dice")
    assert done.returncode == 0, done.stderr
    assert {file.measure for file in snapshots_in(tmp_path / "run")} == {"dice"}
    assert not any((tmp_path / "run").glob("**/*objects*"))
