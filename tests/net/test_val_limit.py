"""--val_limit: epochs are validated on a part of the fold, and the best snapshot on the whole fold at the end."""

import os
import signal

import numpy as np
import pytest
from helpers.interruption import after_epoch
from helpers.scripts import TINY, assert_refused, run_here, succeed

from bench.kill_resume import differences
from net.prepare_run import some_of
from net.tasks import mask_task
from utils.core.files import read_json
from utils.core.tables import read_table
from utils.data.folds import fold_rows
from utils.data.packed_data import open_packed
from utils.masks.mask_file import binarize, open_masks
from utils.runs.run_folder import RunFolder, snapshots_in
from utils.scoring.mask_metrics import iou, iout

LIMITED = (*TINY, "--n_epochs", 3, "--val_limit", 3)


@pytest.fixture(scope="module")
def run(survey, tmp_path_factory):
    folder = tmp_path_factory.mktemp("limited") / "run"
    said = succeed("train.py", "--data_dir", survey, *LIMITED, "--experiment_dir", folder)
    assert "8 to validate (3 of them after each epoch)" in said
    assert "scoring all 8 images of the fold" in said
    return folder


def test_the_best_snapshot_is_scored_on_the_whole_fold(run, survey):
    packed, summary = open_packed(survey), read_json(run / "summary.json")
    _, val_rows = fold_rows(survey, packed.ids, 0)
    best, *others = snapshots_in(run)
    masks = open_masks(best.val_masks)
    assert masks.ids == [packed.ids[row] for row in val_rows]
    found, truths = binarize(masks.array, 0.5), packed.masks[val_rows]
    assert (summary["iout"], summary["iou"]) == (iout(found, truths), pytest.approx(iou(found, truths)))
    log, some = read_table(run / "log.csv"), set()
    for file in others:
        if file.val_masks.is_file():
            part = open_masks(file.val_masks)
            rows = [packed.ids.index(name) for name in part.ids]
            assert float(log["iout"][file.epoch - 1]) == iout(binarize(part.array, 0.5), packed.masks[rows])
            some.add(tuple(part.ids))
    assert len(some) <= 1, "always the same images"
    assert all(len(ids) == 3 for ids in some)
    assert "8 images" in (run / "MODEL_CARD.md").read_text()


def test_the_part_has_all_amounts_of_foreground(survey):
    packed = open_packed(survey)
    rows = np.arange(24)
    some = some_of(rows, 5, packed, mask_task(packed))
    shares = np.sort(packed.foreground(rows))
    assert np.sort(packed.foreground(some)) == pytest.approx(shares[[0, 6, 12, 17, 23]])
    assert some.tolist() == sorted(some)
    assert some_of(rows, 24, packed, mask_task(packed)) is rows


def test_a_resumed_run_is_the_same(run, survey, tmp_path):
    with after_epoch(2, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        done = run_here("train.py", "--data_dir", survey, *LIMITED, "--experiment_dir", tmp_path / "cut")
    assert done.returncode == 143
    succeed("train.py", "--experiment_dir", tmp_path / "cut", "--resume")
    assert differences(RunFolder(run), RunFolder(tmp_path / "cut")) == []
    assert read_json(run / "summary.json")["iout"] == read_json(tmp_path / "cut/summary.json")["iout"]


def test_all_folds_are_joined(survey, tmp_path):
    words = ("--data_dir", survey, *TINY, "--n_epochs", 1, "--val_limit", 2, "--folds", "all")
    said = succeed("train.py", *words, "--experiment_dir", tmp_path / "run")
    assert "out-of-fold scores of 24 images" in said
    assert open_masks(tmp_path / "run_oof.npy").ids == open_packed(survey).ids


def test_wrong_limits(survey, tmp_path):
    words = ("--data_dir", survey, *TINY, "--experiment_dir", tmp_path / "run")
    assert_refused(run_here("train.py", *words, "--val_limit", 0), 2, "--val_limit 0: expected 1 or more")


@pytest.mark.parametrize(("share", "scored"), [(0.0, False), (10.0, True)])
def test_a_plan_has_time_to_score_the_fold_or_says_that_it_is_not_scored(survey, tmp_path, monkeypatch, share, scored):
    monkeypatch.setattr("net.time_plan.FINAL_SHARE", share)
    words = ("--data_dir", survey, "--arch", TINY[1], "--minutes", 0.2, "--val_limit", 3, "--stages", 32)
    done = run_here("train.py", *words, "--experiment_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert ("--score_fold False" in said) == (not scored)
    assert ("scoring all 8 images" in said) == scored
    assert len(open_masks(snapshots_in(tmp_path / "run")[0].val_masks).ids) == (8 if scored else 3)
    done = run_here("train.py", *words, "--score_fold", False, "--folds", "all", "--experiment_dir", tmp_path / "all")
    assert_refused(done, 2, "--score_fold False with --folds all")
