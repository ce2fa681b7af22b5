"""From label probabilities to a submission in the sample's own columns, checked before it is called done.

The sample submission shows which style is wanted:

probability   id,label with a number such as 0.5     the probability of the second of two labels (of the only one)
name          id,label with one label in a cell      the most probable label
names         id,tags with several words in a cell   the labels above their thresholds; if none is, the most probable
columns       id and columns named like labels      the probability of each
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from utils.competition.submission_check import Verdict
from utils.core.errors import UserError
from utils.core.files import timestamped, whole_file
from utils.core.tables import read_table, write_table
from utils.masks.probability_file import Probabilities
from utils.scoring.class_metrics import CLIP

Style = Literal["probability", "name", "names", "columns"]
NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
HEADER = ("id", "label")
"""Where there is no sample submission."""


def write_class_submission(
    probabilities: Probabilities,
    thresholds: Mapping[str, float] | None,
    sample: Path | None,
    submission_dir: str | Path,
    fn: str,
) -> Path:
    """Write the submission of a file of probabilities, check it, and print where it is and what it holds.

    Columns, style and order are those of the sample submission where there is one; else the columns are id,label, with
    the name of the most probable label, all names above their thresholds, or the probability of the only label.

    Args:
        probabilities: of N images and K labels.
        thresholds: of each label, for the style `names`; None: .5 for all.
        sample: the sample submission; None: there is none.
        submission_dir: folder for the file, which is named by `utils.core.files.timestamped`.
        fn: start of its name.

    Returns:
        the path of the submission.

    Raises:
        UserError: the sample wants something else than these labels, a label has no threshold, or the check found a
            problem; then nothing is written.
    """
    exclusive = bool(probabilities.info.exclusive)
    table = read_table(sample) if sample else None
    labels, ids = probabilities.labels, list(probabilities.ids)
    style = style_of(table, labels, exclusive, str(sample))
    header = list(table) if table else list(HEADER)
    wanted = list(dict.fromkeys(table[header[0]])) if table else ids
    ids = wanted if set(wanted) == set(ids) else ids
    row_of = {name: row for row, name in enumerate(probabilities.ids)}
    array = probabilities.array[[row_of[name] for name in ids]]
    path = timestamped(submission_dir, fn)
    with whole_file(path) as part:
        cells = _cells(style, array, labels, header[1:], thresholds)
        write_table(part, dict(zip(header, [ids, *cells], strict=True)))
        verdict = check_class_submission(part, sample, labels, exclusive)
        if verdict.problems:
            more = f" (and {len(verdict.problems) - 1} more)" if len(verdict.problems) > 1 else ""
            raise UserError(f"{path}: not written, the check found: {verdict.problems[0]}{more}")
    compared = f"ids and order as in {sample}" if sample else "ids not compared, there is no sample_submission.csv"
    print(f"{path}: {_said(style, labels)}; {compared}\n{verdict.as_text()}")
    return path


def style_of(sample: Mapping[str, Sequence[str]] | None, labels: Sequence[str], exclusive: bool, origin: str) -> Style:
    """What the cells of a submission hold.

    Args:
        sample: columns of the sample submission, the ids first; None: there is none.
        labels: K names.
        exclusive: an image has exactly one of them.
        origin: name of the sample, for messages.

    Raises:
        UserError: these labels cannot be what the sample holds.
    """
    usual: Style = "name" if exclusive else "probability" if len(labels) == 1 else "names"
    if sample is None:
        return usual
    columns, ours = list(sample)[1:], ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
    if len(columns) != 1 or columns[0] in labels:
        if not columns or not set(columns) <= set(labels):
            found = ", ".join(columns[:8]) or "none"
            raise UserError(f"{origin}: expected id,label or a column for each label ({ours}), found columns {found}")
        return "columns"
    cells = sample[columns[0]]
    known = {word for cell in cells for word in cell.split()}
    example = next((cell for cell in cells if cell.strip()), "")
    if known and all(NUMBER.fullmatch(word) for word in known) and any("." in word for word in known):
        if len(labels) > 2 or (len(labels) == 2 and not exclusive):
            raise UserError(f"{origin}: one probability an image is wanted (such as {example}), the labels are {ours}")
        return "probability"
    if known and known.isdisjoint(labels):
        raise UserError(f"{origin}: its cells (such as {example}) hold none of the labels {ours}; train on these names")
    if any(len(cell.split()) > 1 for cell in cells) and usual != "names":
        raise UserError(f"{origin}: several labels an image are wanted (such as {example}), these are one of {ours}")
    return usual


def check_class_submission(
    path: str | Path, sample: str | Path | None, labels: Sequence[str], exclusive: bool
) -> Verdict:
    """Look at header, ids, order and every cell of a submission of labels.

    Args:
        path: the csv file.
        sample: the competition's sample_submission.csv, whose header, ids, order and style are the right ones; or None.
        labels: K names.
        exclusive: an image has exactly one of them.

    Raises:
        UserError: no such file, no table in it, or a sample that wants something else than these labels.
    """
    table, expected = read_table(path), read_table(sample) if sample else None
    header, wanted = list(table), list(expected or HEADER)
    verdict = Verdict(n_rows=len(table[header[0]]), n_images=len(set(table[header[0]])))
    if header != wanted:
        verdict.problems.append(f"header: expected {','.join(wanted)}, found {','.join(header)}")
        return verdict
    _check_ids(table[header[0]], expected[header[0]] if expected else None, verdict)
    style = style_of(expected, labels, exclusive, str(sample))
    for column in header[1:]:
        cells = table[column]
        verdict.n_empty += sum(not cell.strip() for cell in cells)
        for line, (name, cell) in enumerate(zip(table[header[0]], cells, strict=True), start=2):
            if fault := _fault(style, cell, labels):
                where = f"{name}, {column}" if style == "columns" else name
                verdict.problems.append(f"line {line} ({where}): {fault}")
        if len(cells) > 1 and len(set(cells)) == 1:
            verdict.warnings.append(f"{column} is {cells[0]} for every image")
    return verdict


def _check_ids(ids: Sequence[str], expected: Sequence[str] | None, verdict: Verdict) -> None:
    """Each image has one row, in the sample's order."""
    if again := len(ids) - len(set(ids)):
        verdict.problems.append(f"ids: {again} rows repeat an id (such as {Counter(ids).most_common(1)[0][0]})")
    if expected is None:
        return
    found, wanted = list(dict.fromkeys(ids)), list(dict.fromkeys(expected))
    missing, unknown = set(wanted) - set(found), set(found) - set(wanted)
    for names, fault in ((missing, "of the sample are missing"), (unknown, "are not in the sample")):
        if names:
            verdict.problems.append(f"ids: {len(names)} {fault} (such as {min(names)})")
    if not missing and not unknown and found != wanted:
        row = next(row for row, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1])
        verdict.problems.append(f"order: image {row + 1} is {found[row]}, in the sample it is {wanted[row]}")


