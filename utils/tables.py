"""csv files as columns of text; without pandas, whose import alone takes longer than most of these scripts."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.errors import UserError
from utils.files import write_text
from utils.names import nearest


def read_table(path: str | Path, *needed: str) -> dict[str, list[str]]:
    """The columns of a csv file with a header, all cells as text; an empty cell is "".

    Raises:
        UserError: no such file, no header, a column of `needed` is absent, or a row of another length.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a csv file, found something else ({error})") from None
    if not rows:
        raise UserError(f"{path}: expected a csv file with a header, found an empty file")
    header, rows = rows[0], [row for row in rows[1:] if row]
    for name in needed:
        if name not in header:
            raise UserError(f"{path}: no column {name}; {nearest(name, header)}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{path}: line {number} has {len(row)} cells, the header {len(header)}")
    return {name: [row[place] for row in rows] for place, name in enumerate(header)}


def write_table(path: str | Path, columns: Mapping[str, Sequence[object]]) -> None:
    """Write columns of equal length as a csv file, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_text(path, text.getvalue())
