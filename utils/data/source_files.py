"""Contents of a source folder: image files by stem, ids and run-lengths from csv files, checks that they match."""

import csv
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from utils.core.errors import UserError
from utils.core.tables import read_table
from utils.data.formats import RLE_COLUMNS, run_length_columns
from utils.data.image_ids import SUFFIXES, id_column, stem_of

OWN_COLUMNS = ["id", "height", "width", "coverage"]
"""First columns of a train.csv that packing wrote, which is therefore not part of the source."""


def image_files_in(folder: str | Path) -> dict[str, str]:
    """Return stem -> path of every image file in a folder (not in subfolders), sorted by stem; skip hidden files.

    Raises:
        UserError: two image files have the same stem.
    """
    pictures: dict[str, str] = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in SUFFIXES or name.startswith("."):
            continue
        if stem in pictures:
            raise UserError(f"{folder}: {os.path.basename(pictures[stem])} and {name} have the same stem; keep one")
        pictures[stem] = os.path.join(folder, name)
    return dict(sorted(pictures.items()))


def images_in(folder: Path) -> dict[str, str]:
    """Return stem -> path as `image_files_in` does; raise UserError if there are no image files."""
    pictures = image_files_in(folder)
    if not pictures:
        raise UserError(f"{folder}: expected images ({', '.join(SUFFIXES)}), found none")
    return pictures


def image_folders_in(folder: Path) -> dict[str, str]:
    """Return id -> path for <folder>/<id>/images/<the only image>, sorted by id.

    Raises:
        UserError: there are no such folders, or one of them does not contain exactly one image.
    """
    images = {}
    for name in sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()):
        place = folder / name / "images"
        pictures = list(image_files_in(place).values()) if place.is_dir() else []
        if len(pictures) != 1:
            raise UserError(f"{place}: expected one image, found {len(pictures) or 'none'}")
        images[name] = pictures[0]
    if not images:
        raise UserError(f"{folder}: expected folders <id>/images, found none")
    return images


def rows_of(table: Path, many: bool = False, as_written: bool = False) -> dict[str, list[str]] | None:
    """Return id -> its run-lengths, one cell per row, in the order of the csv; without such a column, id -> [].

    Args:
        table: the csv; the result is None if it does not exist or if packing wrote it.
        many: allow several rows per id, require run-lengths, and keep ids as they are written.
        as_written: keep ids as they are written instead of removing image suffixes.

    Raises:
        UserError: there is no id column, no run-length column (if `many`), or an id has several rows (unless `many`).
    """
    if not table.is_file() or is_packing_table(table):
        return None
    columns = read_table(table)
    rle_column = next((name for name in RLE_COLUMNS if name in columns), None)
    if many:
        _, rle_column = run_length_columns(list(columns), table)
    ids = columns[id_column(columns, table)]
    ids = ids if many or as_written else [stem_of(name) for name in ids]
    rows: dict[str, list[str]] = {name: [] for name in ids}
    if not many and len(rows) < len(ids):
        double = next(name for name, times in Counter(ids).items() if times > 1)
        raise UserError(
            f"{table}: {double} has several rows ({len(ids) - len(rows)} extra rows in total); keep one row per image"
        )
    if rle_column:
        for name, cell in zip(ids, columns[rle_column], strict=True):
            rows[name].append(cell)
    return rows


def in_csv_order(
    pictures: dict[str, str], rows: Mapping[str, object] | None, folder: Path, table: Path
) -> dict[str, str]:
    """Return id -> path in the order of the csv, after checking that csv and folder list the same images.

    Ids may have an image suffix. If `rows` is None (no csv), `pictures` is returned unchanged.

    Raises:
        UserError: an id has no image, or an image is not listed.
    """
    if rows is None:
        return pictures
    need(rows, {name for name in rows if stem_of(name) in pictures}, table, f"has no image in {folder}")
    need(pictures, {stem_of(name) for name in rows}, folder, f"is not listed in {table}")
    return {name: pictures[stem_of(name)] for name in rows}


def need(names: Iterable[str], known: Collection[str], place: Path, fault: str) -> None:
    """Raise UserError with the first name that is not in `known` and the count of such names."""
    names = list(names)
    missing = [name for name in names if name not in known]
    if missing:
        count = f"affected: {len(missing)} of {len(names)}"
        raise UserError(f"{place}: {missing[0]} {fault} ({count}); add what is missing or remove the rest")


def is_packing_table(path: Path) -> bool:
    """Return True if a csv was written by packing (not by a person or a competition)."""
    return header_of(path)[: len(OWN_COLUMNS)] == OWN_COLUMNS


def header_of(path: Path) -> list[str]:
    """Return the first row of a csv; an empty list if the file does not exist or is empty."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        return next(csv.reader(file), [])