def _fault(style: Style, cell: str, labels: Sequence[str]) -> str | None:
    """What is wrong with a cell."""
    words = cell.split()
    if not words:
        return "an empty cell"
    if style in ("probability", "columns"):
        number = float(cell) if NUMBER.fullmatch(cell) else None
        return None if number is not None and number <= 1 else f"expected a probability in [0, 1], found {cell}"
    if unknown := [word for word in words if word not in labels]:
        return f"{unknown[0]} is no label"
    if cell != " ".join(dict.fromkeys(words)):
        return f"a label twice, or more than one blank between two: {cell}"
    return f"expected one label, found {cell}" if style == "name" and len(words) > 1 else None


def _cells(
    style: Style,
    array: np.ndarray,
    labels: Sequence[str],
    columns: Sequence[str],
    thresholds: Mapping[str, float] | None,
) -> Iterator[list[str]]:
    """The cells of each column."""
    if style == "columns":
        yield from (_numbers(array[:, labels.index(name)]) for name in columns)
    elif style == "probability":
        yield _numbers(np.clip(array[:, -1], np.float32(CLIP), np.float32(1 - CLIP)))
    elif style == "name":
        yield [labels[place] for place in array.argmax(axis=1)]
    else:
        chosen = array > _in_order(thresholds, labels)
        chosen[np.arange(len(array)), array.argmax(axis=1)] |= ~chosen.any(axis=1)
        yield [" ".join(labels[place] for place in np.flatnonzero(row)) for row in chosen]


def _in_order(thresholds: Mapping[str, float] | None, labels: Sequence[str]) -> np.ndarray:
    """(K,) float64."""
    if thresholds is None:
        return np.full(len(labels), 0.5)
    if missing := [name for name in labels if name not in thresholds]:
        raise UserError(f"labels.json: no threshold for {missing[0]}; fit the thresholds of these labels")
    return np.array([thresholds[name] for name in labels], dtype=np.float64)


def _numbers(values: np.ndarray) -> list[str]:
    """Decimals, as many as tell a float32 from its neighbours, without an exponent."""
    return [np.format_float_positional(value, trim="0") for value in values.astype(np.float32)]


def _said(style: Style, labels: Sequence[str]) -> str:
    return {
        "probability": f"the probability of {labels[-1]}",
        "name": "the most probable label",
        "names": "the labels above their thresholds",
        "columns": "the probability of each label",
    }[style]
