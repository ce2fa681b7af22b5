"""Probability files: NAME.npy, float32 (images, classes) in [0, 1], and NAME.json with ids and class names."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.core.arrays import array_writer, open_array
from utils.core.errors import UserError
from utils.masks.mask_file import PredictionInfo, check_name, read_description, write_description


@dataclass(frozen=True)
class Probabilities:
    """An opened probability file."""

    path: Path
    array: np.ndarray
    """(N, K) float32, [0, 1]; held in memory because it is small."""
    ids: list[str]
    """N image ids, each once."""
    labels: list[str]
    """K class names."""
    info: PredictionInfo = field(default_factory=PredictionInfo)

    @property
    def planes(self) -> np.ndarray:
        """The array of the file, (N, K) float32, under the name that mask files use for it."""
        return self.array


def write_probabilities(
    path: str | Path, ids: Sequence[str], array: np.ndarray, labels: Sequence[str], info: PredictionInfo
) -> None:
    """Write probabilities and their description.

    An old description is removed before the new array appears, and the new description is written last;
    `open_probabilities` refuses an array without one.

    Args:
        path: ends in .npy.
        ids: N image ids.
        array: (N, K) floats, [0, 1]; stored as float32.
        labels: K class names.
        info: description of the predictions.

    Raises:
        UserError: `path` does not end in .npy, or its .json is a name used for another kind of file.
        ValueError: the array is not (N, K).
    """
    path = Path(path)
    check_name(path)
    if array.shape != (len(ids), len(labels)):
        raise ValueError(f"expected probabilities of shape {(len(ids), len(labels))}, found {array.shape}")
    with array_writer(path, array.shape, np.float32) as writer:
        writer.append(array)
        path.with_suffix(".json").unlink(missing_ok=True)
    write_description(path, {"ids": list(ids), "labels": list(labels)}, info)


def open_probabilities(path: str | Path) -> Probabilities:
    """Read a probability file.

    Raises:
        UserError: the file is missing, truncated, without its .json or not (images, classes) float32, the number of
            ids or classes differs, an id is listed twice, or a value is outside [0, 1].
    """
    path = Path(path)
    array = open_array(path)
    beside = path.with_suffix(".json")
    if array.dtype != np.float32 or array.ndim != 2:
        what = "; this is a mask file, expected one from train_classifier.py or its snapshots" if array.ndim > 2 else ""
        raise UserError(
            f"{path}: expected float32 probabilities (images, labels), found {array.dtype} {array.shape}{what}"
        )
    values, info = read_description(path)
    ids, labels = values.get("ids"), values.get("labels")
    for found, needed, what in ((ids, array.shape[0], "ids"), (labels, array.shape[1], "labels")):
        if not isinstance(found, list) or len(found) != needed:
            number = len(found) if isinstance(found, list) else "no"
            raise UserError(f"{beside}: expected {needed} {what} for the array of {path.name}, found {number}")
    if len(set(ids)) < len(ids):
        again = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"{beside}: image {again} is listed twice; predict again")
    if array.size and not (array.min() >= 0 and array.max() <= 1):  # written so that NaN fails too
        raise UserError(f"{path}: expected probabilities in [0, 1], found {array.min():g} to {array.max():g}")
    return Probabilities(path, np.array(array), ids, labels, info)
