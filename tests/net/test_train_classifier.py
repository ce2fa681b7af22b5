"""train_classifier.py: labels of images, from a folder to a submission, and a gate trained on all folds."""

import json
import os
import shutil
import signal
from types import SimpleNamespace

import helpers.sources as sources
import numpy as np
import pytest
from helpers.scripts import TINY, assert_refused, run_here

from bench.kill_resume import differences
from net import snapshot
from net.checkpoint_and_resume import Checkpoints
from utils.core.errors import UserError
from utils.core.files import read_json
from utils.core.tables import read_table, write_table
from utils.data.folds import fold_rows
from utils.data.image_classes import nonempty_class, read_classes
from utils.data.packed_data import open_packed
from utils.masks.probability_file import open_probabilities
from utils.runs.run_folder import RunFolder, find_snapshots, snapshots_in
from utils.scoring.class_metrics import class_scores

CLASSIFIER = ("--arch", "test_resnet", *TINY[2:])
TAGS = ("clear primary", "haze", "clear water", "haze primary water", "primary", "clear primary water")
SETS = {
    "names": (["cat", "dog", "dog"] * 8, "train.csv", ("id", "label"), {}),
    "words": (
        list(TAGS) * 4,
        "train_v2.csv",
        ("image_name", "tags"),
        {"parts": ("train-jpg", "test-jpg"), "sample": "primary clear"},
    ),
    "numbers": (["0", "1", "1"] * 8, "labels.csv", ("id", "cactus"), {"sample": "0.5", "suffix": ".png"}),
}
"""Label columns with one of several names, with several words per cell, and with 0 or 1."""


