"""Files of probability masks: NAME.npy, float16 in [0, 1], and NAME.json, which says whose they are.

The array is (N, H, W) masks, or (N, 2, H, W): the masks and the borders between objects (train_border.py).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.arrays import ArrayWriter, array_writer, open_array
from utils.core.errors import UserError
from utils.core.files import read_json, write_json

TAKEN = ("config", "gate", "labels", "manifest", "objects", "summary", "threshold")
"""Names of .json files that mean something else."""


@dataclass(frozen=True)
class Masks:
    """An opened mask file."""

    path: Path
    planes: np.ndarray
    """(N, H, W) or (N, 2, H, W) float16 probabilities, memory-mapped: all that the file holds."""
    ids: list[str]
    about: dict[str, Any]
    """What made it: `data_dir`, `part` (train or test), `snapshots`, ..."""

    @property
    def array(self) -> np.ndarray:
        """(N, H, W) float16: the masks."""
        return self.planes if self.planes.ndim == 3 else self.planes[:, 0]

    @property
    def border(self) -> np.ndarray | None:
        """(N, H, W) float16: the borders between objects; None if the file has none."""
        return None if self.planes.ndim == 3 else self.planes[:, 1]


def check_name(path: Path) -> None:
    """Raise a UserError for a name that no array with a description beside it can have."""
    if path.suffix != ".npy":
        raise UserError(f"{path}: the name of a file of masks or probabilities ends in .npy")
    if path.stem in TAKEN:
        raise UserError(
            f"{path}: its description would be {path.stem}.json, which is another file's name; choose another"
        )


@contextmanager
def mask_writer(
    path: str | Path, ids: Sequence[str], shape: tuple[int, ...], about: dict[str, Any]
) -> Iterator[ArrayWriter]:
    """Write the masks of `ids`, each of `shape` (H, W) or (2, H, W), in order, batch by batch; both files appear when
    all are there.

    The description is removed first and comes back last: an array without one is half of a pair, and is refused.
    """
    path = Path(path)
    check_name(path)
    with array_writer(path, (len(ids), *shape), np.float16) as writer:
        yield writer
        path.with_suffix(".json").unlink(missing_ok=True)
    write_json(path.with_suffix(".json"), {"ids": list(ids), **about})


def move_masks(source: Path, target: Path) -> None:
    """Rename a mask file and its description, the array first: a pair cut in two is refused by `open_masks`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".json").unlink(missing_ok=True)
    source.replace(target)
    source.with_suffix(".json").replace(target.with_suffix(".json"))


def open_masks(path: str | Path) -> Masks:
    """Open a mask file, memory-mapped.

    Raises:
        UserError: no such file, truncated, without its .json, not (N, H, W) or (N, 2, H, W) probabilities, or ids of
            another number.
    """
    path = Path(path)
    array = open_array(path)
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise UserError(f"{path}: its {beside.name} with the ids is missing; keep the two together or predict again")
    about = read_json(beside)
    ids = about.pop("ids", None) if isinstance(about, dict) else None
    if array.dtype.kind != "f" or not (array.ndim == 3 or (array.ndim == 4 and array.shape[1] == 2)):
        raise UserError(
            f"{path}: expected float masks (images, height, width), or (images, 2, height, width) with borders, "
            f"found {array.dtype} {array.shape}"
        )
    if not isinstance(ids, list) or len(ids) != len(array):
        found = len(ids) if isinstance(ids, list) else "no"
        raise UserError(f"{beside}: expected {len(array)} ids for the masks of {path.name}, found {found}")
    return Masks(path, array, ids, about)


def binarize(probabilities: np.ndarray, th: float) -> np.ndarray:
    """The mask: bool, True where the probability is strictly greater than `th`.

    The comparison is exact for every dtype. `probabilities > th` would not be: beside a float16 array numpy 2 rounds a
    Python float to float16 first (NEP 50), so that .3 becomes .30005 and pixels of .30005 drop out of the mask; a
    float64 scalar keeps its type and the pixels are widened instead.
    """
    return np.asarray(probabilities) > np.float64(th)
