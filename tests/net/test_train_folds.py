"""--folds all of train.py and train_border.py: every fold is trained or resumed, and out-of-fold masks are joined."""

import os
import signal

import numpy as np
import pytest
from helpers.scripts import TINY, assert_refused, run_here, succeed

from net import snapshot
from utils.core.files import read_json
from utils.data.folds import fold_rows
from utils.data.packed_data import open_packed
from utils.masks.mask_file import binarize, open_masks
from utils.runs.run_folder import snapshots_in
from utils.scoring.mask_metrics import iout


@pytest.fixture(scope="module")
def experiment(survey, tmp_path_factory):
    """Base name, command and last output of an experiment that a signal stopped in fold 1 and that was resumed."""
    base = tmp_path_factory.mktemp("folds") / "unet"
    words = ("train.py", "--data_dir", survey, *TINY, "--n_epochs", 1, "--folds", "all", "--experiment_dir", base)
    real, calls = snapshot.write, []

    def write(path, values):
        real(path, values)
        calls.append(path)
        if len(calls) == 3:  # snapshot and state of fold 0, snapshot of fold 1: its last step is done
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "write", write)
        stopped = run_here(*words)
    assert stopped.returncode == 143, stopped.stderr
    assert "unet_fold2 was not started; run the same command again to continue with it" in stopped.stderr
    assert not base.with_name("unet_oof.npy").exists()
    done = run_here(*words)
    assert done.returncode == 0, done.stderr
    return base, words, done.stdout


def test_every_fold_is_trained_once_and_finished_folds_are_skipped(experiment):
    base, words, said = experiment
    assert (said.count(": finished"), said.count("best: ")) == (2, 1)
    again = run_here(*words)
    assert again.stdout.count(": finished") == 3
    assert "epoch" not in again.stdout
    assert all(read_json(f"{base}_fold{fold}/config.json")["folds"] == "one" for fold in range(3))


def test_the_joined_masks_are_from_networks_that_never_saw_the_images(experiment, survey):
    base, _, said = experiment
    packed, joined = open_packed(survey), open_masks(f"{base}_oof.npy")
    assert joined.ids == packed.ids
    for fold in range(3):
        of_fold = open_masks(snapshots_in(f"{base}_fold{fold}")[0].val_masks)
        rows = fold_rows(survey, packed.ids, fold)[1]
        np.testing.assert_array_equal(joined.array[rows], of_fold.array)
    score = iout(binarize(joined.array, 0.5), packed.masks)
    assert f"{base}_oof.npy: out-of-fold scores of {len(packed.ids)} images: iou " in said
    assert f"iout {score:.4f}" in said


def test_the_threshold_of_the_joined_masks_is_stored_in_every_fold(experiment, survey, tmp_path):
    base, _, _ = experiment
    succeed("optimize_threshold.py", "--masks_fn", f"{base}_oof.npy")
    stored = {read_json(f"{base}_fold{fold}/threshold.json")["threshold"] for fold in range(3)}
    assert len(stored) == 1
    runs = [f"{base}_fold{fold}" for fold in range(3)]
    words = ("--masks_fn", tmp_path / "m.npy", "--submission_dir", tmp_path)
    said = succeed("predict.py", "--data_dir", survey, "--snapshot", *runs, *words)
    assert f"threshold {stored.pop():.6g}" in said
    assert "note:" not in said


def test_resume_is_for_one_fold(experiment):
    _, words, _ = experiment
    assert_refused(run_here(*words, "--resume"), 2, "--resume with --folds all", "--folds one")


def test_borders_of_every_fold(survey, tmp_path):
    base = tmp_path / "border_fold0"  # _fold0 is removed from the name of the experiment
    words = ("--data_dir", survey, *TINY, "--n_epochs", 1, "--folds", "all", "--experiment_dir", base, "--quiet")
    said = succeed("train_border.py", *words)
    assert "border_oof.npy: out-of-fold scores of 24 images: iou " in said
    assert open_masks(tmp_path / "border_oof.npy").border is not None
