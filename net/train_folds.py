"""Train one fold or every fold of an experiment, for train.py, train_border.py and train_classifier.py."""

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from net.device import machine
from net.distributed import Processes
from net.facts import asked_sizes, facts_of
from net.held_out_rows import held_out_rows
from net.network_kinds import ImageKind, PixelKind
from net.prepare_run import prepare, rows_of
from net.recipe import CHOSEN, check_recipe, filled, flags_line, with_flags
from net.snapshot import load_snapshot
from net.tasks import Task
from net.time_plan import plan_for_minutes
from net.training import Deadline
from utils.core.errors import UsageError, UserError
from utils.core.interrupts import StopRequest
from utils.core.progress import progress_bar
from utils.core.settings import read_flags, to_flat
from utils.core.training_settings import TrainSettings, parse_stage
from utils.data.folds import fold_numbers
from utils.data.packed_data import PackedImages, open_packed
from utils.masks.mask_file import PredictionInfo, open_masks
from utils.masks.probability_file import open_probabilities
from utils.runs.notifications import addresses, check_notify, notifying
from utils.runs.run_folder import RunFolder, find_snapshots, snapshots_in
from utils.runs.trackers import check_tracker

MakeTask = Callable[[PackedImages], Task]


def train_experiment(
    settings: TrainSettings, make_task: MakeTask, processes: Processes, started: float
) -> dict[str, Any]:
    """Train one run or every fold, as --folds asks, and return the summary of the run (of the last fold trained).

    Args:
        settings: the flags; those that were left out are chosen by the recipe.
        make_task: builds the task for the packed images.
        processes: the processes that train together.
        started: time.monotonic() at the start of the script; --minutes count from it.

    Raises:
        UsageError, UserError: the errors of `complete`, `train_run` and `train_all_folds`.
    """
    settings = complete(settings, make_task, processes, started)
    if settings.data.folds == "all":
        return train_all_folds(settings, make_task, processes, started)
    return train_run(settings, make_task, processes, deadline_of(settings, started))


def complete(settings: TrainSettings, make_task: MakeTask, processes: Processes, started: float) -> TrainSettings:
    """Return the settings with every flag that was left out chosen by the recipe, and print the choices.

    With --folds all, a plan for --minutes is made once, for all folds; when the command is repeated, it is taken from
    the first fold that has one.

    Raises:
        UsageError, UserError: --minutes is not a positive number, the images or folds are missing, unknown names.
    """
    check_recipe(settings)
    data, quiet = settings.data, settings.reporting.quiet
    all_folds = fold_numbers(data.data_dir) if data.folds == "all" else [data.fold]
    if data.folds == "all" and (stored := _stored_plan(settings, all_folds)):
        asked = asked_sizes(settings.sizes.stages)
        if asked and asked.keys() == {parse_stage(stage)[0] for stage in stored.get("stages", ())}:
            settings = replace(settings, sizes=replace(settings.sizes, stages=()))
        return with_flags(settings, stored)
    packed = open_packed(data.data_dir)
    task = make_task(packed)
    settings = replace(settings, data=replace(data, fold=all_folds[0]))
    train_rows, fold = rows_of(settings, packed)
    here = machine(settings.machine, processes)
    facts = facts_of(settings, packed, task, train_rows, len(fold), len(all_folds), here.device.type == "cuda")
    settings, lines = filled(settings, facts)
    if settings.learn.n_epochs is None:
        with here.tuned(), here.preserved_random_state():
            settings, line = plan_for_minutes(settings, facts, make_task, processes, started, len(packed.ids))
        lines.append(line)
    elif facts.minutes is not None and not settings.run.resume:
        given = {name: value for name, value in facts.given.items() if name in ("stages", "n_epochs", "epoch_size")}
        why = f"{flags_line(given)} given" if given else "the epochs are those of --recipe original"
        lines.append(f"plan: {why}, so --minutes only says when the run should be finished")
    if processes.is_main and lines and not quiet:
        print(*lines, sep="\n", flush=True)
    return replace(settings, data=replace(settings.data, fold=data.fold))


