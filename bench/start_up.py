"""Measure how long scripts take for --help and for a misspelt flag, and train.py for its first step.

python bench/start_up.py --data_dir demo

Prints medians of several runs, each in a new process. The targets are half a second for anything that does not need
torch, and two seconds from the end of train.py's imports to the end of its first step.
"""

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from utils.core.cli import run
from utils.core.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
RUNS = 5
FIRST_STEP = """
import sys, tempfile, time
from net.loops import evaluate, fit, predict
from net.learner import Learner
from net.tasks import mask_task
from net.prepare_run import prepare
from net.recipe import ORIGINAL, with_flags
from utils.core.training_settings import DataSettings, NetSettings, RunSettings, TrainSettings

imported, step = time.perf_counter(), Learner.step

def first_step(self):
    step(self)
    print(time.perf_counter() - imported)
    sys.exit()

Learner.step = first_step
with tempfile.TemporaryDirectory() as folder:
    data, net, run = DataSettings(data_dir=sys.argv[1]), NetSettings("unet_resnet18", "none"), RunSettings(folder)
    prepare(with_flags(TrainSettings(data, net=net, run=run), ORIGINAL), mask_task).train()
"""


@dataclass(frozen=True)
class Settings:
    data_dir: str = "demo"
    """packed folder with folds, for the first step."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Measure and print seconds as median (fastest..slowest)."""
    scripts = [*sorted(ROOT.glob("*.py")), *sorted((ROOT / "utils").glob("*.py"))]
    for path in scripts:
        if 'if __name__ == "__main__"' in path.read_text():
            for words in (["--help"], ["--fodl", "1"]):
                seconds = [_seconds([str(path), *words]) for _ in range(RUNS)]
                print(f"{path.relative_to(ROOT)} {words[0]:<8} {_spread(seconds)}", flush=True)
    steps = [float(_output(["-c", FIRST_STEP, settings.data_dir]).split()[-1]) for _ in range(RUNS)]
    print(f"train.py, from the end of its imports to the end of its first step: {_spread(steps)}")


def _seconds(words: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], capture_output=True)
    return time.perf_counter() - started


def _output(words: list[str]) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=Path.cwd())
    if done.returncode:
        raise UserError(f"the first training step failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f}..{max(seconds):.2f})"


if __name__ == "__main__":
    run(main, Settings)
