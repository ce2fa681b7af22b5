"""How each competition wants its submission: columns, rows, the order of pixels, the metric."""

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
    """The rules that a submission follows."""

    name: str
    columns: tuple[str, str]
    """(id, run-lengths)."""
    of_instances: bool
    """one row an object, several an image, an empty cell for none; otherwise one row an image."""
    by_row: bool
    """pixels are numbered left to right, then top to bottom; otherwise top to bottom first."""
    metric: str
    """what the competition scores by: iout, dsb2018 or airbus (utils/scoring/instance_metrics.py), dice."""
    has_empty: bool
    """images with nothing in them belong to the set, so that a submission without an empty mask looks odd."""

    @property
    def wrong_order(self) -> str:
        """What to say where masks make more sense with pixels numbered the other way."""
        other, first = ("column by column", "left to right") if self.by_row else ("row by row", "top to bottom")
        return f"read {other} the masks {{}}; run-lengths go {first} first"


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
"""Name -> the rules of the TGS Salt Identification Challenge, the 2018 Data Science Bowl, the Airbus Ship Detection
Challenge and the Carvana Image Masking Challenge, each from the competition's page "Evaluation"."""
RLE_COLUMNS = tuple(dict.fromkeys(entry.columns[1] for entry in FORMATS.values()))


def run_length_columns(header: list[str], path: str | Path) -> tuple[str, str]:
    """The names of the columns of ids and of run-lengths in a csv, such as id,rle_mask or ImageId,EncodedPixels.

    Raises:
        UserError: one of them is not there.
    """
    ids = id_column(header, path)
    run_lengths = next((name for name in RLE_COLUMNS if name in header), None)
    if run_lengths is None:
        raise UserError(f"{path}: no column {' or '.join(RLE_COLUMNS)}; {nearest(RLE_COLUMNS[0], header)}")
    return ids, run_lengths


def format_of(header: list[str], ids: Iterable[str], path: str | Path = "submission") -> Format:
    """The format that a csv has by its columns.

    The nuclei's and the ships' columns are the same, but the ships' ids end in .jpg. Known columns in a pair of their
    own (ImageId,rle_mask) follow the rules of the column of ids; where that is of no competition (image_id), those of
    the run-lengths.

    Args:
        header: the csv's.
        ids: its ids; one is looked at.
        path: the csv, for the message.

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
    """The format of a csv file; only its first rows are read. Raises a UserError as `read_rows` and `format_of` do."""
    rows = read_rows(path)
    _, header = next(rows)
    id_column, _ = run_length_columns(header, path)
    return format_of(header, (row[header.index(id_column)] for _, row in rows), path)