def _stored_plan(settings: TrainSettings, folds: list[int]) -> dict[str, Any]:
    """Return the flags of the first fold that was begun, if any."""
    for fold in folds:
        config = RunFolder(Path(f"{_base(settings)}_fold{fold}")).config
        if config.is_file():
            flags = {name: value for name, value in read_flags(config).items() if name in CHOSEN}
            return {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
    return {}


def _base(settings: TrainSettings) -> str:
    return re.sub(r"_fold\d+$", "", settings.run.experiment_dir.rstrip("/"))


def train_run(
    settings: TrainSettings,
    make_task: MakeTask,
    processes: Processes,
    deadline: Deadline | None = None,
    request: StopRequest | None = None,
) -> dict[str, Any]:
    """Train one run, notify the addresses in STRATA_NOTIFY, and return the run's summary.

    The settings and random states of this process are restored afterwards. `deadline` and `request` are
    passed to `Run.train`.

    Raises:
        UsageError, UserError: the errors of `prepare` and `Run.train`.
    """
    urls = addresses() if processes.is_main else []
    check_notify(urls)
    check_tracker(settings.reporting.tracker)
    here = machine(settings.machine, processes)
    with notifying(urls, settings.run.path) as notify, here.tuned(), here.preserved_random_state():
        summary = prepare(settings, make_task, processes).train(request, deadline)
        notify(summary)
    return summary


def deadline_of(settings: TrainSettings, started: float, share: float = 1.0) -> Deadline | None:
    """Return the time at which a share of --minutes is over, counted from `started`; None without --minutes."""
    minutes = settings.recipe.minutes
    return minutes and Deadline(started + 60 * minutes * share, 60 * minutes * share, settings.step.minutes_hard)


def train_all_folds(
    settings: TrainSettings, make_task: MakeTask, processes: Processes, started: float
) -> dict[str, Any]:
    """Train each fold to <experiment_dir>_fold<k>, and join the folds' predictions in <experiment_dir>_oof.npy.

    Finished folds are skipped, and an interrupted fold is resumed.

    Returns:
        the summary of the last fold trained, with the scores of the out-of-fold predictions of all images.

    Raises:
        UsageError: --resume or --fold is set, or a finished fold was trained with other flags.
        UserError: a finished fold was trained on other images, folds or classes; also the errors of `train_run`.
    """
    if settings.run.resume:
        raise UsageError(
            "--resume with --folds all: leave --resume out, because interrupted folds are resumed anyway; to resume a "
            "single fold, add --folds one"
        )
    if settings.reporting.score_fold is False:
        raise UsageError("--score_fold False with --folds all: leave it out, because all images are predicted by then")
    if settings.data.fold:
        raise UsageError(f"--fold {settings.data.fold} with --folds all: leave one of the two out")
    base, summary = _base(settings), {}
    folds, stop = fold_numbers(settings.data.data_dir), StopRequest()
    for number, fold in enumerate(folds, start=1):
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
        deadline = deadline_of(settings, started, number / len(folds))
        summary = train_run(of_fold, make_task, processes, deadline, stop)
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
    task = make_task(packed).ranked_by(settings.reporting.metric)
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
    with task.kind.writer(out, packed.ids, packed.shapes, info) as writer:
        for row, name in enumerate(progress_bar(packed.ids, "join folds", "image", hidden=settings.reporting.quiet)):
            file, place = place_of[name]
            prediction = np.array(file.planes[place])[None]
            writer.append(prediction)
            scores.add([], prediction, packed, np.array([row]))
    found = {name: value for name, value in scores.means().items() if name != "val_loss"}
    print(f"{out}: out-of-fold scores of {len(packed.ids)} images: {_shown(found)}")
    if isinstance(task.kind, PixelKind):
        print(f"next: python optimize_threshold.py --masks_fn {shlex.quote(str(out))}")
    return found


def _shown(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
