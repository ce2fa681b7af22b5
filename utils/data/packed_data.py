"""Packed folders: all images of a set in memory-mapped arrays, and a manifest that describes them.

manifest.json      ids in order, shapes, dtypes, sha256, the layout of the source
train_images.npy   (N, H, W, C) uint8, C = 1 (grey) or 3 (RGB); if sizes differ, all images one after another, flat
train_masks.npy    (N, H, W) uint8, 0 or 1; missing if train.csv has classes of images instead
train_labels.npy   (N, H, W) uint16, 0 = background, 1.. = objects; only if the source distinguishes objects
test_images.npy    like train_images.npy
train.csv          one row per image; utils/data/image_ids.py lists the names that its id column may have
train_with_folds.csv   train.csv with a column `fold` (utils/make_folds.py)

With --store compact, the arrays hold encoded rows (compact_rows.py), and train_images_ends.npy and so on where each of
them ends.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.arrays import MixedRows, Rows, Shape, common_shape, open_array, shapes_in
from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.core.records import from_plain, to_plain
from utils.data.compact_rows import CompactRows, open_compact

MANIFEST = "manifest.json"
FORMAT = 1
Shapes = tuple[int, int] | Mapping[str, tuple[int, int]]
"""(height, width) of all images, or id -> (height, width)."""


@dataclass(frozen=True)
class ArrayEntry:
    """Manifest entry of an array."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    """Digest of the rows, the same for raw and compact rows; in folders of earlier versions, of the array's bytes."""
    channels: int | None = None
    """Channels of the images in a flat array; None for arrays without channels, and for plain arrays."""
    codec: str | None = None
    """Codec of compact rows (compact_rows.py); None for a raw array. `shape` is that of the decoded array."""
    ends: str | None = None
    """File with the ends of compact rows."""

    @property
    def shown(self) -> str:
        """Description for the screen, such as "uint8 (400, 101, 101, 1), compact"."""
        return f"{self.dtype} {self.shape}{', compact' if self.codec else ''}"


@dataclass(frozen=True)
class PartEntry:
    """Manifest entry of a part (train or test)."""

    ids: list[str]
    arrays: dict[str, ArrayEntry]
    """Entries by name: images, masks, labels."""
    sizes: list[list[int]] | None = None
    """(height, width) of each source image; None if all have the size of the arrays."""
    mixed: bool = False
    """True if the images are packed in their own `sizes`, which differ; the arrays are flat then."""


