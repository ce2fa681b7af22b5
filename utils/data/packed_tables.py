"""The csv files of a packed folder: copied from the source or made.

A file that somebody else wrote is never replaced.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.core.errors import UserError
from utils.core.files import whole_file
from utils.core.tables import read_table, write_table
from utils.data.formats import RLE_COLUMNS
from utils.data.image_ids import ID_COLUMNS, id_column
from utils.data.packed_data import manifest_if_any
from utils.data.source_files import OWN_COLUMNS, header_of, is_own_table


def check_tables(tables: Sequence[Path], out_dir: Path, written: Mapping[str, str]) -> None:
    """See that no csv file of somebody else is in the way of `copy_tables`.

    Args:
        tables: the csv files of the source.
        out_dir: the packed folder.
        written: name -> sha256 of what the last packing copied there (what `copy_tables` returned).

    Raises:
        UserError: one is.
    """
    for path in tables:
        target = out_dir / path.name
        if target.is_file() and digest_of(target) != digest_of(path) and not is_ours(target, written):
            raise UserError(
                f"{target}: differs from {path}, which belongs to these images; move it away or name another --out_dir"
            )


def copy_tables(tables: Sequence[Path], out_dir: Path) -> dict[str, str]:
    """Copy csv files as they are; name -> sha256 of each copy. What lies in `out_dir` already is not touched."""
    written = {}
    for path in tables:
        target = out_dir / path.name
        if target.exists() and target.samefile(path):
            continue
        with whole_file(target) as part:
            part.write_bytes(path.read_bytes())
        written[path.name] = digest_of(target)
    return written


def write_own_table(
    columns: Mapping[str, Sequence[object]], tables: Sequence[Path], out_dir: Path, written: Mapping[str, str]
) -> None:
    """Write train.csv, unless the source has one or one is there that packing did not write.

    `tables` and `written` are as for `check_tables`.
    """
    target = out_dir / "train.csv"
    if target.name in [path.name for path in tables]:
        return
    if not target.exists() or is_ours(target, written):
        write_table(target, columns)


def is_ours(path: Path, written: Mapping[str, str]) -> bool:
    """Whether packing has made or copied a csv (`written` as for `check_tables`)."""
    return is_own_table(path) or written.get(path.name) == digest_of(path)


def digest_of(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


CLASS_TABLES = ("train.csv", "train_v2.csv", "train_labels.csv", "labels.csv", "train_classes.csv")
"""Names of the csv."""
NOT_CLASSES = {*OWN_COLUMNS, "objects", "background", "z", "fold"}
"""Columns that say something else of an image."""
RUN_LENGTHS = re.compile(r"(^|_)rle(_|$)|pixels", re.IGNORECASE)
"""What columns of run-lengths are called, also where the name is not quite the right one."""


def class_columns(header: Sequence[str]) -> list[str]:
    """The columns of a csv that may hold labels; none where it has run-lengths, which are masks."""
    if any(name in RLE_COLUMNS or RUN_LENGTHS.search(name) for name in header):
        return []
    ids = next((name for name in ID_COLUMNS if name in header), None)
    return [name for name in header if name != ids and name not in NOT_CLASSES]


def find_class_table(folder: Path) -> Path | None:
    """The csv with labels in a source folder, None if there is none; train.csv that packing made of it is passed over.

    Raises:
        UserError: there are several.
    """
    written = manifest_if_any(folder).tables
    tables = [folder / name for name in CLASS_TABLES if class_columns(header_of(folder / name))]
    tables = [path for path in tables if not is_ours(path, written)]
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise UserError(f"{folder}: expected one csv of labels, found {names}; move the others away")
    return tables[0] if tables else None


def check_class_table(table: Path, out_dir: Path, written: Mapping[str, str]) -> None:
    """See that no train.csv of somebody else is in the way of `write_class_table`.

    `written` is what the last packing wrote, as for `packed_tables.check_tables`.

    Raises:
        UserError: one is.
    """
    target = out_dir / "train.csv"
    if not target.is_file() or target.samefile(table) or is_ours(target, written):
        return
    if read_table(target) != _renamed(table):
        raise UserError(
            f"{target}: differs from {table}, which belongs to these images; move it away or name another --out_dir"
        )


def write_class_table(table: Path, out_dir: Path) -> dict[str, str]:
    """Write train.csv: the csv with its column of ids named `id`. What is train.csv already is not touched.

    Returns:
        name -> sha256 of what was written, as `packed_tables.copy_tables` does.
    """
    target = out_dir / "train.csv"
    if target.exists() and target.samefile(table):
        return {}
    write_table(target, _renamed(table))
    return {target.name: digest_of(target)}


def _renamed(table: Path) -> dict[str, list[str]]:
    columns = read_table(table)
    ids = id_column(columns, table)
    return {"id" if name == ids else name: cells for name, cells in columns.items()}
