"""Write a packed folder with one fold of another packed folder as its test part, for a score that nothing is tuned on.

python utils/hold_out.py --data_dir nuclei --fold 4 --out_dir nuclei_held

train_*.npy, train.csv and train_with_folds.csv have the images of all other folds, with folds renumbered from 0.
test_images.npy has the images of the fold, without masks; sample_submission.csv has their ids, and truth.csv has their
masks as run-lengths. held_out.json names the source folder and the fold; utils/data/packed_data.py describes
manifest.json. Images keep the size that they have in the source folder.
"""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.core.arrays import Rows, array_writer, common_shape, rows_writer, shapes_in
from utils.core.cli import run
from utils.core.errors import UsageError, UserError
from utils.core.files import read_json, write_json
from utils.core.progress import progress_bar
from utils.core.tables import read_table, write_table
from utils.data.compact_rows import CompactRows, digest_of_rows, row_digest
from utils.data.folds import fold_rows
from utils.data.formats import RLE_COLUMNS
from utils.data.image_ids import as_packed, id_column
from utils.data.packed_data import (
    FORMAT,
    MANIFEST,
    ArrayEntry,
    Manifest,
    PackedImages,
    PartEntry,
    open_packed,
    read_manifest,
    write_manifest,
)
from utils.data.packed_tables import copy_tables
from utils.data.packing import ends_file, entry_of, is_packed
from utils.data.packing_plan import bytes_of, check_room
from utils.data.packing_report import line
from utils.data.rle import encode, encode_instances

ABOUT = "held_out.json"
FOLDS = "train_with_folds.csv"


def mark_of(data_dir: Path, packed: PackedImages, fold: int) -> str:
    """Return a digest of the packed arrays, the table of folds and the fold to hold out."""
    digest = hashlib.sha256(f"{FORMAT} {packed.digest} {fold}\n".encode())
    digest.update((data_dir / FOLDS).read_bytes())
    return digest.hexdigest()


