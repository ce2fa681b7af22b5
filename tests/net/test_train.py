"""train.py: the files of a run, which are the same regardless of kills, resumes and workers."""

import contextlib
import csv
import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from helpers.interruption import after_epoch
from helpers.scripts import ENDLESS, TINY, TINY_ARCH, assert_refused, run_here, run_script, succeed
from helpers.waiting import HANGS, until

from bench.kill_resume import differences
from bench.warm import start
from net import snapshot
from net.loops import evaluate
from net.snapshot import load_snapshot
from utils.core.cli import parse
from utils.core.training_settings import TrainSettings
from utils.data.folds import fold_rows
from utils.data.packed_data import open_packed
from utils.masks.mask_file import binarize, open_masks
from utils.runs.run_folder import RunFolder, find_snapshots, snapshots_in
from utils.scoring.mask_metrics import iou, iout


def rows_of(folder):
    with open(folder / "log.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s")} for row in csv.DictReader(file)]


def assert_same_run(one, other):
    assert differences(RunFolder(one), RunFolder(other)) == []


def test_a_run_writes_the_files_that_the_readme_lists(trained, survey):
    assert {path.name for path in trained.iterdir()} == {
        *("config.json", "log.csv", "state.pt", "summary.json", "status.json", "snapshots", "tensorboard"),
        *("MODEL_CARD.md", "failures.png"),
    }
    config = json.loads((trained / "config.json").read_text())
    assert config["arch"] == TINY_ARCH
    assert "resume" not in config
    rows = rows_of(trained)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    best = find_snapshots([str(trained)])[0]
    assert json.loads((trained / "summary.json").read_text())["best_snapshot"] == f"snapshots/{best.name}"
    assert list((trained / "tensorboard").glob("events*"))
    assert not [path for path in trained.rglob(".*")]


def test_the_logged_scores_are_those_of_the_stored_masks(trained, survey):
    packed = open_packed(survey)
    _, val_rows = fold_rows(survey, packed.ids, 0)
    for file in snapshots_in(trained):
        masks = open_masks(file.val_masks)
        assert masks.ids == [packed.ids[row] for row in val_rows]
        assert masks.array.dtype == np.float16
        found, truths = binarize(masks.array, 0.5), packed.masks[val_rows]
        row = rows_of(trained)[file.epoch - 1]
        assert float(row["iout"]) == iout(found, truths)
        assert float(row["iou"]) == pytest.approx(iou(found, truths), abs=1e-12)


def test_a_snapshot_describes_itself(trained, survey):
    info = load_snapshot(find_snapshots([str(trained)])[0]).info
    assert (info.arch, info.task, info.fold, info.channels_in) == (TINY_ARCH, "mask", 0, 1)
    assert info.data_digest == open_packed(survey).digest
    assert set(info.metrics) >= {"val_loss", "iou", "iout"}
    assert info.versions["torch"] == torch.__version__.partition("+")[0]


