"""Measure disk, time and memory of the whole chain on synthetic ships, and extrapolate them to the ships contest.

python bench/large.py                                  # 400 and 2,000 training images, a fourth of that to test
python bench/large.py --sizes 2000 20000 --out_dir large

Each size is a folder with copies of some images of 768x768 that make_demo.py draws; the chain is that of
recipes/ships.sh: pack, folds, gate, border network, masks of a fold, rules, submission, check, score; then a mean of
masks, the viewer and the page. Memory is what all processes of a step have allocated, without memory-mapped files. A
step's time for the contest is that of the larger set, plus the difference per image for each image more; training takes
as long as it is given.
"""

import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from utils.core.cli import run
from utils.core.errors import UserError
from utils.core.files import write_json
from utils.core.progress import duration

ROOT = Path(__file__).resolve().parent.parent
CONTEST = 192_556
"""Training images of the ships contest; a fourth of the images here, and a twelfth there, are to be predicted."""
GATE = "--arch resnet18 --encoder_weights none --train_augs train_256_v1 --val_augs val_256 --optimizer adam_1e-3"
BORDER = "--arch strata_s --crop 256 --val_limit 64"
LENGTH = "--epoch_size 64 --n_epochs 1 --batch_size 16"
OF = "--data_dir {runs}/packed"
JUDGE = "optimize_threshold.py --masks_fn {runs}/val.npy"
TO = "--masks_fn {runs}/test.npy --fn ships --submission_dir {runs}"
STEPS = {
    "pack": "utils/stack_and_save.py --data_dir {data} --out_dir {runs}/packed --store {store}",
    "folds": "utils/make_folds.py --path {runs}/packed/train.csv --n_splits 10 --stratify objects",
    "gate": f"train_classifier.py {OF} --experiment_dir {{runs}}/gate {GATE} {LENGTH}",
    "border network": f"train_border.py {OF} --experiment_dir {{runs}}/border {BORDER} {LENGTH}",
    "gate of a fold": f"predict.py {OF} --snapshot {{runs}}/gate --part val --masks_fn {{runs}}/empty.npy",
    "masks of a fold": f"predict.py {OF} --snapshot {{runs}}/border --part val --masks_fn {{runs}}/val.npy",
    "gate's threshold": f"{JUDGE} --gate_probs {{runs}}/empty.npy",
    "rules for objects": f"{JUDGE} --objective objects --metric airbus",
    "submission": f"predict.py {OF} --snapshot {{runs}}/border --gate {{runs}}/gate {TO}",
    "check": f"utils/submission.py check {{submission}} {OF}",
    "score": f"utils/submission.py score {{submission}} --truth {{data}}/truth.csv {OF} --format airbus",
    "averaging": "predict_fold_avg.py {runs}/test.npy --masks_fn {runs}/mean.npy --fn mean --submission_dir {runs}",
    "viewer": "utils/look.py --masks_fn {runs}/val.npy --objects --out {runs}/look.png",
    "page": "report.py {runs}/border --out {runs}/page.html",
}
"""Commands by the step that they take; {data} is the folder of the images, {runs} that of all results."""


@dataclass(frozen=True)
class Settings:
    sizes: tuple[int, ...] = (400, 2000)
    """numbers of training images, two at least, ascending."""
    drawn: int = 100
    """different images among them."""
    out_dir: str = "large"
    """folder to work in; the images in it are used again."""
    store: str = "compact"
    """store of the packed images."""
    debug: bool = False
    """show the traceback of an error."""


class Step(NamedTuple):
    """Time and peak memory of a command."""

    seconds: float
    megabytes: float


