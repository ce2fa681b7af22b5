"""Kill a training run with SIGKILL at random moments, resume it each time, and compare it with an undisturbed run.

python bench/kill_resume.py --data_dir demo --kills 20

Exits with code 0 if tensors, log.csv (except for times), validation masks and the set of snapshots are the same.
"""

import random
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np

from bench.warm import start
from utils.core.cli import run
from utils.core.errors import UserError
from utils.core.tables import read_table
from utils.runs.run_folder import RunFolder, snapshots_in

TIMES = ("seconds", "images_per_s")
EPOCHS_AT_MOST = 2


@dataclass(frozen=True)
class Settings:
    data_dir: str = "demo"
    """packed folder with folds, as created by make_demo.py, stack_and_save.py and make_folds.py."""
    kills: int = 20
    """number of times the run is killed."""
    n_epochs: int = 60
    """number of epochs of the run."""
    seed: int = 0
    """seed of the random times of the kills."""
    flags: str = "--arch unet_resnet18 --encoder_weights none --batch_size 8 --scheduler cosine --keep 3"
    """additional flags of train.py."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Train once undisturbed and once with kills, and compare the two runs."""
    with tempfile.TemporaryDirectory() as work:
        whole, killed = RunFolder(Path(work) / "whole"), RunFolder(Path(work) / "killed")
        words = ["--data_dir", settings.data_dir, "--n_epochs", str(settings.n_epochs), *settings.flags.split()]
        span = _undisturbed(words, whole)
        kills = _kill_and_resume(words, killed, settings, span)
        found = differences(whole, killed)
        if found:
            raise UserError(f"after {kills} kills the run differs from the undisturbed run: {'; '.join(found[:3])}")
        print(f"{kills} kills, {settings.n_epochs} epochs: the same tensors, log, masks and set of snapshots")


def _undisturbed(words: list[str], folder: RunFolder) -> float:
    """Run to the end; return the seconds from the first write to the end of the third epoch.

    The first epoch is measured separately because it includes the warm-up and is slow.
    """
    process = _train(words, folder)
    while process.is_alive() and not folder.state.is_file():
        time.sleep(0.01)
    first = time.time()
    _finish(process, folder)
    epochs = len(read_table(folder.log)["epoch"])
    later = (folder.state.stat().st_mtime - first) / max(1, epochs - 1)
    return first - folder.config.stat().st_mtime + 2 * later


def _kill_and_resume(words: list[str], folder: RunFolder, settings: Settings, span: float) -> int:
    """Kill the run repeatedly, each time within `span` seconds after it starts to write, then let it finish.

    On a busy machine `span` may cover many epochs, so a kill comes after EPOCHS_AT_MOST new epochs at the latest. If
    the run finishes before a kill, it is not started again.

    Returns:
        Number of kills.

    Raises:
        UserError: the run finished before the first kill.
    """
    moments = random.Random(settings.seed)
    for number in range(settings.kills):
        before = _last_write(folder)
        process = _train(words, folder)
        while process.is_alive() and _last_write(folder) == before:
            time.sleep(0.01)
        moment, enough = time.monotonic() + moments.uniform(0, span), _epochs(folder) + EPOCHS_AT_MOST
        while time.monotonic() < moment and _epochs(folder) < enough:
            time.sleep(0.005)
        process.kill()
        process.join()
        if folder.summary.is_file():
            if not number:
                raise UserError(f"--n_epochs {settings.n_epochs}: finished before the first kill; use more epochs")
            print(f"finished before kill {number + 1}; raise --n_epochs to reach {settings.kills} kills", flush=True)
            return number
        print(f"kill {number + 1}: {_epochs(folder)} epochs in log.csv", flush=True)
    _finish(_train(words, folder), folder)
    return settings.kills


def _epochs(folder: RunFolder) -> int:
    return len(read_table(folder.log)["epoch"]) if folder.log.is_file() else 0


def _train(words: list[str], folder: RunFolder) -> ForkServerProcess:
    resume = ["--resume"] if folder.config.is_file() else []
    return start("train.py", [*words, "--experiment_dir", str(folder.path), *resume], f"{folder.path}.txt", Path.cwd())


def _finish(process: ForkServerProcess, folder: RunFolder) -> None:
    process.join()
    if process.exitcode:
        lines = Path(f"{folder.path}.txt").read_text().strip().splitlines()
        raise UserError(f"train.py failed with exit code {process.exitcode}: {lines[-1] if lines else 'no output'}")


def _last_write(folder: RunFolder) -> int:
    return folder.config.stat().st_mtime_ns if folder.config.is_file() else 0


def differences(one: RunFolder, other: RunFolder) -> list[str]:
    """Return the differences between two runs as text; empty if they are identical bit for bit (except for times)."""
    import torch

    from net.snapshot import load_snapshot

    logs = [read_table(folder.log) for folder in (one, other)]
    found = [f"log.csv: {name}" for name in logs[0] if name not in TIMES and logs[0][name] != logs[1].get(name)]
    files = [{str(file.path.relative_to(run.path)): file for file in snapshots_in(run.path)} for run in (one, other)]
    found += [f"only one run has {name}" for name in sorted(files[0].keys() ^ files[1].keys())]
    for name in sorted(files[0].keys() & files[1].keys()):
        first, second = (load_snapshot(where[name].path).weights for where in files)
        found += [f"{name}: {key}" for key in first if not torch.equal(first[key], second[key])]
        masks = [where[name].val_masks for where in files]
        if masks[0].is_file() != masks[1].is_file() or (
            masks[0].is_file() and not np.array_equal(*map(np.load, masks))
        ):
            found.append(f"{name}: validation masks")
    return found


if __name__ == "__main__":
    run(main, Settings)
