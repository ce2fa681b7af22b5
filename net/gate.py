"""The empty-image gate of the predict scripts: nets that say whether there is anything in an image at all."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from net.engine import predict
from net.held_out import held_out_rows
from net.machine import Machine
from net.predictor import Predictor, load_predictors
from net.tasks import Kind
from net.team import Team
from net.tta import views_by_name
from utils.errors import UserError
from utils.labels import NOT_EMPTY
from utils.prediction_settings import PredictionSettings
from utils.probability_file import Probabilities, open_probabilities, write_probabilities
from utils.run_folder import find_snapshots
from utils.stack import Stack, ids_digest

GATE = Kind("labels", (NOT_EMPTY,))


def load_gate(settings: PredictionSettings, stack: Stack, rows: np.ndarray, here: Machine) -> list[Predictor]:
    """The nets of --gate, checked before anything is predicted.

    A classifier of train_classifier.py without --target is a gate, and so is the image class of a deeply supervised
    mask net.

    Raises:
        UsageError: no snapshots.
        UserError: nets that are no gate, or that have learned from the images they are asked about.
    """
    predictors = []
    for path in find_snapshots(settings.gate.gate, "--gate"):  # one by one: a mask net and a classifier may go together
        (predictor,), (about,) = load_predictors([path], here, stack)
        predictors.append(_as_gate(predictor, path))
        if settings.predict.part == "val":
            held_out = held_out_rows(settings.predict.data_dir, stack, [about], f"--gate {path}")
            if not np.array_equal(held_out, rows):
                raise UserError(
                    f"--gate {path}: holds out fold {about['fold']}, so it has learned from images of the fold that is "
                    "predicted; give the gate of the same fold"
                )
    return predictors


def gate_probabilities(
    predictors: Sequence[Predictor],
    settings: PredictionSettings,
    stack: Stack,
    rows: np.ndarray,
    here: Machine,
    processes: Team,
) -> Probabilities | None:
    """The mean probability that there is anything in each image, also written to <masks_fn>_gate.npy.

    None but in the leading process.

    Args:
        predictors: what `load_gate` returned.
        settings: the flags.
        stack: the images.
        rows: which of them are asked about.
        here: what it runs on.
        processes: that share the images.
    """
    batch_size = settings.predict.batch_size or here.pays_to_predict
    found = list(predict(predictors, stack.images, rows, views_by_name("null"), batch_size, processes))
    if not processes.leads:
        return None
    ids, paths = [stack.ids[row] for row in rows], find_snapshots(settings.gate.gate, "--gate")
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
