"""Folds of a packed folder: the images to train on and the held-out images."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from utils.core.errors import UsageError, UserError
from utils.core.names import nearest
from utils.core.tables import read_table
from utils.data.image_ids import as_packed, id_column


def fold_rows(data_dir: str | Path, ids: list[str], fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the packed images to train on and the held-out rows, by the column `fold`.

    The column is read from train_with_folds.csv in `data_dir`.

    Returns:
        (train, val): int64 arrays, each ascending; together they contain every packed image once.

    Raises:
        UserError: the csv is missing, its ids are not the ids of the packed images, or an image has two folds.
        UsageError: the fold does not exist.
    """
    path = _folds_table(data_dir)
    table = read_table(path, "fold")
    fold_of: dict[str, str] = {}
    for name, found in zip(as_packed(table[id_column(table, path)], ids), table["fold"], strict=True):
        if fold_of.setdefault(name, found) != found:
            raise UserError(f"{path}: {name} is in fold {fold_of[name]} and in fold {found}; expected one")
    if differing := differences(fold_of, ids, "fold"):
        raise UserError(f"{path}: {differing}; run make_folds.py on the train.csv that was packed")
    if str(fold) not in set(fold_of.values()):
        folds = sorted(set(fold_of.values()), key=lambda name: (len(name), name))
        raise UsageError(f"--fold {fold}: no such fold in {path}; {nearest(str(fold), folds)}")
    held_out = np.array([fold_of[name] == str(fold) for name in ids])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def differences(listed: Collection[str], ids: Sequence[str], what: str) -> str:
    """Describe how the ids listed in a csv differ from those of the packed images; return "" if they are the same.

    Args:
        listed: ids in the csv, spelled as the packed ones.
        ids: ids of the packed images.
        what: what a packed image lacks that is not listed: "fold" or "row".
    """
    known = set(ids)
    missing, unknown = [name for name in ids if name not in listed], [name for name in listed if name not in known]
    found = [f"{len(missing)} packed images have no {what} (such as {missing[0]})"] if missing else []
    found += [f"{len(unknown)} ids in it are not packed (such as {unknown[0]})"] if unknown else []
    return " and ".join(found)


def fold_numbers(data_dir: str | Path) -> list[int]:
    """Return the fold numbers in train_with_folds.csv, ascending.

    Raises:
        UserError: the csv is missing, or a fold is not an integer.
    """
    try:
        return sorted({int(fold) for fold in read_table(_folds_table(data_dir), "fold")["fold"]})
    except ValueError as error:
        raise UserError(f"{_folds_table(data_dir)}: column fold: expected integers ({error})") from None


def _folds_table(data_dir: str | Path) -> Path:
    path = Path(data_dir) / "train_with_folds.csv"
    if not path.is_file():
        raise UserError(f"{path}: no such file; run: python utils/make_folds.py --path {path.with_name('train.csv')}")
    return path
