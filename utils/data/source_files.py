"""Listing what a source folder holds: pictures by stem, ids and run-lengths from csv files, and who misses whom."""

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
"""How a train.csv starts that packing wrote itself: it says nothing about the source."""


def pictures_in(folder: str | Path) -> dict[str, str]:
    """Stem -> path of every picture in a folder (not below it), sorted by stem; hidden files are passed over.

    Raises:
        UserError: two pictures with the same stem.
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
    """As `pictures_in`, for a folder that must not be without; raises a UserError if it is."""
    pictures = pictures_in(folder)
    if not pictures:
        raise UserError(f"{folder}: expected images ({', '.join(SUFFIXES)}), found none")
    return pictures


def image_folders_in(folder: Path) -> dict[str, str]:
    """Id -> path, for <folder>/<id>/images/<the one image>, sorted by id.

    Raises:
        UserError: no such folders, or no image or several in one.
    """
    images = {}
    for name in sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()):
        place = folder / name / "images"
        pictures = list(pictures_in(place).values()) if place.is_dir() else []
        if len(pictures) != 1:
            raise UserError(f"{place}: expected one image, found {len(pictures) or 'none'}")
        images[name] = pictures[0]
    if not images:
        raise UserError(f"{folder}: expected folders <id>/images, found none")
    return images


def rows_of(table: Path, many: bool = False, as_written: bool = False) -> dict[str, list[str]] | None:
    """Id -> the cells of its run-lengths (none without such a column), in the order of the csv.

    Args:
        table: the csv; where it does not exist, or is one that packing wrote, the answer is None.
        many: an id may have several rows, there must be run-lengths, and ids are kept as they are written.
        as_written: ids are kept as they are written; otherwise the suffix of a picture is taken off.

    Raises:
        UserError: no column of ids or (if `many`) of run-lengths, or an id is there twice (unless `many`).
    """
    if not table.is_file() or is_own_table(table):
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
            f"{table}: {double} has several rows ({len(ids) - len(rows)} too many in all); keep one an image"
        )
    if rle_column:
        for name, cell in zip(ids, columns[rle_column], strict=True):
            rows[name].append(cell)
    return rows


def in_csv_order(
    pictures: dict[str, str], rows: Mapping[str, object] | None, folder: Path, table: Path
) -> dict[str, str]:
    """Id -> path in the order of the csv, after seeing that csv and folder hold the same; without a csv as it is.

    Ids may have the suffix of a picture.
    """
    if rows is None:
        return pictures
    need(rows, {name for name in rows if stem_of(name) in pictures}, table, f"has no image in {folder}")
    need(pictures, {stem_of(name) for name in rows}, folder, f"is not listed in {table}")
    return {name: pictures[stem_of(name)] for name in rows}


def need(names: Iterable[str], known: Collection[str], place: Path, fault: str) -> None:
    """Raise a UserError that shows the first name that is not known, and counts them."""
    names = list(names)
    missing = [name for name in names if name not in known]
    if missing:
        count = f"{len(missing)} such of {len(names)}"
        raise UserError(f"{place}: {missing[0]} {fault} ({count}); complete the files or remove the rest")


def is_own_table(path: Path) -> bool:
    """Whether a csv was written by packing (and not by a person or a competition)."""
    return header_of(path)[: len(OWN_COLUMNS)] == OWN_COLUMNS


def header_of(path: Path) -> list[str]:
    """The first row of a csv; empty where there is no file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        return next(csv.reader(file), [])
