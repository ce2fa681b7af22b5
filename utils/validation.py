"""Scores of masks and objects on a validation fold, cleaned up as a submission would be."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from utils.formats import FORMATS
from utils.mask_file import Masks
from utils.metrics import counts, iou, scores_from_counts
from utils.object_metrics import dsb2018_scores, match_counts
from utils.objects import ObjectRules, choose_rules
from utils.prediction_settings import RuleSettings
from utils.rules import constant_images
from utils.stack import Stack
from utils.stored_threshold import choose_threshold
from utils.submission_rows import Job, clean_masks, label_maps


def validation_job(masks: Masks, rules: RuleSettings, stack: Stack, quiet: Collection[str] = ()) -> Job:
    """What the masks of a validation fold are cleaned by; `quiet`: ids that a gate silences."""
    row_of = {name: row for row, name in enumerate(stack.ids)}

    def picture_of(name: str) -> np.ndarray:
        return stack.images[row_of[name]]

    constant = constant_images(masks.ids, picture_of) if rules.constant_is_empty else set()
    return Job(masks, FORMATS["tgs"], masks.ids, stack.shape, rules, picture_of, {*quiet, *constant})


def mask_tenths(job: Job, truths: np.ndarray, th: float, min_area: int) -> np.ndarray:
    """(N,) int64, 0..10: the competition's score of each image's mask, against truths (N, H, W)."""
    pairs = zip(clean_masks(job, th, min_area), truths, strict=True)
    return np.array([scores_from_counts(*counts(mask[None], truth[None]))[0] for mask, truth in pairs])


def object_score(job: Job, labels: np.ndarray, how: ObjectRules) -> float:
    """DSB2018's score of the objects, 0..1, against label maps (N, H, W)."""
    pairs = zip(label_maps(job, how), labels, strict=True)
    return float(dsb2018_scores(np.stack([match_counts(found, truth) for found, truth in pairs])).mean())


def print_scores(
    masks: Masks,
    th: float | None,
    rules: RuleSettings,
    folders: Sequence[Path | None],
    stack: Stack,
    rows: np.ndarray,
    quiet: Collection[str] | None,
) -> None:
    """Print the scores of a validation fold.

    Args:
        masks: of its images.
        th: what --th says.
        rules: of thumb, applied as to a submission.
        folders: runs in which thresholds may be stored.
        stack: the training images.
        rows: those of the fold, in the mask file's order.
        quiet: ids that a gate silences; None: there is no gate.
    """
    job, truths = validation_job(masks, rules, stack, quiet or ()), stack.masks[rows]
    mask_th, min_area, origin = choose_threshold(th, rules.min_area, folders, quiet is not None)
    found = np.stack(list(clean_masks(job, mask_th, min_area)))
    tenths = scores_from_counts(*counts(found, truths))
    score = f"iout {int(tenths.sum()) / (10 * len(tenths)):.4f}, iou {iou(found, truths):.4f}"
    print(f"validation fold: {score} at threshold {mask_th:.6g} ({origin})")
    if stack.labels is not None:
        how, origin = choose_rules(th, rules.seed_th, rules.min_area, rules.fill_holes, folders)
        objects = object_score(job, stack.labels[rows], how)
        print(f"objects (DSB2018's score): {objects:.4f} at {how.th:.6g}, seeds at {how.seed_th:.6g} ({origin})")
