"""Fixtures: a small packed survey with folds, and a run trained on it, created by the real command lines."""

import signal
from pathlib import Path

import pytest
from helpers.scripts import TINY, succeed
from hypothesis import HealthCheck, settings

# Examples are the same every time, and slow examples do not fail a test because busy machines are slow.
settings.register_profile("strata", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("strata")

LONGEST = {"test_story.py", "test_kill_resume.py", "test_bench.py"}


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Let Ctrl-C reach processes started by tests, even if the tests run in the background of a shell."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a packed survey of 24 training and 8 test images of 101x101 with three folds."""
    folder = tmp_path_factory.mktemp("survey") / "data"
    succeed("utils/make_demo.py", "--out_dir", folder, "--n_train", 24, "--n_test", 8, "--seed", 1)
    succeed("utils/stack_and_save.py", "--data_dir", folder)
    succeed("utils/make_folds.py", "--path", folder / "train.csv", "--n", 3)
    return folder


@pytest.fixture(scope="session")
def trained(survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run of two epochs on fold 0."""
    folder = tmp_path_factory.mktemp("runs") / "unet_fold0"
    succeed("train.py", "--data_dir", survey, "--experiment_dir", folder, "--n_epochs", 2, *TINY)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first, so that one of two processes does not wait for the other at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
