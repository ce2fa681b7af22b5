"""ImageClasses of whole images: from a column of train.csv, or "is there anything in the mask?"."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.core.errors import UserError
from utils.core.tables import read_table
from utils.data.image_ids import as_packed, id_column

NOT_EMPTY = "not_empty"
"""The one label of a gate: there is something in the mask."""


@dataclass(frozen=True)
class ImageClasses:
    """What is known of N images."""

    names: list[str]
    """K names: whole numbers by size, else in alphabetical order."""
    matrix: np.ndarray
    """(N, K) uint8, 1 where the image has the label."""
    exclusive: bool
    """whether an image has exactly one of them."""


def read_classes(path: str | Path, column: str, ids: Sequence[str]) -> ImageClasses:
    """The labels in a column of a csv with a row an image, such as train_with_folds.csv.

    One label in every cell (cat, dog, 0, 1): an image has exactly one of them. Several words in some cell, between
    blanks (Planet's tags): an image has any number of them, each word is a label. Which labels there are, and of which
    kind, is taken from the whole column, so that it is the same for every fold.

    Args:
        path: the csv; utils/data/image_ids.py has the names that its column of ids may have.
        column: the one with the labels.
        ids: N images, whose rows are returned in this order.

    Raises:
        UserError: no such file or column (of labels or of ids), an id without a row or with two that differ, an empty
            cell, one label only, or another one for each image.
    """
    table = read_table(path, column)
    cells: dict[str, list[str]] = {}
    for name, cell in zip(as_packed(table[id_column(table, path)], ids), table[column], strict=True):
        words = cell.split()
        if cells.setdefault(name, words) != words:
            raise UserError(f"{path}: two rows of {name} have different labels in column {column}; leave one of them")
    if missing := [name for name in ids if name not in cells]:
        raise UserError(f"{path}: no row for {len(missing)} of the {len(ids)} images (such as {missing[0]})")
    if empty := [name for name in ids if not cells[name]]:
        raise UserError(f"{path}: {len(empty)} images have an empty cell in column {column} (such as {empty[0]})")
    exclusive = all(len(words) <= 1 for words in cells.values())
    names = _in_order({word for words in cells.values() for word in words})
    if len(names) < 2:
        raise UserError(f"{path}: column {column} has only one label, {names[0]}, so there is nothing to tell apart")
    if exclusive and len(names) == len(cells) > 2:
        raise UserError(f"{path}: column {column} has another label for each of the {len(cells)} images, so no classes")
    place = {name: number for number, name in enumerate(names)}
    matrix = np.zeros((len(ids), len(names)), dtype=np.uint8)
    for row, name in enumerate(ids):
        matrix[row, [place[word] for word in cells[name]]] = 1
    return ImageClasses(names, matrix, exclusive)


def nonempty_class(masks: np.ndarray) -> ImageClasses:
    """Whether there is anything in each of N masks (N, H, W), what is not 0 is mask; read one at a time."""
    matrix = np.fromiter((bool(mask.any()) for mask in masks), dtype=np.uint8, count=len(masks))
    return ImageClasses([NOT_EMPTY], matrix[:, None], exclusive=False)


def _in_order(names: set[str]) -> list[str]:
    whole_numbers = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if whole_numbers else None)
