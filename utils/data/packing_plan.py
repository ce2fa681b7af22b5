"""Look through a source before it is packed: broken images, sizes, channels, the arrays to write, room on the disk."""

import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from utils.core.arrays import Shape
from utils.core.errors import UserError
from utils.core.parallel import in_processes
from utils.core.progress import progress_bar
from utils.data.image_files import BrokenImage, image_size, is_grey
from utils.data.layouts import Item, Source
from utils.data.packed_data import row_shapes
from utils.data.packing_chunks import CHUNK, bytes_kept
from utils.data.samples import check_item

Store = Literal["auto", "raw", "compact"]
"""Format of the arrays: raw, or encoded (compact_rows.py); `auto` chooses by the free disk space."""
RAW_SHARE = 0.25
"""Share of the free disk that raw arrays may take before the compact store is chosen."""
GREY_LOOKED_AT = 16
"""Images that are decoded, spread evenly, to find out whether a source is grey; packing goes on looking."""
BROKEN_IMAGE_HINT = {
    "train": ", or leave such images out with --skip_broken",
    "test": "; --skip_broken leaves out only training images, because a submission needs every test image",
}
"""End of the error about a broken image, by part: how to continue without the image, or why that is not possible."""


def without_broken(source: Source) -> tuple[Source, dict[str, str]]:
    """Leave out the training images that cannot be packed.

    All training images and their truth are read before anything is written, so that shapes, channels and csv files are
    the same as for a source without the broken images. Test images are not checked here; a broken test image stops the
    packing, because a submission needs every test image.

    Returns:
        the source without the broken images, and {id: reason} of the images left out, in the order of the source.

    Raises:
        UserError: all training images are broken.
    """
    look = partial(_reasons, source=without_items(source))
    reasons = [reason for found in in_processes(look, _chunks(source.train)) for reason in found]
    skipped = {item.id: reason for item, reason in zip(source.train, reasons, strict=True) if reason}
    if len(skipped) == len(source.train):
        raise UserError(
            f"{source.folder}: all {len(skipped)} training images are broken, so --skip_broken leaves none; "
            f"the first error: {next(iter(skipped.values()))}"
        )
    return replace(source, train=[item for item in source.train if item.id not in skipped]), skipped


def _reasons(items: Sequence[Item], source: Source) -> list[str | None]:
    """Return for each image why it cannot be packed, or None."""

    def reason(item: Item) -> str | None:
        try:
            check_item(item, source)
        except BrokenImage as error:
            return str(error)
        return None

    return [reason(item) for item in items]


def _chunks(items: Sequence[Item]) -> list[Sequence[Item]]:
    return [items[first : first + CHUNK] for first in range(0, len(items), CHUNK)]


def without_items(source: Source) -> Source:
    """Return a source that is small enough to be sent to a process with every chunk."""
    return replace(source, train=[], test=[])


@dataclass(frozen=True)
class Plan:
    """Shapes and dtypes of all arrays of a source, known before the first is written."""

    shape: tuple[int, int] | None
    """(height, width) of every packed image; None if each keeps its own size."""
    channels: int
    """1 if all images are grey, else 3."""
    sizes: dict[str, np.ndarray]
    """Part -> (N, 2) int32, height and width of each source image."""
    arrays: dict[str, dict[str, tuple[list[Shape], str]]]
    """Part -> array -> (shape of each row, dtype)."""
    file_sizes: dict[str, list[int]]
    """Part -> bytes of each image file."""
    compact: bool = False
    """Keep images as the bytes of their files and masks as runs (compact_rows.py) instead of raw arrays."""


def make_plan(source: Source, size: tuple[int, int] | None, channels: int | None = None) -> Plan:
    """Read the sizes of all images, find out whether they are grey, and plan the arrays.

    Args:
        source: source to pack.
        size: (height, width) to resize to; None keeps the size of each image.
        channels: 1 or 3; None looks at some of the images.

    Raises:
        UserError: an image is broken.
    """
    sizes, file_sizes = {}, {}
    for part, items in source.parts.items():
        with way_out(part):
            looked = list(progress_bar(in_processes(_sizes, _chunks(items)), f"inspect {part}", "block"))
        sizes[part] = np.array([one[:2] for found in looked for one in found], dtype=np.int32)
        file_sizes[part] = [one[2] for found in looked for one in found]
    channels = channels or (1 if all(_some_are_grey(items, part) for part, items in source.parts.items()) else 3)
    arrays = {}
    for part, items in source.parts.items():
        packed = [size] * len(items) if size else sizes[part].tolist()
        arrays[part] = {"images": (row_shapes(packed, channels), "uint8")}
        if part == "train" and source.class_table is None:
            arrays[part]["masks"] = (row_shapes(packed, None), "uint8")
            if source.has_instances:
                arrays[part]["labels"] = (row_shapes(packed, None), "uint16")
    distinct = {tuple(one) for part in sizes.values() for one in part.tolist()}
    shape = size or (distinct.pop() if len(distinct) == 1 else None)
    return Plan(shape, channels, sizes, arrays, file_sizes)


def _sizes(items: Sequence[Item]) -> list[tuple[int, int, int]]:
    """Return height, width and bytes of each image file."""
    return [(*image_size(item.image), os.path.getsize(item.image)) for item in items]


def _some_are_grey(items: Sequence[Item], part: str) -> bool:
    with way_out(part):
        places = np.unique(np.linspace(0, len(items) - 1, GREY_LOOKED_AT).astype(int))
        return all(is_grey(items[place].image) for place in places)


def with_store(plan: Plan, store: Store, out_dir: Path) -> Plan:
    """Return the plan with raw or compact arrays; `auto` takes compact ones if raw ones would fill the disk.

    Raises:
        UserError: there is not enough room.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    raw = bytes_of(spec for arrays in plan.arrays.values() for spec in arrays.values())
    free = shutil.disk_usage(out_dir).free + bytes_kept(out_dir)
    compact = store == "compact" or (store == "auto" and raw > RAW_SHARE * free)
    needed = sum(map(sum, plan.file_sizes.values())) if compact else raw
    check_room(out_dir, needed, free, compact)
    return replace(plan, compact=compact)


def bytes_of(specs: Iterable[tuple[Sequence[Shape], str]]) -> int:
    """Return the bytes of raw arrays with rows of these shapes and dtypes."""
    return sum(sum(map(math.prod, shapes)) * np.dtype(dtype).itemsize for shapes, dtype in specs)


def check_room(out_dir: Path, needed: int, free: int, compact: bool = False) -> None:
    """Raise UserError if a folder needs more bytes than are free."""
    if needed > free:
        smaller = "a smaller --size" if compact else "--store compact or a smaller --size"
        raise UserError(
            f"{out_dir}: the arrays need {needed / 1e6:,.1f} MB, but only {free / 1e6:,.1f} MB are free; "
            f"free some space, or use another --out_dir, {smaller}"
        )


@contextmanager
def way_out(part: str) -> Iterator[None]:
    """Turn a BrokenImage into a UserError whose message also says whether --skip_broken helps."""
    try:
        yield
    except BrokenImage as error:
        raise UserError(f"{error}{BROKEN_IMAGE_HINT[part]}") from None
