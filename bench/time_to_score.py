"""Measure the score after a given time: this project beside what people would train instead, on one fold, interleaved.

.venv-bench/bin/python bench/time_to_score.py --data_dir salt --fold 0                     # all, hours
.venv/bin/python bench/time_to_score.py --data_dir salt --only recipe original smp_resnet18 --minutes 1 3 --seeds 1
.venv/bin/python bench/time_to_score.py --draw experiments/salt experiments/roads --out docs    # no training, one chart

`make bench-env` creates .venv-bench, for Lightning and fastai. All contenders start from random weights, see the same
images, and are scored at threshold .5 with mirrored images. With this project the time counts from the start of the
script and includes validation and snapshots; with the others it counts from their first step. The same command
continues where it was interrupted. Nothing else may run on the machine. Rivals called bfloat16 use it, and the
channels-last layout, on machines where that is faster.
"""

import multiprocessing
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench.throughput import machine_of
from bench.warm import start
from utils.core.cli import run
from utils.core.errors import UsageError, UserError
from utils.core.files import atomic_file, read_json, write_json
from utils.core.names import pick
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
SHOWN = ("pooled_iou", "iou", "iout")
Scores = dict[str, dict[str, list[dict[str, float]]]]
"""Contender -> minutes -> scores by metric, one dictionary for each seed."""


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
    draw: tuple[str, ...] = ()
    """train nothing: draw the results in these folders beside each other, in --out."""
    out: str = "experiments/time_to_score"
    """folder for runs, scores.json and scores.png."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Train every contender for every time and seed, in turn; print the table, and write scores.json and scores.png."""
    for name in settings.only:
        pick(NAMES, name, "--only")
    if settings.metric not in SHOWN:
        raise UsageError(f"--metric {settings.metric}: expected one of {', '.join(SHOWN)}")
    out = Path(settings.out)
    if settings.draw:
        stored = {Path(folder).name: read_json(Path(folder) / "scores.json")["scores"] for folder in settings.draw}
        draw(out / "time_to_score.png", stored, settings.metric)
        return
    names = [name for name in NAMES if not settings.only or name in settings.only]
    for name in names:
        if name in FRAMEWORKS and find_spec(FRAMEWORKS[name]) is None:
            raise UserError(
                f"{FRAMEWORKS[name]} is not installed; run: make bench-env, then .venv-bench/bin/python "
                "bench/time_to_score.py (or leave it out with --only)"
            )
    scores: Scores = {name: {f"{minutes:g}": [] for minutes in settings.minutes} for name in names}
    for seed in settings.seeds:
        for minutes in settings.minutes:
            for name in names:
                found = score(settings, name, minutes, seed)
                scores[name][f"{minutes:g}"].append(found)
                shown = ", ".join(f"{metric} {value:.4f}" for metric, value in found.items())
                print(f"seed {seed}  {minutes:g} min  {name:<18} {shown}", flush=True)
        about = {"settings": asdict(settings), **machine_of("cpu, or the GPU if there is one")}
        write_json(out / "scores.json", {"about": about, "scores": scores})
        draw(out / "scores.png", {Path(settings.data_dir).resolve().name: scores}, settings.metric)
        print(as_text(scores, settings.metric), flush=True)


def score(settings: Settings, name: str, minutes: float, seed: int) -> dict[str, float]:
    """Train one contender, unless it is finished, and return its scores on the fold."""
    folder = Path(settings.out) / f"{name}_{minutes:g}_{seed}"
    done = folder / "scores.json"
    if not done.is_file():
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
        write_json(done, {metric: float(ratio(*METRICS[metric].sums(*counted).sum(axis=1))) for metric in SHOWN})
    return read_json(done)


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


def as_text(scores: Scores, metric: str) -> str:
    """Return the table of mean scores and their range over the seeds."""
    times = list(next(iter(scores.values())))
    rows = [[metric, *(f"{minutes} min" for minutes in times)]]
    for name, by_time in scores.items():
        rows.append([NAMES[name], *(_spread([one[metric] for one in by_time[minutes]]) for minutes in times)])
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f}..{max(values):.3f})" if values else ""


def draw(path: Path, sets: Mapping[str, Mapping[str, Mapping[str, Any]]], metric: str) -> None:
    """Draw the mean score of every contender against the time, with the range over the seeds; a panel for each set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # pyplot would keep every figure and look for a display

    figure = Figure(figsize=(1 + 3.7 * len(sets), 4.6 if len(sets) > 1 else 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    lines: dict[str, Any] = {}
    for axes, (title, scores) in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets.items(), strict=True):
        for name, by_time in scores.items():
            times = [minutes for minutes, found in by_time.items() if found]
            values = [[one[metric] for one in by_time[minutes]] for minutes in times]
            at, middle = [float(minutes) for minutes in times], [statistics.mean(one) for one in values]
            own = name == "recipe"
            colour = "#e8a33d" if own else f"C{list(NAMES).index(name) % 10}"
            (lines[name],) = axes.plot(at, middle, "o-", color=colour, linewidth=2.5 if own else 1.2, markersize=4)
            axes.fill_between(at, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.15, linewidth=0)
        ticks = [float(minutes) for minutes in next(iter(scores.values()))]
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
        ncols=min(len(drawn), 1 + len(sets)),
        fontsize=8,
        frameon=False,
    )
    with atomic_file(path) as part:
        figure.savefig(part, format="png", dpi=110)


if __name__ == "__main__":
    run(main, Settings)
