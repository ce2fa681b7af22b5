"""Test wrong input to the scripts that train and predict: one line, the right exit code, no data lost or half-written.

Wrong input to packing, folds, thresholds, averages and submissions is covered by the tests of those scripts.
"""

import json
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.scripts import ROOT, TINY, TINY_ARCH, assert_refused, run_here, run_script, succeed

from bench.kill_resume import differences
from utils.runs.run_folder import RunFolder, find_snapshots, snapshot_file


@pytest.fixture
def data(survey, tmp_path):
    """Create a copy of the packed survey that a test can damage."""
    folder = tmp_path / "data"
    shutil.copytree(survey, folder)
    return folder


def test_flags_that_make_no_sense_end_before_anything_is_written(survey, tmp_path):
    base = ["--data_dir", survey, "--experiment_dir", tmp_path / "run", *TINY]
    cases = [
        (["--arch", "unet_resnet19"], "--arch unet_resnet19", "did you mean unet_resnet18"),
        (["--loss", "BCEE"], "--loss BCEE", "did you mean BCE"),
        (["--optimizer", "adam_fast"], "--optimizer adam_fast", "adam_1e-4"),
        (["--scheduler", "cosin"], "--scheduler cosin", "did you mean cosine"),
        (["--train_augs", "train_128"], "--train_augs train_128", "did you mean train_128_v"),
        (["--val_augs", "val_128_resize", "--val_transforms", "crop_from_128"], "leave it out, or use resize_from_any"),
        (["--fold", "7"], "--fold 7", "known: 0, 1, 2"),
        (["--batch_size", "0"], "--batch_size 0", "1 or more"),
        (["--n_epochs", "5", "--cycles", "2"], "--n_epochs 5", "--cycles 2"),
        (["--keep", "0"], "--keep 0", "1 or more"),
        (["--seed", "-1"], "--seed -1", "0 or more"),
        (["--epoch_size", "0"], "--epoch_size 0", "1 or more"),
        (["--accumulate", "0"], "--accumulate 0", "1 or more"),
        (["--warmup", "-1"], "--warmup -1", "0 or more"),
        (["--channel_dropout", "1"], "--channel_dropout 1", "less than 1"),
        (["--channel_dropout", "0.2"], "--channel_dropout 0.2", "leave it out"),
        (["--grad_clip", "0"], "--grad_clip 0", "greater than 0"),
        (["--average", "ema_1.5"], "--average ema_1.5", "between 0 and 1"),
        (["--average", "swa_5", "--n_epochs", "4"], "--average swa_5", "1 to 4"),
        (["--average", "0.9"], "--average 0.9", "such as ema_.999"),
        (["--average", "swa_x"], "--average swa_x", "such as swa_10"),
        (["--ema", "0.9"], "--ema", "use --average ema_0.9"),
        (["--swa=3"], "--swa", "use --average swa_3"),
        (["--notify", "json://localhost"], "--notify", "use the environment variable STRATA_NOTIFY"),
        (["--stages", "64:2", "96:2", "--n_epochs", "5"], "--stages 64:2 96:2", "4 epochs", "--n_epochs is 5"),
        (["--device", "cuda:99"], "--device cuda:99", "use auto or cpu"),
        (["--loader_workers", "-1"], "--loader_workers -1", "0 or more"),
        (["--encoder_weights", "imagenat"], "--encoder_weights imagenat", "does not exist"),
        (["--snapshot", "nowhere"], "--snapshot nowhere", "no such file or folder"),
        (["--loss", "combined"], "--loss combined", "ds_resnet_34"),
        (["--resume"], "--resume", "holds no run"),
        (["set"], "set: expected a flag before this value, such as --data_dir set", "a path with blanks needs quotes"),
        (["--compile", "True"], "--compile True: this flag takes no value; leave out True"),
        (["--epochs", "3"], "--epochs: no such flag", "did you mean --n_epochs"),
        (["--n_epochs", "abc"], "--n_epochs abc: expected a whole number"),
        (["--keep", "1.5"], "--keep 1.5: expected a whole number"),
        (["--encoder_rate", "x"], "--encoder_rate x: expected a number"),
        (["--recipe", "best"], "invalid choice 'best' for argument '--recipe'", "'auto', 'original'"),
        (["--data_dir"], "Missing value for argument '--data_dir'"),
    ]
    for words, *expected in cases:
        done = run_here("train.py", *base, *words)
        assert_refused(done, 1 if words[0] == "--snapshot" else 2, *expected)
        assert not (tmp_path / "run").exists(), words
    assert_refused(run_here("predict.py"), 2, "--snapshot: missing; --help describes all flags")
    assert_refused(run_here("utils/submission.py", "check"), 2, "expected the submission, a csv file")
    assert_refused(run_here("utils/look.py", "--masks_fn", "m.npy", "--out", "a.jpg"), 2, "--out a.jpg", "a PNG file")
    done = run_here("report.py", "--experiments", "run")
    assert_refused(done, 2, "--experiments: expected its values alone; leave out --experiments")


