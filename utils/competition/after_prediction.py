"""What happens after the network has predicted: gate, threshold, submission, or the scores of a validation fold."""

from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from utils.competition.class_submission import write_class_submission
from utils.competition.submission_writing import Job, clean_masks, finish_submission, label_maps
from utils.core.errors import UsageError
from utils.core.prediction_settings import PredictionSettings, RuleSettings
from utils.data.formats import FORMATS
from utils.data.image_classes import NOT_EMPTY, nonempty_class, read_classes
from utils.data.packed import PackedImages
from utils.masks.instances import InstanceRules
from utils.masks.mask_file import Masks, open_masks
from utils.masks.postprocessing import constant_images
from utils.masks.probability_file import Probabilities, open_probabilities
from utils.scoring.class_metrics import class_scores
from utils.scoring.instance_metrics import dsb2018_scores, match_counts
from utils.scoring.metrics import counts, iou, scores_from_counts
from utils.scoring.stored_results import (
    choose_rules,
    choose_threshold,
    first_stored,
    gated_out_ids,
    stored_class_thresholds,
)


def validation_job(masks: Masks, rules: RuleSettings, packed: PackedImages, quiet: Collection[str] = ()) -> Job:
    """What the masks of a validation fold are cleaned by; `quiet`: ids that a gate silences."""
    row_of = {name: row for row, name in enumerate(packed.ids)}

    def picture_of(name: str) -> np.ndarray:
        return packed.images[row_of[name]]

    constant = constant_images(masks.ids, picture_of) if rules.constant_is_empty else set()
    return Job(masks, FORMATS["tgs"], masks.ids, packed.shape, rules, picture_of, {*quiet, *constant})


def mask_tenths(job: Job, truths: np.ndarray, th: float, min_area: int) -> np.ndarray:
    """(N,) int64, 0..10: the competition's score of each image's mask, against truths (N, H, W)."""
    pairs = zip(clean_masks(job, th, min_area), truths, strict=True)
    return np.array([scores_from_counts(*counts(mask[None], truth[None]))[0] for mask, truth in pairs])


def instance_score(job: Job, labels: np.ndarray, how: InstanceRules) -> float:
    """DSB2018's score of the objects, 0..1, against label maps (N, H, W)."""
    pairs = zip(label_maps(job, how), labels, strict=True)
    return float(dsb2018_scores(np.stack([match_counts(found, truth) for found, truth in pairs])).mean())


def print_scores(
    masks: Masks,
    th: float | None,
    rules: RuleSettings,
    folders: Sequence[Path | None],
    packed: PackedImages,
    rows: np.ndarray,
    quiet: Collection[str] | None,
) -> None:
    """Print the scores of a validation fold.

    Args:
        masks: of its images.
        th: what --th says.
        rules: of thumb, applied as to a submission.
        folders: runs in which thresholds may be stored.
        packed: the training images.
        rows: those of the fold, in the mask file's order.
        quiet: ids that a gate silences; None: there is no gate.
    """
    job, truths = validation_job(masks, rules, packed, quiet or ()), packed.masks[rows]
    mask_th, min_area, origin = choose_threshold(th, rules.min_area, folders, quiet is not None)
    found = np.stack(list(clean_masks(job, mask_th, min_area)))
    tenths = scores_from_counts(*counts(found, truths))
    score = f"iout {int(tenths.sum()) / (10 * len(tenths)):.4f}, iou {iou(found, truths):.4f}"
    print(f"validation fold: {score} at threshold {mask_th:.6g} ({origin})")
    if packed.instances is not None:
        how, origin = choose_rules(th, rules.seed_th, rules.min_area, rules.fill_holes, folders)
        objects = instance_score(job, packed.instances[rows], how)
        print(f"objects (DSB2018's score): {objects:.4f} at {how.th:.6g}, seeds at {how.seed_th:.6g} ({origin})")


FOR_LABELS = ("masks_fn", "fn", "submission_dir")
"""What labels need of the flags of a submission."""


def finish_masks(
    settings: PredictionSettings,
    folders: Sequence[Path | None],
    packed: PackedImages,
    rows: np.ndarray,
    gate: Probabilities | None,
) -> None:
    """The submission of a mask file just written; for a validation fold its scores instead.

    Args:
        settings: the flags.
        folders: runs of the snapshots, where thresholds may be stored.
        packed: the images.
        rows: which of them the mask file is of.
        gate: what says whether there is anything in them.
    """
    masks = open_masks(settings.submission.masks_fn)
    print(f"{masks.path}: probabilities of {len(masks.ids)} images")
    quiet = gated_out_ids(settings.gate.gate_th, folders, masks.ids, [gate] if gate else [])
    if packed.masks is None:
        data_dir = settings.predict.data_dir
        finish_submission(masks, settings.submission, settings.rules, folders, data_dir, quiet)
    else:
        print_scores(masks, settings.submission.th, settings.rules, folders, packed, rows, quiet)


def check_label_flags(settings: PredictionSettings) -> None:
    """Raise a UsageError for a flag about masks where labels are predicted, instead of passing it over."""
    given = [flag for flag, value in (("gate", settings.gate.gate), ("tile", settings.predict.tile)) if value]
    for group in (settings.submission, settings.rules):
        flags = [entry for entry in fields(group) if entry.name not in FOR_LABELS]
        given += [entry.name for entry in flags if getattr(group, entry.name) != entry.default]
    if given:
        raise UsageError(f"--{given[0]}: is for masks, and the snapshot is of labels; leave it out")


def finish_labels(
    settings: PredictionSettings, folders: Sequence[Path | None], packed: PackedImages, rows: np.ndarray
) -> None:
    """The submission of label probabilities just written; for a validation fold their scores instead."""
    answers = open_probabilities(settings.submission.masks_fn)
    print(f"{answers.path}: probabilities of {', '.join(answers.labels[:5])} for {len(answers.ids)} images")
    exclusive, column = bool(answers.about.get("exclusive")), answers.about.get("target")
    if settings.predict.part == "val":
        truth = (
            nonempty_class(packed.masks[rows])
            if answers.labels == [NOT_EMPTY]
            else read_classes(Path(settings.predict.data_dir) / "train_with_folds.csv", column, answers.ids)
        )
        scores = class_scores(answers.array.astype(np.float64), truth.matrix, exclusive)
        print("validation fold: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    elif answers.labels == [NOT_EMPTY]:
        print("a gate makes no submission of its own; give it to a mask net's prediction with --gate")
    else:
        _, thresholds = first_stored(stored_class_thresholds, folders)
        submission = settings.submission
        write_class_submission(
            answers, thresholds, exclusive, submission.submission_dir, submission.fn, settings.predict.data_dir
        )