@dataclass(frozen=True)
class Manifest:
    """Description of a packed folder."""

    layout: str = ""
    """Layout of the source folder."""
    fingerprint: str = ""
    """Digest of the source, to detect that it is already packed."""
    tables: dict[str, str] = field(default_factory=dict)
    """csv files that packing copied or created -> their sha256."""
    parts: dict[str, PartEntry] = field(default_factory=dict)
    """Entries by part, train or test."""
    report: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Findings of packing, by part (utils/data/packing_report.py)."""


@dataclass(frozen=True)
class PackedImages:
    """One part (train or test) of a packed set; row i of every array belongs to ids[i]."""

    images: Rows
    """N images (H, W, C) uint8, [0, 255], memory-mapped."""
    masks: Rows | None
    """N masks (H, W) uint8, 0 or 1, memory-mapped; None for images without truth."""
    instances: Rows | None
    """N maps (H, W) uint16, 0 = background, objects from 1 on; None if the source does not tell objects apart."""
    ids: list[str]
    sizes: list[tuple[int, int]] | None
    """(height, width) of each source image; None if packing did not resize them."""
    digest: str
    """First 16 digits of each array's sha256, joined by ":"; snapshots record it to identify their training data."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the names of memory-mapped files instead of their contents: loader workers map them again."""
        values = [getattr(self, one.name) for one in fields(self)]
        return _mapped_again, tuple(Path(one.filename) if isinstance(one, np.memmap) else one for one in values)

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of each packed image."""
        return [(shape[0], shape[1]) for shape in shapes_in(self.images)]

    @property
    def mixed(self) -> bool:
        """True if images have different sizes."""
        return self.shape is None

    def foreground(self, rows: np.ndarray) -> np.ndarray:
        """Return the share of foreground in the masks of rows, (n,) float64; compact masks are not decoded for that."""
        masks = self.masks
        if isinstance(masks, CompactRows):
            runs = ((masks.encoded_row(row), math.prod(self.shapes[row])) for row in rows.tolist())
            return np.array([pairs[pairs[:, 0] != 0, 1].sum() / pixels for pairs, pixels in runs])
        return np.array([np.count_nonzero(masks[row]) / math.prod(self.shapes[row]) for row in rows.tolist()])

    @property
    def images_digest(self) -> str:
        """Digest of the images alone, regardless of their masks."""
        return self.digest.partition(":")[0]

    @cached_property
    def shape(self) -> tuple[int, int] | None:
        """(height, width) of every packed image; None if sizes differ."""
        return common_shape(self.shapes)

    @property
    def output_shapes(self) -> Shapes:
        """(height, width) of all packed images, or by id if they differ."""
        return self.shape or dict(zip(self.ids, self.shapes, strict=True))

    def by_size(self, rows: np.ndarray) -> np.ndarray:
        """Return rows ordered by the size of their images, so that batches can be of one size.

        Rows of one size keep their order.
        """
        return np.array(sorted(rows.tolist(), key=self.shapes.__getitem__), dtype=rows.dtype) if self.mixed else rows

    @property
    def channels(self) -> int:
        """Channels of every packed image: 1 (grey) or 3 (RGB)."""
        return shapes_in(self.images)[0][2]


def read_manifest(data_dir: str | Path) -> Manifest:
    """Read the manifest of a packed folder.

    Raises:
        UserError: the folder is missing or not packed (the message contains the command that packs it).
    """
    folder = Path(data_dir)
    if not folder.is_dir():
        found = "expected a folder, found a file" if folder.exists() else f"no such folder{_looked_in(folder)}"
        raise UserError(f"--data_dir {folder}: {found}; name the packed folder with --data_dir")
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"--data_dir {folder}: it has no {MANIFEST}, so it is not packed (or packing was interrupted); "
            f"run: python utils/stack_and_save.py --data_dir {folder}"
        )
    values = read_json(folder / MANIFEST)
    if not isinstance(values, dict) or values.get("format") != FORMAT or "parts" not in values:
        raise UserError(f"{folder / MANIFEST}: expected a manifest of format {FORMAT}; pack the folder again")
    return from_plain(Manifest, values, str(folder / MANIFEST), "pack the folder again")


def _looked_in(folder: Path) -> str:
    return "" if folder.is_absolute() else f" in {Path.cwd()}"


def write_manifest(data_dir: Path, manifest: Manifest) -> None:
    """Write the manifest; call this after everything that it describes has been written."""
    write_json(data_dir / MANIFEST, {"format": FORMAT, **to_plain(manifest)})


def manifest_if_any(data_dir: str | Path) -> Manifest:
    """Read the manifest of a packed folder; return an empty one if it is missing or invalid."""
    try:
        return read_manifest(data_dir)
    except UserError:
        return Manifest()


def skipped_images(data_dir: str | Path) -> dict[str, str]:
    """Return id -> reason for the training images that --skip_broken left out when a folder was packed."""
    return manifest_if_any(data_dir).report.get("train", {}).get("skipped", {})


def open_packed(data_dir: str | Path, part: str = "train") -> PackedImages:
    """Open one part of a packed folder, memory-mapped.

    Raises:
        UserError: the folder is not packed, has no such part, or has an array that does not match the manifest.
    """
    folder, manifest = Path(data_dir), read_manifest(data_dir)
    if part not in manifest.parts:
        raise UserError(f"{folder}: expected {part} images, found {', '.join(manifest.parts) or 'none'}")
    described = manifest.parts[part]
    if "images" not in described.arrays:
        raise UserError(f"{folder / MANIFEST}: lists no array of {part} images; pack the folder again")
    try:
        arrays = {name: _open_described(folder, entry, described) for name, entry in described.arrays.items()}
    except (TypeError, ValueError, IndexError) as error:  # values that nobody writes, such as an unknown dtype
        raise UserError(f"{folder / MANIFEST}: is damaged ({error}); pack the folder again") from None
    return PackedImages(
        images=arrays["images"],
        masks=arrays.get("masks"),
        instances=arrays.get("labels"),
        ids=described.ids,
        sizes=None if described.mixed or not described.sizes else [(h, w) for h, w in described.sizes],
        digest=":".join(entry.sha256[:16] for entry in described.arrays.values()),
    )


def _mapped_again(*values: Any) -> PackedImages:
    return PackedImages(*(open_array(one) if isinstance(one, Path) else one for one in values))


def _open_described(folder: Path, entry: ArrayEntry, part: PartEntry) -> Rows:
    if entry.codec:
        shapes = row_shapes(part.sizes or [], entry.channels) if part.mixed else [entry.shape[1:]] * len(part.ids)
        ends = open_array(folder / (entry.ends or ""))
        return open_compact(folder / entry.file, ends, entry.codec, shapes, entry.dtype)
    array = open_array(folder / entry.file)
    if array.shape != entry.shape or str(array.dtype) != entry.dtype:
        raise UserError(
            f"{folder / entry.file}: expected {entry.dtype} {entry.shape} as in the manifest, "
            f"found {array.dtype} {array.shape}; pack the folder again"
        )
    if not part.mixed:
        return array
    return MixedRows(array, row_shapes(part.sizes or [], entry.channels))


def row_shapes(sizes: Iterable[Sequence[int]], channels: int | None) -> list[Shape]:
    """Return the shapes of rows of these sizes (height, width), with a last axis of `channels` if there are any."""
    return [(*size,) if channels is None else (*size, channels) for size in sizes]


def ids_digest(ids: Iterable[str]) -> str:
    """Return 16 hex digits that identify the images and their order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def shapes_of(data_dir: str | Path) -> Shapes:
    """Return the source sizes of the images in a packed folder: one size for all, or sizes by id if they differ.

    Raises:
        UserError: the folder is not packed.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for described in read_manifest(data_dir).parts.values():
        packed = described.arrays["images"].shape[1:3]  # of no use where sizes differ, but then there are `sizes`
        for name, size in zip(described.ids, described.sizes or [packed] * len(described.ids), strict=True):
            shapes[name] = (size[0], size[1])
    distinct = set(shapes.values())
    return distinct.pop() if len(distinct) == 1 else shapes
