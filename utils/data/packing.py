"""Packing of a listed source: writes the arrays, csv files and manifest of a packed folder (see packed_data.py)."""

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from utils.core.arrays import RowsWriter, Shape, array_shape, common_shape, rows_writer
from utils.core.errors import UserError
from utils.core.progress import progress_bar
from utils.data.image_files import BrokenImage, probe
from utils.data.layouts import Item, Source
from utils.data.packed_data import (
    FORMAT,
    MANIFEST,
    ArrayEntry,
    Manifest,
    PartEntry,
    manifest_if_any,
    open_packed,
    row_shapes,
    write_manifest,
)
from utils.data.packed_tables import check_class_table, check_tables, copy_tables, write_class_table, write_own_table
from utils.data.packing_report import Survey, kinds_of
from utils.data.samples import Sample, check_item, load_sample
from utils.data.source_files import OWN_COLUMNS, image_files_in, is_packing_table


def fingerprint(source: Source, size: tuple[int, int] | None, skip_broken: bool = False) -> str:
    """Return a digest of the names, sizes and times of the source's files, its layout, `size` and `skip_broken`."""
    flags = f"{size} skip_broken" if skip_broken else f"{size}"  # keeps fingerprints from before --skip_broken valid
    digest = hashlib.sha256(f"{FORMAT} {source.layout} {flags}\n".encode())
    for path in _files(source):
        status = os.stat(path)
        name = path.removeprefix(source.folder).lstrip("/")
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def is_packed(out_dir: Path, mark: str) -> bool:
    """Return True if `out_dir` holds everything that packing a source with the fingerprint `mark` writes."""
    manifest = manifest_if_any(out_dir)
    if manifest.fingerprint != mark:
        return False
    if not all((out_dir / name).is_file() for name in ("train.csv", *manifest.tables)):
        return False
    try:
        for part in manifest.parts:
            open_packed(out_dir, part)
    except UserError:
        return False
    return True


def _files(source: Source) -> Iterator[str]:
    """Yield every file that packing reads."""
    for items in source.parts.values():
        for item in items:
            yield item.image
            if item.mask:
                yield item.mask
            if item.objects:
                yield from image_files_in(item.objects).values()
    for table in dict.fromkeys([*source.tables, source.run_length_table, source.class_table]):
        if table and table.is_file() and not is_packing_table(table):
            yield str(table)


A, B = TypeVar("A"), TypeVar("B")
AT_ONCE = 16
"""Number of images that are in memory at a time."""
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

    def reason_of(item: Item) -> str | None:
        try:
            check_item(item, source)
        except BrokenImage as error:
            return str(error)
        return None

    reasons = list(_in_order(reason_of, source.train, "check train"))
    skipped = {item.id: reason for item, reason in zip(source.train, reasons, strict=True) if reason}
    if len(skipped) == len(source.train):
        raise UserError(
            f"{source.folder}: all {len(skipped)} training images are broken, so --skip_broken leaves none; "
            f"the first error: {next(iter(skipped.values()))}"
        )
    return replace(source, train=[item for item in source.train if item.id not in skipped]), skipped


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


def make_plan(source: Source, size: tuple[int, int] | None) -> Plan:
    """Read the sizes of all images, find out whether all are grey, and plan the arrays.

    Pixels are decoded until the first colour image is found; after that, only headers are read.

    Args:
        source: source to pack.
        size: (height, width) to resize to; None keeps the size of each image.

    Raises:
        UserError: an image is broken.
    """
    sizes, all_grey = {}, True

    def look(item: Item) -> tuple[tuple[int, int], bool]:
        return probe(item.image, with_pixels=all_grey)

    for part, items in source.parts.items():
        sizes[part] = np.empty((len(items), 2), dtype=np.int32)
        with _way_out(part):
            for row, (image_size, grey) in enumerate(_in_order(look, items, f"inspect {part}")):
                sizes[part][row] = image_size
                all_grey = all_grey and grey
    channels = 1 if all_grey else 3
    arrays = {}
    for part, items in source.parts.items():
        packed = [size] * len(items) if size else sizes[part].tolist()
        arrays[part] = {"images": (row_shapes(packed, channels), "uint8")}
        if part == "train" and source.class_table is None:
            arrays[part]["masks"] = (row_shapes(packed, None), "uint8")
            if source.has_instances:
                arrays[part]["labels"] = (row_shapes(packed, None), "uint16")
    distinct = {tuple(one) for part in sizes.values() for one in part.tolist()}
    return Plan(size or (distinct.pop() if len(distinct) == 1 else None), channels, sizes, arrays)


