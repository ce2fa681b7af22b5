"""A plan for a time: it ends in time, never inside its warm-up, and is repeated and resumed bit for bit."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.scripts import TINY_ARCH, assert_refused, end_together, run_here, start, start_together
from helpers.waiting import until

from net.snapshot import load_snapshot
from net.time_plan import EPOCH_OVERHEAD, EPOCHS, Speed, affordable, measured, plan
from utils.core.files import read_json
from utils.core.tables import read_table
from utils.runs.run_folder import find_snapshots

MINUTE, HOUR = 60, 3600
SHARES = [0.3, 0.35, 0.35]
MACHINES = {
    "slow": [Speed(52, 0.05, 0.02), Speed(80, 0.1, 0.03), Speed(104, 0.16, 0.05)],
    "fast": [Speed(52, 0.004, 0.001), Speed(80, 0.009, 0.002), Speed(104, 0.015, 0.004)],
    "gpu": [Speed(52, 1e-4, 1e-4), Speed(80, 2e-4, 1e-4), Speed(104, 3e-4, 1e-4)],
}


def expected(found, speeds, val_images):
    by_size = {speed.size: speed for speed in speeds}
    return sum(
        epochs * (found.epoch_size * by_size[size].training + val_images * by_size[size].validation + EPOCH_OVERHEAD)
        for size, epochs in found.stages
    )


@pytest.mark.parametrize("val_images", [8, 80, 800])
@pytest.mark.parametrize("seconds", [50, 3 * MINUTE, 12 * MINUTE, HOUR, 24 * HOUR])
@pytest.mark.parametrize("machine", MACHINES)
def test_a_plan_takes_its_time_and_shares_it_among_the_sizes(machine, seconds, val_images):
    speeds = MACHINES[machine]
    found = plan(speeds, SHARES, val_images, 32, seconds)
    took = expected(found, speeds, val_images)
    assert took == pytest.approx(found.seconds)
    assert seconds * 0.97 <= took <= seconds + 32 * speeds[-1].training
    steps = sum(epochs for _, epochs in found.stages) * -(-found.epoch_size // 32)
    assert found.warmup <= 0.06 * steps + 1
    assert found.epoch_size >= 32
    if len(found.stages) == 3 and sum(epochs for _, epochs in found.stages) >= 20:
        by_size = {speed.size: speed for speed in speeds}
        times = np.array([epochs * found.epoch_size * by_size[size].training for size, epochs in found.stages])
        assert times / times.sum() == pytest.approx(SHARES, abs=0.12)


def test_validation_takes_a_small_share_and_an_epoch_is_never_long():
    found = plan(MACHINES["fast"], SHARES, 800, 32, 12 * MINUTE)
    validation = sum(epochs * (0.0025 * 800 + EPOCH_OVERHEAD) for _, epochs in found.stages)
    assert validation < 0.12 * 12 * MINUTE
    assert sum(epochs for _, epochs in plan(MACHINES["gpu"], SHARES, 8, 32, 24 * HOUR).stages) <= EPOCHS[1]


def test_large_images_are_validated_on_as_many_as_there_is_time_for():
    """A validation image of 2048x1024 takes .4 s: three times all 100 would be two thirds of three minutes."""
    large = [Speed(196, 0.1, 0.4), Speed(256, 0.2, 0.4)]
    assert affordable(large, [0.5, 0.5], 100, 3 * MINUTE) == 24
    assert affordable(large, [0.5, 0.5], 100, HOUR) == 100
    assert affordable(large, [0.5, 0.5], 1000, HOUR) == 150
    assert affordable(large, [0.5, 0.5], 10, 3 * MINUTE) == 10
    assert affordable(MACHINES["slow"], SHARES, 800, 12 * MINUTE) == 352
    assert affordable(MACHINES["fast"], SHARES, 800, 3 * MINUTE) == 800


def test_without_time_for_all_sizes_the_full_size_remains():
    found = plan(MACHINES["slow"], SHARES, 800, 32, 30)
    assert [size for size, _ in found.stages] == [104]
    assert sum(epochs for _, epochs in found.stages) == 1


def test_cycles_have_equally_many_epochs():
    assert plan([Speed(128, 0.01, 0.001)], [1.0], 80, 32, 600, cycles=7).stages[0][1] % 7 == 0
    assert sum(epochs for _, epochs in plan(MACHINES["slow"], SHARES, 800, 32, 600, cycles=2).stages) == 4


@pytest.mark.parametrize("seconds", [3 * MINUTE, 12 * MINUTE])
def test_epochs_of_a_given_size_fill_the_time(seconds):
    speeds = MACHINES["fast"]
    found = plan(speeds, SHARES, 80, 32, seconds, epoch_size=320)
    assert found.epoch_size == 320
    assert expected(found, speeds, 80) == pytest.approx(seconds, rel=0.05)
    assert found.warmup == pytest.approx(0.05 * 10 * sum(epochs for _, epochs in found.stages), abs=1)
    assert [size for size, _ in plan(speeds, SHARES, 80, 32, 10, epoch_size=640).stages] == [104]


def test_a_moment_of_other_work_does_not_change_the_measured_speed(monkeypatch):
    """Two sizes are timed in three rounds; something else runs while the first one is timed for the first time."""
    times = iter([5.0, 0.2, 0.1, 0.2, 0.1, 0.2])
    monkeypatch.setattr("net.time_plan._training", lambda *_: next(times))
    monkeypatch.setattr("net.time_plan._validation", lambda *_: 0.05)
    stages, phases = [SimpleNamespace(size=52), SimpleNamespace(size=104)], [SimpleNamespace(start=0.0)]
    run = SimpleNamespace(learner=lambda: None, loader=lambda _: None, stages=stages, phases=phases)
    assert measured(run, [0.5, 0.5], 10) == [Speed(52, 0.1, 0.05), Speed(104, 0.2, 0.05)]


@pytest.fixture
def slow(monkeypatch):
    """Measure .3 s per image, so that a plan for a minute has few images and no test depends on the machine's speed."""

    def measured(run, _shares, _seconds):
        return [Speed(stage.size, 0.3, 0.3) for stage in run.stages]

    monkeypatch.setattr("net.time_plan.measured", measured)


