"""Everything that can be wrong with a submission and be seen without the truth."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from utils.core.errors import UserError
from utils.core.tables import read_rows
from utils.data.formats import Format, read_format, run_length_columns
from utils.data.packed_data import Shapes
from utils.data.rle import paint, spans

SHOWN = 10
SAMPLES = ("sample_submission_v2.csv", "sample_submission.csv", "stage1_sample_submission.csv")
LOOKED_AT = 500
"""Images whose outline is followed, to tell the order of pixels: on large ones that takes longer than all the rest."""


@dataclass
class Verdict:
    """What a check found."""

    n_rows: int = 0
    n_images: int = 0
    n_empty: int = 0
    problems: list[str] = field(default_factory=list)
    """with any of these the file must not be uploaded."""
    warnings: list[str] = field(default_factory=list)
    """it would be scored, but it looks odd."""

    def as_text(self) -> str:
        """One line if all is well; else the first problems, a line each, and their number."""
        images = "" if self.n_images == self.n_rows else f" of {self.n_images} images"
        rows = f"{self.n_rows} rows{images}, {self.n_empty} empty ({self.n_empty / max(self.n_images, 1):.1%})"
        lines = [f"warning: {line}" for line in self.warnings]
        if self.problems:
            lines += self.problems[:SHOWN]
            lines.append(f"not valid: {len(self.problems)} problems in {rows}")
            return "\n".join(lines)
        return "\n".join([*lines, f"valid: {rows}"])


def sample_in(folder: str | Path) -> Path | None:
    """The sample submission in a packed folder, under one of the names that competitions give it; None: none."""
    return next((path for name in SAMPLES if (path := Path(folder) / name).is_file()), None)


def read_ids(path: str | Path) -> list[str]:
    """The ids of a csv of run-lengths, each once, in order; the cells are read past."""
    rows = read_rows(path)
    _, header = next(rows)
    place = header.index(run_length_columns(header, path)[0])
    return list(dict.fromkeys(row[place] for _, row in rows))


def check_submission(
    path: str | Path, sample: str | Path | None, shapes: Shapes, form: Format | None = None
) -> Verdict:
    """Look at header, ids, order and every cell of a submission, row by row, so that memory holds its ids only.

    In formats of objects the rows of one id are the objects of one image: none may overlap another, and an empty cell
    says that there is none, so that it stands alone. Elsewhere an id has one row.

    Args:
        path: the csv file.
        sample: the competition's sample_submission.csv, whose header, ids and order are the right ones; or None.
        shapes: (height, width) of the masks.
        form: the format, whatever the sample's header; None: the sample's, or by the columns of the file itself.

    Raises:
        UserError: no such file, or no table in it.
    """
    verdict, rows = Verdict(), read_rows(path)
    _, header = next(rows)
    wanted = list(form.columns) if form else next(read_rows(sample))[1] if sample else None
    if wanted and header != wanted:
        verdict.problems.append(f"header: expected {','.join(wanted)}, found {','.join(header)}")
    try:
        columns = run_length_columns(header, path)
    except UserError as error:
        verdict.problems.append(str(error))
        return verdict
    if not wanted and header != list(columns):
        verdict.problems.append(f"header: expected {','.join(columns)}, found {','.join(header)}")
    form = form or read_format(sample or path)
    places = header.index(columns[0]), header.index(columns[1])
    rows_of, apart = _rows_by_id(row[places[0]] for _, row in rows)
    _check_ids(rows_of, read_ids(sample) if sample else None, form, verdict)
    cells = ((line, row[places[0]], row[places[1]]) for line, row in read_rows(path))
    next(cells)
    _check_cells(cells, form, shapes, rows_of, apart, verdict)
    return verdict


def _rows_by_id(ids: Iterator[str]) -> tuple[dict[str, int], set[str]]:
    """How many rows each id has, and those ids whose rows do not stand together."""
    rows_of: dict[str, int] = {}
    apart, last = set(), None
    for name in ids:
        if name in rows_of and name != last:
            apart.add(name)
        rows_of[name] = rows_of.get(name, 0) + 1
        last = name
    return rows_of, apart


def _check_ids(rows_of: Mapping[str, int], expected: list[str] | None, form: Format, verdict: Verdict) -> None:
    verdict.n_rows, verdict.n_images = sum(rows_of.values()), len(rows_of)
    found = list(rows_of)
    if len(found) < verdict.n_rows and not form.of_instances:
        again = [name for name, count in rows_of.items() if count > 1]
        verdict.problems.append(f"ids: {verdict.n_rows - len(found)} rows repeat an id (such as {again[0]})")
    if expected is None:
        return
    missing, unknown = set(expected) - set(found), set(found) - set(expected)
    for names, fault in ((missing, "of the sample are missing"), (unknown, "are not in the sample")):
        if names:
            verdict.problems.append(f"ids: {len(names)} {fault} (such as {min(names)})")
    if not missing and not unknown and found != expected:
        row = next(row for row, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
        verdict.problems.append(f"order: image {row + 1} is {found[row]}, in the sample it is {expected[row]}")


def _check_cells(
    cells: Iterator[tuple[int, str, str]],
    form: Format,
    shapes: Shapes,
    rows_of: Mapping[str, int],
    apart: set[str],
    verdict: Verdict,
) -> None:
    """Read every (line, id, run-lengths), one image at a time."""
    unfinished: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # spans, of ids whose rows are apart
    edges, looked_at = np.zeros(2, dtype=np.int64), 0  # of all masks, read as they should be, and the other way
    for name, rows in groupby(cells, key=itemgetter(1)):
        shape = shapes.get(name) if isinstance(shapes, Mapping) else shapes
        # on a square the two ways to read give one outline, transposed
        follow = shape is not None and shape[0] != shape[1] and looked_at < LOOKED_AT
        flat, objects = None, unfinished.get(name, [])
        if shape is not None and (form.of_instances or follow):
            flat = np.zeros(shape[0] * shape[1], dtype=np.int32)
            for number, earlier in enumerate(objects, start=1):
                with suppress(ValueError):  # told when it was read
                    paint(flat, *earlier, number)
        for line, _, cell in rows:
            verdict.n_empty += cell == ""
            try:
                objects.append(_spans(cell, shape))
                if flat is not None and (cell or rows_of[name] > 1):
                    paint(flat, *objects[-1], len(objects))
            except ValueError as error:
                verdict.problems.append(f"line {line} ({name}): {error}")
        if name in apart and form.of_instances:
            unfinished[name] = objects
        if follow and flat.any():
            edges += _edge(flat.reshape(shape, order="F")), _edge(flat.reshape(shape))
            looked_at += 1
    if verdict.n_rows and verdict.n_empty == verdict.n_rows:
        verdict.warnings.append("every mask is empty")
    elif verdict.n_rows and verdict.n_empty == 0 and form.has_empty:
        verdict.warnings.append("no mask is empty")
    right, wrong = edges[::-1] if form.by_row else edges
    if wrong < 0.8 * right:  # a mask read in the wrong order falls apart
        verdict.warnings.append(form.wrong_order.format("hang together"))


def _spans(cell: str, shape: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """As `rle.spans`; also raises ValueError where run-lengths are not written in the one way that is usual."""
    if shape is None:
        raise ValueError("an image of unknown size")
    starts, ends = spans(cell, shape)
    pairs = np.stack([starts + 1, ends - starts], axis=1).ravel().tolist()
    if cell != " ".join(map(str, pairs)) or (starts[1:] == ends[:-1]).any():
        raise ValueError("not the run-lengths of its mask; runs that touch are one, blanks are single")
    return starts, ends


def _edge(mask: np.ndarray) -> int:
    """The number of neighbouring pixel pairs of which one is mask."""
    return int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())