def test_two_epochs_and_two_more_equal_four_and_workers_change_nothing(survey, trained, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    words = ("--data_dir", survey, *TINY, "--n_epochs", 4, "--loader_workers", 2)
    assert run_here("train.py", *words, "--experiment_dir", whole).returncode == 0
    shutil.copytree(trained, halves)
    # an epoch that was interrupted may leave a snapshot that is not in the state, and an extra row
    best = find_snapshots([str(halves)])[0]
    shutil.copy(best, halves / "snapshots" / "epoch_3.loss_0.0001.iout_0.999")
    (halves / "log.csv").write_text((halves / "log.csv").read_text() + "3,1,0,0,0,0,0,0,0\n")
    done = run_here("train.py", "--experiment_dir", halves, "--resume", "--n_epochs", 4)
    assert done.returncode == 0, done.stderr
    assert "epoch 3/4" in done.stdout
    assert "epoch 2/4" not in done.stdout
    assert_same_run(whole, halves)


EVERYTHING = (
    *("--scheduler", "onecycle", "--warmup", 3, "--accumulate", 2, "--batch_size", 4, "--grad_clip", 1),
    *("--cycles", 2, "--keep", 2, "--epoch_size", 12, "--on_nan", "skip", "--cutmix", 0.5),
)


@pytest.mark.parametrize("more", [("--average", "ema_.9"), ("--average", "swa_2", "--loader_workers", 2)])
def test_a_resume_is_exact_with_all_options_of_a_step(survey, tmp_path, more):
    """The run is stopped in both cycles; scaler, warm-up, averaged weights and passes cut by epochs are resumed."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = ("--data_dir", survey, *TINY, *EVERYTHING, *more, "--n_epochs", 6)
    assert run_here("train.py", *words, "--experiment_dir", whole).returncode == 0
    for epochs in (2, 4):
        resume = ("--resume",) if epochs > 2 else ()
        with after_epoch(epochs, lambda: os.kill(os.getpid(), signal.SIGTERM)):
            done = run_here("train.py", *words, "--experiment_dir", cut, *resume)
        assert done.returncode == 143
    assert run_here("train.py", "--experiment_dir", cut, "--resume").returncode == 0
    assert_same_run(whole, cut)


@pytest.mark.parametrize("mean", ["ema_.9", "swa_1"])
def test_averaged_weights_are_validated_and_kept(survey, tmp_path, mean):
    run, again = tmp_path / "run", tmp_path / "again.npy"
    words = ("--data_dir", survey, *TINY, "--precision", "float32", "--n_epochs", 1, "--epoch_size", 40)
    assert run_here("train.py", *words, "--average", mean, "--experiment_dir", run).returncode == 0
    (file,) = snapshots_in(run)
    kept, state = load_snapshot(file.path).weights, snapshot.read(run / "state.pt")
    for name, value in kept.items():
        assert torch.equal(value, state["average"][f"module.{name}"]), name
    name = "segmentation_head.0.weight" if mean == "ema_.9" else "decoder.blocks.0.block.0.1.running_mean"
    assert not torch.equal(kept[name], state["network"][name])
    done = run_here(
        *("predict.py", "--snapshot", run, "--data_dir", survey, "--part", "val", "--precision", "float32"),
        *("--masks_fn", again),
    )
    assert done.returncode == 0, done.stderr
    assert np.abs(open_masks(again).array - open_masks(file.val_masks).array).max() < 2e-3


def test_a_folder_that_is_removed_is_an_error_and_not_created_again(survey, tmp_path):
    run, aside = tmp_path / "run", tmp_path / "aside"
    words = ("--data_dir", survey, *TINY, "--experiment_dir", run, "--n_epochs", 3)
    with after_epoch(2, lambda: run.rename(aside)):
        done = run_here("train.py", *words)
    assert_refused(done, 1, f"{run}: was removed or moved during the run; put it back and continue with --resume")
    assert not run.exists()
    aside.rename(run)
    done = run_here("train.py", *words, "--resume")
    assert done.returncode == 0
    assert "epoch 3/3" in done.stdout
    assert "epoch 2/3" not in done.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_at_the_next_step_with_a_message_how_to_continue(survey, tmp_path, number, code):
    words = ["--data_dir", str(survey), *TINY, "--n_epochs", str(ENDLESS), "--experiment_dir", str(tmp_path / "run")]
    process = start("train.py", words, tmp_path / "said.txt")
    until((tmp_path / "run" / "state.pt").is_file, process.is_alive)
    os.kill(process.pid, number)
    process.join(HANGS)
    said = (tmp_path / "said.txt").read_text()
    assert process.exitcode == code
    assert "run the same command with --resume to continue" in said.strip().splitlines()[-1]
    assert "Traceback" not in said


def test_cycles_keep_their_own_snapshots_and_restart_the_learning_rate(survey, tmp_path):
    words = ("--n_epochs", 4, "--cycles", 2, "--scheduler", "cosine", "--keep", 1, "--loss", "bce_lovasz")
    assert (
        run_here("train.py", "--data_dir", survey, *TINY, *words, "--experiment_dir", tmp_path / "run").returncode == 0
    )
    rows = rows_of(tmp_path / "run")
    assert next(row["lr"] for row in rows) == [row["lr"] for row in rows][2] == "0.001"
    assert float(rows[1]["lr"]) < 0.001
    folders = {file.path.parent.name for file in snapshots_in(tmp_path / "run")}
    assert folders == {"cycle_1", "cycle_2"}
    out = succeed(
        *(
            "predict_se.py",
            "--snapshot_dir",
            tmp_path / "run" / "snapshots",
            "--data_dir",
            survey,
            "--tta",
            "null_hflip",
        ),
        *("--masks_fn", tmp_path / "se.npy", "--submission_dir", tmp_path / "submissions"),
    )
    assert "valid: 8 rows" in out
    assert "only its best snapshot is used" not in out


def test_a_snapshot_ensemble_of_one_cycle_notes_that_it_is_one_snapshot(survey, trained, tmp_path):
    words = ("predict_se.py", "--snapshot_dir", trained / "snapshots", "--data_dir", survey)
    words += ("--submission_dir", tmp_path / "submissions", "--masks_fn")
    alone = run_here(*words, tmp_path / "alone.npy")
    assert alone.returncode == 0, alone.stderr
    assert (
        alone.stdout.count("so only its best snapshot is used; add --best K to average the K best of its 2 snapshots")
        == 1
    )
    assert len(open_masks(tmp_path / "alone.npy").info.snapshots) == 1
    for best in (1, 2):
        assert "only its best snapshot is used" not in run_here(*words, tmp_path / f"{best}.npy", "--best", best).stdout
    assert len(open_masks(tmp_path / "2.npy").info.snapshots) == 2


MEASURES = ("val_loss", "iou", "iout")
SCORES = [
    *((0.9, 0.10, 0.10), (0.5, 0.20, 0.20), (0.6, 0.50, 0.15), (0.7, 0.30, 0.40), (0.8, 0.35, 0.50)),
    *((0.4, 0.60, 0.30), (0.5, 0.55, 0.60), (0.4, 0.60, 0.65), (0.6, 0.20, 0.20), (0.7, 0.59, 0.55)),
]
"""Scores in the order of MEASURES for each epoch of two cycles. For equal values the earlier epoch is the best."""


@contextlib.contextmanager
def simulated_scores(scores):
    """Make the validation of each epoch return these scores."""
    left = iter(scores)

    def found(*words):
        return {**evaluate(*words), **dict(zip(MEASURES, next(left), strict=True))}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("net.training.evaluate", found)
        yield


def epochs_kept(run, cycle):
    return {file.epoch for file in snapshots_in(run / "snapshots" / f"cycle_{cycle}")}


def epochs_with_masks(run):
    return {file.epoch for file in snapshots_in(run / "snapshots") if file.val_masks.is_file()}


@pytest.mark.parametrize(("keep", "first", "second"), [(1, {2, 3, 5}, {6, 8}), (2, {2, 3, 4, 5}, {6, 7, 8})])
def test_the_best_snapshot_by_each_measure_stays_in_each_cycle(survey, tmp_path, keep, first, second):
    """Epochs 2 and 6 have the lowest loss, 3 and 6 the best iou, 5 and 8 the best iout, which ranks the snapshots."""
    words = ("--data_dir", survey, *TINY, "--n_epochs", 10, "--cycles", 2, "--keep", keep)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with simulated_scores(SCORES):
        assert run_here("train.py", *words, "--experiment_dir", whole).returncode == 0
    assert (epochs_kept(whole, 1), epochs_kept(whole, 2)) == (first, second)
    assert epochs_with_masks(whole) == {2, 3, 5, 6, 8}, "masks of the best by each measure alone"
    assert len(list((whole / "snapshots").rglob("val_masks_*.json"))) == 5
    assert json.loads((whole / "summary.json").read_text())["epoch"] == 8
    begun = 0
    for ended in (3, 7):
        with simulated_scores(SCORES[begun:]), after_epoch(ended, lambda: os.kill(os.getpid(), signal.SIGTERM)):
            done = run_here("train.py", *words, "--experiment_dir", cut, *(["--resume"] if begun else []))
        assert done.returncode == 143
        begun = ended
    with simulated_scores(SCORES[begun:]):
        assert run_here("train.py", "--experiment_dir", cut, "--resume").returncode == 0
    assert_same_run(whole, cut)


def test_the_best_run_of_equal_rounded_scores_has_its_masks(survey, tmp_path):
    """Epoch 1 has the best exact score; epoch 2 has the same in its name, and the lower loss."""
    words = ("--data_dir", survey, *TINY, "--n_epochs", 3, "--keep", 2, "--experiment_dir", tmp_path / "run")
    with simulated_scores([(0.20, 0.5, 0.85549), (0.19, 0.4, 0.85501), (0.18, 0.3, 0.84)]):
        assert run_here("train.py", *words).returncode == 0
    best = snapshots_in(tmp_path / "run")[0]
    assert best.epoch == json.loads((tmp_path / "run/summary.json").read_text())["epoch"] == 2
    assert best.val_masks.is_file()


def test_config_repeats_a_run_and_flags_override(trained, tmp_path):
    assert (
        run_here("train.py", "--config", trained / "config.json", "--experiment_dir", tmp_path / "again").returncode
        == 0
    )
    assert_same_run(trained, tmp_path / "again")


def test_a_switch_in_a_config_may_be_given_again(tmp_path):
    (tmp_path / "config.json").write_text('{"sync_batchnorm": true, "n_epochs": 7}')
    settings = parse(TrainSettings, ["--config", str(tmp_path / "config.json"), "--sync_batchnorm", "--fold", "1"])
    assert (settings.step.sync_batchnorm, settings.learn.n_epochs, settings.data.fold) == (True, 7, 1)


def test_start_from_a_snapshot(survey, trained, tmp_path):
    words = ("--data_dir", survey, *TINY, "--n_epochs", 1, "--optimizer", "sgd_1e-9", "--snapshot", trained)
    assert run_here("train.py", *words, "--experiment_dir", tmp_path / "run").returncode == 0
    start = load_snapshot(find_snapshots([str(trained)])[0]).weights
    after = load_snapshot(find_snapshots([str(tmp_path / "run")])[0]).weights
    name = "segmentation_head.0.weight"
    assert torch.allclose(start[name], after[name], atol=1e-6)


def test_start_from_weights_from_elsewhere(survey, trained, tmp_path):
    torch.save(load_snapshot(find_snapshots([str(trained)])[0]).weights, tmp_path / "weights.pt")
    words = ("--data_dir", survey, "--recipe", "original", "--epoch_size", 8, "--experiment_dir", tmp_path / "run")
    words += ("--snapshot", tmp_path / "weights.pt")
    assert_refused(run_here("train.py", *words, "--n_epochs", 1), 1, "weights.pt: not a snapshot", "add --arch")
    done = run_here("train.py", *words, "--n_epochs", 1, "--arch", TINY_ARCH)
    assert done.returncode == 0, done.stderr
    (tmp_path / "weights.pt").unlink()
    done = run_here("train.py", *words, "--n_epochs", 2, "--resume")
    assert done.returncode == 0, done.stderr


def test_the_command_of_the_pipeline_this_one_descends_from(survey, tmp_path):
    """The launch command of the earlier pipeline runs unchanged, except for the size of the network."""
    done = run_script(
        *("train.py", "--arch", "unet_resnet18", "--batch_size=32", "--loss", "BCE", "--optimizer", "adam_1e-4"),
        *("--experiment_dir", tmp_path / "wide_fold0_128", "--n_epochs", "1", "--train_augs", "train_128_v1"),
        *("--val_augs", "val_128_resize", "--val_transforms", "resize_from_any", "--fold", "0"),
        *("--encoder_weights", "none", "--data_dir", survey),
    )
    assert done.returncode == 0, done.stderr
