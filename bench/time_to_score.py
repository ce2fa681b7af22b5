"""Measure the score after a given time: this project beside what people would train instead, on one fold, interleaved.

.venv-bench/bin/python bench/time_to_score.py --data_dir salt --fold 0                     # all, hours
.venv/bin/python bench/time_to_score.py --data_dir salt --only recipe original smp_resnet18 --minutes 1 3 --seeds 1
.venv/bin/python bench/time_to_score.py --draw --scores bench/time_to_score.csv --out docs      # docs/time_to_score.png

`make bench-env` creates .venv-bench, for Lightning and fastai. All contenders start from random weights, see the same
images, and are scored at threshold .5 with mirrored images. With this project the time counts from the start of the
script and includes validation and snapshots; with the others it counts from their first step. Every finished training
is a row in the file of scores and is not repeated, so the same command continues where it was interrupted, and
`--scores bench/time_to_score.csv` adds to the published ones. Nothing else may run on the machine. Rivals called
bfloat16 use it, and the channels-last layout, on machines where that is faster.
"""

import math
import multiprocessing
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench.throughput import machine_of
from bench.warm import start
from utils.core.cli import run
from utils.core.errors import UsageError, UserError
from utils.core.files import atomic_file
from utils.core.names import pick
from utils.core.tables import read_table, write_table
from utils.data.folds import fold_rows
from utils.data.packed_data import open_packed
from utils.masks.mask_file import open_masks
from utils.scoring.mask_metrics import METRICS, counts, ratio

OWN = {
    "recipe": (),
    "original": ("--recipe", "original", "--encoder_weights", "none", "--epoch_size", "320", "--minutes_hard"),
}
"""Flags of this project's contenders besides the time."""
FRAMEWORKS = {"lightning": "pytorch_lightning", "fastai": "fastai"}
"""Rivals in bench/rival_frameworks.py, and the packages that they need."""
NAMES = {
    "recipe": "Strata",
    "original": "Strata, --recipe original",
    "smp_resnet18": "smp U-Net resnet18",
    "smp_resnet18_fast": "smp U-Net resnet18, bfloat16",
    "smp_resnet18_crops": "smp U-Net resnet18, bfloat16, crops",
    "smp_resnet34": "smp U-Net resnet34",
    "smp_resnet34_fast": "smp U-Net resnet34, bfloat16",
    "lightning": "Lightning, smp's example",
    "fastai": "fastai, fit_one_cycle",
    "nnunet": "nnU-Net's plain network",
}
KEY = ("set", "fold", "contender", "minutes", "seed")
"""Columns of the file of scores that tell a training from all others; the set is the name of the packed folder."""
SHOWN = ("pooled_iou", "iou", "iout")
COLUMNS = (*KEY, *SHOWN, "processor")
Results = dict[tuple[str, ...], dict[str, str]]
"""Cells of KEY -> all cells of a row; a metric that was not recorded is empty."""
Curves = Mapping[str, Mapping[float, Sequence[float]]]
"""Contender -> minutes -> a score for each seed."""