def run_well(script, *words):
    done = run_here(script, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """For each kind of labels, packed and split into folds, a run of one epoch: data, run, column, printed text."""
    built = {}
    for kind, (cells, table, columns, more) in SETS.items():
        folder = tmp_path_factory.mktemp(kind)
        source, data, run = folder / "source", folder / "data", folder / "run"
        sources.labelled(source, cells, table, columns, **more)
        said = [
            run_well("utils/stack_and_save.py", "--data_dir", source, "--out_dir", data),
            run_well("utils/make_folds.py", "--path", data / "train.csv", "--n", 3, "--stratify", columns[1]),
            run_well(
                *("train_classifier.py", "--data_dir", data, *CLASSIFIER, "--n_epochs", 1),
                *("--target", columns[1], "--experiment_dir", run),
            ),
        ]
        built[kind] = SimpleNamespace(data=data, run=run, column=columns[1], said=said)
    return built


def test_sets_without_masks_are_packed_split_into_folds_and_trained_on(sets):
    heads = {
        "names": ("dog", ["accuracy", "log_loss"], "accuracy"),
        "words": ("clear primary", ["f2", "log_loss"], "f2"),
        "numbers": ("1", ["accuracy", "log_loss"], "accuracy"),
    }
    for kind, (label, measures, ranked_by) in heads.items():
        one = sets[kind]
        assert f"(columns: {one.column})" in one.said[0]
        assert "masks" not in one.said[0].partition("\n")[2]
        assert not (one.data / "train_masks.npy").exists()
        head, first, *_ = one.said[1].splitlines()
        assert label in head
        assert "%" in first
        assert "16 images to train on, 8 to validate" in one.said[2]
        log = read_table(one.run / "log.csv")
        assert list(log) == [*("epoch", "cycle", "train_loss", "val_loss"), *measures, "lr", "images_per_s", "seconds"]
        (file,) = snapshots_in(one.run)
        assert file.measure == ranked_by
        found = open_probabilities(file.val_masks)
        truth = read_classes(one.data / "train_with_folds.csv", one.column, found.ids)
        scores = class_scores(found.array.astype(np.float64), truth.matrix, truth.exclusive)
        assert {name: float(log[name][0]) for name in measures} == pytest.approx(scores)


def predicted(one, out, *words):
    """Predict the test images, and return the printed text, the probabilities, and the submission as columns."""
    said = run_well(
        *("predict.py", "--data_dir", one.data, "--snapshot", one.run, *words),
        *("--masks_fn", out / "test.npy", "--submission_dir", out / "submissions"),
    )
    (path,) = (out / "submissions").glob("*.csv")
    return said, open_probabilities(out / "test.npy"), read_table(path)


@pytest.mark.parametrize("kind", SETS)
def test_from_a_run_to_thresholds_and_a_submission(sets, kind, tmp_path):
    one, val = sets[kind], sets[kind].run / "val.npy"
    words = ("predict.py", "--data_dir", one.data, "--snapshot", one.run, "--part", "val", "--masks_fn", val)
    said = run_well(*words)
    assert_refused(run_here(*words, "--scales", "best"), 2, "--scales best", "networks that predict masks")
    log = read_table(one.run / "log.csv")
    for name in ("accuracy", "f2", "log_loss"):
        assert name not in log or f"{name} {float(log[name][0]):.4f}" in said
    said = run_well("optimize_threshold.py", "--masks_fn", val, "--objective", "labels")
    assert f"stored in {os.path.relpath(one.run)}/labels.json" in said or f"{one.run}/labels.json" in said
    thresholds = json.loads((one.run / "labels.json").read_text())["thresholds"]
    said, found, submission = predicted(one, tmp_path)
    sample = read_table(next(one.data.glob("sample_submission*.csv")))
    assert list(submission) == list(sample)
    ids, cells = submission.values()
    assert ids == next(iter(sample.values()))
    assert "valid: 12 rows" in said
    rows = found.array[[found.ids.index(name) for name in ids]]
    if kind == "names":
        assert cells == [found.labels[place] for place in rows.argmax(axis=1)]
    if kind == "numbers":
        assert [float(cell) for cell in cells] == pytest.approx(rows[:, 1].tolist(), abs=1e-6)
        assert ids[0] == "b_1.png"
    if kind == "words":
        assert list(thresholds) == found.labels == ["clear", "haze", "primary", "water"]
        for cell, row in zip(cells, rows, strict=True):
            above = [name for name, value in zip(found.labels, row, strict=True) if value > thresholds[name]]
            assert cell.split() == (above or [found.labels[row.argmax()]])


def stop_after(fold, act):
    """Return a replacement of snapshot.write that calls `act` as soon as the first epoch of a fold is written."""
    write = snapshot.write

    def and_act(path, values):
        write(path, values)
        if path.name == "state.pt" and path.parent.name.endswith(f"_fold{fold}") and values["progress"]["epoch"] == 1:
            act()

    return and_act


@pytest.fixture(scope="module")
def gates(survey, tmp_path_factory):
    """A gate trained for two epochs on all folds, stopped in the middle of the second fold and resumed."""
    base = tmp_path_factory.mktemp("gates") / "empty"
    words = ("train_classifier.py", "--data_dir", survey, *CLASSIFIER, "--n_epochs", 2, "--folds", "all")
    words = (*words, "--experiment_dir", base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "write", stop_after(1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        stopped = run_here(*words)
    assert stopped.returncode == 143, stopped.stderr
    assert not base.with_name("empty_fold2").exists()
    assert not base.with_name("empty_oof.npy").exists()
    return SimpleNamespace(base=base, words=words, said=run_well(*words))


def test_interrupted_folds_are_resumed_bit_for_bit(survey, gates, tmp_path):
    assert f"{gates.base}_fold0: finished" in gates.said
    assert "| fold 1: " in gates.said
    assert "| fold 0: " not in gates.said
    assert gates.said.count("epoch 1/2") == 1, "a fold was started again"
    whole = tmp_path / "whole"
    run_well(*gates.words[:-4], "--fold", 1, "--experiment_dir", whole)
    assert differences(RunFolder(whole), RunFolder(gates.base.with_name("empty_fold1"))) == []
    header = (whole / "log.csv").read_text().partition("\n")[0]
    assert header == "epoch,cycle,train_loss,val_loss,auc,accuracy,recall,log_loss,lr,images_per_s,seconds"


def test_out_of_fold_probabilities_are_from_networks_that_never_saw_the_images(survey, gates):
    packed, oof = open_packed(survey), open_probabilities(f"{gates.base}_oof.npy")
    assert (oof.ids, oof.labels) == (packed.ids, ["not_empty"])
    for fold in range(3):
        (best,) = find_snapshots([f"{gates.base}_fold{fold}"])
        of_fold = open_probabilities(best.with_name(f"val_masks_{best.name}.npy"))
        assert np.array_equal(oof.array[fold_rows(survey, packed.ids, fold)[1]], of_fold.array)
    scores = class_scores(
        oof.array.astype(np.float64), nonempty_class(packed.masks.any((1, 2))).matrix, exclusive=False
    )
    assert f"24 images: auc {scores['auc']:.4f}, accuracy {scores['accuracy']:.4f}" in gates.said


def test_a_repeated_command_trains_nothing_and_other_flags_or_folds_are_refused(survey, gates, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in gates.base.parent.rglob("*/*") if path.is_file()}
    again = run_well(*gates.words)
    assert again.count("finished") == 3
    assert "epoch" not in again
    assert_refused(run_here(*gates.words, "--loss", "focal"), 2, "--loss focal", "empty_fold0 has BCE", "cannot change")
    assert_refused(run_here(*gates.words, "--n_epochs", 3), 2, "--n_epochs 3", "empty_fold0 has 2")
    data = tmp_path / "data"
    shutil.copytree(survey, data)
    run_well("utils/make_folds.py", "--path", data / "train.csv", "--n", 3, "--seed", 1)
    done = run_here(*gates.words, "--data_dir", data)
    assert_refused(done, 1, "empty_fold0: fold 0 in", "put back the train_with_folds.csv")
    assert before == {path: path.stat().st_mtime_ns for path in gates.base.parent.rglob("*/*") if path.is_file()}


def test_a_fold_that_failed_before_its_summary_is_completed(survey, tmp_path, monkeypatch):
    words = ("train_classifier.py", "--data_dir", survey, *CLASSIFIER, "--n_epochs", 1, "--folds", "all")
    words = (*words, "--experiment_dir", tmp_path / "empty")

    def no_room(*_):
        raise UserError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "finish", no_room)
        assert_refused(run_here(*words), 1, "no room")
    said = run_well(*words)
    assert said.count("epoch 1/1") == 2, "the first fold was trained again"
    assert (tmp_path / "empty_fold0/summary.json").is_file()
    assert read_json(tmp_path / "empty_oof.json")["part"] == "train"


def test_wrong_flags_are_refused_and_nothing_is_written(sets, survey, tmp_path):
    pets, out = sets["names"], tmp_path / "out"
    target = ("--target", "label")
    for code, words, said in (
        (1, ("--target", "lable"), ("train_with_folds.csv: no column lable", "did you mean label?")),
        (1, ("--target", "id"), ("column id: expected classes", "a different value for each of the 24 images")),
        (1, (), ("the training images have no masks",)),
        (2, (*target, "--arch", "resnet1888"), ("--arch resnet1888: expected a timm model", "resnet18")),
        (2, (*target, "--arch", "unet_resnet18"), ("--arch unet_resnet18: expected a timm model",)),
        (2, (*target, "--loss", "lovasz"), ("--loss lovasz", "known: BCE, focal")),
        (2, (*target, "--at_precision", 0), ("--at_precision 0.0: expected a precision",)),
        (2, (*target, "--at_precision", 1.5), ("--at_precision 1.5: expected a precision",)),
        (2, (*target, "--fold", 7), ("--fold 7", "known: 0, 1, 2")),
        (1, (*target, "--snapshot", sets["words"].run), ("of the task label, found labels",)),
    ):
        done = run_here("train_classifier.py", "--data_dir", pets.data, *CLASSIFIER, "--experiment_dir", out, *words)
        assert_refused(done, code, *said)
    for script in ("train.py", "train_border.py"):
        done = run_here(script, "--data_dir", pets.data, *TINY, "--experiment_dir", out)
        assert_refused(done, 1, "the training images have no masks")
    data = tmp_path / "data"
    shutil.copytree(pets.data, data)
    table = read_table(data / "train_with_folds.csv")
    table["label"][3] = ""
    write_table(data / "train_with_folds.csv", table)
    done = run_here("train_classifier.py", "--data_dir", data, *CLASSIFIER, *target, "--experiment_dir", out)
    assert_refused(done, 1, "1 images have an empty cell in column label", f"(such as {table['id'][3]})")
    assert not out.exists()
