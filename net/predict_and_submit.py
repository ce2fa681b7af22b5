"""Predict with snapshots: load them and the gate, decide on post-processing, write predictions and submission."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from net.augmentations import TRAIN_AUGS
from net.device import Machine, machine
from net.distributed import Processes, join_processes
from net.geometry import VAL_AUGS
from net.held_out_rows import held_out_rows
from net.loops import predict
from net.network_kinds import ImageKind, Kind, PixelKind
from net.predictor import Predictor, load_predictors
from net.snapshot import SnapshotInfo
from net.tiles import TILES_NOTE, sees_whole_image, tiles_for
from net.tta import View, view_names, views_by_name
from utils.competition.after_prediction import finish_classes, finish_masks
from utils.competition.decisions import ClassDecisions, MaskDecisions, decide_classes, decide_masks
from utils.core.errors import UsageError, UserError
from utils.core.prediction_settings import PredictionSettings
from utils.core.settings import as_typed
from utils.data.image_classes import NOT_EMPTY
from utils.data.packed_data import PackedImages, ids_digest, open_packed
from utils.masks.mask_file import PredictionInfo
from utils.masks.probability_file import Probabilities, open_probabilities, write_probabilities
from utils.runs.run_folder import find_snapshots
from utils.scoring.stored_thresholds import run_folder_of

GATE = ImageKind("labels", (NOT_EMPTY,))
BEST = "best"
BEST_OF = (0.35, 0.5, 0.7, 1.0, 1.4)
"""Scales relative to training of which --scales best chooses."""


@dataclass(frozen=True)
class Job:
    """A prediction job, checked before the first image is predicted."""

    predictors: list[Predictor]
    infos: list[SnapshotInfo]
    """Record of the snapshot of each predictor."""
    packed: PackedImages
    rows: np.ndarray
    """Rows of the packed images to predict."""
    views: list[View]
    batch_size: int
    best_of: tuple[float, ...]
    """Scales of which the best one is chosen for each image; () for none."""
    info: PredictionInfo
    """Record that is stored with the predictions."""

    @property
    def kind(self) -> Kind:
        """Kind of the networks."""
        return self.predictors[0].kind

    @property
    def ids(self) -> list[str]:
        """Ids of the images to predict, in order."""
        return [self.packed.ids[row] for row in self.rows]


def predict_and_submit(
    snapshots: Sequence[Path], tta: str, settings: PredictionSettings, notes: Sequence[str] = ()
) -> None:
    """Write the mean prediction over snapshots and views; for test images, also write and check the submission.

    Args:
        snapshots: snapshot files to average.
        tta: names of views joined by `_`, such as null_hflip.
        settings: images (`part` val: the held-out fold, whose score is printed), gate, threshold and file names.
        notes: further notes to print before the prediction.
    """
    with join_processes() as processes, (here := machine(settings.machine, processes)).tuned():
        job = _prepare(snapshots, tta, settings, here)
        decisions = _decide(job, settings, [run_folder_of(path) for path in snapshots])
        gate = _load_gate(settings, job, here) if settings.gate.gate else []
        if settings.predict.tile and any(sees_whole_image(one.network) for one in job.predictors):
            notes = (*notes, TILES_NOTE)
        notes = (*notes, *_unseen_views(job), *_chosen_scales(job, settings))
        if processes.is_main:
            for note in (*notes, *decisions.notes):
                print(f"note: {note}", flush=True)
        _write_predictions(job, settings, processes)
        probabilities = _write_gate(gate, job, settings, here, processes) if gate else None
    if not processes.is_main:
        return
    if isinstance(decisions, MaskDecisions):
        finish_masks(settings, decisions, job.packed, job.rows, probabilities)
    else:
        finish_classes(settings, decisions, job.packed, job.rows)


def _prepare(snapshots: Sequence[Path], tta: str, settings: PredictionSettings, here: Machine) -> Job:
    """Load the snapshots and find the rows to predict.

    Raises:
        UsageError: a view is unknown, a number is out of range, or snapshots hold out different folds with part val.
        UserError: snapshots or images cannot be used.
    """
    flags, views = settings.predict, views_by_name(tta)
    if flags.batch_size is not None and flags.batch_size < 1:
        raise UsageError(f"--batch_size {flags.batch_size}: expected 1 or more")
    packed = open_packed(flags.data_dir, "train" if flags.part == "val" else "test")
    tiles, batch_size = (
        tiles_for(flags.tile, flags.overlap, packed.shapes),
        flags.batch_size or here.prediction_batch_size,
    )
    predictors, infos = load_predictors(snapshots, here, packed, flags.arch)
    rows = np.arange(len(packed.ids))
    if flags.part == "val":
        rows = held_out_rows(flags.data_dir, packed, infos, "--part val")
    rows = packed.by_size(rows)
    kind = predictors[0].kind
    scales = _scales(flags.scales, infos, kind)
    best_of = BEST_OF if scales == BEST else ()
    info = PredictionInfo(
        data_dir=flags.data_dir,
        part="train" if flags.part == "val" else "test",
        images_digest=packed.images_digest,
        snapshots=tuple(str(path) for path in snapshots),
        tta=tta,
        scales=() if best_of or scales == (1,) else scales,
        best_of=best_of,
        target=infos[0].target,
        exclusive=kind.exclusive if isinstance(kind, ImageKind) else None,
        metric=infos[0].metric if len({one.metric for one in infos}) == 1 else None,
    )
    if not best_of:
        predictors = [one.at_scale(scale) for one in predictors for scale in scales]
    if tiles:
        predictors = [replace(predictor, tiles=tiles, tile_batch_size=batch_size) for predictor in predictors]
        batch_size = len(views)  # one image at a time, because its tiles fill the batch
    return Job(predictors, infos, packed, rows, views, batch_size, best_of, info)


def _scales(asked: Sequence[str], infos: Sequence[SnapshotInfo], kind: Kind) -> tuple[float, ...] | str:
    """Return the scales to average, or BEST.

    Raises:
        UsageError: not numbers from .1 to 10, or `best` for networks that predict no masks.
    """
    if not asked:
        in_crops = all(not info.shape and VAL_AUGS[info.val_augs].size is None for info in infos)
        return BEST if in_crops and isinstance(kind, PixelKind) else (1.0,)
    if tuple(asked) == (BEST,):
        if not isinstance(kind, PixelKind):
            raise UsageError(f"--scales {BEST}: is for networks that predict masks; leave it out")
        return BEST
    try:
        scales = tuple(map(float, asked))
    except ValueError:
        scales = ()
    if not scales or not all(0.1 <= scale <= 10 for scale in scales):
        raise UsageError(f"--scales {as_typed(asked)}: expected numbers from .1 to 10, such as .75 1 1.5, or {BEST}")
    return scales


def _chosen_scales(job: Job, settings: PredictionSettings) -> list[str]:
    """Return a note if the best scale is chosen although nobody asked for it."""
    if not job.best_of or settings.predict.scales:
        return []
    return [
        "the networks were trained on crops of images of different sizes, so each image is predicted at the scale at "
        "which they are most certain of its mask (--scales 1 turns this off)"
    ]


def _unseen_views(job: Job) -> list[str]:
    """Return a note if a network predicts views of an image that its training never showed it."""
    names, notes = view_names(job.info.tta), []
    for train_augs in sorted({info.train_augs for info in job.infos} & TRAIN_AUGS.keys()):
        unseen = [name for name in names if name not in TRAIN_AUGS[train_augs].views]
        if unseen:
            size = TRAIN_AUGS[train_augs].size
            notes.append(
                f"training with --train_augs {train_augs} never showed the network the views {', '.join(unseen)}; "
                f"use --tta null_hflip, or train with --train_augs train_{size}_d4"
            )
    return notes


def _decide(job: Job, settings: PredictionSettings, runs: Sequence[Path | None]) -> MaskDecisions | ClassDecisions:
    """Decide how the predictions are used; raises the errors of `decide_masks` and `decide_classes`."""
    kind = job.kind
    if isinstance(kind, ImageKind):
        return decide_classes(settings, runs, kind.outputs, kind.exclusive, job.info)
    return decide_masks(
        settings.submission,
        settings.rules,
        runs,
        job.info,
        Path(settings.predict.data_dir),
        has_border=len(kind.outputs) > 1,
        scored=settings.predict.part == "val",
        has_instances=job.packed.instances is not None,
        gate_th=settings.gate.gate_th,
        has_gate=bool(settings.gate.gate),
    )


def _write_predictions(job: Job, settings: PredictionSettings, processes: Processes) -> None:
    """Write the mean predictions to --masks_fn, batch by batch."""
    processes.check_equal({"packed images": job.packed.digest, "ids to predict": ids_digest(job.ids)})
    shapes = [job.packed.shapes[row] for row in job.rows]
    place = job.kind.writer(settings.submission.masks_fn, job.ids, shapes, job.info)
    with place if processes.is_main else nullcontext() as writer:
        batches = predict(job.predictors, job.packed, job.rows, job.views, job.batch_size, processes, job.best_of)
        for batch in batches:
            writer.append(batch)


def _load_gate(settings: PredictionSettings, job: Job, here: Machine) -> list[Predictor]:
    """Load the networks of --gate, and check them before anything is predicted.

    A gate is a classifier of train_classifier.py without --target, or a deeply supervised mask network, whose image
    class is used.

    Raises:
        UsageError: there are no snapshots.
        UserError: a network cannot be a gate, or was trained on images that are predicted.
    """
    predictors = []
    for path in find_snapshots(settings.gate.gate, "--gate"):  # one by one, because a gate may mix kinds
        (predictor,), (info,) = load_predictors([path], here, job.packed)
        predictors.append(_as_gate(predictor, path))
        if settings.predict.part == "val":
            held_out = held_out_rows(settings.predict.data_dir, job.packed, [info], f"--gate {path}")
            if not np.array_equal(job.packed.by_size(held_out), job.rows):
                raise UserError(
                    f"--gate {path}: holds out fold {info.fold}, so it was trained on images of the fold that is "
                    "predicted; use the gate of the same fold"
                )
    return predictors


def _as_gate(predictor: Predictor, path: Path) -> Predictor:
    if predictor.kind == GATE:
        return predictor
    if hasattr(predictor.network, "image_head"):
        return replace(predictor, kind=GATE)
    raise UserError(
        f"--gate {path}: expected a network of train_classifier.py without --target, or a deeply supervised one "
        f"(ds_resnet_34), found a {predictor.kind.name} network ({', '.join(predictor.kind.outputs[:4])})"
    )


def _write_gate(
    gate: Sequence[Predictor], job: Job, settings: PredictionSettings, here: Machine, processes: Processes
) -> Probabilities | None:
    """Write the mean probability that each image is not empty to <masks_fn>_gate.npy, and return the opened file.

    Returns None in all processes except the main one.
    """
    batch_size = settings.predict.batch_size or here.prediction_batch_size
    found = list(predict(gate, job.packed, job.rows, views_by_name("null"), batch_size, processes))
    if not processes.is_main:
        return None
    paths = tuple(str(path) for path in find_snapshots(settings.gate.gate, "--gate"))
    masks_fn = Path(settings.submission.masks_fn)
    out = masks_fn.with_name(f"{masks_fn.stem}_gate.npy")
    info = replace(job.info, snapshots=paths, tta="null", target=None, exclusive=False)
    write_probabilities(out, job.ids, np.concatenate(found), [NOT_EMPTY], info)
    return open_probabilities(out)
