"""Mask files: NAME.npy with float16 probabilities in [0, 1], and NAME.json with ids and a description.

The array is (N, H, W) masks, or (N, 2, H, W) masks and borders between instances (train_border.py). If images have
different sizes, it is flat, with one image after another, and the .json has the shape of each. Files of more than a
gigabyte are compressed without loss (utils/data/compact_rows.py); their .json has the ends of the masks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.arrays import Rows, RowsWriter, Shape, common_shape, open_array, shapes_in
from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.core.records import from_plain, to_plain
from utils.data.compact_rows import open_predictions, predictions_writer
from utils.data.packed_data import PackedImages

TAKEN = ("config", "gate", "labels", "manifest", "objects", "summary", "threshold")
"""Stems that a mask file cannot have, because the .json files of these names mean something else."""


@dataclass(frozen=True)
class PredictionInfo:
    """The description of a prediction file; files of earlier versions have fewer fields."""

    data_dir: str | None = None
    """The packed folder of the predicted images."""
    part: str | None = None
    """The part of the packed folder: train or test."""
    images_digest: str | None = None
    """A digest of the images' pixels, which reveals images that were packed again under the same ids."""
    fold: int | None = None
    """The fold of the images, if training wrote the file."""
    snapshots: tuple[str, ...] = ()
    """The snapshot files whose predictions are averaged."""
    tta: str | None = None
    """The averaged views joined by _; "null" for the image alone."""
    scales: tuple[float, ...] = ()
    """The averaged scales relative to training; () for the scale of training alone."""
    best_of: tuple[float, ...] = ()
    """The scales of which the best one was chosen for each image; () if none was chosen."""
    mean_of: tuple[str, ...] = ()
    """The mask files that are averaged."""
    weights: tuple[float, ...] = ()
    """The share of each file in `mean_of`."""
    joined_from: tuple[str, ...] = ()
    """The validation files of single folds that are concatenated."""
    target: str | None = None
    """The column of train_with_folds.csv with the learned classes."""
    exclusive: bool | None = None
    """True if each image has exactly one of the classes."""
    border: str | None = None
    """The kind of border that was learned: outline, touching or both."""
    border_width: int | None = None
    metric: str | None = None
    """The score that ranked the snapshots of the training."""

    @property
    def views(self) -> str | None:
        """The averaged views, and scales unless it is that of training; None if they are not known."""
        if self.best_of:
            return f"{self.tta} at the best scale"
        return f"{self.tta} at scales {' '.join(f'{one:g}' for one in self.scales)}" if self.scales else self.tta


@dataclass(frozen=True)
class Masks:
    """An opened mask file."""

    path: Path
    planes: Rows
    """The rows of the file: N masks (H, W), or with borders (2, H, W), float16 probabilities, memory-mapped."""
    ids: list[str]
    info: PredictionInfo = field(default_factory=PredictionInfo)

    @property
    def array(self) -> Rows:
        """The N masks (H, W) float16."""
        return self._plane(0) if self._has_borders else self.planes

    @property
    def border(self) -> Rows | None:
        """The N borders between instances (H, W) float16; None if the file has no borders."""
        return self._plane(1) if self._has_borders else None

    @property
    def shape(self) -> tuple[int, int] | None:
        """(height, width) of all masks; None if they differ."""
        return common_shape(self.shapes)

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of each mask."""
        return [(shape[-2], shape[-1]) for shape in shapes_in(self.planes)]

    @property
    def _has_borders(self) -> bool:
        return len(self.planes) > 0 and len(shapes_in(self.planes, [0])[0]) == 3

    def _plane(self, number: int) -> Rows:
        return self.planes[:, number] if isinstance(self.planes, np.ndarray) else self.planes.with_plane(number)


@dataclass(frozen=True)
class PendingPredictions:
    """Predictions of one epoch under a temporary name, until it is decided whether they are kept."""

    path: Path

    def keep(self, target: Path) -> None:
        """Move the array and its description to `target`.

        The old description is removed first and the new one moved last, so `open_masks` refuses the array if this is
        interrupted.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_suffix(".json").unlink(missing_ok=True)
        self.path.replace(target)
        self.path.with_suffix(".json").replace(target.with_suffix(".json"))

    def discard(self) -> None:
        """Remove the temporary files; predictions kept earlier are not touched."""
        for path in (self.path, self.path.with_suffix(".json")):
            path.unlink(missing_ok=True)


