"""The last steps of a predict script, once the network has answered: gate, threshold, submission, or a fold's score."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from utils.fit_labels import stored_label_thresholds
from utils.gate import FILE as GATE_FILE
from utils.gate import choose_gate_th, gate_probability, silenced, stored_gate
from utils.label_scores import label_scores
from utils.label_submission import finish_label_submission
from utils.labels import NOT_EMPTY, not_empty, read_labels
from utils.mask_file import Masks, open_masks
from utils.metrics import binarize, iou, iout
from utils.object_metrics import dsb2018_scores, match_counts
from utils.objects import choose_rules, label_objects
from utils.prediction_settings import PredictionSettings
from utils.probability_file import Probabilities, open_probabilities
from utils.stack import Stack
from utils.submit import finish_submission
from utils.threshold import choose_threshold, first_stored, stored_threshold


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
    quiet: set[str] = set()
    if gate:
        settings, quiet = _with_gate(settings, folders, masks, gate)
    if stack.masks is None:
        data_dir = settings.predict.data_dir
        finish_submission(masks, settings.submission, settings.rules, folders, data_dir, quiet)
    else:
        _print_scores(settings, folders, masks, stack, rows, quiet)


def _with_gate(
    settings: PredictionSettings, folders: Sequence[Path | None], masks: Masks, gate: Probabilities
) -> tuple[PredictionSettings, set[str]]:
    """Ids that the gate silences, and the settings with the mask's threshold that was found together with it."""
    th, origin = choose_gate_th(settings.gate.gate_th, folders)
    which = silenced(gate_probability([gate], masks.ids), th)
    print(f"gate: silences {np.count_nonzero(which)} of {len(which)} images at {th:.6g} ({origin})")
    with_gate, _ = first_stored(stored_gate, folders)
    if with_gate is not None and settings.submission.th is None:
        mask_th, min_area = stored_threshold(with_gate, GATE_FILE)
        settings = replace(settings, submission=replace(settings.submission, th=mask_th))
        if settings.rules.min_area is None:
            settings = replace(settings, rules=replace(settings.rules, min_area=min_area))
    return settings, {name for name, hush in zip(masks.ids, which, strict=True) if hush}


def _print_scores(
    settings: PredictionSettings,
    folders: Sequence[Path | None],
    masks: Masks,
    stack: Stack,
    rows: np.ndarray,
    quiet: set[str],
) -> None:
    flags, rules = settings.submission, settings.rules
    th, _, origin = choose_threshold(flags.th, rules.min_area, folders)
    found, truths = binarize(masks.array, th), stack.masks[rows]
    found[[name in quiet for name in masks.ids]] = False
    print(f"validation fold: iout {iout(found, truths):.4f}, iou {iou(found, truths):.4f} at {th:.6g} ({origin})")
    if stack.labels is not None:
        how, origin = choose_rules(flags.th, rules.seed_th, rules.min_area, rules.fill_holes, folders)
        matches = []
        for place, row in enumerate(rows):
            border = None if masks.border is None else masks.border[place]
            labels = label_objects(masks.array[place], border, how)
            labels[:] = 0 if masks.ids[place] in quiet else labels
            matches.append(match_counts(labels, stack.labels[row]))
        score = dsb2018_scores(np.stack(matches)).mean()
        print(f"objects (DSB2018's score): {score:.4f} at {how.th:.6g}, seeds at {how.seed_th:.6g} ({origin})")


def finish_labels(
    settings: PredictionSettings,
    folders: Sequence[Path | None],
    stack: Stack,
    rows: np.ndarray,
    _gate: Probabilities | None,
) -> None:
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
