"""A small survey, packed and folded by the real command lines, and ways to run the scripts."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from utils.cli import run

ROOT = Path(__file__).resolve().parent.parent


def command(*words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run `python SCRIPT ...` as a person would; the script's path is relative to the repository."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    script, *rest = [str(word) for word in words]
    return subprocess.run(
        [sys.executable, str(ROOT / script), *rest],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def succeed(*words: object, cwd: Path = ROOT) -> str:
    """The standard output of a command that has to end well."""
    done = command(*words, cwd=cwd)
    assert done.returncode == 0, f"{words}: {done.stderr}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 8 test images of 101x101 with three folds, packed."""
    folder = tmp_path_factory.mktemp("survey") / "data"
    succeed("utils/make_demo.py", "--out_dir", folder, "--n_train", 24, "--n_test", 8, "--seed", 1)
    succeed("utils/stack_and_save.py", "--data_dir", folder)
    succeed("utils/make_folds.py", "--path", folder / "train.csv", "--n", 3)
    return folder


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """Run a script's main in this process (importing torch once for all): its exit code, output and error lines."""

    def call(script: str, *words: object) -> SimpleNamespace:
        module = import_module(script.removesuffix(".py").replace("/", "."))
        main, settings = getattr(module, "main", None), getattr(module, "Settings", None)
        if script == "train.py":
            main, settings = module.train, module.TrainSettings
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run(main, settings, [str(word) for word in words], script)
        captured = capsys.readouterr()
        return SimpleNamespace(code=end.value.code, out=captured.out, err=captured.err)

    return call


TINY = ("--arch", "unet_resnet18", "--encoder_weights", "none", "--batch_size", "8", "--optimizer", "adam_1e-3")


@pytest.fixture(scope="session")
def trained(survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs on fold 0, by the real command line."""
    folder = tmp_path_factory.mktemp("runs") / "unet_fold0"
    succeed("train.py", "--data_dir", survey, "--experiment_dir", folder, "--n_epochs", 2, *TINY)
    return folder
