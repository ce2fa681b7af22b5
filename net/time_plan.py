"""Plan a run for a time: measure how long steps and validation take on this machine, then fix sizes and epochs.

The plan consists of ordinary flags and is stored in config.json. From then on it decides, not the clock, so a resumed
or repeated run gives the same bits.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from net.cuda_graphs import CALLS_BEFORE
from net.dataset import TrainingBatches
from net.distributed import Processes
from net.facts import Facts
from net.learner import Learner
from net.loops import STEPS_BETWEEN_LOSS_READS, evaluate
from net.losses import Phase
from net.predictor import Predictor
from net.prepare_run import prepare
from net.recipe import (
    divided,
    flags_line,
    size_flags,
    sizes_to_train,
    stages_for,
    strength_flags,
    warmup_steps,
    with_flags,
)
from net.stages import Stage
from net.tasks import Task
from net.training import Run
from utils.core.errors import UsageError
from utils.core.progress import duration
from utils.core.training_settings import TrainSettings
from utils.data.packed_data import PackedImages

EPOCH_OVERHEAD = 0.15
"""Seconds of an epoch besides training and validation: snapshots, log, preview."""
VALIDATION_SHARE = 0.05
"""Share of the time that validation may take."""
EPOCHS = (3, 60)
"""Fewest and most epochs of a plan; an epoch ends with a validation, and a kill loses at most one epoch."""
START_AND_END = 1.5
"""Seconds between planning and the first step, and after the last epoch."""
SECONDS_PER_JOINED_IMAGE = 0.002
"""Time to join and score the out-of-fold predictions of an image, with --folds all."""
FEWEST_VALIDATED = 24
"""Images that are validated after each epoch at least."""
FINAL_SHARE = 0.1
"""Share of the time that the scoring of the whole fold at the end may take."""
MEASURED_SHARE = 0.04
"""Share of the time that measuring may take; 10 s at most on short runs, a minute on runs of hours."""
ROUNDS = 3
"""Rounds in which all sizes are timed; the median counts, so that a second of other work changes nothing."""


class Speed(NamedTuple):
    """Seconds per image at one size."""

    size: int
    training: float
    validation: float


@dataclass(frozen=True)
class Plan:
    """Length of a run."""

    stages: list[tuple[int, int]]
    """(size, epochs), smallest size first."""
    epoch_size: int
    """Images per epoch."""
    warmup: int
    """Steps in which the learning rate rises."""
    seconds: float
    """Expected time of all epochs."""


def plan(
    speeds: Sequence[Speed],
    shares: Sequence[float],
    val_images: int,
    batch_size: int,
    seconds: float,
    cycles: int = 1,
    epoch_size: int | None = None,
) -> Plan:
    """Return the plan whose epochs take `seconds` at these speeds.

    The number of epochs is chosen so that validation takes at most VALIDATION_SHARE of the time; the sizes share the
    time as asked; the number of images per epoch then makes the time exact. If there is no time for all
    sizes, the last one remains.

    Args:
        speeds: by size; the full size comes last.
        shares: share of the time at each size.
        val_images: images to validate on after each epoch.
        batch_size: images per step.
        seconds: time for all epochs.
        cycles: the number of epochs is a multiple of this.
        epoch_size: images per epoch, if they are given; the number of epochs then follows from the time.
    """
    validation = [speed.validation * val_images + EPOCH_OVERHEAD for speed in speeds]
    if len(speeds) > 1 and _epoch_size(speeds, validation, [1] * len(speeds), seconds) < (epoch_size or batch_size):
        return plan(speeds[-1:], [1.0], val_images, batch_size, seconds, cycles, epoch_size)
    if epoch_size:
        weights = np.array(shares) / [epoch_seconds(speed, val_images, epoch_size) for speed in speeds]
        epochs = round(seconds * weights.sum())
    else:
        weights = np.array(shares) / [speed.training for speed in speeds]
        epochs = int(np.clip(VALIDATION_SHARE * seconds / np.dot(shares, validation), *EPOCHS))
        if len(speeds) == 1 and epochs * validation[0] > 0.3 * seconds:
            epochs = max(1, int(0.3 * seconds / validation[0]))
    epochs = max(-(-len(speeds) // cycles), epochs // cycles) * cycles
    counts = divided(epochs, weights)
    size = epoch_size or max(batch_size, int(_epoch_size(speeds, validation, counts, seconds)))
    took = sum(count * epoch_seconds(speed, val_images, size) for count, speed in zip(counts, speeds, strict=True))
    stages = [(speed.size, count) for speed, count in zip(speeds, counts, strict=True)]
    return Plan(stages, size, warmup_steps(epochs // cycles, -(-size // batch_size)), took)


def affordable(speeds: Sequence[Speed], shares: Sequence[float], val_images: int, seconds: float) -> int:
    """Return how many of the images to validate on there is time for, if there are as few epochs as possible.

    Up to twice VALIDATION_SHARE of the time, all of them are validated.
    """
    per_image = float(np.dot(shares, [speed.validation for speed in speeds]))
    count = int(VALIDATION_SHARE * seconds / EPOCHS[0] / per_image)
    return val_images if 2 * count >= val_images else min(val_images, max(FEWEST_VALIDATED, count))


def _epoch_size(speeds: Sequence[Speed], validation: Sequence[float], counts: Sequence[int], seconds: float) -> float:
    """Return the images per epoch with which the epochs take `seconds`."""
    fixed = np.dot(counts, validation)
    return (seconds - fixed) / np.dot(counts, [speed.training for speed in speeds])


def epoch_seconds(speed: Speed, val_images: int, images: int) -> float:
    """Return the seconds of an epoch of `images`."""
    return images * speed.training + val_images * speed.validation + EPOCH_OVERHEAD


def plan_for_minutes(
    settings: TrainSettings,
    facts: Facts,
    make_task: Callable[[PackedImages], Task],
    processes: Processes,
    started: float,
    n_images: int,
) -> tuple[TrainSettings, str]:
    """Measure this machine and fill in sizes, epochs, epoch size and warm-up; return the settings and a line.

    Args:
        settings: all other flags are complete.
        facts: of the images; `facts.minutes` is the time for one run.
        make_task: builds the task for the packed images.
        processes: the processes that train together; all of them measure, the main one decides.
        started: time.monotonic() at the start of the script.
        n_images: images of all folds, whose predictions are joined with --folds all.

    Raises:
        UsageError: the time is too short for an epoch of one step.
    """
    sizes = sizes_to_train(settings, facts)
    run = prepare(_for_measuring(settings, facts, sizes), make_task, processes)
    n_runs = round(settings.recipe.minutes / facts.minutes)
    seconds = 60 * settings.recipe.minutes
    shares = list(sizes.values()) or [1.0]
    speeds = measured(run, shares, min(max(MEASURED_SHARE * seconds, 3), 60 if seconds > 3600 else 10))
    joining = SECONDS_PER_JOINED_IMAGE * n_images if n_runs > 1 else 0
    n_val = len(run.val_rows)
    if "val_limit" not in facts.given:
        n_val = processes.on_main(lambda: affordable(speeds, shares, n_val, seconds / n_runs))
    partly = n_val < len(run.fold_rows) and settings.reporting.score_fold is not False
    whole_fold = len(run.fold_rows) * speeds[-1].validation if partly else 0.0
    asked = n_runs > 1 or settings.reporting.score_fold is True
    score_fold = asked or processes.on_main(lambda: whole_fold < FINAL_SHARE * seconds)

    def decide() -> Plan:
        spent = time.monotonic() - started + joining
        left = (seconds - spent) / n_runs - START_AND_END - (whole_fold if score_fold else 0)
        batch = settings.learn.batch_size * settings.step.accumulate
        needed = settings.step.cycles * epoch_seconds(speeds[-1], n_val, settings.step.epoch_size or batch)
        if left < needed:
            needed += whole_fold if score_fold else 0
            minutes = (spent + n_runs * (needed + START_AND_END)) / 60
            unit = "epoch of --epoch_size" if settings.step.epoch_size else "step"
            raise UsageError(
                f"--minutes {settings.recipe.minutes:g}: too short for one {unit} and its validation in each run on "
                f"this machine; use at least {math.ceil(minutes * 10) / 10:g}"
            )
        return plan(speeds, shares, n_val, batch, left, settings.step.cycles, settings.step.epoch_size)

    found = processes.on_main(decide)
    flags = size_flags(facts, [f"{size}:{epochs}" for size, epochs in found.stages]) if sizes else {}
    flags |= {"n_epochs": sum(epochs for _, epochs in found.stages), "epoch_size": found.epoch_size}
    flags |= {"warmup": found.warmup, **({} if score_fold else {"score_fold": False})}
    flags |= strength_flags(settings, facts, flags["n_epochs"] * found.epoch_size)
    if n_val < len(run.val_rows):
        flags["val_limit"] = n_val
        settings = replace(settings, reporting=replace(settings.reporting, val_limit=None))
    flags = {name: value for name, value in flags.items() if name not in facts.given}
    rates = ", ".join(f"{1 / speed.training:.0f} images/s at {speed.size}" for speed in speeds)
    what = "each of the folds" if n_runs > 1 else "the epochs"
    return with_flags(settings, flags), f"plan: {flags_line(flags)} ({rates}; {what}: {duration(found.seconds)})"


def _for_measuring(settings: TrainSettings, facts: Facts, sizes: Mapping[int, float]) -> TrainSettings:
    """Return the settings of the shortest run at these sizes, of which any number of steps can be timed.

    Schedules and means of weights that depend on the number of epochs are left out; they hardly take time.
    """
    cycles = settings.step.cycles
    n_epochs = max(1, -(-len(sizes) // cycles)) * cycles
    average = settings.step.average
    step = replace(settings.step, average=None if (average or "").startswith("swa") else average)
    shortest = replace(settings, step=step, learn=replace(settings.learn, scheduler="none"))
    flags = size_flags(facts, stages_for(sizes, n_epochs)) if sizes else {}
    return with_flags(shortest, {**flags, "n_epochs": n_epochs, "warmup": 0})


def measured(run: Run, shares: Sequence[float], seconds: float) -> list[Speed]:
    """Time training steps and validation at each size of a prepared run, for about `seconds` altogether.

    `shares` are the shares of the training time at the sizes; they tell which loss is active at which size.
    """
    learner, share = run.learner(), seconds / len(run.stages) / ROUNDS
    weights = np.array(shares) / [stage.size**2 for stage in run.stages]
    ends = np.cumsum(weights / weights.sum())

    def timed(stage: Stage, loader: TrainingBatches, start: float, end: float) -> Speed:
        parts = _parts(run.phases, start, end)
        training = sum(part * _training(run, learner, loader, phase, 0.7 * share * part) for phase, part in parts)
        return Speed(stage.size, training, _validation(run, learner, stage, 0.3 * share))

    loaders = [run.loader(stage) for stage in run.stages]
    stages = list(zip(run.stages, loaders, [0, *ends[:-1]], ends, strict=True))
    rounds = [[timed(*stage) for stage in stages] for _ in range(ROUNDS)]
    medians = np.median([[speed[1:] for speed in speeds] for speeds in rounds], axis=0)
    return [Speed(stage.size, *found) for stage, found in zip(run.stages, medians.tolist(), strict=True)]


def _parts(phases: Sequence[Phase], start: float, end: float) -> list[tuple[Phase, float]]:
    """Return the loss phases that are active between two shares of the training, and how much of it each takes."""
    active = []
    for phase, limit in zip(phases, [*(later.start for later in phases[1:]), 1.0], strict=True):
        overlap = min(end, limit) - max(start, phase.start)
        if overlap > 0:
            active.append((phase, overlap / (end - start)))
    return active


def _training(run: Run, learner: Learner, loader: TrainingBatches, phase: Phase, seconds: float) -> float:
    """Return the seconds per image of training steps with one loss, after a few steps that are not counted."""
    learner.loss, learner.later_losses = phase.loss, []
    learner.network.train()
    images, steps, started, before = 0, 0, None, CALLS_BEFORE + 1 if learner.graphs else 0
    every = STEPS_BETWEEN_LOSS_READS if learner.graphs else 1  # a GPU that is waited for does not work meanwhile
    while True:
        for microbatch, (pixels, targets) in zip(run.batches.microbatches(), loader, strict=True):
            learner.learn(pixels, targets, microbatch.batch_size)
            if not microbatch.last:
                continue
            learner.step()
            if started is None:
                before -= 1
                started = _now(run) if before < 0 else None
                continue
            images, steps = images + microbatch.batch_size, steps + 1
            if steps % every:
                continue
            now = _now(run)
            if run.processes.on_main(lambda: now - started > seconds):  # noqa: B023 - called at once
                return (now - started) / images
        run.batches.epoch += 1


def _validation(run: Run, learner: Learner, stage: Stage, seconds: float) -> float:
    """Return the seconds per validation image, measured on as many images as fit into the time."""
    predictor = Predictor(learner.predicting, run.task.kind, stage.val, run.machine)
    batch_size = partial(run.val_batch_size, stage)
    mixed = np.random.default_rng(0).permutation(run.val_rows)  # the first ones are of all sizes

    def timed(count: int) -> float:
        started, rows = _now(run), run.packed.by_size(mixed[:count])
        loss = run.phases[-1].loss
        evaluate(predictor, run.task, run.packed, rows, loss, batch_size, [], run.processes, hidden=True)
        return run.processes.on_main(lambda: (_now(run) - started) / len(rows))

    few = batch_size(run.packed.shapes[mixed[0]])
    timed(few)
    once = timed(few)
    count = int(seconds / once)
    return timed(count) if count > few else once


def _now(run: Run) -> float:
    """Return the time in seconds when the device has finished its work."""
    if run.machine.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
