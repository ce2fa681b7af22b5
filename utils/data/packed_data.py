"""The stacked arrays on disk: one folder holds all images of a set, memory-mapped, with a manifest that describes them.

manifest.json      what is there: ids in order, shapes, dtypes, sha256, the layout it came from
train_images.npy   (N, H, W, C) uint8, C = 1 (grey) or 3 (RGB)
train_masks.npy    (N, H, W) uint8, 0 or 1; not where images have labels in train.csv instead
train_labels.npy   (N, H, W) uint16, 0 = background, 1.. = objects; where the source has objects
test_images.npy    as train_images.npy
train.csv          a row an image; utils/data/image_ids.py has the names that its column of ids may have
train_with_folds.csv   the same with a column `fold` (utils/make_folds.py)
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.arrays import open_array
from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.core.records import from_plain, to_plain

MANIFEST = "manifest.json"
FORMAT = 1
Shapes = tuple[int, int] | Mapping[str, tuple[int, int]]
"""(height, width) of all masks, or of each id."""


@dataclass(frozen=True)
class ArrayEntry:
    """What the manifest says of an array."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    """Of its bytes, without the header."""


@dataclass(frozen=True)
class PartEntry:
    """What the manifest says of a part."""

    ids: list[str]
    arrays: dict[str, ArrayEntry]
    """images, masks, labels."""
    sizes: list[list[int]] | None = None
    """(height, width) of each source image where packing resized them."""


@dataclass(frozen=True)
class Manifest:
    """What a packed folder says of itself."""

    layout: str = ""
    """The folder layout that it was packed from."""
    fingerprint: str = ""
    """A digest of the source, to see whether it is packed already."""
    tables: dict[str, str] = field(default_factory=dict)
    """csv files that packing has copied or made -> their sha256."""
    parts: dict[str, PartEntry] = field(default_factory=dict)
    """By name, train or test."""
    report: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was seen while packing, for each part."""


@dataclass(frozen=True)
class PackedImages:
    """One part (train or test) of a packed set; row i of every array belongs to ids[i]."""

    images: np.ndarray
    """(N, H, W, C) uint8, [0, 255], memory-mapped."""
    masks: np.ndarray | None
    """(N, H, W) uint8, 0 or 1, memory-mapped; None for images without truth."""
    instances: np.ndarray | None
    """(N, H, W) uint16, objects numbered from 1; None where the source has none."""
    ids: list[str]
    sizes: list[tuple[int, int]] | None
    """(height, width) of each source image where packing resized them; None where sizes are as they were."""
    digest: str
    """sha256 of images (and masks) as packed: what a snapshot says it was trained on."""

    @property
    def images_digest(self) -> str:
        """The digest of the images alone, whatever is known of their masks."""
        return self.digest.partition(":")[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of every image here."""
        return self.images.shape[1], self.images.shape[2]

    @property
    def channels(self) -> int:
        return self.images.shape[3]


def read_manifest(data_dir: str | Path) -> Manifest:
    """Read the manifest of a packed folder.

    Raises:
        UserError: the folder is missing or not packed (the message has the command that packs it).
    """
    folder = Path(data_dir)
    if not folder.is_dir():
        raise UserError(f"--data_dir {folder}: no such folder")
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"--data_dir {folder}: no {MANIFEST} in it, so it is not packed (or packing was cut short); "
            f"run: python utils/stack_and_save.py --data_dir {folder}"
        )
    values = read_json(folder / MANIFEST)
    if not isinstance(values, dict) or values.get("format") != FORMAT or "parts" not in values:
        raise UserError(f"{folder / MANIFEST}: not a manifest of format {FORMAT}; pack the folder again")
    return from_plain(Manifest, values, str(folder / MANIFEST), "pack the folder again")


def write_manifest(data_dir: Path, manifest: Manifest) -> None:
    """Write the manifest, after everything that it describes."""
    write_json(data_dir / MANIFEST, {"format": FORMAT, **to_plain(manifest)})


def manifest_if_any(data_dir: str | Path) -> Manifest:
    """Read the manifest of a packed folder; an empty one where there is none that can be read."""
    try:
        return read_manifest(data_dir)
    except UserError:
        return Manifest()


def skipped_images(data_dir: str | Path) -> dict[str, str]:
    """Return the training images that --skip_broken left out when a folder was packed: id -> reason."""
    return manifest_if_any(data_dir).report.get("train", {}).get("skipped", {})


def open_packed(data_dir: str | Path, part: str = "train") -> PackedImages:
    """One part of a packed folder, memory-mapped.

    Raises:
        UserError: not packed, no such part, or an array that is not what the manifest says.
    """
    folder, manifest = Path(data_dir), read_manifest(data_dir)
    if part not in manifest.parts:
        raise UserError(f"{folder}: holds no {part} images, only {', '.join(manifest.parts)}")
    described = manifest.parts[part]
    arrays = {name: _open_described(folder, entry) for name, entry in described.arrays.items()}
    return PackedImages(
        images=arrays["images"],
        masks=arrays.get("masks"),
        instances=arrays.get("labels"),
        ids=described.ids,
        sizes=[(height, width) for height, width in described.sizes] if described.sizes else None,
        digest=":".join(entry.sha256[:16] for entry in described.arrays.values()),
    )


def _open_described(folder: Path, entry: ArrayEntry) -> np.ndarray:
    array = open_array(folder / entry.file)
    if array.shape != entry.shape or str(array.dtype) != entry.dtype:
        raise UserError(
            f"{folder / entry.file}: the manifest says {entry.dtype} {entry.shape}, "
            f"found {array.dtype} {array.shape}; pack the folder again"
        )
    return array


def ids_digest(ids: Iterable[str]) -> str:
    """16 hex digits that say which images these are, and in which order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def shapes_of(data_dir: str | Path) -> Shapes:
    """Sizes of the source images of a packed folder: one for all, or by id where they differ.

    Raises:
        UserError: not packed.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for described in read_manifest(data_dir).parts.values():
        packed = described.arrays["images"].shape[1:3]
        for name, size in zip(described.ids, described.sizes or [packed] * len(described.ids), strict=True):
            shapes[name] = (size[0], size[1])
    distinct = set(shapes.values())
    return distinct.pop() if len(distinct) == 1 else shapes
