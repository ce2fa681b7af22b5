"""Measure images/s in training and prediction: this project, its peers, and the floor, interleaved in one run.

.venv-bench/bin/python bench/throughput.py
.venv/bin/python bench/throughput.py --only strata torch torch_best floor      # without the peers' packages

`make bench-env` creates .venv-bench. In each round the contenders take turns: each trains on the same images (U-Net
resnet18 at 128x128, batch 32, train_128_v1, BCE, Adam 1e-4) and predicts the same images. Each round starts with a
different contender, and round 0 is a warm-up. The times include loading, steps and masks, but not what a peer does
before and after an epoch.
"""

import io
import multiprocessing
import os
import platform
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from utils import make_demo, make_folds, stack_and_save
from utils.core.cli import run
from utils.core.errors import UsageError, UserError
from utils.core.files import atomic_file, write_json
from utils.core.names import pick

NAMES = {
    "strata": "Strata",
    "strata_batch": "Strata, augmenting whole batches",
    "torch": "torch + smp loop",
    "lightning": "pytorch-lightning",
    "fastai": "fastai",
    "argus": "argus",
    "torch_best": "torch + smp loop, at its best",
    "lightning_best": "pytorch-lightning, at its best",
    "fastai_best": "fastai, at its best",
    "argus_best": "argus, at its best",
    "floor": "floor: the network alone",
}
OWN = ("strata", "strata_batch", "torch", "torch_best", "floor")  # contenders that need no extra packages
OURS = ("strata", "strata_batch")
PEERS = [name for name in NAMES if name not in (*OURS, "floor")]
RIVALS = {
    "fastest peer at its defaults": [name for name in PEERS if not name.endswith("_best")],
    "fastest peer at its best": [name for name in PEERS if name.endswith("_best")],
    "floor": ["floor"],
}
COLOURS = {"strata": "#e8a33d", "strata_batch": "#e8a33d", "floor": "#b8b8b8"}
PHASES = ("training", "prediction")
PACKAGES = ("torch", "segmentation-models-pytorch", "pytorch-lightning", "fastai", "pytorch-argus")
IMAGES_A_STEP, FOLDS = 32, 5
Rates = dict[str, dict[str, list[float]]]
"""Contender -> training or prediction -> images/s in each round."""


@dataclass(frozen=True)
class Settings:
    rounds: int = 5
    """number of measured rounds."""
    steps: int = 8
    """training steps per round."""
    n_predict: int = 320
    """images to predict per round."""
    only: tuple[str, ...] = ()
    """measure only these: strata, strata_batch, torch, torch_best, lightning, lightning_best, fastai, fastai_best,
    argus, argus_best, floor."""
    out: str = "throughput.json"
    """JSON file for all numbers."""
    chart: str = "throughput.png"
    """PNG file for the chart."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Measure, print the table and the ratios, and write both files."""
    for flag in ("rounds", "steps", "n_predict"):
        if getattr(settings, flag) < 1:
            raise UsageError(f"--{flag} {getattr(settings, flag)}: expected 1 or more")
    for name in settings.only:
        pick(NAMES, name, "--only")
    names = [name for name in NAMES if not settings.only or name in settings.only]
    if any(name not in OWN for name in names):
        check_peers()
    with tempfile.TemporaryDirectory() as work, ExitStack() as packed:
        prepare(Path(work) / "data", settings)
        contenders = {name: packed.enter_context(Remote(name, Path(work) / "data")) for name in names}
        for contender in contenders.values():
            contender.wait()
        about = machine_of(contenders[names[0]].machine)
        print(f"{about['machine']}, torch {about['torch']}, {about['processor']}", flush=True)
        rates = measure(contenders, settings)
        how = {name: one.how for name, one in contenders.items()}
    found = ratios(rates)
    print(as_text(rates, how), *(_ratio_line(one) for one in found), sep="\n")
    write_json(
        settings.out, {"about": about, "settings": asdict(settings), "how": how, "rates": rates, "ratios": found}
    )
    draw(settings.chart, rates, f"{about['machine']}, torch {about['torch']}")
    print(f"written to {settings.out} and {settings.chart}")


def prepare(folder: Path, settings: Settings) -> None:
    """Create a synthetic survey, packed and folded by the project's own scripts; an epoch has --steps full batches."""
    n_train = settings.steps * IMAGES_A_STEP * FOLDS // (FOLDS - 1)
    with redirect_stdout(io.StringIO()):
        make_demo.main(make_demo.Settings(str(folder), n_train, settings.n_predict))
        stack_and_save.main(stack_and_save.Settings(str(folder)))
        make_folds.main(make_folds.Settings(str(folder / "train.csv"), FOLDS))


def check_peers() -> None:
    """Raise UserError if the package of a peer is not installed."""
    for package in ("pytorch_lightning", "fastai", "argus"):
        if find_spec(package) is None:
            raise UserError(
                f"{package} is not installed; run: make bench-env, then .venv-bench/bin/python bench/throughput.py"
                " (or leave the peers out: --only strata torch torch_best floor)"
            )


class Remote:
    """A contender in its own process, so that its process-wide settings do not affect the others."""

    def __init__(self, name: str, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(name, folder, theirs))
        self.process.start()
        theirs.close()
        self.how = self.machine = ""

    def wait(self) -> None:
        """Wait until the contender is ready; all of them start at the same time."""
        self.how, self.machine = self._received()

    def seconds(self, phase: str) -> float:
        """Run training or prediction; return the seconds that it took."""
        self.pipe.send(phase)
        return self._received()

    def _received(self) -> Any:
        try:
            return self.pipe.recv()
        except EOFError:
            raise UserError(f"{self.process.name} ended unexpectedly; see its error above") from None

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.join()


