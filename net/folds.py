"""One run, or every fold of one experiment: what train.py and its sisters call."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from net.distributed import Processes
from net.machine import machine
from net.snapshot import held_out_rows, load_snapshot
from net.tasks import Task
from net.training import Run
from utils.core.errors import UserError
from utils.core.settings import to_flat
from utils.core.training_settings import TrainSettings
from utils.data.folds import fold_numbers
from utils.data.packed import PackedImages, open_packed
from utils.masks.probability_file import open_probabilities, write_probabilities
from utils.runs.notifications import check_notify, telling, urls_of
from utils.runs.run_folder import RunFolder, find_snapshots, snapshots_in
from utils.runs.trackers import check_tracker
from utils.scoring.class_metrics import class_scores


def train_run(
    settings: TrainSettings, make_task: Callable[[PackedImages], Task], processes: Processes
) -> dict[str, Any]:
    """Train one run and tell those who asked how it ended; this process is left as it was found.

    Args, errors: as for `Run`; the summary is that of `Run.train`.
    """
    urls = urls_of(settings.tell.notify) if processes.is_main else []
    check_notify(urls)
    check_tracker(settings.tell.tracker)
    here = machine(settings.machine, processes.local_rank)
    with telling(urls, settings.run.path) as told, here.tuned(), here.own_randomness():
        summary = Run(settings, make_task, processes).train()
        told(summary)
    return summary


def train_all_folds(
    settings: TrainSettings, make_task: Callable[[PackedImages], Task], processes: Processes
) -> dict[str, Any]:
    """Train each fold to <experiment_dir>_fold<k> and write <experiment_dir>_oof.npy.

    A fold that is finished is skipped, one that was interrupted goes on. The summary is that of the last fold trained,
    with the scores of all images out of fold.

    Raises:
        UsageError: a finished fold was trained with other flags.
        UserError: a finished fold was trained on other images, folds or labels; and whatever `train_run` raises.
    """
    base, summary = settings.run.experiment_dir.rstrip("/"), {}
    folds = fold_numbers(settings.data.data_dir)
    for fold in folds:
        folder = RunFolder(Path(f"{base}_fold{fold}"))
        here = replace(settings.run, experiment_dir=str(folder.path), resume=folder.config.is_file())
        of_fold = replace(settings, data=replace(settings.data, fold=fold), run=here)
        if folder.summary.is_file():
            _check_finished(folder, of_fold, make_task)
            if processes.is_main and not settings.tell.quiet:
                print(f"{folder.path}: finished")
            continue
        summary = train_run(of_fold, make_task, processes)
    return {**summary, **processes.on_main(lambda: _out_of_fold(base, folds, settings, make_task))}


def _check_finished(folder: RunFolder, settings: TrainSettings, make_task: Callable[[PackedImages], Task]) -> None:
    """See that a finished fold is what would be trained now; raises as `train_all_folds` does."""
    folder.check_flags(to_flat(settings), {"n_epochs"})
    data_dir, packed = settings.data.data_dir, open_packed(settings.data.data_dir)
    about = load_snapshot(find_snapshots([str(folder.path)], "--experiment_dir")[0]).about
    held_out_rows(data_dir, packed, [about], str(folder.path))
    if tuple(about["outputs"]) != make_task(packed).kind.outputs:
        labels = ", ".join(about["outputs"][:5])
        raise UserError(f"{folder.path}: has learned other labels ({labels}) than {data_dir} has; name another folder")


def _out_of_fold(
    base: str, folds: list[int], settings: TrainSettings, make_task: Callable[[PackedImages], Task]
) -> dict[str, float]:
    """Join the folds' probabilities in the order of the packed images; their scores."""
    packed = open_packed(settings.data.data_dir)
    task = make_task(packed)
    best = [snapshots_in(f"{base}_fold{fold}")[0] for fold in folds]
    files = [open_probabilities(snapshot.val_masks) for snapshot in best]
    of_id = {name: row for file in files for name, row in zip(file.ids, file.array, strict=True)}
    answers = np.stack([of_id[name] for name in packed.ids])
    about = {"data_dir": settings.data.data_dir, "part": "train", "snapshots": [str(file.path) for file in best]}
    about |= {"exclusive": task.kind.name == "label", **task.about}
    write_probabilities(f"{base}_oof.npy", packed.ids, answers, files[0].labels, about)
    truths = np.stack([task.truth(packed, row) for row in range(len(packed.ids))])
    found = class_scores(answers.astype(np.float64), truths, task.kind.name == "label", settings.labels.at_precision)
    scores = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
    print(f"{base}_oof.npy: out of fold, {len(packed.ids)} images: {scores}")
    return found