@dataclass(frozen=True)
class Settings:
    data_dir: str = "salt"
    """packed folder with folds."""
    fold: int = 0
    """fold to score."""
    minutes: tuple[float, ...] = (1, 3, 6, 12)
    """times; each is a training of its own, because schedules end with the time."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """seeds of the trainings."""
    only: tuple[str, ...] = ()
    """train only these: recipe, original, smp_resnet18, smp_resnet18_fast, smp_resnet18_crops, smp_resnet34,
    smp_resnet34_fast, lightning, fastai, nnunet."""
    metric: str = "pooled_iou"
    """score in the chart: pooled_iou, iou or iout."""
    draw: bool = False
    """train nothing; print and draw the file of scores."""
    scores: str = ""
    """csv file of scores; default: OUT/scores.csv."""
    out: str = "experiments/time_to_score"
    """folder for runs, scores.csv and the chart, time_to_score.png, with a panel for each set in the file of scores."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Train every contender for every time and seed, in turn; print the tables and draw the chart after each seed."""
    for name in settings.only:
        pick(NAMES, name, "--only")
    if settings.metric not in SHOWN:
        raise UsageError(f"--metric {settings.metric}: expected one of {', '.join(SHOWN)}")
    out = Path(settings.out)
    file = Path(settings.scores or out / "scores.csv")
    if settings.draw:
        show(curves(read_results(file), settings.metric), settings.metric, out)
        return
    names = [name for name in NAMES if not settings.only or name in settings.only]
    for name in names:
        if name in FRAMEWORKS and find_spec(FRAMEWORKS[name]) is None:
            raise UserError(
                f"{FRAMEWORKS[name]} is not installed; run: make bench-env, then .venv-bench/bin/python "
                "bench/time_to_score.py (or leave it out with --only)"
            )
    results = read_results(file) if file.is_file() else {}
    for seed in settings.seeds:
        for minutes in settings.minutes:
            for name in names:
                key = (Path(settings.data_dir).absolute().name, str(settings.fold), name, f"{minutes:g}", str(seed))
                if key not in results:
                    found = score(settings, name, minutes, seed, out / "_".join(key))
                    scores = {metric: f"{value:.5f}" for metric, value in found.items()}
                    about = {"processor": machine_of("")["processor"]}
                    results[key] = dict(zip(KEY, key, strict=True)) | scores | about
                    write_results(file, results)
                print("  ".join([*key, *(f"{metric} {results[key][metric]}" for metric in SHOWN)]), flush=True)
        show(curves(results, settings.metric), settings.metric, out)


def read_results(file: Path) -> Results:
    """Return the rows of a file of scores.

    Raises:
        UserError: the file is missing or is not a csv file with these columns.
    """
    columns = read_table(file, *COLUMNS)
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return {tuple(row[name] for name in KEY): row for row in rows}


def write_results(file: Path, results: Results) -> None:
    """Write a file of scores, by set, fold, contender, minutes and seed."""
    rows = [results[key] for key in sorted(results, key=_order)]
    write_table(file, {name: [row[name] for row in rows] for name in COLUMNS})


def _order(key: tuple[str, ...]) -> tuple[Any, ...]:
    name, fold, contender, minutes, seed = key
    return name, int(fold), list(NAMES).index(contender), float(minutes), int(seed)


def curves(results: Results, metric: str) -> dict[str, Curves]:
    """Return the scores of every set and fold, in the order of the table of contenders."""
    found: dict[str, dict[str, dict[float, list[float]]]] = {}
    for key in sorted(results, key=_order):
        name, fold, contender, minutes, _ = key
        if results[key][metric]:
            of_set = found.setdefault(f"{name}, fold {fold}", {})
            of_set.setdefault(contender, {}).setdefault(float(minutes), []).append(float(results[key][metric]))
    return found


def show(found: Mapping[str, Curves], metric: str, out: Path) -> None:
    """Print a table for every set, and draw the chart."""
    for title, by_name in found.items():
        print(f"\n{as_text(by_name, f'{title}, {metric}')}", flush=True)
    draw(out / "time_to_score.png", found, metric)


def score(settings: Settings, name: str, minutes: float, seed: int, folder: Path) -> dict[str, float]:
    """Train one contender in a folder, and return its scores on the fold."""
    folder.mkdir(parents=True, exist_ok=True)
    train = _train_own if name in OWN else _train_rival
    train(settings, name, minutes, seed, folder)
    packed = open_packed(settings.data_dir)
    _, rows = fold_rows(settings.data_dir, packed.ids, settings.fold)
    probabilities = np.load(folder / "val.npy")
    if name in OWN:
        ids = open_masks(folder / "val.npy").ids
        rows = np.array([packed.ids.index(one) for one in ids])
        probabilities = probabilities if probabilities.ndim == 3 else probabilities[:, 0]
    counted = counts(probabilities > 0.5, packed.masks[rows])
    return {metric: float(ratio(*METRICS[metric].sums(*counted).sum(axis=1))) for metric in SHOWN}


