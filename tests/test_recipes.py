"""Test recipes/folds.sh and folds.slurm with a mock of `python` that writes the files of a training run."""

import os
import subprocess

import pytest
from helpers.scripts import ROOT
from helpers.waiting import HANGS, until

MOCK_PYTHON = """#!/usr/bin/env bash
echo "$@" >> calls.txt
while [ $# -gt 0 ]; do
    case $1 in --fold) fold=$2 ;; --experiment_dir) run=$2 ;; esac
    shift
done
mkdir -p "$run"
touch "$run/config.json"
[ "$fold" = "${FAILS:-}" ] && { echo "train.py: the loss is nan" >&2; exit 1; }
[ "$fold" = "${STOPPED:-}" ] && exit 143
touch "$run/summary.json"
"""


@pytest.fixture
def place(tmp_path):
    """Create a folder to run in, with mocks of `python` and `scontrol`."""
    (tmp_path / "bin").mkdir()
    for name, text in (("python", MOCK_PYTHON), ("scontrol", '#!/usr/bin/env bash\necho "scontrol $@" >> calls.txt\n')):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def type_in(place, *words, recipe="folds.sh", **environment):
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(ROOT / "recipes" / recipe), *words],
        cwd=place,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    calls = (place / "calls.txt").read_text().splitlines() if (place / "calls.txt").exists() else []
    (place / "calls.txt").unlink(missing_ok=True)
    return done, calls


def finished(place):
    return sorted(path.parent.name for path in place.glob("experiments/*/summary.json"))


def test_a_fold_that_fails_does_not_stop_the_others_and_can_be_resumed(place):
    done, calls = type_in(place, "--arch", "unet_resnet18", NAME="a", FOLDS="0 1 2", FAILS="1")
    assert done.returncode == 1
    assert "folds.sh: failed: experiments/a_fold1" in done.stderr
    assert finished(place) == ["a_fold0", "a_fold2"]
    assert [call.split()[1:] for call in calls] == [
        ["--arch", "unet_resnet18", "--fold", str(k), "--experiment_dir", f"experiments/a_fold{k}"] for k in range(3)
    ]
    done, calls = type_in(place, "--arch", "unet_resnet18", NAME="a", FOLDS="0 1 2")
    assert done.returncode == 0
    assert [call.endswith("--fold 1 --experiment_dir experiments/a_fold1 --resume") for call in calls] == [True]
    assert finished(place) == ["a_fold0", "a_fold1", "a_fold2"]
    assert done.stdout.splitlines() == ["experiments/a_fold0: finished", "experiments/a_fold2: finished"]


def test_a_signal_ends_the_loop(place):
    done, calls = type_in(place, NAME="a", FOLDS="0 1 2", STOPPED="1")
    assert done.returncode == 143
    assert len(calls) == 2


def test_a_name_is_needed(place):
    done, calls = type_in(place)
    assert done.returncode != 0
    assert "set the name of the runs: NAME=unet bash recipes/folds.sh" in done.stderr
    assert calls == []


def test_a_task_of_a_slurm_array_trains_its_fold(place):
    (place / "recipes").mkdir()
    (place / "recipes" / "folds.sh").symlink_to(ROOT / "recipes" / "folds.sh")
    slurm = {"NAME": "a", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "77", "SLURM_SUBMIT_DIR": str(place)}
    done, calls = type_in(place, "--arch", "unet_resnet18", recipe="folds.slurm", **slurm)
    assert done.returncode == 0, done.stderr
    assert [call.split()[3:5] for call in calls] == [["--fold", "3"]]
    assert finished(place) == ["a_fold3"]
    done, _ = type_in(place, recipe="folds.slurm", NAME="a")
    assert done.returncode != 0
    assert "run this with sbatch" in done.stderr


def test_a_task_that_slurm_stops_is_queued_again(place):
    (place / "recipes").mkdir()
    (place / "recipes" / "folds.sh").symlink_to(ROOT / "recipes" / "folds.sh")
    (place / "bin" / "python").write_text("#!/usr/bin/env bash\ntouch started\nexec sleep 3600\n")
    slurm = {"NAME": "a", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "77", "SLURM_SUBMIT_DIR": str(place)}
    process = subprocess.Popen(
        ["bash", str(ROOT / "recipes" / "folds.slurm")],
        cwd=place,
        env={**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", **slurm},
    )
    until((place / "started").exists, lambda: process.poll() is None)
    process.terminate()
    assert process.wait(HANGS) == 143
    assert (place / "calls.txt").read_text() == "scontrol requeue 77_3\n"


def test_a_task_is_queued_again_if_slurm_stops_it_while_its_training_starts(place):
    (place / "recipes").mkdir()
    (place / "recipes" / "folds.sh").symlink_to(ROOT / "recipes" / "folds.sh")
    # bash runs this trap before each command, so the signal comes as soon as there is a background process
    (place / "signal.sh").write_text("""trap '[ -z "${!:-}" ] || { trap - DEBUG; kill -TERM $$; }' DEBUG\n""")
    slurm = {"NAME": "a", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "77", "SLURM_SUBMIT_DIR": str(place)}
    done, calls = type_in(place, recipe="folds.slurm", BASH_ENV=str(place / "signal.sh"), **slurm)
    assert done.returncode == 143
    assert calls[-1] == "scontrol requeue 77_3"