def main(settings: Settings) -> None:
    """Run the chain for each size, and print and store the table."""
    work, found = Path(settings.out_dir), {}
    once = work / "drawn"
    if not (once / "truth.csv").is_file():
        measured(
            "utils/make_demo.py", "--kind", "ships", "--out_dir", once, "--n_train", settings.drawn, "--n_test", 20
        )
    for size in settings.sizes:
        data = work / f"images_{size}"
        if not (data / "truth.csv").is_file():
            multiply(once, data, {"train": size, "test": size // 4})
        found[size] = chain(data, work / f"run_{size}", settings.store)
        shutil.rmtree(work / f"run_{size}")
    print(table(found))
    write_json(work / "large.json", {str(size): one for size, one in found.items()})


def chain(data: Path, runs: Path, store: str) -> dict[str, tuple[float, float]]:
    """Return time and memory of each step, and the bytes on the disk in gigabytes, by name."""
    found: dict[str, tuple[float, float]] = {}
    for step, line in STEPS.items():
        submission = next(runs.glob("ships_*.csv"), "")  # its name has the time
        places = {"data": data, "runs": runs, "store": store, "submission": submission}
        found[step] = measured(*(word.format(**places) for word in line.split()))
        print(f"{data.name}: {step}: {found[step].seconds:.1f} s, {found[step].megabytes:.0f} MB", flush=True)
    images = gigabytes(path for path in data.rglob("*.jpg"))
    found["GB: images, packed"] = images, gigabytes((runs / "packed").iterdir())
    found["GB: masks of a fold, of the tests"] = gigabytes([runs / "val.npy"]), gigabytes([runs / "test.npy"])
    return found


def measured(script: str, *words: object) -> Step:
    """Run `python <script> words...`, and return its time and the peak of the memory that all its processes took."""
    command = [sys.executable, str(ROOT / script), *map(str, words)]
    started, highest = time.monotonic(), 0.0
    with open(os.devnull, "w") as nothing:
        process = subprocess.Popen(command, stdout=nothing, stderr=subprocess.PIPE, text=True)
        while process.poll() is None:
            highest = max(highest, sum(map(anonymous, family(process.pid))))
            time.sleep(0.02)
    if process.returncode:
        raise UserError(f"{' '.join(command[1:])}: failed: {process.stderr.read().strip()[-300:]}")
    return Step(time.monotonic() - started, highest)


def family(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return
    for child in children:
        yield from family(int(child))


def anonymous(pid: int) -> float:
    """Return the memory in megabytes that a process has allocated."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def gigabytes(paths: Iterator[Path] | list[Path]) -> float:
    """Return the bytes of files in units of 10^9."""
    return sum(path.stat().st_size for path in paths) / 1e9


def multiply(once: Path, data: Path, counts: dict[str, int]) -> None:
    """Write a folder with copies of the images of `once` under new names, until there are `counts` of each part."""
    for part, name in (("train", "train_ship_segmentations_v2.csv"), ("test", "truth.csv")):
        with open(once / name, newline="") as file:
            header, *rows = csv.reader(file)
        cells: dict[str, list[str]] = {}
        for image, cell in rows:
            cells.setdefault(image, []).append(cell)
        (data / f"{part}_v2").mkdir(parents=True)
        copies = []
        for number in range(counts[part]):
            image = list(cells)[number % len(cells)]
            copies.append((f"{number:06d}_{image}", cells[image]))
            shutil.copyfile(once / f"{part}_v2" / image, data / f"{part}_v2" / copies[-1][0])
        with open(data / name, "w", newline="") as file:
            csv.writer(file).writerows([header, *([copy, cell] for copy, cells in copies for cell in cells)])
        if part == "test":
            with open(data / "sample_submission_v2.csv", "w", newline="") as file:
                csv.writer(file).writerows([header, *([copy, "1 2"] for copy, _ in copies)])


def table(found: dict[int, dict[str, tuple[float, float]]]) -> str:
    """Return the measured values of each size, and what they would be for the contest."""
    *_, few, many = sorted(found)
    lines = [f"{'':<36}" + "".join(f"{size:>22,}" for size in found) + f"{CONTEST:>16,}"]
    for name in found[many]:
        small, large = found[few][name], found[many][name]
        per_image = [max(0.0, b - a) / (many - few) for a, b in zip(small, large, strict=True)]
        whole = [value + rate * (CONTEST - many) for value, rate in zip(large, per_image, strict=True)]
        if name.startswith("GB"):
            cells = [f"{one[name][0]:.3f}, {one[name][1]:.3f}" for one in found.values()]
            last = f"{whole[0]:.1f}, {whole[1]:.1f}"
        else:
            cells = [f"{one[name][0]:.1f} s, {one[name][1]:,.0f} MB" for one in found.values()]
            last = f"{duration(whole[0])}"
        lines.append(f"{name:<36}" + "".join(f"{cell:>22}" for cell in cells) + f"{last:>16}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, Settings)
