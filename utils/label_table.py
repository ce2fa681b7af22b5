"""The csv with labels of images, where there are no masks: found in a source folder, train.csv in the packed one."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.errors import UserError
from utils.formats import RLE_COLUMNS
from utils.image_ids import ID_COLUMNS, id_column
from utils.packed_tables import digest_of, is_ours
from utils.source_files import OWN_COLUMNS, header_of
from utils.stack import manifest_if_any
from utils.tables import read_table, write_table

LABEL_TABLES = ("train.csv", "train_v2.csv", "train_labels.csv", "labels.csv", "train_classes.csv")
"""Names of the csv."""
NO_LABELS = {*OWN_COLUMNS, "objects", "background", "z", "fold"}
"""Columns that say something else of an image."""
RUN_LENGTHS = re.compile(r"(^|_)rle(_|$)|pixels", re.IGNORECASE)
"""What columns of run-lengths are called, also where the name is not quite the right one."""


def label_columns(header: Sequence[str]) -> list[str]:
    """The columns of a csv that may hold labels; none where it has run-lengths, which are masks."""
    if any(name in RLE_COLUMNS or RUN_LENGTHS.search(name) for name in header):
        return []
    ids = next((name for name in ID_COLUMNS if name in header), None)
    return [name for name in header if name != ids and name not in NO_LABELS]


def label_table_in(folder: Path) -> Path | None:
    """The csv with labels in a source folder, None if there is none; train.csv that packing made of it is passed over.

    Raises:
        UserError: there are several.
    """
    written = manifest_if_any(folder).get("tables", {})
    tables = [folder / name for name in LABEL_TABLES if label_columns(header_of(folder / name))]
    tables = [path for path in tables if not is_ours(path, written)]
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise UserError(f"{folder}: expected one csv of labels, found {names}; move the others away")
    return tables[0] if tables else None


def check_label_table(table: Path, out_dir: Path, written: Mapping[str, str]) -> None:
    """See that no train.csv of somebody else is in the way of `write_label_table`.

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


def write_label_table(table: Path, out_dir: Path) -> dict[str, str]:
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
