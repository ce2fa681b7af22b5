"""The empty-image gate: a classifier's probability that an image contains anything.

An image passes the gate iff its probability is strictly GREATER than the gate threshold, the same rule as for the
pixels of a mask. An image that is gated out gets an empty mask.
"""

from collections.abc import Sequence

import numpy as np

from utils.core.errors import UserError
from utils.data.image_classes import NOT_EMPTY
from utils.masks.mask_file import binarize
from utils.masks.probability_file import Probabilities

OPEN = -1.0
"""The threshold of a gate that lets every image through, lower than any probability. It is null in gate.json."""


def gate_probability(files: Sequence[Probabilities], ids: Sequence[str]) -> np.ndarray:
    """Return the probability that each image contains anything.

    Files of different images (the held-out fold of each run) are joined. For an image in several files (test images,
    predicted by the network of each fold) the probabilities are averaged.

    Args:
        files: at least one.
        ids: N images.

    Returns:
        (N,) float64, [0, 1].

    Raises:
        UserError: a file has other labels, or images are missing from all files.
    """
    sums: dict[str, float] = {}
    numbers: dict[str, int] = {}
    for file in files:
        if file.labels != [NOT_EMPTY]:
            shown = ", ".join(file.labels[:5]) + (", ..." if len(file.labels) > 5 else "")
            raise UserError(
                f"{file.path}: expected probabilities of {NOT_EMPTY}, found {shown}; train a gate with "
                "train_classifier.py without --target"
            )
        for name, value in zip(file.ids, file.array[:, 0].tolist(), strict=True):
            sums[name] = sums.get(name, 0.0) + value
            numbers[name] = numbers.get(name, 0) + 1
    if missing := [name for name in ids if name not in sums]:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        raise UserError(
            f"{files[0].path}{more}: no gate probability for {len(missing)} of {len(ids)} images (such as "
            f"{missing[0]}); the gate was predicted for other images or folds"
        )
    return np.array([sums[name] / numbers[name] for name in ids], dtype=np.float64)


def gated_out(probabilities: np.ndarray, gate_th: float) -> np.ndarray:
    """Return (N,) bool, True for images that are gated out (probabilities as returned by `gate_probability`)."""
    return ~binarize(probabilities, gate_th)
