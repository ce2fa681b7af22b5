"""Measure the peak memory of packing, training, predicting and averaging for 1x, 10x and 100x as many images.

python bench/memory.py

Only anonymous memory is counted, the memory that a program has allocated (RssAnon in /proc, sampled every 5 ms). Pages
of memory-mapped files are not counted because the kernel can drop them when it needs memory. Linux only.
"""

import csv
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from utils.core.cli import run
from utils.core.errors import UserError
from utils.core.files import write_json

ROOT = Path(__file__).resolve().parent.parent
TIMES = (1, 10, 100)
WITHIN = 1.1
"""Maximum ratio of the peak memory at 100x to the peak at 10x."""


@dataclass(frozen=True)
class Settings:
    n: int = 40
    """number of training images, and of test images, at 1x."""
    arch: str = "unet_resnet18"
    """network to train."""
    out: str = "memory.json"
    """JSON file for all numbers."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Measure, print the table, and raise UserError if memory grows with the number of images."""
    peaks: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as work:
        once = Path(work) / "once"
        _peak("utils/make_demo.py", "--out_dir", once, "--n_train", settings.n, "--n_test", settings.n)
        for times in TIMES:
            data = Path(work) / f"data_{times}"
            _multiply(once, data, times)
            for name, megabytes in _measure(data, settings.arch).items():
                peaks.setdefault(name, []).append(megabytes)
            print(f"{times}x ({times * settings.n} + {times * settings.n} images): done", flush=True)
            shutil.rmtree(data)
    print(f"{'MB of peak memory':<20}" + "".join(f"{times:>8}x" for times in TIMES) + "   100x / 10x")
    for name, values in peaks.items():
        print(f"{name:<20}" + "".join(f"{value:>9.0f}" for value in values) + f"{values[2] / values[1]:>13.3f}")
    write_json(settings.out, peaks)
    grown = [name for name, values in peaks.items() if values[2] > WITHIN * values[1]]
    if grown:
        raise UserError(f"{', '.join(grown)}: expected a 100x / 10x ratio up to {WITHIN}, found more; see the table")


def _measure(data: Path, arch: str) -> dict[str, float]:
    """Return the peak memory of each command in MB."""
    run_dir, masks = data / "run", [data / "a.npy", data / "b.npy"]
    net = ("--arch", arch, "--encoder_weights", "none", "--n_epochs", 1)
    out = ("--data_dir", data, "--submission_dir", data / "submissions")
    packing = _peak("utils/stack_and_save.py", "--data_dir", data)
    _peak("utils/make_folds.py", "--path", data / "train.csv", "--n_splits", 5)
    return {
        "packing": packing,
        "training": _peak("train.py", "--data_dir", data, "--experiment_dir", run_dir, *net),
        "predicting": _peak("predict.py", "--snapshot", run_dir, *out, "--masks_fn", masks[0]),
        "predicting, hflip": _peak("predict_tta.py", "--snapshot", run_dir, *out, "--masks_fn", masks[1]),
        "averaging": _peak("predict_fold_avg.py", *masks, *out, "--masks_fn", data / "mean.npy"),
    }


def _peak(script: str, *words: object) -> float:
    """Return the peak anonymous memory of `python <script> words...` in MB."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([sys.executable, str(ROOT / script), *map(str, words)], stdout=output, stderr=output)
        highest = 0.0
        while process.poll() is None:
            highest = max(highest, _anonymous(process.pid))
            time.sleep(0.005)
        if process.returncode:
            output.seek(0)
            raise UserError(f"{script}: failed with exit code {process.returncode}: {output.read().strip()[-300:]}")
    return highest


def _anonymous(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # the process has just ended
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def _multiply(once: Path, data: Path, times: int) -> None:
    """Create a folder with `times` copies of every image of `once`, each with a different name."""
    for folder in ("train/images", "train/masks", "test/images"):
        (data / folder).mkdir(parents=True)
        for path in (once / folder).iterdir():
            for number in range(times):
                shutil.copy(path, data / folder / f"{number}_{path.name}")
    for name in ("train.csv", "depths.csv", "sample_submission.csv"):
        with open(once / name, newline="") as source, open(data / name, "w", newline="") as target:
            header, *rows = csv.reader(source)
            csv.writer(target).writerows([header, *([f"{n}_{row[0]}", *row[1:]] for n in range(times) for row in rows)])


if __name__ == "__main__":
    run(main, Settings)
