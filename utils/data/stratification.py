"""Division of the images of a train.csv into folds: read the table, bin values into classes, split (scikit-learn)."""

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
    """Read a csv and return a table with one row per image.

    If an id has several rows (its objects), they become one row with the union of their run-lengths, and the table gets
    a column `objects`, unless it has one, with the number of rows that have a mask.

    Args:
        path: the csv.
        skipped: ids of images that packing left out; their rows are left out too, without reading their run-lengths,
            which may be malformed.

    Raises:
        UserError: there is no id column, there are no images, or an id has several rows that are not different objects.
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
            raise UserError(f"{path}: the id {name} has {len(places)} rows that are not different objects; keep one")
    images = {name: [column[places[0]] for places in rows.values()] for name, column in table.items()}
    cells = {name: [table[rle_column][row] for row in places] for name, places in rows.items()}
    images[rle_column] = [_checked(rle.merge, of_image, path, name) for name, of_image in cells.items()]
    counted = [str(sum(bool(cell.strip()) for cell in of_image)) for of_image in cells.values()]
    return images if "objects" in images else {**images, "objects": counted}


def coverage_of(images: Table, path: Path) -> np.ndarray | None:
    """Return the mask area of each image, (N,) float64, 0 for an empty mask.

    It is the column `coverage` if there is one, otherwise the number of pixels in the run-lengths; without either
    column, the result is None.
    """
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
    """Return the number of objects in each image, (N,) float64.

    It is the column `objects` if there is one, otherwise 1 for a mask and 0 for empty run-lengths; without either
    column, the result is None.
    """
    if "objects" in images:
        return numbers(images["objects"], "objects", path)
    column = next((name for name in RLE_COLUMNS if name in images), None)
    return None if column is None else np.array([bool(cell.strip()) for cell in images[column]], float)


def depths_of(images: Table, path: Path) -> np.ndarray:
    """Return the depth of each image, (N,) float64: the column z of train.csv, or of depths.csv in the same folder.

    Raises:
        UserError: there is no such column, or an image has no depth.
    """
    if "z" in images:
        return numbers(images["z"], "z", path)
    depths = path.with_name("depths.csv")
    if not depths.is_file():
        raise UserError(f"--stratify depth: {path} has no column z, and {depths} does not exist")
    table, names = read_table(depths, "z"), images[id_column(images, path)]
    z_of = dict(zip(as_packed(table[id_column(table, depths)], names), table["z"], strict=True))
    if missing := [name for name in names if name not in z_of]:
        raise UserError(f"{depths}: no depth for {len(missing)} images of {path} (such as {missing[0]})")
    return numbers([z_of[name] for name in names], "z", path)


def numbers(cells: list[str], name: str, path: Path) -> np.ndarray:
    """Convert the cells of a column to (N,) float64, all finite.

    Raises:
        UserError: a cell is not a finite number.
    """
    try:
        values = np.array(cells, dtype=np.float64)
    except ValueError as error:
        raise UserError(f"{path}: column {name}: expected numbers ({error})") from None
    if not np.isfinite(values).all():
        raise UserError(f"{path}: column {name}: {int((~np.isfinite(values)).sum())} entries are not finite numbers")
    return values


def _checked(function: Callable[..., T], cells: Any, path: Path, name: str) -> T:
    """Return `function(cells)`; turn a ValueError (malformed run-lengths) into a UserError that names file and id."""
    try:
        return function(cells)
    except ValueError as error:
        raise UserError(f"{path}: run-lengths of {name}: {error}") from None


MANY_VALUES = 20  # a numeric column with more distinct values is cut into deciles instead of used as classes


def values_of(images: Table, stratify: str, path: Path) -> dict[str, np.ndarray]:
    """Return the values of each name in --stratify.

    Several names are joined by "+", unless `stratify` is the name of a column.

    Args:
        images: table with one row per image, as returned by `read_images`.
        stratify: "none", "coverage", "background+objects", ...
        path: the csv of `images`, for error messages.

    Returns:
        name -> (N,) float64, or str for classes; empty for "none".

    Raises:
        UsageError: a column does not exist, or a name is repeated.
        UserError: values cannot be computed, because their source is missing or not numeric.
    """
    if stratify == "none":
        return {}
    names = [stratify] if stratify in images else stratify.split("+")
    if "" in names:
        raise UsageError(f"--stratify {stratify}: expected names joined by +, found nothing before or after a +")
    if len(set(names)) < len(names):
        raise UsageError(f"--stratify {stratify}: expected different names joined by +, found a name twice")
    return {name: STRATIFIERS.get(name, _column)(images, name, path) for name in names}


def classes_of(values: dict[str, np.ndarray], n_images: int, n_splits: int) -> np.ndarray:
    """Return the class of each image, (N,) int64; for several names, the combination of their classes.

    Numbers are cut into deciles (into fewer bins if a decile would have fewer images than there are folds). For amounts
    of mask (AMOUNTS), zero is a separate class. Values of a later name are cut within each class of the names before,
    so that "background+objects" separates images with few and with many objects on every background. A combination
    with fewer images than there are folds joins another one of the same earlier class.
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
    """Return a column of the table.

    Args:
        images: table with one row per image.
        name: name of the column.
        flag: flag that named the column, for the error message.
        path: the csv of `images`, for the error message.
        words: other values that `flag` accepts, to suggest in the error message.

    Raises:
        UsageError: the column does not exist.
    """
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
            pass  # the cells are words, which are classes regardless of their number
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
"""Names whose zero is a separate class."""

STRATIFIERS: dict[str, Callable[[Table, str, Path], np.ndarray]] = {
    "coverage": _amount(coverage_of),
    "depth": lambda images, _, path: depths_of(images, path),
    "objects": _amount(objects_of),
}
"""Name -> function that computes the values; any other name is a column."""


def deciles(values: np.ndarray, n_splits: int) -> np.ndarray:
    """Return the decile of each value, (N,) int64, 0..9; fewer and larger bins if a decile has < `n_splits` values."""
    n_bins = max(1, min(10, len(values) // n_splits))
    if n_bins == 1:
        return np.zeros(len(values), dtype=np.int64)
    edges = np.quantile(values, np.arange(1, n_bins) / n_bins)
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def split(classes: np.ndarray, groups: list[str] | None, n_splits: int, seed: int) -> np.ndarray:
    """Return the fold of each image.

    Args:
        classes: (N,) int64; every fold gets about the same share of each class.
        groups: N names, or None; images of one group are in the same fold.
        n_splits: number of folds, at least 2 and at most N.
        seed: seed of the shuffling.

    Returns:
        (N,) int64, 0..n_splits - 1.

    Raises:
        UserError: there are fewer groups than folds, or the groups are so uneven that a fold stays empty.
    """
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    if groups and len(set(groups)) < n_splits:
        raise UserError(f"--group: expected at least as many groups as folds ({n_splits}), found {len(set(groups))}")
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
            raise UserError(f"--group: the groups are too uneven, so fold {fold} stays empty; use fewer folds")
        folds[held_out] = fold
    return folds


def pool_rare(classes: np.ndarray, n_splits: int) -> np.ndarray:
    """Merge all classes that have fewer images than there are folds into one class.

    Such a class cannot be in every fold, but the merged class is spread evenly; scikit-learn would warn and distribute
    each class separately. If the merged class is also too small, it joins the smallest of the other classes.
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