def _serve(name: str, folder: Path, pipe: Connection) -> None:
    """Run a contender in this process: send its description, then the seconds of each phase on request.

    Its loader workers are forked, as those of a script are; as this process was spawned, they would be spawned as well,
    and import torch again.
    """
    if "fork" in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("fork", force=True)
    kind = name.removesuffix("_best")
    if name in OWN:
        from bench.contenders import OWN_KINDS as kinds
    else:
        os.environ.pop("GOMP_SPINCOUNT", None)  # utils.core.cli sets it for this project's processes
        warnings.filterwarnings("ignore", category=FutureWarning)  # raised by the peers' imports
        os.environ["PYTHONWARNINGS"] = "ignore::FutureWarning"  # the same in their loader workers
        from bench.peers import PEERS as kinds
    from bench.contenders import Setup

    setup = Setup.open(folder)
    contender = kinds[kind](setup, name.endswith("_best"))
    pipe.send((contender.how, str(setup.machine)))
    while True:
        {"training": contender.train, "prediction": contender.predict}[pipe.recv()]()
        pipe.send(contender.watch.seconds)


def measure(contenders: Mapping[str, Remote], settings: Settings) -> Rates:
    """Run all contenders in turn, round by round; round 0 is a warm-up and is not counted."""
    rates: Rates = {name: {phase: [] for phase in PHASES} for name in contenders}
    names = list(contenders)
    for number in range(settings.rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            for phase, images in (("training", settings.steps * IMAGES_A_STEP), ("prediction", settings.n_predict)):
                rate = images / contenders[name].seconds(phase)
                if number:
                    rates[name][phase].append(rate)
        print(f"round {number} of {settings.rounds}", flush=True)
    return rates


def ratios(rates: Rates) -> list[dict[str, Any]]:
    """Return this project's rate divided by the fastest rival's (by median), as median and range over the rounds."""
    found = []
    for (rival, names), ours, phase in product(RIVALS.items(), OURS, PHASES):
        present = [name for name in names if name in rates]
        if ours not in rates or not present:
            continue
        name = max(present, key=lambda name: np.median(rates[name][phase]))
        by_round = np.divide(rates[ours][phase], rates[name][phase])
        low, middle, high = np.percentile(by_round, (0, 50, 100)).tolist()
        found.append(
            {"ours": ours, "over": rival, "name": name, "phase": phase, "median": middle, "min": low, "max": high}
        )
    return found


def _ratio_line(ratio: dict[str, Any]) -> str:
    who = ratio["over"] if ratio["name"] == ratio["over"] else f"{ratio['over']} ({ratio['name']})"
    return f"{ratio['phase']}: {ratio['ours']} / {who} = {ratio['median']:.2f} ({ratio['min']:.2f}..{ratio['max']:.2f})"


def as_text(rates: Rates, how: Mapping[str, str]) -> str:
    """Return the table of images/s as median (min..max)."""
    rows = [["contender", *(f"{phase}, images/s" for phase in PHASES), "how"]]
    for name, by_phase in rates.items():
        rows.append([name, *(_spread(by_phase[phase]) for phase in PHASES), how[name]])
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _spread(values: Sequence[float]) -> str:
    return f"{np.median(values):.1f} ({min(values):.1f}..{max(values):.1f})"


def machine_of(machine: str) -> dict[str, str]:
    """Return the machine (device, threads, precision), its processor, and the versions of Python and the packages."""
    about = {"machine": machine, "processor": f"{_processor()}, {os.cpu_count()} cores"}
    about["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            about[package] = version(package)
        except PackageNotFoundError:
            about[package] = "not installed"
    return about


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def draw(path: str, rates: Rates, about: str) -> None:
    """Draw bars with the range over rounds: training left, prediction right, the floor as a line through each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # pyplot would keep every figure and look for a display

    figure = Figure(figsize=(10, 1.6 + 0.36 * len(rates)), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(rates)
    colours = [COLOURS.get(name, "#8ba3b8" if name.endswith("_best") else "#1f4e79") for name in names]
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # keeps lines from crossing the numbers
    for axes, phase in zip(figure.subplots(1, 2, sharey=True), PHASES, strict=True):
        low, middle, high = np.percentile([rates[name][phase] for name in names], (0, 50, 100), axis=1)
        axes.barh([NAMES[name] for name in names], middle, color=colours, height=0.7)
        places = range(len(names))
        axes.errorbar(middle, places, xerr=[middle - low, high - middle], fmt="none", ecolor="#333333")
        style = {"textcoords": "offset points", "va": "center", "fontsize": 9, "bbox": white}
        for place, value, end in zip(places, middle, high, strict=True):
            axes.annotate(f"{value:.0f}", (end, place), (5, 0), **style)
        if "floor" in names:
            axes.axvline(middle[names.index("floor")], color="#888888", linewidth=0.8, linestyle=":")
        axes.set(xlabel="images/s", title=phase, xlim=(0, 1.14 * high.max()))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.2)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()  # both plots share it
    figure.suptitle(f"U-Net resnet18, 128x128, batch 32; median and range over rounds\n{about}", fontsize=10)
    with atomic_file(path) as part:
        figure.savefig(part, format="png", dpi=150)


if __name__ == "__main__":
    run(main, Settings)