def binarize(probabilities: np.ndarray, th: float) -> np.ndarray:
    """Return the bool mask, True where the probability is strictly greater than `th`.

    The comparison is exact for every dtype. `probabilities > th` is not exact for a float16 array: numpy 2 first rounds
    the Python float to float16 (NEP 50), so .3 becomes .30005 and pixels of .30005 drop out of the mask. A float64
    scalar keeps its type, and the pixels are widened instead.
    """
    return np.asarray(probabilities) > np.float64(th)


@contextmanager
def mask_writer(
    path: str | Path, ids: Sequence[str], shapes: Sequence[Shape], info: PredictionInfo
) -> Iterator[RowsWriter]:
    """Yield a writer that takes the masks of `ids`, each (H, W) or (2, H, W) of its shape, in order, batch by batch.

    Masks of more than a gigabyte are compressed. Both files appear only after all masks are written. An old description
    is removed before the new array appears, and the new description is written last; `open_masks` refuses an array
    without one.
    """
    path = Path(path)
    check_name(path)
    with predictions_writer(path, shapes, "float16") as (writer, described):
        yield writer
        path.with_suffix(".json").unlink(missing_ok=True)
    write_description(path, {"ids": list(ids), **described}, info)


def open_masks(path: str | Path) -> Masks:
    """Open a mask file, memory-mapped.

    Raises:
        UserError: the file is missing, truncated, without its .json, or not (N, H, W) or (N, 2, H, W) floats, or the
            number of ids is not N.
    """
    path = Path(path)
    open_array(path)  # a missing file is reported before its description
    values, info = read_description(path)
    array = open_predictions(path, values, "float16")
    plain = isinstance(array, np.ndarray)
    if plain and (array.dtype.kind != "f" or not (array.ndim == 3 or (array.ndim == 4 and array.shape[1] == 2))):
        what = "; this is a probability file of image classes, expected a mask file" if array.ndim == 2 else ""
        raise UserError(
            f"{path}: expected float masks (images, height, width), or (images, 2, height, width) with borders, "
            f"found {array.dtype} {array.shape}{what}"
        )
    ids = values.get("ids")
    if not isinstance(ids, list) or len(ids) != len(array):
        found = len(ids) if isinstance(ids, list) else "no"
        raise UserError(
            f"{path.with_suffix('.json')}: expected {len(array)} ids for the masks of {path.name}, found {found}"
        )
    return Masks(path, array, ids, info)


def check_name(path: Path) -> None:
    """Raise UserError if a file of masks or probabilities cannot have this name."""
    if path.suffix != ".npy":
        raise UserError(f"{path}: expected a file name that ends in .npy, such as masks.npy")
    if path.stem in TAKEN:
        raise UserError(
            f"{path}: its description would be {path.stem}.json, a name used for another kind of file; choose another "
            "name"
        )


def write_description(path: Path, lists: dict[str, list[Any]], info: PredictionInfo) -> None:
    """Write the .json of an array: its `lists` (ids, labels, shapes) and the fields of `info` that are set."""
    known = {name: value for name, value in to_plain(info).items() if value is not None and value != []}
    write_json(path.with_suffix(".json"), {**lists, **known})


def read_description(path: Path) -> tuple[dict[str, Any], PredictionInfo]:
    """Read the .json of an array.

    Returns:
        all values in the file, and the description of the predictions.

    Raises:
        UserError: the file is missing or is not a valid description.
    """
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise UserError(f"{path}: its {beside.name} with the ids is missing; keep the two together or predict again")
    values = read_json(beside)
    return values, from_plain(PredictionInfo, values, str(beside), "restore it as it was written, or predict again")


def check_same_images(path: Path, info: PredictionInfo, packed: PackedImages, folder: str | Path) -> None:
    """Raise UserError if the predictions were made from other images than the packed ones."""
    if info.images_digest is not None and info.images_digest != packed.images_digest:
        raise UserError(
            f"{path}: was predicted from other images than {folder} holds now (the images were packed again under the "
            "same ids); predict again, or restore the images"
        )
