"""Steps after the prediction: gate, threshold, and a submission or the scores of a validation fold."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from utils.competition.class_submission import write_class_submission
from utils.competition.decisions import ClassDecisions, MaskDecisions
from utils.competition.submission_writing import write_mask_submission
from utils.core.prediction_settings import PredictionSettings
from utils.data.image_classes import NOT_EMPTY, nonempty_class, read_classes
from utils.data.packed_data import PackedImages
from utils.masks.gate import gate_probability, gated_out
from utils.masks.mask_file import Masks, open_masks
from utils.masks.postprocessing import PostProcessed, PostProcessing, constant_images
from utils.masks.probability_file import Probabilities, open_probabilities
from utils.scoring.class_metrics import class_scores
from utils.scoring.instance_metrics import dsb2018_scores, match_counts
from utils.scoring.mask_metrics import METRICS, by_size, counts, ratio, scores_from_counts


def finish_masks(
    settings: PredictionSettings,
    decisions: MaskDecisions,
    packed: PackedImages,
    rows: np.ndarray,
    gate: Probabilities | None,
) -> None:
    """Write the submission of the mask file that was just written, or print the scores of a validation fold.

    Args:
        settings: the flags of the predict script.
        decisions: the values decided before the prediction.
        packed: the packed images.
        rows: rows of the packed images that the mask file holds.
        gate: probabilities that an image is not empty; None if there is no gate.
    """
    masks = open_masks(settings.submission.masks_fn)
    print(f"{masks.path}: probabilities of {len(masks.ids)} images")
    out = gated_out_ids(decisions, masks.ids, [gate] if gate else [])
    if settings.predict.part == "val":
        print_scores(masks, decisions, packed, rows, out or ())
    else:
        write_mask_submission(masks, decisions, settings.submission, out)


def finish_classes(
    settings: PredictionSettings, decisions: ClassDecisions, packed: PackedImages, rows: np.ndarray
) -> None:
    """Write the submission of the class probabilities just written, or print the scores of a validation fold."""
    predictions = open_probabilities(settings.submission.masks_fn)
    names = ", ".join(predictions.labels[:5])
    print(f"{predictions.path}: probabilities of {names} for {len(predictions.ids)} images")
    if settings.predict.part == "val":
        truth = (
            nonempty_class(packed.foreground(rows) > 0)
            if predictions.labels == [NOT_EMPTY]
            else read_classes(
                Path(settings.predict.data_dir) / "train_with_folds.csv", predictions.info.target, predictions.ids
            )
        )
        exclusive = bool(predictions.info.exclusive)
        scores = class_scores(predictions.array.astype(np.float64), truth.matrix, exclusive)
        print("validation fold: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    elif predictions.labels == [NOT_EMPTY]:
        print("no submission is written for a gate; pass its snapshot to the prediction of a mask network with --gate")
    else:
        submission = settings.submission
        write_class_submission(
            predictions, decisions.thresholds, decisions.sample, submission.submission_dir, submission.fn
        )


def gated_out_ids(decisions: MaskDecisions, ids: Sequence[str], files: Sequence[Probabilities]) -> set[str] | None:
    """Return the ids of the images that are gated out and print their number; return None if there is no gate.

    Raises:
        UserError: see `gate_probability`.
    """
    if decisions.gate_threshold is None:
        return None
    out = gated_out(gate_probability(files, ids), decisions.gate_threshold)
    at = f"{decisions.gate_threshold:.6g} ({decisions.gate_from})"
    print(f"gate: {np.count_nonzero(out)} of {len(out)} images are gated out at threshold {at}")
    return {name for name, is_out in zip(ids, out, strict=True) if is_out}


def print_scores(
    masks: Masks, decisions: MaskDecisions, packed: PackedImages, rows: np.ndarray, out: Collection[str]
) -> None:
    """Print the scores of a validation fold.

    Args:
        masks: mask file of the fold's images.
        decisions: threshold and post-processing rules, applied as for a submission.
        packed: the training images.
        rows: rows of the fold in the packed images, in the order of the mask file.
        out: ids of images that are gated out.
    """
    cleaned, truths = cleaned_validation(masks, decisions.how, packed, out), (packed.masks[row] for row in rows)
    pairs = zip(cleaned.each_mask(masks.ids), truths, strict=True)
    counted = np.concatenate([counts(found[None], truth[None]) for found, truth in pairs], axis=1)
    recorded = {masks.info.metric} & set(METRICS)
    scores = {name: float(ratio(*METRICS[name].sums(*counted).sum(axis=1))) for name in [*recorded, "iout", "iou"]}
    shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    print(f"validation fold: {shown} at threshold {decisions.how.threshold:.6g} ({decisions.threshold_from})")
    if masks.shape is None:
        name = next(iter(recorded), "iou")
        print(by_size(name, METRICS[name].sums(*counted), masks.shapes))
    if packed.instances is not None:
        objects = instance_scores(cleaned, (packed.instances[row] for row in rows))
        how = decisions.how.instances
        at = f"threshold {how.th:.6g}, seeds above {how.seed_th:.6g} ({decisions.instances_from})"
        print(f"objects (DSB2018's score): {objects.mean():.4f} at {at}")
        if masks.shape is None:
            print(by_size("objects", np.stack([objects, np.ones_like(objects)]), masks.shapes))


def cleaned_validation(
    masks: Masks, how: PostProcessing, packed: PackedImages, out: Collection[str] = ()
) -> PostProcessed:
    """Return the masks of validation images after the post-processing of a submission; `out`: ids gated out."""
    row_of = {name: row for row, name in enumerate(packed.ids)}

    def image_of(name: str) -> np.ndarray:
        return packed.images[row_of[name]]

    constant = constant_images(masks.ids, image_of) if how.rules.constant_is_empty else set()
    return PostProcessed(masks, how, packed.output_shapes, image_of, {*out, *constant})


def mask_tenths(cleaned: PostProcessed, truths: Iterable[np.ndarray]) -> np.ndarray:
    """Return the competition's score of each image's mask in tenths, (N,) int64, 0..10, against N truths (H, W)."""
    pairs = zip(cleaned.each_mask(cleaned.masks.ids), truths, strict=True)
    return np.array([scores_from_counts(*counts(mask[None], truth[None]))[0] for mask, truth in pairs])


def instance_scores(cleaned: PostProcessed, truths: Iterable[np.ndarray]) -> np.ndarray:
    """Return DSB2018's score of the instances of each image, (N,), 0..1, against the N true label maps (H, W)."""
    pairs = zip(cleaned.each_instance_map(), truths, strict=True)
    return dsb2018_scores(np.stack([match_counts(found, truth) for found, truth in pairs]))