def check_folder(out_dir: Path, mark: str) -> None:
    """Check that a folder is new or empty, or that an earlier run wrote it for the same fold of the same data.

    Raises:
        UsageError: it holds something else, or is not a folder.
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise UsageError(f"--out_dir {out_dir}: expected a folder, found a file")
    there = sorted(path.name for path in out_dir.glob("[!.]*"))
    if not there:
        return
    about = read_json(out_dir / ABOUT) if ABOUT in there else {}
    if not isinstance(about, dict) or about.get("fingerprint") != mark:
        found = f"another version of fold {about['fold']} of {about['data_dir']}" if about else there[0]
        raise UsageError(f"--out_dir {out_dir}: expected a new or empty folder, found {found}; use another folder")


def hold_out(data_dir: Path, packed: PackedImages, fold: int, out_dir: Path, mark: str) -> Manifest:
    """Write the folder, its manifest last, so that an incomplete folder does not count as packed.

    Args:
        data_dir: packed folder with folds.
        packed: training part of that folder.
        fold: fold that becomes the test part.
        out_dir: folder to write, which `check_folder` accepts.
        mark: result of `mark_of`.

    Returns:
        the manifest.

    Raises:
        UserError: there are no masks, no such fold or fewer than three folds, or the disk has no room.
    """
    rest, held = fold_rows(data_dir, packed.ids, fold)
    if packed.masks is None:
        raise UserError(f"{data_dir}: expected images with masks, found none, so there is no truth to hold out")
    tables = {**_rest_tables(data_dir, packed, fold), **_held_tables(packed, held)}
    arrays = {"images": packed.images, "masks": packed.masks, "labels": packed.instances}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    parts = {"train": (rest, arrays), "test": (held, {"images": packed.images})}
    manifest = Manifest(layout=read_manifest(data_dir).layout, fingerprint=mark)
    out_dir.mkdir(parents=True, exist_ok=True)
    needed = sum(_bytes_of(array, rows) for rows, part in parts.values() for array in part.values())
    check_room(out_dir, needed, shutil.disk_usage(out_dir).free)
    write_json(out_dir / ABOUT, {"data_dir": str(data_dir), "fold": fold, "fingerprint": mark})
    (out_dir / MANIFEST).unlink(missing_ok=True)
    with ExitStack() as files:
        for part, (rows, selected) in parts.items():
            manifest.parts[part] = _write_part(part, rows, selected, packed.ids, out_dir, files)
        manifest.tables.update(copy_tables([path for path in [data_dir / "depths.csv"] if path.is_file()], out_dir))
        for name, columns in tables.items():
            write_table(out_dir / name, columns)
            manifest.tables[name] = hashlib.sha256((out_dir / name).read_bytes()).hexdigest()
    write_manifest(out_dir, manifest)
    return manifest


def _write_part(
    part: str, rows: np.ndarray, arrays: Mapping[str, Rows], ids: list[str], out_dir: Path, files: ExitStack
) -> PartEntry:
    """Copy rows of the arrays, one after another, and return the manifest entry of the part."""
    entries: dict[str, ArrayEntry] = {}
    for name, array in arrays.items():
        file, codec = f"{part}_{name}.npy", array.encoded.codec if isinstance(array, CompactRows) else None
        digest = digest_of_rows(row_digest(row) for row in _copied(array, rows, out_dir / file, files))
        entries[name] = entry_of(file, shapes_in(array, rows), str(array.dtype), digest, codec)
    shapes = shapes_in(arrays["images"], rows)
    sizes = None if common_shape(shapes) else [[*shape[:2]] for shape in shapes]
    return PartEntry([ids[row] for row in rows.tolist()], entries, sizes, mixed=sizes is not None)


def _copied(array: Rows, rows: np.ndarray, path: Path, files: ExitStack) -> Iterator[np.ndarray]:
    """Copy rows to a file as they are on the disk, raw or compact, and yield each of them decoded."""
    if isinstance(array, CompactRows):
        ends, values = np.cumsum([len(array.encoded_row(row)) for row in rows.tolist()]), array.encoded.values
        files.enter_context(array_writer(path.with_name(ends_file(path.name)), ends.shape, "int64")).append(ends)
        writer = files.enter_context(array_writer(path, (int(ends[-1]), *values.shape[1:]), values.dtype))
    else:
        writer = files.enter_context(rows_writer(path, shapes_in(array, rows), array.dtype))
    for row in progress_bar(rows.tolist(), path.stem, "image"):
        decoded = array[row]
        writer.append(array.encoded_row(row) if isinstance(array, CompactRows) else decoded[None])
        yield decoded


def _bytes_of(array: Rows, rows: np.ndarray) -> int:
    if isinstance(array, CompactRows):
        return sum(array.encoded_row(row).nbytes for row in rows.tolist())
    return bytes_of([(shapes_in(array, rows), str(array.dtype))])


def _rest_tables(data_dir: Path, packed: PackedImages, fold: int) -> dict[str, dict[str, Sequence[object]]]:
    """Return train.csv and train_with_folds.csv without the fold; run-lengths describe the packed masks."""
    path = data_dir / FOLDS
    table = read_table(path, "fold")
    names = sorted(set(table["fold"]) - {str(fold)}, key=lambda name: (len(name), name))
    if len(names) < 2:
        raise UserError(f"{path}: expected two or more folds besides fold {fold}, found fewer; make more folds")
    kept = [place for place, name in enumerate(table["fold"]) if name != str(fold)]
    columns: dict[str, Sequence[object]] = {
        name: [column[place] for place in kept] for name, column in table.items() if name != "fold"
    }
    if packed.sizes:  # the run-lengths in the csv describe the masks before they were resized
        row_of = {name: row for row, name in enumerate(packed.ids)}
        ids = as_packed(columns[id_column(columns, path)], packed.ids)
        cells = [encode(packed.masks[row_of[name]]) for name in ids]
        columns |= {name: cells for name in RLE_COLUMNS if name in columns}
    folds = [names.index(table["fold"][place]) for place in kept]
    return {"train.csv": columns, FOLDS: {**columns, "fold": folds}}


def _held_tables(packed: PackedImages, held: np.ndarray) -> dict[str, dict[str, Sequence[object]]]:
    """Return truth.csv and sample_submission.csv; truth.csv has one row per object if there are label maps.

    Without label maps it has one row per image.
    """
    header = ("ImageId", "EncodedPixels") if packed.instances is not None else ("id", "rle_mask")
    rows = [(packed.ids[row], cell) for row in held.tolist() for cell in _cells(packed, row)]
    truth = dict(zip(header, zip(*rows, strict=True), strict=True))
    ids = [packed.ids[row] for row in held.tolist()]
    return {"truth.csv": truth, "sample_submission.csv": dict(zip(header, (ids, ["1 1"] * len(ids)), strict=True))}


def _cells(packed: PackedImages, row: int) -> list[str]:
    """Return the run-lengths of each object of an image (one empty cell if it has no objects), or those of its mask."""
    if packed.instances is None:
        return [encode(packed.masks[row])]
    return encode_instances(packed.instances[row]) or [""]


def open_folded(data_dir: Path, fold: int) -> PackedImages:
    """Open the training part of a packed folder and check that it has this fold.

    Raises:
        UserError: the folder is not packed or has no folds.
        UsageError: the fold does not exist.
    """
    packed = open_packed(data_dir)
    fold_rows(data_dir, packed.ids, fold)
    return packed


@dataclass(frozen=True)
class Settings:
    """All flags of hold_out.py."""

    out_dir: str
    """folder to write: a new or empty one, or one that holds the same fold."""
    fold: int
    """fold of train_with_folds.csv that becomes the test part."""
    data_dir: str = "data"
    """packed folder with folds, as written by stack_and_save.py and make_folds.py."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Write the folder, unless it is complete already, and print its contents."""
    data_dir, out_dir = Path(settings.data_dir), Path(settings.out_dir)
    packed = open_folded(data_dir, settings.fold)
    mark = mark_of(data_dir, packed, settings.fold)
    check_folder(out_dir, mark)
    if is_packed(out_dir, mark):
        print(line("already there", f"{out_dir}: the data and the folds have not changed, nothing to do"))
        return
    manifest = hold_out(data_dir, packed, settings.fold, out_dir, mark)
    for part, described in manifest.parts.items():
        print(line(f"{part} images", len(described.ids)))
        for entry in described.arrays.values():
            print(line(f"  {entry.file}", entry.shown))
    print(line("written to", out_dir))


if __name__ == "__main__":
    run(main, Settings)
