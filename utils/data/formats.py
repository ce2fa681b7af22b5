"""Submission formats of the supported competitions: columns, rows, pixel order and metric."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from utils.core.errors import UserError
from utils.core.names import nearest
from utils.core.tables import read_rows
from utils.data.image_ids import id_column


@dataclass(frozen=True)
class Format:
    """Rules for the submissions of a competition."""

    name: str
    columns: tuple[str, str]
    """Names of the id column and the run-length column."""
    of_instances: bool
    """True: one row per object, or one row with an empty cell if an image has no object. False: one row per image."""
    by_row: bool
    """True: pixels are numbered left to right, then top to bottom. False: top to bottom, then left to right."""
    metric: str
    """Metric of the competition: iout, dice, or dsb2018 and airbus (utils/scoring/instance_metrics.py)."""
    has_empty: bool
    """True if the test set contains images without any object, so that a submission without empty masks is unusual."""

    @property
    def other_order_hint(self) -> str:
        """Hint for masks that fit better with pixels numbered in the other order; {} is what the masks then do."""
        other, first = ("column by column", "left to right") if self.by_row else ("row by row", "top to bottom")
        return f"if pixels are read {other}, the masks {{}}; this format numbers pixels {first} first"


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format("tgs", ("id", "rle_mask"), of_instances=False, by_row=False, metric="iout", has_empty=True),
        Format(
            "dsb2018", ("ImageId", "EncodedPixels"), of_instances=True, by_row=False, metric="dsb2018", has_empty=False
        ),
        Format(
            "airbus", ("ImageId", "EncodedPixels"), of_instances=True, by_row=False, metric="airbus", has_empty=True
        ),
        Format("carvana", ("img", "rle_mask"), of_instances=False, by_row=True, metric="dice", has_empty=False),
    )
}
"""Name -> rules of the TGS Salt Identification Challenge, the 2018 Data Science Bowl, the Airbus Ship Detection
Challenge and the Carvana Image Masking Challenge, each taken from the competition's page "Evaluation"."""
RLE_COLUMNS = tuple(dict.fromkeys(entry.columns[1] for entry in FORMATS.values()))
"""Known names of run-length columns."""


def run_length_columns(header: list[str], path: str | Path) -> tuple[str, str]:
    """Return the names of a csv's id column and run-length column, such as (id, rle_mask) or (ImageId, EncodedPixels).

    Raises:
        UserError: one of the two columns is missing.
    """
    ids = id_column(header, path)
    run_lengths = next((name for name in RLE_COLUMNS if name in header), None)
    if run_lengths is None:
        raise UserError(f"{path}: no column {' or '.join(RLE_COLUMNS)}; {nearest(RLE_COLUMNS[0], header)}")
    return ids, run_lengths


def format_of(header: list[str], ids: Iterable[str], path: str | Path = "submission") -> Format:
    """Return the format of a csv by its columns.

    DSB2018 and Airbus use the same columns, but the ids of Airbus end in .jpg. If no competition uses this pair of
    columns (ImageId,rle_mask), the rules follow the id column; if no competition uses that id column (image_id), they
    follow the run-length column.

    Args:
        header: column names of the csv.
        ids: ids of the csv; only the first is read.
        path: the csv, for the error message.

    Raises:
        UserError: a column is missing.
    """
    columns = run_length_columns(header, path)
    by_ids = [entry for entry in FORMATS.values() if entry.columns[0] == columns[0]]
    fitting = by_ids or [entry for entry in FORMATS.values() if entry.columns[1] == columns[1]]
    ships = any(name.lower().endswith(".jpg") for name in islice(ids, 1))
    chosen = FORMATS["airbus"] if ships and FORMATS["airbus"] in fitting else fitting[0]
    return dataclasses.replace(chosen, columns=columns)


def read_format(path: str | Path) -> Format:
    """Return the format of a csv file, reading only its first rows.

    Raises:
        UserError: as `read_rows` and `format_of`.
    """
    rows = read_rows(path)
    _, header = next(rows)
    id_column, _ = run_length_columns(header, path)
    return format_of(header, (row[header.index(id_column)] for _, row in rows), path)
