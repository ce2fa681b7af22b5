"""Snapshots -> a mask file -> a submission: what every predict script calls."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from net.engine import predict
from net.machine import machine
from net.predictor import load_predictors
from net.team import Team, team
from net.tta import views_by_name
from utils.errors import UsageError, UserError
from utils.mask_file import mask_writer, open_masks
from utils.metrics import binarize, iou, iout
from utils.settings import MachineSettings, PredictSettings, SubmissionSettings
from utils.stack import Stack, fold_rows, ids_digest, open_stack
from utils.submit import finish_submission
from utils.threshold import choose_threshold, run_folder_of


def predict_and_submit(
    snapshots: Sequence[Path],
    tta: str,
    settings: PredictSettings,
    submission: SubmissionSettings,
    machine_settings: MachineSettings,
) -> None:
    """Write the mean masks of some snapshots over some views; for test images also the submission, checked.

    Args:
        snapshots: snapshot files; the mean is over all of them.
        tta: names of views joined by `_`, such as null_hflip.
        settings: which images; `part` val writes the masks of the fold held out, and prints their score.
        submission: threshold, names of files.
        machine_settings: device and precision.
    """
    folders = [run_folder_of(path) for path in snapshots]
    th, min_area, origin = choose_threshold(submission.th, submission.min_area, folders)
    with team() as processes:
        truths = predict_masks(snapshots, tta, settings, submission.masks_fn, machine_settings, processes)
    if not processes.leads:
        return
    masks = open_masks(submission.masks_fn)
    print(f"{masks.path}: probabilities of {len(masks.ids)} images; threshold {th:.6g} ({origin})")
    if truths is None:
        finish_submission(masks, th, min_area, submission.submission_dir, submission.fn, settings.data_dir)
    else:
        found = binarize(masks.array, th)
        print(f"validation fold: iout {iout(found, truths):.4f}, iou {iou(found, truths):.4f}")


def predict_masks(
    snapshots: Sequence[Path],
    tta: str,
    settings: PredictSettings,
    masks_fn: str,
    machine_settings: MachineSettings,
    processes: Team,
) -> np.ndarray | None:
    """Write the mean masks to `masks_fn`, batch by batch; the truths (N, h, w) if it is a validation fold.

    Raises:
        UsageError: unknown views, a batch size that makes no sense, snapshots of different folds with part val.
        UserError: snapshots or images that cannot be used.
    """
    views = views_by_name(tta)
    if settings.batch_size is not None and settings.batch_size < 1:
        raise UsageError(f"--batch_size {settings.batch_size}: expected 1 or more")
    stack = open_stack(settings.data_dir, "train" if settings.part == "val" else "test")
    here = machine(machine_settings, processes.local_rank)
    here.tune()
    batch_size = settings.batch_size or here.pays_to_predict
    predictors, abouts = load_predictors(snapshots, here, stack, settings.arch)
    rows = np.arange(len(stack.ids))
    if settings.part == "val":
        rows = _held_out_rows(settings.data_dir, stack, abouts)
    about = {
        "data_dir": settings.data_dir,
        "part": "train" if settings.part == "val" else "test",
        "snapshots": [str(path) for path in snapshots],
        "tta": tta,
    }
    processes.agree({"packed images": stack.digest, "ids to predict": ids_digest(stack.ids[row] for row in rows)})
    place = mask_writer(masks_fn, [stack.ids[row] for row in rows], stack.shape, about)
    with place if processes.leads else nullcontext() as writer:
        for masks in predict(predictors, stack.images, rows, views, batch_size, processes):
            writer.append(masks)
    return None if stack.masks is None else stack.masks[rows]


def _held_out_rows(data_dir: str, stack: Stack, abouts: Sequence[dict]) -> np.ndarray:
    """Rows that none of the snapshots was trained on: their common validation fold."""
    folds = {about["fold"] for about in abouts}
    if len(folds) > 1:
        raise UsageError(
            f"--part val: the snapshots hold out different folds ({sorted(folds)}); predict a fold at a time"
        )
    if any(about["data_digest"] != stack.digest for about in abouts):
        raise UserError(f"--part val: {data_dir} holds other images than the snapshots were trained on")
    rows = fold_rows(data_dir, stack.ids, fold := folds.pop())[1]
    if any(about["val_ids_digest"] != ids_digest(stack.ids[row] for row in rows) for about in abouts):
        raise UserError(
            f"--part val: fold {fold} in {data_dir} holds other images than the snapshots held out: they have learned "
            "from some of them; put back the train_with_folds.csv that they were trained with"
        )
    return rows
