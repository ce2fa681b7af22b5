"""The rows of a submission: one an image or one an object, from probabilities, thresholds and rules of thumb."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.formats import Format
from utils.image_ids import stem_of
from utils.label_file import labels_beside, resized_labels, write_labels, write_png
from utils.mask_file import Masks
from utils.metrics import binarize
from utils.objects import ObjectRules, label_objects
from utils.prediction_settings import RuleSettings
from utils.rle import encode, encode_objects
from utils.rules import clean_labels, clean_mask
from utils.submission_check import Shapes

Rows = Iterator[tuple[str, str]]  # id, run-lengths


@dataclass(frozen=True)
class Job:
    """What rows are made from."""

    masks: Masks
    form: Format
    ids: Sequence[str]
    """in the order of the submission; the same ids as the mask file's."""
    shapes: Shapes
    """of the masks in the submission."""
    rules: RuleSettings
    """of thumb."""
    picture_of: Callable[[str], np.ndarray] | None
    """id -> the packed image (H, W, C) uint8, where a rule needs it."""
    silent: Collection[str]
    """ids whose mask is empty whatever was predicted."""


def mask_rows(job: Job, th: float, min_area: int) -> Rows:
    """A row an image."""
    for name, mask in zip(job.ids, clean_masks(job, th, min_area), strict=True):
        yield name, encode(mask, job.form.by_row)


def clean_masks(job: Job, th: float, min_area: int) -> Iterator[np.ndarray]:
    """The bool mask of each image, in the order of the ids, each of its source image's size."""
    return (_mask(job, name, row, th, min_area) for name, row in _places(job.masks, job.ids))


def _mask(job: Job, name: str, row: int, th: float, min_area: int) -> np.ndarray:
    """Bool mask of one image, of its source image's size."""
    shape = _shape(job, name)
    if name in job.silent:
        return np.zeros(shape, dtype=bool)
    probabilities = _probabilities(job, name, row)
    mask = binarize(probabilities, th)
    if np.count_nonzero(mask) < min_area:
        return np.zeros(shape, dtype=bool)
    if mask.shape != shape:
        mask = binarize(_resized(probabilities, shape), th)
    return clean_mask(mask, job.rules)


def write_label_maps(job: Job, how: ObjectRules) -> np.ndarray:
    """Write the label maps beside the mask file, in its order and at its size: (N, H, W) uint16, memory-mapped.

    Raises:
        UserError: more objects in an image than can be numbered.
    """
    about = {"masks": str(job.masks.path), "objects": vars(how), "rules": vars(job.rules)}
    return write_labels(
        labels_beside(job.masks.path), job.masks.ids, label_maps(job, how), job.masks.array.shape[1:], about
    )


def label_maps(job: Job, how: ObjectRules) -> Iterator[np.ndarray]:
    """The label map (H, W) uint16 of each image, in the order and at the size of the mask file; raises as above."""
    return (_labels(job, name, row, how) for name, row in _places(job.masks, job.masks.ids))


def _labels(job: Job, name: str, row: int, how: ObjectRules) -> np.ndarray:
    """(H, W) uint16 label map of one image, of the mask file's size."""
    if name in job.silent:
        return np.zeros(job.masks.array.shape[1:], dtype=np.uint16)
    border = None if job.masks.border is None else job.masks.border[row]
    try:
        labels = label_objects(_probabilities(job, name, row), border, how)
    except ValueError as error:
        raise UserError(f"{job.masks.path}: {name}: {error}; a larger --th or --min_area leaves fewer") from None
    return clean_labels(labels, job.rules)


def object_rows(job: Job, labels: np.ndarray, label_pngs: str | None) -> Rows:
    """A row an object in the order of their numbers, an empty one for an image that has none.

    Args:
        job: the images.
        labels: (N, H, W) label maps in the mask file's order.
        label_pngs: folder to write each map to, at its image's size; None: none are written.
    """
    for name, row in _places(job.masks, job.ids):
        of_source = resized_labels(labels[row], _shape(job, name))
        if label_pngs is not None:
            write_png(Path(label_pngs) / f"{stem_of(name)}.png", of_source)
        for cell in encode_objects(of_source, job.form.by_row) or [""]:
            yield name, cell


def _places(masks: Masks, ids: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Each id and its row in the mask file."""
    row_of = {name: row for row, name in enumerate(masks.ids)}
    return ((name, row_of[name]) for name in ids)


def _shape(job: Job, name: str) -> tuple[int, int]:
    return job.shapes if isinstance(job.shapes, tuple) else job.shapes[name]


def _probabilities(job: Job, name: str, row: int) -> np.ndarray:
    """(H, W) of one image, refined by its edges if the rules say so."""
    if not job.rules.crf:
        return job.masks.array[row]
    from utils.crf import refined

    return refined(job.masks.array[row], job.picture_of(name))


def _resized(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) probabilities as float32 of another (height, width)."""
    import cv2

    return cv2.resize(probabilities.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)
