"""Files of predicted masks: NAME.npy, float16 probabilities in [0, 1], and NAME.json, which says what they are.

The array is (N, H, W) masks, or (N, 2, H, W): the masks and the borders between objects (train_border.py).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.arrays import ArrayWriter, array_writer, open_array
from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.core.records import from_plain, to_plain
from utils.data.packed_data import PackedImages

TAKEN = ("config", "gate", "labels", "manifest", "objects", "summary", "threshold")
"""Names of .json files that mean something else."""


@dataclass(frozen=True)
class PredictionInfo:
    """What a file of predictions says of itself; files of earlier versions say less."""

    data_dir: str | None = None
    """The packed folder of its images ..."""
    part: str | None = None
    """... which part of it they are, train or test ..."""
    images_digest: str | None = None
    """... and a digest of their pixels, so that images that were packed again under the same ids are noticed."""
    fold: int | None = None
    """The fold that the images are, where training wrote the file."""
    snapshots: tuple[str, ...] = ()
    """Snapshot files whose mean it is."""
    tta: str | None = None
    """Views joined by _ whose mean it is; null for the image alone."""
    mean_of: tuple[str, ...] = ()
    """Mask files whose mean it is ..."""
    weights: tuple[float, ...] = ()
    """... and the share of each."""
    joined_from: tuple[str, ...] = ()
    """Validation files of single folds that it holds side by side."""
    target: str | None = None
    """Column of train_with_folds.csv whose classes were learned."""
    exclusive: bool | None = None
    """Whether each image has exactly one of the classes."""
    border: str | None = None
    """Which border was learned: outline, touching, both."""
    border_width: int | None = None


@dataclass(frozen=True)
class Masks:
    """An opened mask file."""

    path: Path
    planes: np.ndarray
    """(N, H, W) or (N, 2, H, W) float16 probabilities, memory-mapped: all that the file holds."""
    ids: list[str]
    info: PredictionInfo = field(default_factory=PredictionInfo)

    @property
    def array(self) -> np.ndarray:
        """(N, H, W) float16: the masks."""
        return self.planes if self.planes.ndim == 3 else self.planes[:, 0]

    @property
    def border(self) -> np.ndarray | None:
        """(N, H, W) float16: the borders between objects; None if the file has none."""
        return None if self.planes.ndim == 3 else self.planes[:, 1]


@dataclass(frozen=True)
class PendingPredictions:
    """Predictions of an epoch, written under a temporary name until it is known whether they are kept."""

    path: Path

    def keep(self, target: Path) -> None:
        """Rename array and description, the array first: a pair that is cut in two is refused by `open_masks`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_suffix(".json").unlink(missing_ok=True)
        self.path.replace(target)
        self.path.with_suffix(".json").replace(target.with_suffix(".json"))

    def discard(self) -> None:
        """Remove them; what was kept is not touched."""
        for path in (self.path, self.path.with_suffix(".json")):
            path.unlink(missing_ok=True)


def binarize(probabilities: np.ndarray, th: float) -> np.ndarray:
    """Return the mask: bool, True where the probability is strictly greater than `th`.

    The comparison is exact for every dtype. `probabilities > th` would not be: beside a float16 array numpy 2 rounds a
    Python float to float16 first (NEP 50), so that .3 becomes .30005 and pixels of .30005 drop out of the mask; a
    float64 scalar keeps its type and the pixels are widened instead.
    """
    return np.asarray(probabilities) > np.float64(th)


@contextmanager
def mask_writer(
    path: str | Path, ids: Sequence[str], shape: tuple[int, ...], info: PredictionInfo
) -> Iterator[ArrayWriter]:
    """Write the masks of `ids`, each of `shape` (H, W) or (2, H, W), in order, batch by batch.

    Both files appear when all masks are there. The description is removed first and comes back last: an array without
    one is half of a pair, and is refused.
    """
    path = Path(path)
    check_name(path)
    with array_writer(path, (len(ids), *shape), np.float16) as writer:
        yield writer
        path.with_suffix(".json").unlink(missing_ok=True)
    write_description(path, {"ids": list(ids)}, info)


def open_masks(path: str | Path) -> Masks:
    """Open a mask file, memory-mapped.

    Raises:
        UserError: no such file, truncated, without its .json, not (N, H, W) or (N, 2, H, W) probabilities, or ids of
            another number.
    """
    path = Path(path)
    array = open_array(path)
    values, info = read_description(path)
    if array.dtype.kind != "f" or not (array.ndim == 3 or (array.ndim == 4 and array.shape[1] == 2)):
        raise UserError(
            f"{path}: expected float masks (images, height, width), or (images, 2, height, width) with borders, "
            f"found {array.dtype} {array.shape}"
        )
    ids = values.get("ids")
    if not isinstance(ids, list) or len(ids) != len(array):
        found = len(ids) if isinstance(ids, list) else "no"
        raise UserError(
            f"{path.with_suffix('.json')}: expected {len(array)} ids for the masks of {path.name}, found {found}"
        )
    return Masks(path, array, ids, info)


def check_name(path: Path) -> None:
    """Raise a UserError for a name that no array with a description beside it can have."""
    if path.suffix != ".npy":
        raise UserError(f"{path}: the name of a file of masks or probabilities ends in .npy")
    if path.stem in TAKEN:
        raise UserError(
            f"{path}: its description would be {path.stem}.json, which is another file's name; choose another"
        )


def write_description(path: Path, lists: dict[str, list[str]], info: PredictionInfo) -> None:
    """Write the .json beside an array: its `lists` (ids, labels), and what is known of `info`."""
    known = {name: value for name, value in to_plain(info).items() if value is not None and value != []}
    write_json(path.with_suffix(".json"), {**lists, **known})


def read_description(path: Path) -> tuple[dict[str, Any], PredictionInfo]:
    """Read the .json beside an array: all it holds, and what it says of the predictions.

    Raises:
        UserError: there is none, or it is no description.
    """
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise UserError(f"{path}: its {beside.name} with the ids is missing; keep the two together or predict again")
    values = read_json(beside)
    return values, from_plain(PredictionInfo, values, str(beside), "keep it as it was written, or predict again")


def check_same_images(path: Path, info: PredictionInfo, packed: PackedImages, folder: str | Path) -> None:
    """Raise a UserError if the packed images are not those that the predictions were made from."""
    if info.images_digest is not None and info.images_digest != packed.images_digest:
        raise UserError(
            f"{path}: was predicted from other images than {folder} holds now (they were packed again under the same "
            "ids); predict again, or put the images back"
        )
