"""Everything that can be wrong with a submission and be seen without the truth."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.rle import decode, encode
from utils.stack import read_manifest
from utils.tables import read_table
from utils.truth import ID_COLUMNS, run_length_columns

Shapes = tuple[int, int] | Mapping[str, tuple[int, int]]  # (height, width) of all masks, or of each id
SHOWN = 10


@dataclass
class Verdict:
    """What a check found."""

    n_rows: int = 0
    n_empty: int = 0
    problems: list[str] = field(default_factory=list)
    """with any of these the file must not be uploaded."""
    warnings: list[str] = field(default_factory=list)
    """it would be scored, but it looks odd."""

    def as_text(self) -> str:
        """One line if all is well; else the first problems, a line each, and their number."""
        rows = f"{self.n_rows} rows, {self.n_empty} empty ({self.n_empty / max(self.n_rows, 1):.1%})"
        lines = [f"warning: {line}" for line in self.warnings]
        if self.problems:
            lines += self.problems[:SHOWN]
            lines.append(f"not valid: {len(self.problems)} problems in {rows}")
            return "\n".join(lines)
        return "\n".join([*lines, f"valid: {rows}"])


def check_submission(path: str | Path, sample: str | Path | None, shapes: Shapes) -> Verdict:
    """Look at header, ids, order and every cell of a submission.

    Rows of one id are objects of one image, which must not overlap, where the header is ImageId,EncodedPixels (nuclei,
    ships); elsewhere an id has one row.

    Args:
        path: the csv file.
        sample: the competition's sample_submission.csv, whose header, ids and order are the right ones; or None.
        shapes: (height, width) of the masks.

    Raises:
        UserError: no such file, or no table in it.
    """
    table, expected = read_table(path), read_table(sample) if sample else None
    verdict = Verdict()
    header, wanted = list(table), list(expected) if expected else None
    if wanted and header != wanted:
        verdict.problems.append(f"header: expected {','.join(wanted)}, found {','.join(header)}")
    try:
        id_column, rle_column = run_length_columns(header, path)
    except UserError as error:
        verdict.problems.append(str(error))
        return verdict
    if not wanted and header != [id_column, rle_column]:
        verdict.problems.append(f"header: expected {id_column},{rle_column}, found {','.join(header)}")
    ids, cells = table[id_column], table[rle_column]
    several = id_column == ID_COLUMNS[1]
    _check_ids(ids, expected[wanted[0]] if expected else None, several, verdict)
    _check_cells(ids, cells, shapes, several, verdict)
    return verdict


def _check_ids(ids: list[str], expected: list[str] | None, several: bool, verdict: Verdict) -> None:
    found = list(dict.fromkeys(ids))
    if len(found) < len(ids) and not several:
        seen: set[str] = set()
        again = [name for name in ids if name in seen or seen.add(name)]
        verdict.problems.append(f"ids: {len(again)} rows repeat an id (such as {again[0]})")
    if expected is None:
        return
    expected = list(dict.fromkeys(expected))
    missing, unknown = set(expected) - set(found), set(found) - set(expected)
    for names, fault in ((missing, "of the sample are missing"), (unknown, "are not in the sample")):
        if names:
            verdict.problems.append(f"ids: {len(names)} {fault} (such as {min(names)})")
    if not missing and not unknown and found != expected:
        row = next(row for row, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
        verdict.problems.append(f"order: image {row + 1} is {found[row]}, in the sample it is {expected[row]}")


def _check_cells(ids: list[str], cells: list[str], shapes: Shapes, several: bool, verdict: Verdict) -> None:
    """Decode every cell, image by image."""
    rows: dict[str, list[tuple[int, str]]] = {}
    for line, (name, cell) in enumerate(zip(ids, cells, strict=True), start=2):
        rows.setdefault(name, []).append((line, cell))
    verdict.n_rows, verdict.n_empty = len(cells), cells.count("")
    edges = np.zeros(2, dtype=np.int64)  # of all masks, read as they should be, and row by row
    for name, of_image in rows.items():
        shape = shapes.get(name) if isinstance(shapes, Mapping) else shapes
        if shape is None:
            verdict.problems.append(f"line {of_image[0][0]} ({name}): an image of unknown size")
            continue
        union = np.zeros(shape, dtype=np.uint8)
        for line, cell in of_image:
            try:
                mask = decode(cell, shape)
            except ValueError as error:
                verdict.problems.append(f"line {line} ({name}): {error}")
                continue
            if encode(mask) != cell:
                fault = "not the run-lengths of its mask; runs that touch are one, blanks are single"
                verdict.problems.append(f"line {line} ({name}): {fault}")
            if several and (union & mask).any():
                verdict.problems.append(f"line {line} ({name}): overlaps another object of the same image")
            union |= mask
            if shape[0] != shape[1]:  # on a square the two ways to read give one outline, transposed
                edges += _edge(mask), _edge(read_row_by_row(cell, shape))
    if verdict.n_rows and verdict.n_empty in (0, verdict.n_rows):
        verdict.warnings.append(f"{'no' if verdict.n_empty == 0 else 'every'} mask is empty")
    if edges[1] < 0.8 * edges[0]:  # a mask read in the wrong order falls apart
        verdict.warnings.append("the masks hang together when read row by row; run-lengths go top to bottom first")


def read_row_by_row(cell: str, shape: tuple[int, int]) -> np.ndarray:
    """The mask that a writer meant who numbered pixels left to right first."""
    return decode(cell, shape[::-1]).T


def _edge(mask: np.ndarray) -> int:
    """The number of neighbouring pixel pairs of which one is mask."""
    return int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())


def shapes_of(data_dir: str | Path) -> Shapes:
    """Sizes of the source images of a packed folder: one for all, or by id where they differ.

    Raises:
        UserError: not packed.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for described in read_manifest(data_dir)["parts"].values():
        packed = described["arrays"]["images"]["shape"][1:3]
        for name, size in zip(
            described["ids"], described.get("sizes") or [packed] * len(described["ids"]), strict=True
        ):
            shapes[name] = (size[0], size[1])
    distinct = set(shapes.values())
    return distinct.pop() if len(distinct) == 1 else shapes
