"""Test that the scripts still read files written before the code was divided into packages.

helpers/before_packages.tar.xz holds two packed folders, runs of all three training scripts, files of masks,
probabilities and label maps, and submissions, all written by that code with `--precision float32`. The large tensors
repeat a few thousand values, so that the archive is small; the predictions were made with these tensors.
"""

import csv
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.masks import files_in
from helpers.scripts import run_here

from utils.core.files import read_json

ARCHIVE = Path(__file__).parent / "helpers" / "before_packages.tar.xz"
SAME_EVERYWHERE = ("--device", "cpu", "--precision", "float32")
NOISE = 2e-3
"""Tolerance of probabilities across machines; they are stored as float16, with steps of 5e-4 near 1."""
RENAMED = {"n_silenced": "n_gated_out"}
"""Old name -> new name of the entries of gate.json that have been renamed since."""


@pytest.fixture
def old(tmp_path):
    """Extract the archive; return its folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def well(folder, script, *words):
    """Run a script in `folder`, which has to succeed; return its standard output."""
    done = run_here(script, *words, cwd=folder)
    assert done.returncode == 0, f"{script} {words}: {done.stderr}\n{done.stdout}"
    return done.stdout


def only(folder, pattern):
    """Return the only file that matches the pattern."""
    (path,) = folder.glob(pattern)
    return path


def assert_predicted(path, old_path):
    """Check that two mask files hold the same probabilities of the same images."""
    np.testing.assert_allclose(np.load(path), np.load(old_path), rtol=0, atol=NOISE)
    assert read_json(path.with_suffix(".json"))["ids"] == read_json(old_path.with_suffix(".json"))["ids"]


def test_a_mask_snapshot_and_a_gate_snapshot_predict(old):
    words = ("--data_dir", "salt", "--snapshot", "runs/mask_fold0", "--gate", "runs/gate_fold0", *SAME_EVERYWHERE)
    output = well(old, "predict_tta.py", *words, "--masks_fn", "new.npy", "--submission_dir", "new")
    assert_predicted(old / "new.npy", old / "salt_masks.npy")
    assert_predicted(old / "new_gate.npy", old / "salt_masks_gate.npy")
    # the threshold of gate.json is far above all probabilities, so rounding changes nothing
    assert "runs/mask_fold0/gate.json" in output
    assert only(old, "new/*.csv").read_bytes() == only(old, "submissions/submission_*.csv").read_bytes()


def test_a_mask_snapshot_predicts_its_fold(old):
    words = ("--data_dir", "salt", "--snapshot", "runs/mask_fold0", "--part", "val", *SAME_EVERYWHERE)
    output = well(old, "predict_tta.py", *words, "--masks_fn", "new.npy")
    assert_predicted(old / "new.npy", old / "runs/mask_fold0/val_tta.npy")
    assert "runs/mask_fold0/threshold.json" in output


def test_a_border_snapshot_predicts_with_its_stored_rules(old):
    words = ("--data_dir", "ships", "--snapshot", "runs/border_fold0", "--masks_fn", "new.npy", *SAME_EVERYWHERE)
    output = well(old, "predict.py", *words, "--submission_dir", "new")
    assert_predicted(old / "new.npy", old / "ships_masks.npy")
    assert "0.525" in output
    assert "runs/border_fold0/objects.json" in output


@pytest.mark.parametrize(
    ("masks", "rules", "submission"),
    [
        ("salt_masks.npy", ("--th", 0.5), "salt_*.csv"),
        ("ships_masks.npy", ("--th", 0.525), "ships_*[0-9][0-9]:[0-9][0-9].csv"),
        ("ships_masks.npy", ("--th", 0.5, "--seed_th", 0.05, "--min_area", 9), "ships_*_2.csv"),
    ],
)
def test_mask_files_give_the_same_submissions(old, masks, rules, submission):
    well(old, "predict_fold_avg.py", masks, *rules, "--masks_fn", "new.npy", "--submission_dir", "new")
    assert only(old, "new/*.csv").read_bytes() == only(old, f"submissions/{submission}").read_bytes()
    if "--seed_th" in rules:
        np.testing.assert_array_equal(np.load(old / "new_labels.npy"), np.load(old / "ships_masks_labels.npy"))


def test_gate_probabilities_apply_to_old_masks(old):
    words = ("salt_masks.npy", "--gate_probs", "salt_masks_gate.npy", "--gate_th", 1, "--masks_fn", "new.npy")
    well(old, "predict_fold_avg.py", *words, "--th", 0.5, "--submission_dir", "new")
    with open(only(old, "new/*.csv"), newline="") as file:
        assert [row["rle_mask"] for row in csv.DictReader(file)] == [""] * 4


@pytest.mark.parametrize(
    ("run", "words", "stored"),
    [
        ("mask_fold0", ("--masks_fn", "runs/mask_fold0/val_tta.npy", "--min_area", 0, 20), "threshold.json"),
        ("mask_fold0", ("--masks_fn", "runs/mask_fold0/val_tta.npy", "--gate_probs", "runs/gate_oof.npy"), "gate.json"),
        ("border_fold0", ("--masks_fn", "runs/border_fold0/val.npy", "--objective", "objects"), "objects.json"),
    ],
)
def test_the_same_thresholds_are_found(old, run, words, stored):
    before = read_json(old / "runs" / run / stored)
    (old / "runs" / run / stored).unlink()
    well(old, "optimize_threshold.py", *words)
    found = read_json(old / "runs" / run / stored)
    for name, value in before.items():
        assert found[RENAMED.get(name, name)] == value, name


def test_training_resumes_from_the_stored_state(old):
    def rows():
        with open(old / "runs/mask_fold0/log.csv", newline="") as file:
            return list(csv.DictReader(file))

    before = rows()
    words = ("--experiment_dir", "runs/mask_fold0", "--resume", "--n_epochs", 3, *SAME_EVERYWHERE)
    output = well(old, "train.py", *words)
    assert "epoch 3/3" in output
    assert rows()[:2] == before
    (row,) = rows()[2:]
    assert row["epoch"] == "3"
    # lower than the .702 of the first epoch, so the weights come from state.pt
    assert float(row["train_loss"]) == pytest.approx(0.633, abs=0.02)
    assert read_json(old / "runs/mask_fold0/status.json")["state"] == "finished"


def test_the_report_reads_the_runs(old):
    output = well(old, "report.py", "runs", "--out", "page.html")
    assert "3 runs in 3 rows" in output
    page = (old / "page.html").read_text()
    assert 'class="problems"' not in page  # every file could be read
    assert all(run in page for run in ("mask_fold0", "border_fold0", "gate_fold0"))
    assert "val_tta.npy" in page  # the masks listed in threshold.json were compared with the truth


@pytest.mark.parametrize("run", ["mask_fold0", "border_fold0", "gate_fold0"])
def test_the_runs_are_shared(old, run):
    well(old, "utils/share.py", "push", f"runs/{run}", f"lab/{run}")
    well(old, "utils/share.py", "pull", f"mine/{run}", f"lab/{run}")
    pulled = files_in(old / "mine" / run)
    assert {"config.json", "log.csv"} < set(pulled)
    assert any(name.startswith("snapshots/epoch_") for name in pulled)
    for name in set(pulled) - {"share.json"}:
        assert (old / "mine" / run / name).read_bytes() == (old / "runs" / run / name).read_bytes(), name


@pytest.mark.parametrize(
    ("pattern", "data", "n_rows", "score"),
    [("salt_*", "salt", 4, 0.5), ("submission_*", "salt", 4, 0.5), ("ships_*_2.csv", "ships", 12, 0.0)],
)
def test_submissions_are_checked_and_scored(old, pattern, data, n_rows, score):
    path = only(old, f"submissions/{pattern}")
    assert f"valid: {n_rows} rows" in well(old, "utils/submission.py", "check", path, "--data_dir", data)
    words = ("score", path, "--data_dir", data, "--truth", f"{data}/truth.csv")
    (line,) = [line for line in well(old, "utils/submission.py", *words).splitlines() if line.startswith("score")]
    assert line.endswith(f" {score:.5f}")