def _train_own(settings: Settings, name: str, minutes: float, seed: int, folder: Path) -> None:
    words = ["--data_dir", settings.data_dir, "--fold", str(settings.fold), "--seed", str(seed)]
    words += ["--minutes", str(minutes), *OWN[name], "--keep", "1", "--experiment_dir", str(folder / "run")]
    resumed = ["--resume"] if (folder / "run" / "config.json").is_file() else []
    _script("train.py", [*words, *resumed], folder)
    words = ["--data_dir", settings.data_dir, "--snapshot", str(folder / "run"), "--part", "val"]
    _script("predict_tta.py", [*words, "--tta", "null_hflip", "--masks_fn", str(folder / "val.npy")], folder)


def _script(script: str, words: Sequence[str], folder: Path) -> None:
    said = folder / "output.txt"
    process = start(script, list(words), said, Path.cwd())
    process.join()
    if process.exitcode:
        raise UserError(f"{script} failed: {said.read_text().strip()[-300:]}")


def _train_rival(settings: Settings, name: str, minutes: float, seed: int, folder: Path) -> None:
    """Train a rival in a process of its own, so that its process-wide settings do not affect the others."""
    words = (name, settings.data_dir, settings.fold, 60 * minutes, seed, str(folder / "val.npy"))
    process = multiprocessing.get_context("spawn").Process(target=_rival, args=words)
    process.start()
    process.join()
    if process.exitcode:
        raise UserError(f"{name} failed; its error is above")


def _rival(name: str, data_dir: str, fold: int, seconds: float, seed: int, out: str) -> None:
    if name in FRAMEWORKS:
        from bench.rival_frameworks import RIVALS
    else:
        from bench.rivals import RIVALS
    from bench.rivals import Work

    np.save(out, RIVALS[name](Work(Path(data_dir), fold, seconds, seed)))


def as_text(found: Curves, title: str) -> str:
    """Return the table of mean scores, their range over the seeds, and the number of seeds."""
    times = sorted({minutes for by_time in found.values() for minutes in by_time})
    rows = [[title, *(f"{minutes:g} min" for minutes in times)]]
    for name, by_time in found.items():
        rows.append([NAMES[name], *(_spread(by_time.get(minutes, ())) for minutes in times)])
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f} (1 seed)" if values else ""
    return f"{statistics.mean(values):.3f} ({min(values):.3f}..{max(values):.3f}, {len(values)} seeds)"


def draw(path: Path, found: Mapping[str, Curves], metric: str) -> None:
    """Draw the mean score of every contender against the time, with the range over the seeds; a panel for each set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # pyplot would keep every figure and look for a display

    wide = min(3, len(found))
    high = math.ceil(len(found) / wide)
    figure = Figure(figsize=(1.4 + 3.7 * wide, 1.3 + 3.1 * high), layout="constrained")
    FigureCanvasAgg(figure)
    lines: dict[str, Any] = {}
    panels = figure.subplots(high, wide, squeeze=False).ravel()
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    for axes, (title, by_name) in zip(panels, found.items(), strict=False):
        for name, by_time in by_name.items():
            own = name == "recipe"
            colour = "#e8a33d" if own else f"C{(list(NAMES).index(name) + 1) % 10}"  # never C1, which is orange too
            middle = [statistics.mean(values) for values in by_time.values()]
            lowest, highest = (list(map(end, by_time.values())) for end in (min, max))
            style = {"color": colour, "linewidth": 2.5 if own else 1.2, "markersize": 4, "zorder": 3 if own else 2}
            (lines[name],) = axes.plot(list(by_time), middle, "o-", **style)
            axes.fill_between(list(by_time), lowest, highest, color=colour, alpha=0.15, linewidth=0)
        ticks = sorted({minutes for by_time in by_name.values() for minutes in by_time})
        axes.set(title=title, xlabel="minutes of training", ylabel=metric, xscale="log")
        axes.set_xticks(ticks, [f"{minutes:g}" for minutes in ticks])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    drawn = [name for name in NAMES if name in lines]
    figure.legend(
        [lines[name] for name in drawn],
        [NAMES[name] for name in drawn],
        loc="outside lower center",
        ncols=min(len(drawn), 1 + wide),
        fontsize=8,
        frameon=False,
    )
    with atomic_file(path) as part:
        figure.savefig(part, format="png", dpi=110)


if __name__ == "__main__":
    run(main, Settings)
