"""A train.csv with one row an image, whatever the csv has, and the numbers that describe each image."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from utils import rle
from utils.errors import UserError
from utils.formats import RLE_COLUMNS
from utils.image_ids import as_packed, id_column
from utils.tables import read_table

T = TypeVar("T")
Table = dict[str, list[str]]


def read_images(path: Path) -> Table:
    """The table with one row an id: rows of one id (its objects) become one with the union of their run-lengths.

    A table whose rows were objects gets a column `objects`, unless it has one: how many of an id's rows have a mask.

    Raises:
        UserError: no ids, no images, or an id twice although its rows are not different objects.
    """
    table = read_table(path)
    ids = table[id_column(table, path)]
    if not ids:
        raise UserError(f"{path}: holds no images")
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(ids):
        rows.setdefault(name, []).append(row)
    if len(rows) == len(ids):
        return table
    rle_column = next((name for name in RLE_COLUMNS if name in table), None)
    for name, places in rows.items():
        if len(places) > 1 and (rle_column is None or len({table[rle_column][row] for row in places}) < len(places)):
            raise UserError(f"{path}: the id {name} is on {len(places)} rows, which are no different objects of it")
    images = {name: [column[places[0]] for places in rows.values()] for name, column in table.items()}
    cells = {name: [table[rle_column][row] for row in places] for name, places in rows.items()}
    images[rle_column] = [_checked(rle.merge, of_image, path, name) for name, of_image in cells.items()]
    counted = [str(sum(bool(cell.strip()) for cell in of_image)) for of_image in cells.values()]
    return images if "objects" in images else {**images, "objects": counted}


def coverage_of(images: Table, path: Path) -> np.ndarray | None:
    """(N,) float64, 0 where the mask is empty: the column coverage, else pixels by the run-lengths, else None."""
    if "coverage" in images:
        return numbers(images["coverage"], "coverage", path)
    column = next((name for name in RLE_COLUMNS if name in images), None)
    if column is None:
        return None
    names = images[id_column(images, path)]
    return np.array(
        [_checked(rle.area, cell, path, name) for name, cell in zip(names, images[column], strict=True)], float
    )


def objects_of(images: Table, path: Path) -> np.ndarray | None:
    """(N,) float64, objects in each image: the column objects, else 1 for run-lengths and 0 for none, else None."""
    if "objects" in images:
        return numbers(images["objects"], "objects", path)
    column = next((name for name in RLE_COLUMNS if name in images), None)
    return None if column is None else np.array([bool(cell.strip()) for cell in images[column]], float)


def depths_of(images: Table, path: Path) -> np.ndarray:
    """(N,) float64: the column z of train.csv, else of the depths.csv beside it.

    Raises:
        UserError: neither is there, or not for all images.
    """
    if "z" in images:
        return numbers(images["z"], "z", path)
    beside = path.with_name("depths.csv")
    if not beside.is_file():
        raise UserError(f"--stratify depth: {path} has no column z, and there is no {beside}")
    table, names = read_table(beside, "z"), images[id_column(images, path)]
    z_of = dict(zip(as_packed(table[id_column(table, beside)], names), table["z"], strict=True))
    if missing := [name for name in names if name not in z_of]:
        raise UserError(f"{beside}: no depth for {len(missing)} images of {path} (such as {missing[0]})")
    return numbers([z_of[name] for name in names], "z", path)


def numbers(cells: list[str], name: str, path: Path) -> np.ndarray:
    """(N,) float64, all finite.

    Raises:
        UserError: they are not.
    """
    try:
        values = np.array(cells, dtype=np.float64)
    except ValueError as error:
        raise UserError(f"{path}: column {name}: expected numbers ({error})") from None
    if not np.isfinite(values).all():
        raise UserError(f"{path}: column {name}: {int((~np.isfinite(values)).sum())} entries are not finite")
    return values


def _checked(function: Callable[..., T], cells: Any, path: Path, name: str) -> T:
    """`function(cells)`, with the place of malformed run-lengths."""
    try:
        return function(cells)
    except ValueError as error:
        raise UserError(f"{path}: run-lengths of {name}: {error}") from None