def test_data_that_is_missing_or_not_packed(survey, data, tmp_path):
    base = ["--experiment_dir", tmp_path / "run", *TINY]
    assert_refused(run_here("train.py", "--data_dir", tmp_path / "no", *base), 1, "--data_dir", "no such folder")
    done = run_here("train.py", "--data_dir", "no", *base, cwd=tmp_path)
    assert_refused(done, 1, f"--data_dir no: no such folder in {tmp_path}; name the packed folder")
    done = run_here("train.py", "--data_dir", data / "train.csv", *base)
    assert_refused(done, 1, "train.csv: expected a folder, found a file; name the packed folder")
    (tmp_path / "empty").mkdir()
    done = run_here("train.py", "--data_dir", tmp_path / "empty", *base)
    assert_refused(done, 1, "not packed", "python utils/stack_and_save.py --data_dir")

    (data / "train_with_folds.csv").rename(tmp_path / "folds.csv")
    assert_refused(
        run_here("train.py", "--data_dir", data, *base), 1, "train_with_folds.csv", "python utils/make_folds.py"
    )
    (data / "train_with_folds.csv").write_text((tmp_path / "folds.csv").read_text().replace("fold", "part", 1))
    assert_refused(run_here("train.py", "--data_dir", data, *base), 1, "train_with_folds.csv: no column fold")
    lines = (tmp_path / "folds.csv").read_text().splitlines()
    (data / "train_with_folds.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert_refused(run_here("train.py", "--data_dir", data, *base), 1, "1 packed images have no fold")
    again = lines[1].rpartition(",")[0] + ",7"
    (data / "train_with_folds.csv").write_text("\n".join([*lines, again]) + "\n")
    assert_refused(run_here("train.py", "--data_dir", data, *base), 1, "and in fold 7; expected one")
    shutil.copy(tmp_path / "folds.csv", data / "train_with_folds.csv")

    images = data / "train_images.npy"
    images.write_bytes(images.read_bytes()[:-1000])
    assert_refused(run_here("train.py", "--data_dir", data, *base), 1, "train_images.npy: truncated or invalid")
    done = run_here("train.py", "--data_dir", survey, *TINY, "--experiment_dir", data)
    assert_refused(done, 2, f"--experiment_dir {data}: holds packed images, not a run", "experiments/data_fold0")
    assert not (data / "config.json").exists()
    (data / "manifest.json").write_text("{")
    assert_refused(run_here("train.py", "--data_dir", data, *base), 1, "manifest.json", "expected JSON")
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_overwritten_and_a_resume_does_not_change_its_flags(survey, trained, tmp_path):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    base = ["--data_dir", survey, "--experiment_dir", trained]
    assert_refused(run_here("train.py", *base, *TINY), 2, "already holds a finished run", "--resume")
    for flag, value, other in [
        ("--arch", "unet_resnet34", TINY_ARCH),
        ("--fold", "1", "0"),
        ("--seed", "1", "4545"),
    ]:
        done = run_here("train.py", *base, "--resume", "--n_epochs", "3", flag, value)
        assert_refused(done, 2, f"{flag} {value}", f"has {other}, which cannot change")
    assert_refused(run_here("train.py", *base, "--resume"), 2, "has finished 2 epochs; raise --n_epochs")
    done = run_here("train.py", *base, "--resume", "--n_epochs", "1")
    assert_refused(done, 2, f"--n_epochs 1: {trained} has 2 epochs already")
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_a_plan_that_was_edited_by_hand_is_refused(survey, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = json.loads((run / "config.json").read_text())
    for name, value, words in (
        ("epoch_size", 9, ("config.json: was edited: --epoch_size is 9", "trained with None")),
        ("stages", ["64:x"], ("--stages 64:x", "expected <size>:<epochs>")),
        ("stages", ["64:1"], ("--stages 64:1 has 1 epochs in total, --n_epochs is 3",)),
        ("batch_size", "many", ("batch_size", "many")),
    ):
        (run / "config.json").write_text(json.dumps({**config, "n_epochs": 3, name: value}))
        done = run_here("train.py", "--data_dir", survey, "--experiment_dir", run, "--resume")
        assert done.returncode in (1, 2)
        assert len(done.stderr.splitlines()) == 1
        for word in words:
            assert word in done.stderr
    (run / "config.json").write_text(json.dumps({**config, "n_epochs": 3}))
    assert run_here("train.py", "--data_dir", survey, "--experiment_dir", run, "--resume").returncode == 0


def test_a_copy_of_a_run_without_its_state_is_not_restarted(survey, trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy, ignore=shutil.ignore_patterns("state.pt"))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    done = run_here("train.py", "--data_dir", survey, "--experiment_dir", copy, "--resume", "--n_epochs", 3)
    assert_refused(done, 1, "has 2 epochs but no state.pt", f"--snapshot {copy}")
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_changed_folds_are_detected_before_a_network_is_scored_on_training_images(survey, data, tmp_path):
    run = tmp_path / "run"
    assert run_here("train.py", "--data_dir", data, "--experiment_dir", run, "--n_epochs", 1, *TINY).returncode == 0
    succeed("utils/make_folds.py", "--path", data / "train.csv", "--n", 3, "--seed", 7)
    done = run_here(
        "predict.py", "--snapshot", run, "--data_dir", data, "--part", "val", "--masks_fn", tmp_path / "v.npy"
    )
    assert_refused(done, 1, "fold 0", "holds other images than the snapshots held out")
    assert not (tmp_path / "v.npy").exists()
    done = run_here("train.py", "--experiment_dir", run, "--resume", "--n_epochs", 2)
    assert_refused(done, 1, "--resume: the images of the fold differ from those", "put them back")


def test_a_schedule_over_all_epochs_cannot_be_extended(survey, tmp_path):
    base = ["--data_dir", survey, "--experiment_dir", tmp_path / "run", *TINY, "--scheduler", "cosine"]
    assert run_here("train.py", *base, "--n_epochs", 1).returncode == 0
    assert_refused(run_here("train.py", *base, "--n_epochs", 2, "--resume"), 2, "--n_epochs 2", "has 1, which cannot")


def test_a_changing_share_of_nonempty_images_cannot_be_extended(survey, tmp_path):
    words = ["--data_dir", survey, "--experiment_dir", tmp_path / "run", *TINY, "--nonempty_share", ".8:true"]
    assert run_here("train.py", *words, "--n_epochs", 1).returncode == 0
    done = run_here("train.py", *words, "--resume", "--n_epochs", 2)
    assert_refused(done, 2, "--n_epochs 2", "cannot change")


def test_a_config_with_a_misspelt_or_mistyped_key_is_refused(survey, tmp_path):
    config = tmp_path / "config.json"
    for values, *expected in [
        ({"n_epoch": 3}, "n_epoch is not a flag", "did you mean n_epochs"),
        ({"n_epochs": "many"}, "n_epochs", "many"),
        ([1], "expected an object"),
    ]:
        config.write_text(json.dumps(values))
        done = run_here("train.py", "--config", config, "--experiment_dir", tmp_path / "run")
        assert_refused(done, 2, "config.json", *expected)
    assert_refused(run_here("train.py", "--config", tmp_path / "none.json"), 1, "none.json: no such file")
    assert_refused(run_here("train.py", "--config", tmp_path), 1, f"{tmp_path}: expected a JSON file, found a folder")


def test_a_network_that_diverges_stops_with_one_line(survey, tmp_path):
    words = [*TINY[:-1], "sgd_1e30", "--n_epochs", 3, "--precision", "float32"]
    done = run_here("train.py", "--data_dir", survey, "--experiment_dir", tmp_path / "run", *words)
    assert_refused(done, 1, "the loss is", "try a lower learning rate", "--resume")


def test_snapshots_and_masks_that_cannot_be_used(survey, trained, tmp_path):
    out = ["--masks_fn", tmp_path / "masks.npy", "--submission_dir", tmp_path / "submissions"]
    best = find_snapshots([str(trained)])[0]
    (tmp_path / "truncated").write_bytes(best.read_bytes()[:5000])
    (tmp_path / "text").write_text("no snapshot")
    (tmp_path / "folder").mkdir()
    for name in ("a_fold0", "a_fold1"):
        (tmp_path / "runs" / name / "snapshots").mkdir(parents=True)
        shutil.copy(best, tmp_path / "runs" / name / "snapshots")
    several = "expected the folder of one run, found 2 runs in it (a_fold0, a_fold1)"
    cases = [
        (["--snapshot", tmp_path / "runs"], 1, "runs: ", several),
        (["--snapshot", tmp_path / "truncated"], 1, "truncated: ", "use another"),
        (["--snapshot", tmp_path / "text"], 1, "text: "),
        (["--snapshot", tmp_path / "folder"], 1, "no snapshots in this folder"),
        (["--snapshot", tmp_path / "nowhere"], 1, "no such file or folder"),
        (["--snapshot", trained, "--th", "1.5"], 2, "--th 1.5"),
        (["--snapshot", trained, "--batch_size", "0"], 2, "--batch_size 0"),
    ]
    for words, code, *expected in cases:
        assert_refused(run_here("predict.py", *words, "--data_dir", survey, *out), code, *expected)
    done = run_here("predict_tta.py", "--snapshot", trained, "--tta", "null_hflop", "--data_dir", survey, *out)
    assert_refused(done, 2, "--tta hflop", "did you mean hflip")
    done = run_here("predict_se.py", "--snapshot_dir", trained / "snapshots", "--best", "9", "--data_dir", survey, *out)
    assert_refused(done, 2, "--best 9", "expected 1 to 2")
    done = run_here("predict_se.py", "--snapshot_dir", tmp_path / "runs", "--data_dir", survey, *out)
    assert_refused(done, 1, f"--snapshot_dir {tmp_path / 'runs'}: {several}")
    done = run_here("predict_se.py", "--snapshot_dir", tmp_path / "folder", "--data_dir", survey, *out)
    assert_refused(done, 1, "no snapshots in this folder")
    assert not (tmp_path / "masks.npy").exists()
    assert not (tmp_path / "submissions").exists()


def test_a_folder_that_cannot_be_written_to_loses_nothing(survey, trained, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run_here(
        "predict.py", "--snapshot", trained, "--data_dir", survey, "--masks_fn", tmp_path / "file" / "masks.npy"
    )
    assert_refused(done, 1, "file", "choose another path")
    done = run_here("train.py", "--data_dir", survey, *TINY, "--experiment_dir", tmp_path / "file" / "run")
    assert_refused(done, 1, "file", "a file of this name is in the way; choose another path")
    masks = snapshot_file(find_snapshots([str(trained)])[0]).val_masks
    done = run_here("utils/look.py", "--masks_fn", masks, "--out", tmp_path)
    assert_refused(done, 1, f"{tmp_path}: expected a file, found a folder; choose another path")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_run_on_a_full_disk_keeps_its_files_and_can_be_resumed(survey, trained, tmp_path):
    """A limit on the file size simulates the full disk: the first snapshot does not fit."""
    words = ["--data_dir", survey, "--experiment_dir", tmp_path / "run", "--n_epochs", 2, *TINY]
    line = [sys.executable, str(ROOT / "train.py"), *map(str, words)]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))  # noqa: E731
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit)
    assert_refused(done, 1, "snapshots/epoch_1", "File too large; free disk space. 0 epochs are kept", "--resume")
    assert not list((tmp_path / "run").rglob("*.part"))
    assert run_here("train.py", *words, "--resume").returncode == 0
    assert differences(RunFolder(tmp_path / "run"), RunFolder(trained)) == []


def test_rgb_images_for_a_network_trained_on_grey_images(survey, trained, data, tmp_path):
    manifest = json.loads((data / "manifest.json").read_text())
    images = np.load(data / "test_images.npy")
    np.save(data / "test_images.npy", np.repeat(images, 3, axis=3))
    manifest["parts"]["test"]["arrays"]["images"]["shape"][3] = 3
    (data / "manifest.json").write_text(json.dumps(manifest))
    done = run_here("predict.py", "--snapshot", trained, "--data_dir", data, "--masks_fn", tmp_path / "masks.npy")
    assert_refused(done, 1, "expected 1-channel images, as in training, found 3-channel images")


def test_a_misspelt_flag_names_the_nearest_one():
    done = run_script("train.py", "--n_epoch", "3")
    assert done.returncode == 2
    assert "--n_epochs" in done.stderr
    assert "Traceback" not in done.stderr