def pack(source: Source, plan: Plan, out_dir: Path, mark: str, skipped: Mapping[str, str] | None = None) -> Manifest:
    """Write the arrays, the csv files and, last, the manifest.

    Arrays are written next to their targets under temporary names and renamed at the end. The old manifest is removed
    before the first array is replaced, so that arrays of two packings are never combined.

    Args:
        source: source to pack.
        plan: result of `make_plan` for this source.
        out_dir: folder to write to.
        mark: fingerprint of the source, for the manifest.
        skipped: images that `without_broken` left out of the source, for the manifest.

    Returns:
        the manifest.

    Raises:
        UserError: the source is broken or inconsistent; `out_dir` then keeps what it had.
        OSError: no space or no permission; `out_dir` then keeps what it had. If only renaming the finished arrays
            fails, it is left without a manifest, so that the folder is packed again.
    """
    old = manifest_if_any(out_dir)
    written = old.tables
    check_tables(source.tables, out_dir, written)
    if source.class_table:
        check_class_table(source.class_table, out_dir, written)
    manifest = Manifest(layout=source.layout, fingerprint=mark)
    surveys: dict[str, Survey] = {}
    out_dir.mkdir(parents=True, exist_ok=True)
    check_room(out_dir, [spec for arrays in plan.arrays.values() for spec in arrays.values()])
    with ExitStack() as files:  # the arrays are renamed to their targets only after all are written
        for part in source.parts:
            surveys[part] = Survey(kinds_of(source, part), surveys)
            manifest.parts[part] = _write_part(part, source, plan, out_dir, files, surveys[part])
            manifest.report[part] = surveys[part].report()
        if skipped:
            manifest.report["train"]["skipped"] = dict(skipped)
        manifest.tables.update(copy_tables(source.tables, out_dir))
        if source.class_table:
            manifest.tables.update(write_class_table(source.class_table, out_dir))
        else:
            write_own_table(_own_columns(source, plan, surveys["train"]), source.tables, out_dir, written)
        _forget(old, manifest, out_dir)
    write_manifest(out_dir, manifest)
    return manifest


def _write_part(part: str, source: Source, plan: Plan, out_dir: Path, files: ExitStack, survey: Survey) -> PartEntry:
    """Write the arrays of a part, row by row, and return its entry in the manifest."""

    def load(item: Item) -> Sample:
        return load_sample(item, source, plan.shape, plan.channels)

    items, specs = source.parts[part], plan.arrays[part]
    paths = {name: out_dir / f"{part}_{name}.npy" for name in specs}
    writers = {name: files.enter_context(rows_writer(paths[name], *specs[name])) for name in specs}
    with _way_out(part):
        for item, sample in zip(items, _in_order(load, items, f"pack {part}"), strict=True):
            for name, writer in writers.items():
                writer.append(sample.arrays[name][None])
            survey.add(item.id, sample)
    arrays = {name: entry_of(paths[name], *specs[name], writers[name]) for name in specs}
    mixed = common_shape(specs["images"][0]) is None
    kept = mixed or (plan.shape is not None and (plan.sizes[part] != plan.shape).any())
    return PartEntry([item.id for item in items], arrays, plan.sizes[part].tolist() if kept else None, mixed)


def _own_columns(source: Source, plan: Plan, survey: Survey) -> dict[str, Sequence[object]]:
    """Return the columns of train.csv: id, height and width of the source image, coverage, objects, background.

    Coverage is the share of the packed image that is mask. New columns must be added at the end, because
    `is_packing_table` recognises the file by its first columns.
    """
    height, width = plan.sizes["train"].T.tolist()
    columns = dict(zip(OWN_COLUMNS, ([item.id for item in source.train], height, width, survey.coverage), strict=True))
    objects = {"objects": survey.objects} if source.has_instances else {}
    return {**columns, **objects, "background": survey.backgrounds}


def _forget(old: Manifest, new: Manifest, out_dir: Path) -> None:
    """Remove the manifest of an earlier packing and all of its arrays that `new` does not replace."""
    (out_dir / MANIFEST).unlink(missing_ok=True)
    for name in _array_files(old) - _array_files(new):
        (out_dir / name).unlink(missing_ok=True)


def _array_files(manifest: Manifest) -> set[str]:
    return {Path(entry.file).name for part in manifest.parts.values() for entry in part.arrays.values()}


def entry_of(path: Path, shapes: Sequence[Shape], dtype: str, writer: RowsWriter) -> ArrayEntry:
    """Return the manifest entry of an array with rows of these shapes, which was written."""
    flat = common_shape(shapes) is None
    channels = shapes[0][2] if flat and len(shapes[0]) == 3 else None
    return ArrayEntry(path.name, array_shape(shapes), dtype, writer.sha256, channels)


def check_room(out_dir: Path, specs: Iterable[tuple[Sequence[Shape], str]]) -> None:
    """Check that the disk has room for arrays with rows of these shapes and dtypes.

    Raises:
        UserError: there is not enough room.
    """
    needed = sum(sum(map(math.prod, shapes)) * np.dtype(dtype).itemsize for shapes, dtype in specs)
    free = shutil.disk_usage(out_dir).free
    if needed > free:
        raise UserError(
            f"{out_dir}: the arrays need {needed / 1e6:,.1f} MB, but only {free / 1e6:,.1f} MB are free; "
            "free some space, or use another --out_dir or a smaller --size"
        )


@contextmanager
def _way_out(part: str) -> Iterator[None]:
    """Turn a BrokenImage into a UserError whose message also says whether --skip_broken helps."""
    try:
        yield
    except BrokenImage as error:
        raise UserError(f"{error}{BROKEN_IMAGE_HINT[part]}") from None


def _in_order(function: Callable[[A], B], items: Sequence[A], title: str) -> Iterator[B]:
    """Yield `function` of every item in order, computed by up to 8 threads; at most AT_ONCE results are in memory."""
    from concurrent.futures import ThreadPoolExecutor

    def results() -> Iterator[B]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases the interpreter lock
            for start in range(0, len(items), AT_ONCE):
                yield from pool.map(function, items[start : start + AT_ONCE])

    for _, result in zip(progress_bar(items, title, "image"), results(), strict=True):
        yield result