def weights_of(run):
    return load_snapshot(find_snapshots([str(run)])[0]).weights


def test_a_planned_run_is_repeated_from_its_config_and_resumed_bit_for_bit(slow, survey, tmp_path):
    flags = ("--data_dir", survey, "--arch", TINY_ARCH, "--batch_size", 8, "--keep", 1)
    done = run_here("train.py", *flags, "--minutes", 1, "--experiment_dir", tmp_path / "first")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    parts = [line.split(":")[0] for line in said[:6]]
    assert parts == ["network", "augmentation", "steps", "loss", "metric", "plan"]
    config = json.loads((tmp_path / "first" / "config.json").read_text())
    assert config["minutes"] == 1
    for name in ("epoch_size", "n_epochs", "warmup"):
        assert f"--{name} {config[name]} " in said[5]
    epochs = len(read_table(tmp_path / "first" / "log.csv")["epoch"])
    assert epochs == config["n_epochs"] == sum(int(stage.split(":")[1]) for stage in config["stages"])

    again = ("--config", tmp_path / "first" / "config.json", "--experiment_dir", tmp_path / "again")
    process = start("train.py", [str(word) for word in again], tmp_path / "said.txt")
    until((tmp_path / "again" / "state.pt").is_file, process.is_alive)
    process.kill()
    process.join()
    (line,) = [line for line in (tmp_path / "said.txt").read_text().splitlines() if line.startswith("plan:")]
    assert f"--n_epochs {epochs} " in line
    assert "given" in line
    cut = len(read_table(tmp_path / "again" / "log.csv")["epoch"])
    if cut < epochs:
        done = run_here("train.py", "--resume", "--experiment_dir", tmp_path / "again")
        assert done.returncode == 0, done.stderr
    first, second = weights_of(tmp_path / "first"), weights_of(tmp_path / "again")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "flags",
    [
        ("--cycles", 2, "--average", "swa_1", "--scheduler", "onecycle"),
        ("--cycles", 2, "--stages", "32", "64", "96"),
        ("--epoch_size", 16),
    ],
)
def test_a_plan_fits_the_flags_that_are_given(slow, survey, tmp_path, flags):
    words = ("--data_dir", survey, "--arch", TINY_ARCH, "--batch_size", 8, "--minutes", 1, "--keep", 1)
    done = run_here("train.py", *words, *flags, "--experiment_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    config = read_json(tmp_path / "run" / "config.json")
    assert config["n_epochs"] % config["cycles"] == 0
    if "--epoch_size" in flags:
        assert "--epoch_size" not in done.stdout.split("plan:")[1].splitlines()[0]
        assert 6 <= config["n_epochs"] <= 9, "an epoch takes 4.8 s and its validation 2.4 s or less"


@pytest.mark.parametrize("stages", [(), ("--stages", "64", "96")])
def test_a_time_covers_all_folds_and_the_command_is_repeated_with_the_same_plan(slow, survey, tmp_path, stages):
    words = ("train.py", "--data_dir", survey, "--arch", TINY_ARCH, "--batch_size", 8, "--folds", "all", *stages)
    words += ("--minutes", 3, "--experiment_dir", tmp_path / "run")
    done = run_here(*words)
    assert done.returncode == 0, done.stderr
    plans = [json.loads((tmp_path / f"run_fold{fold}" / "config.json").read_text()) for fold in range(3)]
    assert len({(plan["epoch_size"], *plan["stages"]) for plan in plans}) == 1
    again = run_here(*words)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(": finished") == 3


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("train_border.py", ("--arch", TINY_ARCH, "--border", "outline")),
        ("train_classifier.py", ("--arch", "test_resnet")),
    ],
)
def test_borders_and_classifiers_are_planned(slow, survey, tmp_path, script, flags):
    words = ("--data_dir", survey, *flags, "--batch_size", 8, "--minutes", 1, "--experiment_dir", tmp_path / "run")
    done = run_here(script, *words)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert len(read_table(tmp_path / "run" / "log.csv")["epoch"]) == config["n_epochs"]
    assert f"plan: {'--stages' if script == 'train_border.py' else '--n_epochs'} " in done.stdout


