"""Test levers of the recipe, each alone, with several seeds at equal time, interleaved, on one fold of a packed folder.

python bench/levers.py --data_dir salt --fold 1 --length="--minutes 3"           # the table of LEVERS
python bench/levers.py --data_dir salt --fold 1 --levers recipe "early=--loss BCE symmetric_lovasz_bce:.3"
python bench/levers.py --data_dir salt --fold 1 --length="--stages 52:5 80:3 104:2 --epoch_size 1920 --warmup 30"

A lever is a name and the flags of train.py that it adds to the recipe's. With a time as length, nothing else may run
on the machine; with a fixed plan, which suits levers that cost no time, runs may share it. The score is that of the
best snapshot, at threshold .5 and with mirrored images. The same command continues where it was interrupted. Choose on
one fold and report another one.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.warm import start
from utils.core.cli import run
from utils.core.errors import UsageError, UserError
from utils.core.files import write_json
from utils.core.names import pick
from utils.masks.ground_truth import true_masks
from utils.masks.mask_file import open_masks
from utils.runs.run_folder import RunFolder
from utils.scoring.mask_metrics import METRICS, Metric, counts, ratio

LEVERS = {
    "recipe": "",
    "rex": "--scheduler rex",
    "cosine": "--scheduler cosine",
    "lovasz from .3": "--loss BCE symmetric_lovasz_bce:.3",
    "lovasz from .7": "--loss BCE symmetric_lovasz_bce:.7",
    "BCE alone": "--loss BCE",
    "adamw": "--optimizer adamw_2e-3",
    "muon .01": "--optimizer muon_0.01",
    "muon .04": "--optimizer muon_0.04",
    "batch 16": "--batch_size 16",
    "batch 64": "--batch_size 64",
    "bias zero": "--head_bias zero",
    "ema": "--average ema_.995",
    "small": "--arch strata_s",
    "large": "--arch strata_l",
    "full size alone": "--stages 104",
    "from 80": "--stages 80:.5 104:.5",
    "longer at full": "--stages 52:.2 80:.3 104:.5",
    "shorter at full": "--stages 52:.45 80:.35 104:.2",
    "albumentations": "--train_augs train_128_v1",
}
"""Levers by name: flags of train.py that are added to the recipe's."""


@dataclass(frozen=True)
class Settings:
    data_dir: str = "salt"
    """packed folder with folds."""
    fold: int = 1
    """fold to score."""
    length: str = "--minutes 3"
    """flags of train.py that set the length of each run: a time, or a fixed plan."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """seeds of the runs."""
    levers: tuple[str, ...] = ()
    """levers to test: names of the table, or <name>=<flags>; default: the whole table."""
    metric: str = "iout"
    """score at threshold .5: iout, iou, dice, pooled_iou or pooled_dice; iout hardly sees thin and rare objects."""
    out: str = "experiments/levers"
    """folder for the runs and levers.json."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Train all levers with the first seed, then with the next one, and print the table after each seed."""
    levers = dict(_lever(text) for text in settings.levers) or LEVERS
    metric = pick(METRICS, settings.metric, "--metric")
    scores: dict[str, list[float]] = {name: [] for name in levers}
    for seed in settings.seeds:
        for name, flags in levers.items():
            scores[name].append(_score(settings, metric, name, flags.split(), seed))
            print(f"seed {seed}  {name:<16} {scores[name][-1]:.4f}", flush=True)
        print(as_text(scores), flush=True)
        write_json(Path(settings.out) / "levers.json", {"length": settings.length, "scores": scores})


def _lever(text: str) -> tuple[str, str]:
    name, given, flags = text.partition("=")
    if not given and name not in LEVERS:
        raise UsageError(f"--levers {text}: expected <name>=<flags>, or one of {', '.join(LEVERS)}")
    return name, flags if given else LEVERS[name]


def _score(settings: Settings, metric: Metric, name: str, flags: list[str], seed: int) -> float:
    """Train one run, unless it is finished, and return the score of its mirrored prediction at threshold .5."""
    folder = RunFolder(Path(settings.out) / f"{name.replace(' ', '_')}_{seed}")
    data = ["--data_dir", settings.data_dir]
    masks = folder.path / "val_hflip.npy"
    if not folder.summary.is_file():
        words = [*data, "--fold", str(settings.fold), *settings.length.split(), "--seed", str(seed)]
        words += ["--resume"] if folder.config.is_file() else []
        _run("train.py", [*words, *flags, "--keep", "1", "--experiment_dir", str(folder.path)], folder)
    if not masks.is_file():
        words = ["--snapshot", str(folder.path), "--part", "val", "--tta", "null_hflip"]
        _run("predict_tta.py", [*data, *words, "--masks_fn", str(masks)], folder)
    found = open_masks(masks)
    counted = counts(np.asarray(found.planes) > 0.5, np.stack(list(true_masks(found))))
    return float(ratio(*metric.sums(*counted).sum(axis=1)))


def _run(script: str, words: list[str], folder: RunFolder) -> None:
    said = folder.path.parent / f"{folder.path.name}.txt"
    said.parent.mkdir(parents=True, exist_ok=True)
    process = start(script, words, said, Path.cwd())
    process.join()
    if process.exitcode:
        raise UserError(f"{script} failed: {said.read_text().strip()[-300:]}")


def as_text(scores: dict[str, list[float]]) -> str:
    """Return a row for each lever: mean and standard deviation, and the mean difference from the first lever."""
    base = next(iter(scores.values()))
    lines = []
    for name, values in scores.items():
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        paired = [value - first for value, first in zip(values, base, strict=False)]
        lines.append(f"{name:<16} {statistics.mean(values):.4f}{spread}  {statistics.mean(paired):+.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, Settings)
