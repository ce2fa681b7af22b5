"""csv files of a packed folder: copied from the source, or written by packing.

A file that packing did not write is never replaced.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.core.errors import UserError
from utils.core.files import atomic_file
from utils.core.tables import read_table, write_table
from utils.data.formats import RLE_COLUMNS
from utils.data.image_ids import ID_COLUMNS, id_column
from utils.data.packed_data import manifest_if_any
from utils.data.source_files import OWN_COLUMNS, header_of, is_packing_table


def check_tables(tables: Sequence[Path], out_dir: Path, written: Mapping[str, str]) -> None:
    """Check that `copy_tables` would replace only csv files that packing wrote.

    Args:
        tables: the csv files of the source.
        out_dir: the packed folder.
        written: name -> sha256 of the csv files that the last packing wrote there (returned by `copy_tables`).

    Raises:
        UserError: it would replace another file.
    """
    for path in tables:
        target = out_dir / path.name
        if target.is_file() and digest_of(target) != digest_of(path) and not is_written_by_packing(target, written):
            raise UserError(
                f"{target}: differs from {path}, which belongs to these images; move it away or use another --out_dir"
            )


def copy_tables(tables: Sequence[Path], out_dir: Path) -> dict[str, str]:
    """Copy csv files unchanged, except for files that already are in `out_dir`; return name -> sha256 of each copy."""
    written = {}
    for path in tables:
        target = out_dir / path.name
        if target.exists() and target.samefile(path):
            continue
        with atomic_file(target) as part:
            part.write_bytes(path.read_bytes())
        written[path.name] = digest_of(target)
    return written


def write_own_table(
    columns: Mapping[str, Sequence[object]], tables: Sequence[Path], out_dir: Path, written: Mapping[str, str]
) -> None:
    """Write train.csv, unless the source has one or `out_dir` has one that packing did not write.

    `tables` and `written` are as for `check_tables`.
    """
    target = out_dir / "train.csv"
    if target.name in [path.name for path in tables]:
        return
    if not target.exists() or is_written_by_packing(target, written):
        write_table(target, columns)


def is_written_by_packing(path: Path, written: Mapping[str, str]) -> bool:
    """Return True if packing created or copied a csv; `written` is as for `check_tables`."""
    return is_packing_table(path) or written.get(path.name) == digest_of(path)


def digest_of(path: Path) -> str:
    """Return the sha256 of a file as hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


CLASS_TABLES = ("train.csv", "train_v2.csv", "train_labels.csv", "labels.csv", "train_classes.csv")
"""Names of csv files that may hold classes."""
NOT_CLASSES = {*OWN_COLUMNS, "objects", "background", "z", "fold"}
"""Columns with other properties of an image."""
RUN_LENGTHS = re.compile(r"(^|_)rle(_|$)|pixels", re.IGNORECASE)
"""Pattern of run-length columns, which also matches names that are slightly wrong."""


def class_columns(header: Sequence[str]) -> list[str]:
    """Return the columns of a csv that may hold classes; none if it has run-lengths, because those are masks."""
    if any(name in RLE_COLUMNS or RUN_LENGTHS.search(name) for name in header):
        return []
    ids = next((name for name in ID_COLUMNS if name in header), None)
    return [name for name in header if name != ids and name not in NOT_CLASSES]


def find_class_table(folder: Path) -> Path | None:
    """Return the csv with classes in a source folder, or None; a train.csv that packing wrote from it is ignored.

    Raises:
        UserError: there are several.
    """
    written = manifest_if_any(folder).tables
    tables = [folder / name for name in CLASS_TABLES if class_columns(header_of(folder / name))]
    tables = [path for path in tables if not is_written_by_packing(path, written)]
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise UserError(f"{folder}: expected one csv with classes, found {names}; move the others away")
    return tables[0] if tables else None


def check_class_table(table: Path, out_dir: Path, written: Mapping[str, str]) -> None:
    """Check that `write_class_table` would not replace a train.csv that packing did not write.

    `written` is as for `check_tables`.

    Raises:
        UserError: it would replace another file.
    """
    target = out_dir / "train.csv"
    if not target.is_file() or target.samefile(table) or is_written_by_packing(target, written):
        return
    if read_table(target) != _renamed(table):
        raise UserError(
            f"{target}: differs from {table}, which belongs to these images; move it away or use another --out_dir"
        )


def write_class_table(table: Path, out_dir: Path) -> dict[str, str]:
    """Write train.csv: the csv with its id column renamed to `id`. If the csv already is this file, leave it unchanged.

    Returns:
        name -> sha256 of the file that was written, as `copy_tables` does.
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