def test_two_processes_follow_one_plan(survey, tmp_path):
    words = ("--data_dir", survey, "--arch", TINY_ARCH, "--batch_size", 8, "--minutes", 0.4)
    words = (*words, "--experiment_dir", tmp_path / "run")
    codes, outputs = end_together(start_together("train.py", *words, output=tmp_path / "said"), tmp_path / "said")
    assert codes == [0, 0], outputs
    assert outputs[0].count("plan: ") == 1
    assert outputs[1].count("plan: ") == 0
    assert (tmp_path / "run" / "summary.json").is_file()


def test_a_hard_limit_ends_the_run_and_a_wrong_time_is_refused(survey, tmp_path):
    flags = ("--data_dir", survey, "--arch", TINY_ARCH, "--batch_size", 8, "--stages", "96:40")
    done = run_here("train.py", *flags, "--minutes", 0.01, "--minutes_hard", "--experiment_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "--minutes_hard: ended" in done.stdout
    assert len(read_table(tmp_path / "run" / "log.csv")["epoch"]) < 40
    assert (tmp_path / "run" / "summary.json").is_file()
    late = run_here("train.py", *flags[:-1], "96:3", "--minutes", 0.001, "--experiment_dir", tmp_path / "late")
    assert "this machine is slower than when the run was planned" in late.stdout
    refused = run_here("train.py", *flags[:-2], "--minutes", 0.01, "--experiment_dir", tmp_path / "no")
    assert_refused(refused, 2, "--minutes 0.01: too short for one step", "use at least 0.")
    assert not (tmp_path / "no").exists()
    for wrong in (0, -3):
        refused = run_here("train.py", *flags[:-2], "--minutes", wrong, "--experiment_dir", tmp_path / "no")
        assert_refused(refused, 2, f"--minutes {wrong}", "expected a number of minutes greater than 0")
    refused = run_here("train.py", *flags[:-2], "--minutes_hard", "--experiment_dir", tmp_path / "no")
    assert_refused(refused, 2, "--minutes_hard: expected --minutes as well")
