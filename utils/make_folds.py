"""Divide the training images into folds: train.csv -> train_with_folds.csv beside it, with a column `fold`, 0..n-1.

python utils/make_folds.py -p data/train.csv -n 10
python utils/make_folds.py --path data/train.csv --n_splits 5 --stratify coverage
python utils/make_folds.py -p data/train.csv -n 5 --stratify depth --group well

scikit-learn does the splitting: KFold, StratifiedKFold, GroupKFold or StratifiedGroupKFold, shuffled by the seed.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from tyro.conf import arg

from utils import rle
from utils.cli import run
from utils.errors import UsageError, UserError
from utils.folds import deciles, split
from utils.names import nearest
from utils.tables import read_table, write_table
from utils.truth import ID_COLUMNS, RLE_COLUMNS

T = TypeVar("T")
Table = dict[str, list[str]]
MANY_VALUES = 20  # a numeric column of more distinct values is no set of classes, and is cut into deciles
SHOWN_CLASSES = 6


@dataclass(frozen=True)
class Settings:
    path: Annotated[str, arg(aliases=["-p", "--p"])] = "data/train.csv"
    """csv with a row an image, or a row an object with its run-lengths."""
    n_splits: Annotated[int, arg(aliases=["-n", "--n"])] = 10
    """number of folds."""
    stratify: str = "none"
    """what every fold gets the same mix of: none, coverage (deciles of mask area, empty apart), depth (z), a column."""
    group: str | None = None
    """column; images with the same entry stay in one fold."""
    seed: int = 4545
    """of the shuffling."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Read, split, write, and print what each fold holds."""
    if settings.n_splits < 2:
        raise UsageError(f"--n_splits {settings.n_splits}: at least 2, one to validate on and one to train on")
    if not 0 <= settings.seed < 2**32:
        raise UsageError(f"--seed {settings.seed}: a seed is from 0 to 2**32 - 1")
    path = Path(settings.path)
    images = read_images(path)
    n_images = len(next(iter(images.values())))
    if n_images < settings.n_splits:
        raise UsageError(f"--n_splits {settings.n_splits}: more than the {n_images} images of {path}")
    values, classes = classes_of(images, settings.stratify, settings.n_splits, path)
    groups = _column(images, settings.group, "--group", path) if settings.group else None
    folds = split(classes, groups, settings.n_splits, settings.seed)
    if n_rare := int((np.unique(classes, return_counts=True)[1] < settings.n_splits).sum()):
        print(f"classes of --stratify with fewer images than folds: {n_rare}; they are pooled")
    out = path.with_name("train_with_folds.csv")
    write_table(out, {**images, "fold": folds.tolist()})
    print(as_text(folds, values, coverage_of(images, path)))
    print(f"written to {out}")


def read_images(path: Path) -> Table:
    """The table with one row an id: rows of one id (its objects) become one with the union of their run-lengths.

    Raises:
        UserError: no ids, no images, or an id twice although its rows are not different objects.
    """
    table = read_table(path)
    id_column = next((name for name in ID_COLUMNS if name in table), None)
    if id_column is None:
        raise UserError(f"{path}: no column {' or '.join(ID_COLUMNS)}; {nearest('id', table)}")
    ids = table[id_column]
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
    images[rle_column] = [
        _checked(rle.merge, [table[rle_column][row] for row in places], path, name) for name, places in rows.items()
    ]
    return images


def classes_of(images: Table, stratify: str, n_splits: int, path: Path) -> tuple[np.ndarray | None, np.ndarray]:
    """What --stratify asks for.

    Returns:
        (values, classes): (N,) float64 or str, of which each fold should get the same mix, None for "none";
        (N,) int64, the class of each image.

    Raises:
        UserError: the column, or where it is computed from, is not there or no number.
    """
    if stratify == "none":
        return None, np.zeros(len(next(iter(images.values()))), dtype=np.int64)
    if stratify == "coverage":
        values = coverage_of(images, path)
        if values is None:
            raise UsageError(
                f"--stratify coverage: {path} has neither a column coverage nor {' or '.join(RLE_COLUMNS)}"
            )
        classes = np.zeros(len(values), dtype=np.int64)
        classes[values > 0] = 1 + deciles(values[values > 0], n_splits)
        return values, classes
    if stratify == "depth":
        values = _numbers(_depths(images, path), "z", path)
        return values, deciles(values, n_splits)
    cells = _column(images, stratify, "--stratify", path, "none", "coverage", "depth")
    if len(set(cells)) > MANY_VALUES:
        try:
            values = np.array(cells, dtype=np.float64)
        except ValueError:
            pass  # many different words: classes as they are
        else:
            values = _numbers(cells, stratify, path)
            return values, deciles(values, n_splits)
    return np.array(cells), np.unique(cells, return_inverse=True)[1].astype(np.int64)


def coverage_of(images: Table, path: Path) -> np.ndarray | None:
    """(N,) float64, 0 where the mask is empty: the column coverage, else pixels by the run-lengths, else None."""
    if "coverage" in images:
        return _numbers(images["coverage"], "coverage", path)
    column = next((name for name in RLE_COLUMNS if name in images), None)
    if column is None:
        return None
    names = images[next(name for name in ID_COLUMNS if name in images)]
    return np.array(
        [_checked(rle.area, cell, path, name) for name, cell in zip(names, images[column], strict=True)], float
    )


def as_text(folds: np.ndarray, values: np.ndarray | None, coverage: np.ndarray | None) -> str:
    """The table of folds: how many images, the share with an empty mask, and the mix of what was stratified by."""
    head, columns = ["fold", "images"], [lambda rows: f"{len(rows)}"]
    if coverage is not None:
        head.append("empty")
        columns.append(lambda rows: f"{np.mean(coverage[rows] == 0):.1%}")
    if values is not None and values.dtype.kind == "f":
        head.append("mean")
        columns.append(lambda rows: f"{values[rows].mean():.5g}")
    elif values is not None:
        for name, _ in Counter(values.tolist()).most_common(SHOWN_CLASSES):
            head.append(name or "(none)")
            columns.append(lambda rows, name=name: f"{np.mean(values[rows] == name):.1%}")
    table = [head] + [
        [str(fold), *(column(np.flatnonzero(folds == fold)) for column in columns)] for fold in range(folds.max() + 1)
    ]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table)


def _column(images: Table, name: str, flag: str, path: Path, *words: str) -> list[str]:
    if name not in images:
        raise UsageError(f"{flag} {name}: no such column in {path}; {nearest(name, [*words, *images])}")
    return images[name]


def _depths(images: Table, path: Path) -> list[str]:
    """The column z of train.csv, else of the depths.csv beside it."""
    if "z" in images:
        return images["z"]
    beside = path.with_name("depths.csv")
    if not beside.is_file():
        raise UserError(f"--stratify depth: {path} has no column z, and there is no {beside}")
    table = read_table(beside, "id", "z")
    z_of = dict(zip(table["id"], table["z"], strict=True))
    names = images[next(name for name in ID_COLUMNS if name in images)]
    if missing := [name for name in names if name not in z_of]:
        raise UserError(f"{beside}: no depth for {len(missing)} images of {path} (such as {missing[0]})")
    return [z_of[name] for name in names]


def _numbers(cells: list[str], name: str, path: Path) -> np.ndarray:
    """(N,) float64, all finite."""
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


if __name__ == "__main__":
    run(main, Settings)
