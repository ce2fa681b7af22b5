"""The empty-image gate: a classifier's probability that there is anything in an image.

An image is let through iff its probability is strictly GREATER than the gate's threshold, as a pixel is mask; the mask
of one that is gated out is empty.
"""

from collections.abc import Sequence

import numpy as np

from utils.core.errors import UserError
from utils.data.image_classes import NOT_EMPTY
from utils.masks.mask_file import binarize
from utils.masks.probability_file import Probabilities

OPEN = -1.0
"""The threshold of a gate that lets every image through; no probability is lower. In gate.json it is null."""


def gate_probability(files: Sequence[Probabilities], ids: Sequence[str]) -> np.ndarray:
    """The probability that there is anything in each image.

    Files of different images are joined (what each fold held out); of an image in several files (test images, by the
    net of each fold) the probability is the mean.

    Args:
        files: at least one.
        ids: N images.

    Returns:
        (N,) float64, [0, 1].

    Raises:
        UserError: a file of other labels, or images of which no file knows.
    """
    sums: dict[str, float] = {}
    numbers: dict[str, int] = {}
    for file in files:
        if file.labels != [NOT_EMPTY]:
            shown = ", ".join(file.labels[:5]) + (", ..." if len(file.labels) > 5 else "")
            raise UserError(
                f"{file.path}: expected probabilities of {NOT_EMPTY}, found {shown}; a gate is made by "
                "train_classifier.py without --target"
            )
        for name, value in zip(file.ids, file.array[:, 0].tolist(), strict=True):
            sums[name] = sums.get(name, 0.0) + value
            numbers[name] = numbers.get(name, 0) + 1
    if missing := [name for name in ids if name not in sums]:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        raise UserError(
            f"{files[0].path}{more}: no gate probability for {len(missing)} of {len(ids)} images (such as "
            f"{missing[0]}); this is a gate of other images or other folds"
        )
    return np.array([sums[name] / numbers[name] for name in ids], dtype=np.float64)


def gated_out(probabilities: np.ndarray, gate_th: float) -> np.ndarray:
    """(N,) bool: which images the gate does not let through (probabilities as `gate_probability` returns them)."""
    return ~binarize(probabilities, gate_th)
