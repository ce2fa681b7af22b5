"""Train one fold or every fold of an experiment, for train.py, train_border.py and train_classifier.py."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from net.device import machine
from net.distributed import Processes
from net.held_out_rows import held_out_rows
from net.network_kinds import ImageKind
from net.prepare_run import prepare
from net.snapshot import load_snapshot
from net.tasks import Task
from utils.core.errors import UsageError, UserError
from utils.core.interrupts import StopRequest
from utils.core.progress import progress_bar
from utils.core.settings import to_flat
from utils.core.training_settings import TrainSettings, with_epochs
from utils.data.folds import fold_numbers
from utils.data.packed_data import PackedImages, open_packed
from utils.masks.mask_file import PredictionInfo, open_masks
from utils.masks.probability_file import open_probabilities
from utils.runs.notifications import addresses, check_notify, notifying
from utils.runs.run_folder import RunFolder, find_snapshots, snapshots_in
from utils.runs.trackers import check_tracker

MakeTask = Callable[[PackedImages], Task]


def train_experiment(settings: TrainSettings, make_task: MakeTask, processes: Processes) -> dict[str, Any]:
    """Train one run or every fold, as --folds asks, and return the summary of the run (of the last fold trained).

    Raises:
        UsageError, UserError: the errors of `train_run` and `train_all_folds`.
    """
    settings = with_epochs(settings)
    if settings.data.folds == "all":
        return train_all_folds(settings, make_task, processes)
    return train_run(settings, make_task, processes)


def train_run(
    settings: TrainSettings, make_task: MakeTask, processes: Processes, request: StopRequest | None = None
) -> dict[str, Any]:
    """Train one run, notify the addresses in STRATA_NOTIFY, and return the run's summary.

    The settings and random states of this process are restored afterwards. `request` is passed to `Run.train`.

    Raises:
        UsageError, UserError: the errors of `prepare` and `Run.train`.
    """
    urls = addresses() if processes.is_main else []
    check_notify(urls)
    check_tracker(settings.reporting.tracker)
    here = machine(settings.machine, processes.local_rank)
    with notifying(urls, settings.run.path) as notify, here.tuned(), here.preserved_random_state():
        summary = prepare(settings, make_task, processes).train(request)
        notify(summary)
    return summary


def train_all_folds(settings: TrainSettings, make_task: MakeTask, processes: Processes) -> dict[str, Any]:
    """Train each fold to <experiment_dir>_fold<k>, and join the folds' predictions in <experiment_dir>_oof.npy.

    Finished folds are skipped, and an interrupted fold is resumed.

    Returns:
        the summary of the last fold trained, with the scores of the out-of-fold predictions of all images.

    Raises:
        UsageError: --resume is set, or a finished fold was trained with other flags.
        UserError: a finished fold was trained on other images, folds or classes; also the errors of `train_run`.
    """
    if settings.run.resume:
        raise UsageError(
            "--resume with --folds all: leave --resume out, because interrupted folds are resumed anyway; to resume a "
            "single fold, add --folds one"
        )
    base, summary = re.sub(r"_fold\d+$", "", settings.run.experiment_dir.rstrip("/")), {}
    folds, stop = fold_numbers(settings.data.data_dir), StopRequest()
    for fold in folds:
        folder = RunFolder(Path(f"{base}_fold{fold}"))
        here = replace(settings.run, experiment_dir=str(folder.path), resume=folder.config.is_file())
        of_fold = replace(settings, data=replace(settings.data, fold=fold, folds="one"), run=here)
        if folder.summary.is_file():
            _check_finished(folder, of_fold, make_task)
            if processes.is_main and not settings.reporting.quiet:
                print(f"{folder.path}: finished")
            continue
        processes.raise_if_stopped(
            stop, f"{folder.path} was not started; run the same command again to continue with it"
        )
        summary = train_run(of_fold, make_task, processes, stop)
    return {**summary, **processes.on_main(lambda: _join(base, folds, settings, make_task))}


def _check_finished(folder: RunFolder, settings: TrainSettings, make_task: MakeTask) -> None:
    """Check that a finished fold was trained with these settings and data; raises the errors of `train_all_folds`."""
    folder.check_flags(to_flat(settings), {"n_epochs"})
    data_dir, packed = settings.data.data_dir, open_packed(settings.data.data_dir)
    info = load_snapshot(find_snapshots([str(folder.path)], "--experiment_dir")[0]).info
    held_out_rows(data_dir, packed, [info], str(folder.path))
    if info.outputs != make_task(packed).kind.outputs:
        labels = ", ".join(info.outputs[:5])
        raise UserError(
            f"{folder.path}: was trained on other classes ({labels}) than those in {data_dir}; use another "
            "--experiment_dir"
        )


def _join(base: str, folds: list[int], settings: TrainSettings, make_task: MakeTask) -> dict[str, float]:
    """Join the folds' validation predictions in the order of the packed images, and return the scores of all images."""
    packed = open_packed(settings.data.data_dir)
    task = make_task(packed)
    best = [snapshots_in(f"{base}_fold{fold}")[0] for fold in folds]
    open_file = open_probabilities if isinstance(task.kind, ImageKind) else open_masks
    files = [open_file(snapshot.val_masks) for snapshot in best]
    place_of = {name: (file, row) for file in files for row, name in enumerate(file.ids)}
    info = PredictionInfo(
        data_dir=settings.data.data_dir,
        part="train",
        images_digest=packed.images_digest,
        tta="null",
        joined_from=tuple(str(file.path) for file in files),
        **task.described,
    )
    out, scores = Path(f"{base}_oof.npy"), task.scores()
    with task.kind.writer(out, packed.ids, packed.shape, info) as writer:
        for row, name in enumerate(progress_bar(packed.ids, "join folds", "image", hidden=settings.reporting.quiet)):
            file, place = place_of[name]
            prediction = np.array(file.planes[place : place + 1])
            writer.append(prediction)
            scores.add([], prediction, packed, np.array([row]))
    found = {name: value for name, value in scores.means().items() if name != "val_loss"}
    print(f"{out}: out-of-fold scores of {len(packed.ids)} images: {_shown(found)}")
    return found


def _shown(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
