"""What --stratify of make_folds.py asks for: values that each fold should have the same mix of, cut into classes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from utils.errors import UsageError
from utils.folds import deciles, pool_rare
from utils.formats import RLE_COLUMNS
from utils.image_table import Table, coverage_of, depths_of, numbers, objects_of
from utils.names import nearest

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
