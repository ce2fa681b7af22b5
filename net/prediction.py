"""Predict with snapshots: load them and the gate, write the mask file, make the submission."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from net.distributed import Processes, join_processes
from net.engine import predict
from net.kinds import Kind, answer_writer
from net.machine import Machine, machine
from net.predictor import Predictor, load_predictors
from net.snapshot import held_out_rows
from net.tiles import tiles_for
from net.tta import View, views_by_name
from utils.competition.after_prediction import check_label_flags, finish_labels, finish_masks
from utils.competition.submission_writing import check_flags
from utils.core.errors import UsageError, UserError
from utils.core.prediction_settings import PredictionSettings
from utils.data.image_classes import NOT_EMPTY
from utils.data.packed import PackedImages, ids_digest, open_packed
from utils.masks.probability_file import Probabilities, open_probabilities, write_probabilities
from utils.runs.run_folder import find_snapshots
from utils.scoring.stored_results import check_gate_th, run_folder_of

GATE = Kind("labels", (NOT_EMPTY,))


def load_gate(settings: PredictionSettings, packed: PackedImages, rows: np.ndarray, here: Machine) -> list[Predictor]:
    """The nets of --gate, checked before anything is predicted.

    A classifier of train_classifier.py without --target is a gate, and so is the image class of a deeply supervised
    mask net.

    Raises:
        UsageError: no snapshots.
        UserError: nets that are no gate, or that have learned from the images they are asked about.
    """
    predictors = []
    for path in find_snapshots(settings.gate.gate, "--gate"):  # one by one: a mask net and a classifier may go together
        (predictor,), (about,) = load_predictors([path], here, packed)
        predictors.append(_as_gate(predictor, path))
        if settings.predict.part == "val":
            held_out = held_out_rows(settings.predict.data_dir, packed, [about], f"--gate {path}")
            if not np.array_equal(held_out, rows):
                raise UserError(
                    f"--gate {path}: holds out fold {about['fold']}, so it has learned from images of the fold that is "
                    "predicted; give the gate of the same fold"
                )
    return predictors


def gate_probabilities(
    predictors: Sequence[Predictor],
    settings: PredictionSettings,
    packed: PackedImages,
    rows: np.ndarray,
    here: Machine,
    processes: Processes,
) -> Probabilities | None:
    """The mean probability that there is anything in each image, also written to <masks_fn>_gate.npy.

    None but in the leading process.

    Args:
        predictors: what `load_gate` returned.
        settings: the flags.
        packed: the images.
        rows: which of them are asked about.
        here: what it runs on.
        processes: that share the images.
    """
    batch_size = settings.predict.batch_size or here.pays_to_predict
    found = list(predict(predictors, packed.images, rows, views_by_name("null"), batch_size, processes))
    if not processes.is_main:
        return None
    ids, paths = [packed.ids[row] for row in rows], find_snapshots(settings.gate.gate, "--gate")
    masks_fn = Path(settings.submission.masks_fn)
    about = {"data_dir": settings.predict.data_dir, "snapshots": [str(path) for path in paths]}
    about |= {"part": "train" if settings.predict.part == "val" else "test", "ids_digest": ids_digest(ids)}
    out = masks_fn.with_name(f"{masks_fn.stem}_gate.npy")
    write_probabilities(out, ids, np.concatenate(found), [NOT_EMPTY], about)
    return open_probabilities(out)


def _as_gate(predictor: Predictor, path: Path) -> Predictor:
    if predictor.kind == GATE:
        return predictor
    if hasattr(predictor.network, "image_head"):
        return replace(predictor, kind=GATE)
    raise UserError(
        f"--gate {path}: a {predictor.kind.name} net ({', '.join(predictor.kind.outputs[:4])}), expected one of "
        "train_classifier.py without --target, or a deeply supervised one (ds_resnet_34)"
    )


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
    with join_processes() as processes, (here := machine(settings.machine, processes.local_rank)).tuned():
        packed = open_packed(settings.predict.data_dir, "train" if settings.predict.part == "val" else "test")
        job = _job_of(snapshots, tta, settings, packed, here)
        if not job.kind.of_pixels:
            check_label_flags(settings)
        judges = load_gate(settings, packed, job.rows, here) if settings.gate.gate else []
        _predict(job, settings, packed, processes)
        gate = gate_probabilities(judges, settings, packed, job.rows, here, processes) if judges else None
    if not processes.is_main:
        return
    if job.kind.of_pixels:
        finish_masks(settings, folders, packed, job.rows, gate)
    else:
        finish_labels(settings, folders, packed, job.rows)


@dataclass(frozen=True)
class _Job:
    """What is to be predicted, checked before the first image is."""

    predictors: list[Predictor]
    rows: np.ndarray
    """Rows of the packed images."""
    views: list[View]
    batch_size: int
    about: dict[str, Any]
    """For the file of answers."""

    @property
    def kind(self) -> Kind:
        return self.predictors[0].kind


def _job_of(
    snapshots: Sequence[Path], tta: str, settings: PredictionSettings, packed: PackedImages, here: Machine
) -> _Job:
    """Load the snapshots and find the rows that they are to answer for.

    Raises:
        UsageError: unknown views, numbers that make no sense, snapshots of different folds with part val.
        UserError: snapshots or images that cannot be used.
    """
    flags, views = settings.predict, views_by_name(tta)
    if flags.batch_size is not None and flags.batch_size < 1:
        raise UsageError(f"--batch_size {flags.batch_size}: expected 1 or more")
    tiles, batch_size = tiles_for(flags.tile, flags.overlap, packed.shape), flags.batch_size or here.pays_to_predict
    predictors, abouts = load_predictors(snapshots, here, packed, flags.arch)
    rows = np.arange(len(packed.ids))
    if flags.part == "val":
        rows = held_out_rows(flags.data_dir, packed, abouts, "--part val")
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


def _predict(job: _Job, settings: PredictionSettings, packed: PackedImages, processes: Processes) -> None:
    """Write the mean answers to --masks_fn, batch by batch."""
    ids = [packed.ids[row] for row in job.rows]
    processes.check_equal({"packed images": packed.digest, "ids to predict": ids_digest(ids)})
    place = answer_writer(settings.submission.masks_fn, ids, packed.shape, job.kind, job.about)
    with place if processes.is_main else nullcontext() as writer:
        for answers in predict(job.predictors, packed.images, job.rows, job.views, job.batch_size, processes):
            writer.append(answers)
