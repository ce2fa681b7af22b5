"""Snapshots -> a mask file -> a submission: what every predict script calls."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from net.answers import answer_writer
from net.engine import predict
from net.gate import gate_probabilities, load_gate
from net.held_out import held_out_rows
from net.machine import Machine, machine
from net.predictor import Predictor, load_predictors
from net.tasks import Kind
from net.team import Team, team
from net.tiles import tiles_for
from net.tta import View, views_by_name
from utils.errors import UsageError
from utils.finish import check_label_flags, finish_labels, finish_masks
from utils.gate import check_gate_th
from utils.prediction_settings import PredictionSettings
from utils.stack import Stack, ids_digest, open_stack
from utils.stored_threshold import run_folder_of
from utils.submit import check_flags


def predict_and_submit(snapshots: Sequence[Path], tta: str, settings: PredictionSettings) -> None:
    """Write the mean answers of some snapshots over some views; for test images also the submission, checked.

    Args:
        snapshots: snapshot files; the mean is over all of them.
        tta: names of views joined by `_`, such as null_hflip.
        settings: which images (`part` val: the fold held out, whose score is printed), gate, threshold, names of files.
    """
    folders = [run_folder_of(path) for path in snapshots]
    check_flags(settings.submission, settings.rules, folders)
    check_gate_th(settings.gate.gate_th, bool(settings.gate.gate))
    with team() as processes, (here := machine(settings.machine, processes.local_rank)).tuned():
        stack = open_stack(settings.predict.data_dir, "train" if settings.predict.part == "val" else "test")
        job = _job_of(snapshots, tta, settings, stack, here)
        if not job.kind.of_pixels:
            check_label_flags(settings)
        judges = load_gate(settings, stack, job.rows, here) if settings.gate.gate else []
        _predict(job, settings, stack, processes)
        gate = gate_probabilities(judges, settings, stack, job.rows, here, processes) if judges else None
    if not processes.leads:
        return
    if job.kind.of_pixels:
        finish_masks(settings, folders, stack, job.rows, gate)
    else:
        finish_labels(settings, folders, stack, job.rows)


@dataclass(frozen=True)
class _Job:
    """What is to be predicted, checked before the first image is."""

    predictors: list[Predictor]
    rows: np.ndarray
    """Of the stack."""
    views: list[View]
    batch_size: int
    about: dict[str, Any]
    """For the file of answers."""

    @property
    def kind(self) -> Kind:
        return self.predictors[0].kind


def _job_of(snapshots: Sequence[Path], tta: str, settings: PredictionSettings, stack: Stack, here: Machine) -> _Job:
    """Load the snapshots and find the rows that they are to answer for.

    Raises:
        UsageError: unknown views, numbers that make no sense, snapshots of different folds with part val.
        UserError: snapshots or images that cannot be used.
    """
    flags, views = settings.predict, views_by_name(tta)
    if flags.batch_size is not None and flags.batch_size < 1:
        raise UsageError(f"--batch_size {flags.batch_size}: expected 1 or more")
    tiles, batch_size = tiles_for(flags.tile, flags.overlap, stack.shape), flags.batch_size or here.pays_to_predict
    predictors, abouts = load_predictors(snapshots, here, stack, flags.arch)
    rows = np.arange(len(stack.ids))
    if flags.part == "val":
        rows = held_out_rows(flags.data_dir, stack, abouts, "--part val")
    about = {
        "data_dir": flags.data_dir,
        "part": "train" if flags.part == "val" else "test",
        "snapshots": [str(path) for path in snapshots],
        "tta": tta,
        **({"target": abouts[0]["target"]} if "target" in abouts[0] else {}),
    }
    if tiles:
        predictors = [replace(predictor, tiles=tiles, at_once=batch_size) for predictor in predictors]
        batch_size = len(views)  # one image at a time: the tiles are the batch
    return _Job(predictors, rows, views, batch_size, about)


def _predict(job: _Job, settings: PredictionSettings, stack: Stack, processes: Team) -> None:
    """Write the mean answers to --masks_fn, batch by batch."""
    ids = [stack.ids[row] for row in job.rows]
    processes.agree({"packed images": stack.digest, "ids to predict": ids_digest(ids)})
    place = answer_writer(settings.submission.masks_fn, ids, stack.shape, job.kind, job.about)
    with place if processes.leads else nullcontext() as writer:
        for answers in predict(job.predictors, stack.images, job.rows, job.views, job.batch_size, processes):
            writer.append(answers)
