"""The last steps of a predict script, once the network has answered: gate, threshold, submission, or a fold's score."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from utils.errors import UsageError
from utils.fit_labels import stored_label_thresholds
from utils.gate import silenced_ids
from utils.label_scores import label_scores
from utils.label_submission import finish_label_submission
from utils.labels import NOT_EMPTY, not_empty, read_labels
from utils.mask_file import open_masks
from utils.prediction_settings import PredictionSettings
from utils.probability_file import Probabilities, open_probabilities
from utils.stack import Stack
from utils.stored_threshold import first_stored
from utils.submit import finish_submission
from utils.validation import print_scores

FOR_LABELS = ("masks_fn", "fn", "submission_dir")
"""What labels need of the flags of a submission."""


def finish_masks(
    settings: PredictionSettings,
    folders: Sequence[Path | None],
    stack: Stack,
    rows: np.ndarray,
    gate: Probabilities | None,
) -> None:
    """The submission of a mask file just written; for a validation fold its scores instead.

    Args:
        settings: the flags.
        folders: runs of the snapshots, where thresholds may be stored.
        stack: the images.
        rows: which of them the mask file is of.
        gate: what says whether there is anything in them.
    """
    masks = open_masks(settings.submission.masks_fn)
    print(f"{masks.path}: probabilities of {len(masks.ids)} images")
    quiet = silenced_ids(settings.gate.gate_th, folders, masks.ids, [gate] if gate else [])
    if stack.masks is None:
        data_dir = settings.predict.data_dir
        finish_submission(masks, settings.submission, settings.rules, folders, data_dir, quiet)
    else:
        print_scores(masks, settings.submission.th, settings.rules, folders, stack, rows, quiet)


def check_label_flags(settings: PredictionSettings) -> None:
    """Raise a UsageError for a flag about masks where labels are predicted, instead of passing it over."""
    given = [flag for flag, value in (("gate", settings.gate.gate), ("tile", settings.predict.tile)) if value]
    for group in (settings.submission, settings.rules):
        flags = [entry for entry in fields(group) if entry.name not in FOR_LABELS]
        given += [entry.name for entry in flags if getattr(group, entry.name) != entry.default]
    if given:
        raise UsageError(f"--{given[0]}: is for masks, and the snapshot is of labels; leave it out")


def finish_labels(settings: PredictionSettings, folders: Sequence[Path | None], stack: Stack, rows: np.ndarray) -> None:
    """The submission of label probabilities just written; for a validation fold their scores instead."""
    answers = open_probabilities(settings.submission.masks_fn)
    print(f"{answers.path}: probabilities of {', '.join(answers.labels[:5])} for {len(answers.ids)} images")
    exclusive, column = bool(answers.about.get("exclusive")), answers.about.get("target")
    if settings.predict.part == "val":
        truth = (
            not_empty(stack.masks[rows])
            if answers.labels == [NOT_EMPTY]
            else read_labels(Path(settings.predict.data_dir) / "train_with_folds.csv", column, answers.ids)
        )
        scores = label_scores(answers.array.astype(np.float64), truth.matrix, exclusive)
        print("validation fold: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    elif answers.labels == [NOT_EMPTY]:
        print("a gate makes no submission of its own; give it to a mask net's prediction with --gate")
    else:
        _, thresholds = first_stored(stored_label_thresholds, folders)
        submission = settings.submission
        finish_label_submission(
            answers, thresholds, exclusive, submission.submission_dir, submission.fn, settings.predict.data_dir
        )
