"""Classes of images: read from a column of train.csv, or derived from masks (empty or not)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.core.errors import UserError
from utils.core.tables import read_table
from utils.data.image_ids import as_packed, id_column

NOT_EMPTY = "not_empty"
"""The only class of a gate: the mask is not empty."""


@dataclass(frozen=True)
class ImageClasses:
    """Classes of N images."""

    names: list[str]
    """K class names: in numeric order if all are whole numbers, otherwise in alphabetical order."""
    matrix: np.ndarray
    """(N, K) uint8, 1 where the image has the class."""
    exclusive: bool
    """True if every image has exactly one class."""


def read_classes(path: str | Path, column: str, ids: Sequence[str]) -> ImageClasses:
    """Read the classes of images from a column of a csv with one row per image, such as train_with_folds.csv.

    If every cell holds one word (cat, dog, 0, 1), an image has exactly one class. If any cell holds several words,
    separated by blanks (Planet's tags), every word is a class and an image has any number of them. The names of the
    classes and their kind are determined from the complete column, so they are the same for every fold.

    Args:
        path: the csv; utils/data/image_ids.py lists the names that its id column may have.
        column: name of the column with the classes.
        ids: ids of N images; the rows of the result are in this order.

    Raises:
        UserError: the file, the column or the id column is missing, an id has no row or two different ones, a cell is
            empty, the column has only one class, or every image has a different class.
    """
    table = read_table(path, column)
    cells: dict[str, list[str]] = {}
    for name, cell in zip(as_packed(table[id_column(table, path)], ids), table[column], strict=True):
        words = cell.split()
        if cells.setdefault(name, words) != words:
            raise UserError(f"{path}: two rows of {name} have different classes in column {column}; keep one of them")
    if missing := [name for name in ids if name not in cells]:
        raise UserError(f"{path}: no row for {len(missing)} of the {len(ids)} images (such as {missing[0]})")
    if empty := [name for name in ids if not cells[name]]:
        raise UserError(f"{path}: {len(empty)} images have an empty cell in column {column} (such as {empty[0]})")
    exclusive = all(len(words) <= 1 for words in cells.values())
    names = _in_order({word for words in cells.values() for word in words})
    if len(names) < 2:
        raise UserError(f"{path}: column {column}: expected two or more classes, found only {names[0]}")
    if exclusive and len(names) == len(cells) > 2:
        raise UserError(
            f"{path}: column {column}: expected classes that images share, "
            f"found a different value for each of the {len(cells)} images"
        )
    place = {name: number for number, name in enumerate(names)}
    matrix = np.zeros((len(ids), len(names)), dtype=np.uint8)
    for row, name in enumerate(ids):
        matrix[row, [place[word] for word in cells[name]]] = 1
    return ImageClasses(names, matrix, exclusive)


def nonempty_class(nonempty: np.ndarray) -> ImageClasses:
    """Return the class `not_empty` for images whose masks have foreground or not, (N,) bool."""
    return ImageClasses([NOT_EMPTY], nonempty.astype(np.uint8)[:, None], exclusive=False)


def _in_order(names: set[str]) -> list[str]:
    whole_numbers = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if whole_numbers else None)
