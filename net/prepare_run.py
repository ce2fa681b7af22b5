"""Prepare a run: find everything it needs and check that it fits together, before anything is written."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from net.architectures import drop_channels, set_prior
from net.augmentations import inverse_of
from net.batchnorm import share_statistics
from net.checkpoint_and_resume import Checkpoints
from net.dataset import EpochBatches, Mix
from net.device import Machine, machine, workers_for
from net.distributed import Processes
from net.loops import WHOLE
from net.losses import Loss, phases_by_name
from net.network_kinds import PixelKind
from net.optimizers import optimizer_by_name
from net.predictor import Predictor
from net.schedulers import scheduler_by_name
from net.snapshot import SnapshotInfo, start_from
from net.stages import Stage, stages_of
from net.tasks import Task
from net.training import Run, fixed_flags
from net.weight_averaging import check_average
from utils.core.errors import UsageError, UserError
from utils.core.settings import as_typed, to_flat
from utils.core.training_settings import TrainSettings, epochs_in_cycle
from utils.data.folds import fold_rows
from utils.data.packed_data import PackedImages, ids_digest, open_packed
from utils.runs.run_folder import FREE_ON_RESUME, RunFolder, find_snapshots, stored_flags

STORED = ("train_augs", "optimizer", "scheduler", "seed")
"""Flags that are stored in every snapshot as they are."""
SHARES_OF = 400  # images from which the shares of foreground are estimated


def prepare(
    settings: TrainSettings, make_task: Callable[[PackedImages], Task], processes: Processes | None = None
) -> Run:
    """Prepare the data, the task and the network of one run; nothing is written.

    Args:
        settings: the flags, all of them with a value (`net.recipe.filled`); a script may have more groups than
            train.py.
        make_task: builds the task for the packed images.
        processes: the processes that train together; default: this one alone.

    Raises:
        UsageError: unknown names, or flags that contradict each other.
        UserError: data or weights are missing or do not fit.
    """
    data, learn, run, processes = settings.data, settings.learn, settings.run, processes or Processes()
    cycle = epochs_in_cycle(settings)
    optimizer_by_name(learn.optimizer), scheduler_by_name(learn.scheduler)  # raises for unknown names
    check_average(settings.step.average, cycle)
    here = machine(settings.machine, processes)
    workers = workers_for(here.device, settings.machine.loader_workers)
    packed = open_packed(data.data_dir)
    stages = stages_of(data, settings.sizes, learn.n_epochs)
    task = make_task(packed).ranked_by(settings.reporting.metric)
    phases = phases_by_name(learn.loss, task.losses)
    train_rows, fold = rows_of(settings, packed)
    val_rows = some_of(packed.by_size(fold), settings.reporting.val_limit, packed, task)
    batches = _batches(settings, packed, train_rows, processes)
    check_validated_whole(learn.loss, stages, [packed.shapes[row] for row in fold])
    info = _info(settings, stages, task, packed, fold)
    keep, in_cycles = settings.reporting.keep, settings.step.cycles > 1
    stored = stored_flags(to_flat(settings))
    fixed = {name: value for name, value in stored.items() if name not in FREE_ON_RESUME - fixed_flags(settings)}
    checkpoints = Checkpoints(RunFolder(run.path), info, keep, task.kept_by, in_cycles, fixed)
    if run.resume and settings.machine.precision == "auto":  # measured again, it could be another one
        here = replace(here, dtype=checkpoints.dtype() or here.dtype)
    flags = {f"--{name}": value for name, value in stored.items()}
    found = {"packed images": packed.digest, "images of the fold": info.val_ids_digest}
    processes.check_equal({**flags, **found, "precision": str(here.dtype)})
    resumed = run.resume and checkpoints.folder.state.is_file()
    network = starting_network(settings, packed, task, train_rows, here, processes, resumed)
    for stage in stages:
        predictor = Predictor(network, task.kind, stage.val, here)
        try_out(settings.net.arch, predictor, packed.channels, stage.size, [phase.loss for phase in phases])
    return Run(
        settings=settings,
        processes=processes,
        machine=here,
        workers=workers,
        packed=packed,
        task=task,
        phases=phases,
        stages=stages,
        batches=batches,
        val_rows=val_rows,
        fold_rows=packed.by_size(fold),
        network=network,
        checkpoints=checkpoints,
        epochs_in_cycle=cycle,
    )


def starting_network(
    settings: TrainSettings,
    packed: PackedImages,
    task: Task,
    train_rows: np.ndarray,
    machine: Machine,
    processes: Processes,
    resumed: bool,
) -> nn.Module:
    """Build the network with its initial weights, the same in all processes.

    With `resumed` they stay random, because the stored state replaces them.
    """
    net, kind, channels_in = settings.net, task.kind, packed.channels
    given = resumed or not processes.is_main  # weights loaded here would be replaced
    start = None if given or net.snapshot is None else find_snapshots([net.snapshot])[0]
    torch.manual_seed(settings.step.seed)
    network = kind.build(net.arch, channels_in, "none" if given or start else net.encoder_weights)
    if settings.step.head_bias == "prior":
        set_prior(network, foreground_shares(packed, task, train_rows))
    drop_channels(network, settings.step.channel_dropout or 0.0)
    if start:
        start_from(network, start, kind.name)
    if settings.step.sync_batchnorm and processes.size > 1:
        network = share_statistics(network, own_gpus=machine.device.type == "cuda" and processes.own_gpus)
    network = network.to(machine.device, memory_format=torch.channels_last)
    processes.copy_from_main(network)
    return network


def foreground_shares(packed: PackedImages, task: Task, rows: np.ndarray) -> np.ndarray:
    """Return the share (K,) of each output that is 1 in the targets of at most SHARES_OF rows, spread evenly."""
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), SHARES_OF)).astype(int)]

    def shares(row: int) -> np.ndarray:
        target = task.target(task.kind.truth_tensor(task.truth(packed, row))[None])[0]
        return target.numpy().reshape(len(target), -1).mean(axis=1)

    return np.mean([shares(row) for row in some.tolist()], axis=0)


@torch.inference_mode()
def try_out(arch: str, predictor: Predictor, channels_in: int, size: int, losses: list[Loss]) -> None:
    """Run the network on black images, so that a loss or an input size that does not suit it is found early.

    Raises:
        UsageError: the network cannot take images of this size, or the loss cannot take its output.
    """
    predictor.network.eval()
    try:
        output = predictor.output(torch.zeros(2, channels_in, size, size, dtype=torch.uint8))
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:160]
        raise UsageError(f"--arch {arch}: cannot take images of {size}x{size} ({reason}); choose another") from None
    target = torch.zeros(2, *predictor.kind.target_shape(size), device=predictor.machine.device)
    for loss in losses:
        loss(output, target)


def check_validated_whole(losses: Sequence[str], stages: Sequence[Stage], shapes: Iterable[tuple[int, int]]) -> None:
    """Raise UsageError if a loss needs the side outputs of a network, but images (h, w) are validated in tiles."""
    sides = next((name for name in losses if name.startswith("combined")), None)
    if sides and any(math.prod(stage.val(shape).frame) > WHOLE for stage in stages for shape in set(shapes)):
        raise UsageError(
            f"--loss {sides}: images of more than 2048x2048 pixels are validated in tiles, which have no side outputs; "
            "use another loss, such as bce_lovasz, or pack the images with --size"
        )


def rows_of(settings: TrainSettings, packed: PackedImages) -> tuple[np.ndarray, np.ndarray]:
    """Return training rows and validation rows; raise UserError if fewer than 2 are left to train on."""
    fold = settings.data.fold
    train_rows, val_rows = fold_rows(settings.data.data_dir, packed.ids, fold)
    if settings.sizes.only_nonempty:
        train_rows = train_rows[packed.foreground(train_rows) > 0]
    if len(train_rows) < 2:
        raise UserError(f"--fold {fold}: leaves {len(train_rows)} images to train on, at least 2 are needed")
    return train_rows, val_rows


def some_of(rows: np.ndarray, limit: int | None, packed: PackedImages, task: Task) -> np.ndarray:
    """Return at most `limit` of the rows, always the same ones, with all amounts of foreground, or all classes.

    The rows are ordered by their foreground (or class), and taken at equal distances.
    """
    if limit is None or limit >= len(rows):
        return rows
    pixel_level = isinstance(task.kind, PixelKind)
    values = packed.foreground(rows) if pixel_level else [tuple(task.truth(packed, row)) for row in rows.tolist()]
    order = np.array(sorted(range(len(rows)), key=lambda place: values[place]))
    return rows[np.sort(order[np.linspace(0, len(rows) - 1, limit).round().astype(int)])]


def _mix(settings: TrainSettings, packed: PackedImages, train_rows: np.ndarray) -> Mix | None:
    """Return the share of non-empty images that --nonempty_share asks for; None without it, or if all are of one kind.

    Raises:
        UsageError: a share that is not between 0 and 1, or images without masks.
    """
    text = settings.step.nonempty_share
    if text is None:
        return None
    if packed.masks is None:
        raise UsageError(f"--nonempty_share {text}: the training images have no masks; leave it out")
    nonempty = packed.foreground(train_rows) > 0
    first, _, last = text.partition(":")
    try:
        start, end = (float(nonempty.mean()) if share == "true" else float(share) for share in (first, last or first))
    except ValueError:
        start = end = -1.0
    if not (0 <= start <= 1 and 0 <= end <= 1):
        raise UsageError(
            f"--nonempty_share {text}: expected a share from 0 to 1 such as .5, or two of them such as .8:true, from "
            ".8 in the first epoch to the true share in the last one"
        )
    return Mix(nonempty, start, end, settings.learn.n_epochs) if 0 < nonempty.mean() < 1 else None


def _batches(
    settings: TrainSettings, packed: PackedImages, train_rows: np.ndarray, processes: Processes
) -> EpochBatches:
    """Return the batches of all epochs; raise UsageError if a batch has fewer images than there are processes."""
    learn, step, share = settings.learn, settings.step, (processes.rank, processes.size)
    mix = _mix(settings, packed, train_rows)
    batches = EpochBatches(train_rows, learn.batch_size, step.seed, step.accumulate, step.epoch_size, share, mix)
    if batches.smallest < processes.size:
        raise UsageError(
            f"--batch_size {learn.batch_size}: its smallest microbatch has {batches.smallest} images "
            f"for {processes.size} processes; use a larger batch size or fewer processes"
        )
    return batches


def _info(
    settings: TrainSettings, stages: list[Stage], task: Task, packed: PackedImages, fold_rows: np.ndarray
) -> SnapshotInfo:
    """Return the description that is stored in every snapshot of the run."""
    flags = to_flat(settings)
    return SnapshotInfo(
        arch=settings.net.arch,
        task=task.kind.name,
        outputs=task.kind.outputs,
        channels_in=packed.channels,
        shape=packed.shape or (),
        val_augs=stages[0].val_augs,
        val_transforms=inverse_of(stages[0].val_augs),
        contrast_stretch=stages[0].contrast_stretch,
        fold=settings.data.fold,
        data_digest=packed.digest,
        val_ids_digest=ids_digest(packed.ids[row] for row in fold_rows),
        **{name: flags[name] for name in STORED},
        loss=as_typed(flags["loss"]),
        **task.described,
    )
