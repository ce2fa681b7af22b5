"""Reading and writing of csv files as columns of text.

Pandas is not used, because its import alone takes longer than most of these scripts.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from utils.core.errors import UserError
from utils.core.files import write_text
from utils.core.names import nearest

LONGEST_CELL = 2**31 - 1
"""Characters; the run-lengths of a ragged mask can exceed the csv module's default limit of 131,072."""


def read_rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a csv file with a header, one at a time, the header first. Blank lines are skipped.

    Yields:
        (line number, cells as text).

    Raises:
        UserError: the file is missing, is not a csv file or has no header, or a row has more or fewer cells than the
            header. A row is checked only when it is reached.
    """
    csv.field_size_limit(LONGEST_CELL)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader, header = csv.reader(file), None
            for row in filter(None, reader):
                if header is None and len(row) == 1 and (found := next((one for one in ";\t" if one in row[0]), "")):
                    shown = "tabs" if found == "\t" else found
                    raise UserError(f"{path}: expected cells separated by commas, found {shown}; save it with commas")
                header = row if header is None else header
                if len(row) != len(header):
                    raise UserError(f"{path}: line {reader.line_num}: expected {len(header)} cells, found {len(row)}")
                yield reader.line_num, row
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: expected a csv file, found a folder; name a file in it") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a csv file, found something else ({error})") from None
    if header is None:
        raise UserError(f"{path}: expected a csv file with a header, found an empty file")


def read_table(path: str | Path, *needed: str) -> dict[str, list[str]]:
    """Return the columns of a csv file with a header, all cells as text; an empty cell is "".

    Raises:
        UserError: the file is missing, is not a csv file or has no header, a column in `needed` is missing, or a row
            has more or fewer cells than the header.
    """
    (_, header), *rows = read_rows(path)
    for name in needed:
        if name not in header:
            raise UserError(f"{path}: no column {name}; {nearest(name, header)}")
    return {name: [row[place] for _, row in rows] for place, name in enumerate(header)}


def write_table(path: str | Path, columns: Mapping[str, Sequence[object]]) -> None:
    """Write columns of equal length as a csv file, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_text(path, text.getvalue())
