"""Runs that are started from Python, one after the other in one process, do not influence each other."""

import json
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.scripts import TINY

from bench.kill_resume import differences
from net.snapshot import load_snapshot
from train import train
from train_border import train_border
from utils.core.errors import UsageError, UserError
from utils.core.training_settings import (
    DataSettings,
    LearnSettings,
    NetSettings,
    ReportingSettings,
    RunSettings,
    StepSettings,
    TrainSettings,
)
from utils.runs.run_folder import RunFolder, find_snapshots

FLAGS = dict(zip([flag.removeprefix("--") for flag in TINY[::2]], TINY[1::2], strict=True))


@pytest.fixture
def flags(survey, tmp_path):
    """Flags of a run of one epoch, as a dictionary."""
    number = {"batch_size": int(FLAGS["batch_size"]), "n_epochs": 1}
    return {**FLAGS, **number, "data_dir": str(survey), "experiment_dir": str(tmp_path / "first")}


def state_of_this_process():
    """Return everything in this process that a training run could leave changed."""
    return {
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "torch's random numbers": torch.get_rng_state().tolist(),
        "numpy's random numbers": np.random.get_state()[1].tolist(),
        "threads of torch": torch.get_num_threads(),
        "exact algorithms": torch.are_deterministic_algorithms_enabled(),
        "precision of products": torch.get_float32_matmul_precision(),
        "dtype": torch.get_default_dtype(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
    }


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_several_runs_in_a_row_leave_nothing_behind_and_do_not_influence_each_other(flags, tmp_path, capsys):
    torch.manual_seed(77)
    summary = train(flags)
    before, files = state_of_this_process(), open_files()
    assert summary == json.loads((tmp_path / "first" / "summary.json").read_text())
    other = TrainSettings(
        data=DataSettings(data_dir=flags["data_dir"], fold=1),
        net=NetSettings(arch=flags["arch"], encoder_weights="none"),
        learn=LearnSettings(loss=("bce_lovasz",), batch_size=5, n_epochs=1),
        step=StepSettings(seed=3),
        reporting=ReportingSettings(quiet=True),
        run=RunSettings(experiment_dir=str(tmp_path / "other")),
    )
    in_thread = threading.Thread(target=train, args=[other])  # as a notebook server may do
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"\S+ \(.+\), \w+ \| .+ \| fold 0: 16 images \(\d+ empty\) .* 8 to validate \| -> .*first", lines[0]
    )
    assert [line.split()[0] for line in lines[1:]] == ["epoch", "best:"]
    in_thread.start()
    in_thread.join()
    assert (tmp_path / "other" / "summary.json").is_file()
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()] == ["best:"]  # --quiet
    assert said.err == ""
    (tmp_path / "flags.json").write_text(json.dumps({**flags, "experiment_dir": str(tmp_path / "again")}))
    train(str(tmp_path / "flags.json"))
    assert state_of_this_process() == before
    assert open_files() <= files
    assert differences(RunFolder(tmp_path / "first"), RunFolder(tmp_path / "again")) == []
    assert torch.initial_seed() == 77


def test_a_resumed_run_keeps_its_precision_even_where_another_one_is_faster(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("net.device._fast_dtype", lambda device: torch.bfloat16)
    train({**flags, "scheduler": "none"})
    monkeypatch.setattr("net.device._fast_dtype", lambda device: torch.float32)
    resumed = {**flags, "scheduler": "none", "n_epochs": 2, "resume": True}
    train(resumed)
    train({**resumed, "n_epochs": 3, "precision": "float32"})
    starts = [line.split()[3] for line in capsys.readouterr().out.splitlines() if " | -> " in line]
    assert starts == ["bfloat16", "bfloat16", "float32"]


def test_mistakes_raise_errors_that_can_be_caught(flags, tmp_path):
    with pytest.raises(UsageError, match="n_epoch is not a flag of this script"):
        train({**flags, "n_epoch": 3})
    with pytest.raises(UsageError, match=r"expected int \| None, found '3'"):
        train({**flags, "n_epochs": "3"})
    with pytest.raises(UserError, match="no such folder"):
        train({**flags, "data_dir": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="no such file"):
        train(str(tmp_path / "none.json"))
    assert not (tmp_path / "first").exists()


def test_train_border_can_be_called_too(flags, tmp_path):
    summary = train_border({**flags, "border_width": 2})
    assert summary["iout"] >= 0
    (snapshot,) = find_snapshots([str(tmp_path / "first")])
    assert load_snapshot(snapshot).info.border_width == 2
