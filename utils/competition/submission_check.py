"""Check a submission for all errors that can be found without the true masks."""

from collections.abc import Iterator, Mapping, Sequence
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
MAX_OUTLINES = 500
"""Number of images whose outlines are measured to check the order of pixels, which is slow on large images."""


@dataclass
class Verdict:
    """Result of a check."""

    n_rows: int = 0
    n_images: int = 0
    n_empty: int = 0
    problems: list[str] = field(default_factory=list)
    """Errors; a file with any of them must not be uploaded."""
    warnings: list[str] = field(default_factory=list)
    """Unusual properties of a file that would nevertheless be scored."""

    def as_text(self) -> str:
        """Return the warnings, then one line if the file is valid, else the first problems and their number."""
        images = "" if self.n_images == self.n_rows else f" of {self.n_images} images"
        rows = f"{self.n_rows} rows{images}, {self.n_empty} empty ({self.n_empty / max(self.n_images, 1):.1%})"
        lines = [f"warning: {line}" for line in self.warnings]
        if self.problems:
            lines += self.problems[:SHOWN]
            lines.append(f"not valid: {len(self.problems)} problems in {rows}")
            return "\n".join(lines)
        return "\n".join([*lines, f"valid: {rows}"])


def sample_in(folder: str | Path) -> Path | None:
    """Return the sample submission in a packed folder, by the names that competitions use, or None."""
    return next((path for name in SAMPLES if (path := Path(folder) / name).is_file()), None)


def read_ids(path: str | Path) -> list[str]:
    """Return the ids of a csv of run-lengths, each once, in order; the run-lengths are not parsed."""
    rows = read_rows(path)
    _, header = next(rows)
    place = header.index(run_length_columns(header, path)[0])
    return list(dict.fromkeys(row[place] for _, row in rows))


def check_submission(
    path: str | Path, sample: str | Path | None, shapes: Shapes, form: Format | None = None
) -> Verdict:
    """Check header, ids, order and every cell of a submission, row by row, so that only the ids are in memory.

    In formats with one row per object, the rows of an id are the objects of one image. They must not overlap, and an
    empty cell, which means no object, must be the only row of its id. In the other formats an id has one row.

    Args:
        path: the csv file.
        sample: the competition's sample submission with the expected header, ids and order; or None.
        shapes: (height, width) of the masks, for all or by id.
        form: the format, regardless of the sample's header; None: by the columns of the sample, else of the file.

    Raises:
        UserError: the file does not exist or is not a table.
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
    """Return the number of rows of each id, and the ids whose rows are not consecutive."""
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
    if not found:
        verdict.problems.append("rows: expected one or more for each image, found only the header")
    if len(found) < verdict.n_rows and not form.of_instances:
        again = [name for name, count in rows_of.items() if count > 1]
        verdict.problems.append(f"ids: {verdict.n_rows - len(found)} rows repeat an id (such as {again[0]})")
    if expected is not None:
        check_order(found, expected, verdict)


def check_order(found: Sequence[str], expected: Sequence[str], verdict: Verdict) -> None:
    """Report images that are missing, unknown or in another order than in the sample; ids must not repeat."""
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
    """Check every (line, id, run-lengths), one image at a time."""
    unfinished: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # spans of the ids whose rows are not consecutive
    edges, looked_at = np.zeros(2, dtype=np.int64), 0  # length of all outlines, by column and by row
    for name, rows in groupby(cells, key=itemgetter(1)):
        shape = shapes.get(name) if isinstance(shapes, Mapping) else shapes
        # in a square image both orders give the same outline, transposed
        follow = shape is not None and shape[0] != shape[1] and looked_at < MAX_OUTLINES
        flat, objects = None, unfinished.get(name, [])
        if shape is not None and (form.of_instances or follow):
            flat = np.zeros(shape[0] * shape[1], dtype=np.int32)
            for number, earlier in enumerate(objects, start=1):
                with suppress(ValueError):  # reported when it was read
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
    if wrong < 0.8 * right:  # masks read in the wrong order have longer outlines
        verdict.warnings.append(form.other_order_hint.format("have shorter outlines"))


def _spans(cell: str, shape: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the spans of run-lengths as `rle.spans` does; also raise ValueError if they are not in canonical form."""
    if shape is None:
        raise ValueError("the size of this image is unknown")
    starts, ends = spans(cell, shape)
    pairs = np.stack([starts + 1, ends - starts], axis=1).ravel().tolist()
    if cell != " ".join(map(str, pairs)) or (starts[1:] == ends[:-1]).any():
        raise ValueError("run-lengths are not in canonical form; merge runs that touch, use single blanks")
    return starts, ends


def _edge(mask: np.ndarray) -> int:
    """Return the number of neighbouring pixel pairs with different values: the length of all outlines."""
    return int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())
