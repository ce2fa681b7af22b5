"""Divide the images of a train.csv into folds: read the table, cut values into classes, split (scikit-learn)."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from utils.core.errors import UsageError, UserError
from utils.core.names import nearest
from utils.core.tables import read_table
from utils.data import rle
from utils.data.formats import RLE_COLUMNS
from utils.data.image_ids import as_packed, id_column

T = TypeVar("T")
Table = dict[str, list[str]]


def read_images(path: Path, skipped: Collection[str] = ()) -> Table:
    """Read a table with one row an id: rows of one id (its objects) become one with the union of their run-lengths.

    A table whose rows were objects gets a column `objects`, unless it has one: how many of an id's rows have a mask.

    Args:
        path: the csv.
        skipped: ids of images that packing left out; so are their rows, unread, as it may be them that are malformed.

    Raises:
        UserError: no ids, no images, or an id twice although its rows are not different objects.
    """
    table = read_table(path)
    names = as_packed(table[id_column(table, path)], skipped)
    kept = [row for row, name in enumerate(names) if name not in skipped]
    table = {name: [column[row] for row in kept] for name, column in table.items()}
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


MANY_VALUES = 20  # a numeric column of more distinct values is no set of classes, and is cut into deciles


def values_of(images: Table, stratify: str, path: Path) -> dict[str, np.ndarray]:
    """What each name in --stratify stands for; several are joined by "+", unless a column is called so.

    Args:
        images: a row an image, as `read_images` gives them.
        stratify: "none", "coverage", "background+objects", ...
        path: where they come from.

    Returns:
        name -> (N,) float64, or str for classes; empty for "none".

    Raises:
        UsageError: no such column, or a name twice.
        UserError: a column, or where it is computed from, is not there or no number.
    """
    if stratify == "none":
        return {}
    names = [stratify] if stratify in images else stratify.split("+")
    if len(set(names)) < len(names):
        raise UsageError(f"--stratify {stratify}: names something twice; expected different names joined by +")
    return {name: STRATIFIERS.get(name, _column)(images, name, path) for name in names}


def classes_of(values: dict[str, np.ndarray], n_images: int, n_splits: int) -> np.ndarray:
    """(N,) int64: the class of each image; for several names, the combination of their classes.

    Numbers are cut into deciles (fewer where a tenth would be less than an image a fold), zero being a class of its
    own where they are amounts of mask. What comes later is cut within each class of what comes before, so that
    "background+objects" tells images of few objects from images of many on every background; a combination of fewer
    images than folds joins another of the same first class.
    """
    classes = np.zeros(n_images, dtype=np.int64)
    for place, (name, of_image) in enumerate(values.items()):
        finer, n_classes = np.empty_like(classes), 0
        for one in np.unique(classes):
            inside = np.flatnonzero(classes == one)
            cut = _cut(of_image[inside], name in AMOUNTS, n_splits)
            cut = np.unique(pool_rare(cut, n_splits) if place else cut, return_inverse=True)[1]
            finer[inside] = n_classes + cut
            n_classes += int(cut.max()) + 1
        classes = finer
    return classes


def as_column(images: Table, name: str, flag: str, path: Path, *words: str) -> list[str]:
    """A column of the table; `words` are what `flag` knows besides. Raises a UsageError if it is not there."""
    if name not in images:
        raise UsageError(f"{flag} {name}: no such column in {path}; {nearest(name, [*words, *images])}")
    return images[name]


def _cut(values: np.ndarray, zero_apart: bool, n_splits: int) -> np.ndarray:
    if values.dtype.kind != "f":
        return np.unique(values, return_inverse=True)[1].astype(np.int64)
    if not zero_apart:
        return deciles(values, n_splits)
    classes = np.zeros(len(values), dtype=np.int64)
    classes[values > 0] = 1 + deciles(values[values > 0], n_splits)
    return classes


def _column(images: Table, name: str, path: Path) -> np.ndarray:
    cells = as_column(images, name, "--stratify", path, "none", *STRATIFIERS)
    if len(set(cells)) > MANY_VALUES:
        try:
            np.array(cells, dtype=np.float64)
        except ValueError:
            pass  # many different words: classes as they are
        else:
            return numbers(cells, name, path)
    return np.array(cells)


def _amount(function: Callable[[Table, Path], np.ndarray | None]) -> Callable[[Table, str, Path], np.ndarray]:
    def values(images: Table, name: str, path: Path) -> np.ndarray:
        found = function(images, path)
        if found is None:
            raise UsageError(f"--stratify {name}: {path} has neither a column {name} nor {' or '.join(RLE_COLUMNS)}")
        return found

    return values


AMOUNTS = ("coverage", "objects")
"""Of these, zero is a class of its own."""

STRATIFIERS: dict[str, Callable[[Table, str, Path], np.ndarray]] = {
    "coverage": _amount(coverage_of),
    "depth": lambda images, _, path: depths_of(images, path),
    "objects": _amount(objects_of),
}
"""Name -> the values; any other name is a column."""


def deciles(values: np.ndarray, n_splits: int) -> np.ndarray:
    """(N,) int64, 0..9: the tenth of the values that each is in; fewer and larger parts where a tenth is < n_splits."""
    n_bins = max(1, min(10, len(values) // n_splits))
    if n_bins == 1:
        return np.zeros(len(values), dtype=np.int64)
    edges = np.quantile(values, np.arange(1, n_bins) / n_bins)
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def split(classes: np.ndarray, groups: list[str] | None, n_splits: int, seed: int) -> np.ndarray:
    """The fold of each image.

    Args:
        classes: (N,) int64; every fold gets about the same share of each.
        groups: N names, or None; no group is in two folds.
        n_splits: number of folds, at least 2 and at most N.
        seed: of the shuffling.

    Returns:
        (N,) int64, 0..n_splits - 1.

    Raises:
        UserError: fewer groups than folds, or groups so uneven that a fold stays empty.
    """
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    if groups and len(set(groups)) < n_splits:
        raise UserError(f"--group: {len(set(groups))} groups, from which no {n_splits} folds can be made")
    classes = pool_rare(classes, n_splits)
    stratified = len(np.unique(classes)) > 1
    if groups:
        splitter = StratifiedGroupKFold if stratified else GroupKFold
    else:
        splitter = StratifiedKFold if stratified else KFold
    folds = np.full(len(classes), -1, dtype=np.int64)
    parts = splitter(n_splits, shuffle=True, random_state=seed).split(classes, classes, groups)
    for fold, (_, held_out) in enumerate(parts):
        if not len(held_out):
            raise UserError(f"--group: its groups are too uneven, fold {fold} stays empty; ask for fewer folds")
        folds[held_out] = fold
    return folds


def pool_rare(classes: np.ndarray, n_splits: int) -> np.ndarray:
    """Make one class of all that have fewer images than there are folds, and so cannot be in every fold.

    Together they are at least spread evenly; scikit-learn would warn, and place each by itself. If even together they
    are too few, they join the smallest of the others.
    """
    names, place, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    rare = sizes[place] < n_splits
    if not rare.any():
        return classes
    pooled = np.where(rare, names.min() - 1, classes)
    enough = sizes >= n_splits
    if rare.sum() < n_splits and enough.any():
        pooled[rare] = names[enough][np.argmin(sizes[enough])]
    return pooled
