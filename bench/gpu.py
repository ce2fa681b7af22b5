"""Check and measure training on a GPU: tests, kills, precision, processes, images/s, and five folds against the clock.

bash bench/gpu.sh --data_dir data/salt

Each step runs in a process of its own with a time limit, and writes what it prints to a file in --out. The results of
all steps are in gpu.json there, and are printed as a table.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from net.device import machine
from utils import make_demo, make_folds, stack_and_save
from utils.core.cli import run
from utils.core.errors import UserError
from utils.core.files import write_json
from utils.core.names import pick
from utils.core.progress import duration
from utils.core.training_settings import MachineSettings

LENGTH = "--n_epochs 8 --epoch_size 640 --keep 1 --recipe auto"
REPLAYED = "--arch strata_m --batch_size 32 --epoch_size 2560 --channel_dropout .2 --keep 2"
"""Flags of a run whose steps are replayed as CUDA graphs and draw random numbers on the GPU."""


@dataclass(frozen=True)
class Settings:
    data_dir: str | None = None
    """packed folder with five folds for the step folds; default: a synthetic survey."""
    minutes: float = 4.0
    """time for the five folds together."""
    only: tuple[str, ...] = ()
    """steps to run: tests, kills, precision, processes, throughput, folds, score (of the folds); default: all."""
    device: str = "cuda"
    """device to check; cpu runs the same steps, slowly."""
    out: str = "experiments/gpu"
    """folder for the results."""
    debug: bool = False
    """show the traceback of an error."""


@dataclass(frozen=True)
class Step:
    """A command with a time limit."""

    words: Sequence[str | Path | float]
    limit: float
    """seconds after which it is ended."""
    figures: str
    """Text in the lines of its output that are kept."""


def main(settings: Settings) -> None:
    """Run the steps one after the other; exit with an error if any of them failed."""
    found = machine(MachineSettings(device=settings.device))
    out = Path(settings.out)
    demo = out / "demo"
    steps = _steps(settings, demo, out)
    for name in settings.only:
        pick(steps, name, "--only")
    chosen = {name: step for name, step in steps.items() if not settings.only or name in settings.only}
    out.mkdir(parents=True, exist_ok=True)
    if any(demo in step.words for step in chosen.values()) and not (demo / "train_with_folds.csv").is_file():
        _survey(demo)
    about = {"machine": str(found), "torch": torch.__version__, "cores": os.cpu_count()}
    print(f"{about['machine']}, torch {about['torch']}, {about['cores']} cores", flush=True)
    results = {}
    for name, step in chosen.items():
        results[name] = _result(name, step, out)
        write_json(out / "gpu.json", {"about": about, "results": results})
    failed = [name for name, result in results.items() if result["exit"]]
    print(f"written to {out / 'gpu.json'}")
    if failed:
        raise UserError(f"failed: {', '.join(failed)}; what they printed is in {out}")


def _survey(folder: Path) -> None:
    """Create a synthetic survey of 800 images with five folds."""
    make_demo.main(make_demo.Settings(str(folder), 800, 100))
    stack_and_save.main(stack_and_save.Settings(str(folder)))
    make_folds.main(make_folds.Settings(str(folder / "train.csv"), 5, "coverage"))


def _steps(settings: Settings, demo: Path, out: Path) -> dict[str, Step]:
    python, workers = sys.executable, str(min(14, os.cpu_count() or 1))
    new, device = out / f"run_{time.time():.0f}", ["--device", settings.device]
    short = [*LENGTH.split(), *device]
    two = [python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    folds = ["--data_dir", settings.data_dir or demo, "--folds", "all", "--minutes", settings.minutes]
    speed = ["--rounds", 2, "--steps", 20, "--n_predict", 1000, "--chart", out / "throughput.png"]
    speed += ["--only", "strata", "strata_batch", "torch", "torch_best", "floor"]
    return {
        "tests": Step([python, "-m", "pytest", "-q", "-n", workers, "tests/net"], 180, "passed"),
        "kills": Step(
            [python, "bench/kill_resume.py", "--data_dir", demo, "--kills", 4, "--n_epochs", 8, f"--flags={REPLAYED}"],
            150,
            "kills,",
        ),
        "precision": Step(
            [python, "bench/precision.py", "--data_dir", demo, "--seeds", 1, 2, f"--flags={' '.join(short)}"], 90, "±"
        ),
        "processes": Step([*two, "train.py", "--data_dir", demo, *short, "--experiment_dir", f"{new}_two"], 60, "best"),
        "throughput": Step([python, "bench/throughput.py", *speed, "--out", out / "throughput.json"], 240, " / "),
        "folds": Step(
            [python, "train.py", *folds, *device, "--experiment_dir", new],
            60 * settings.minutes + 60,
            "out-of-fold scores",
        ),
        "score": Step([python, "optimize_threshold.py", "--masks_fn", f"{new}_oof.npy"], 60, "cross-fitted"),
    }


def _result(name: str, step: Step, out: Path) -> dict[str, Any]:
    """Run a step, print a line, and return exit code, seconds and figures."""
    started, said = time.monotonic(), out / f"{name}.txt"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([".", os.environ.get("PYTHONPATH", "")]), "OMP_NUM_THREADS": "2"}
    with open(said, "w") as file:
        try:
            done = subprocess.run([*map(str, step.words)], stdout=file, stderr=file, env=env, timeout=step.limit)
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = 124
    seconds = time.monotonic() - started
    lines = said.read_text().strip().splitlines()
    figures = [line for line in lines if step.figures in line] if code == 0 else lines[-3:]
    print(f"{name:<11} {'done' if code == 0 else f'exit {code}':<9} {duration(seconds)}", flush=True)
    print(*(f"    {line[:200]}" for line in figures), sep="\n", flush=True)
    return {"exit": code, "seconds": round(seconds, 1), "figures": figures}


if __name__ == "__main__":
    run(main, Settings)
