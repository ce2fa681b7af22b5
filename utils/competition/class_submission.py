"""Write a submission of class probabilities in the columns of the sample submission, and check it.

The sample submission determines the style:

probability   id,label with a number such as 0.5     the probability of the second of two classes, or of the only one
name          id,label with one class per cell       the most probable class
names         id,tags with several words per cell    the classes above their thresholds, or else the most probable one
columns       id and columns named after classes     the probability of each class
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from utils.competition.submission_check import Verdict, check_order
from utils.competition.submission_names import named_after, timestamped_file
from utils.core.errors import UserError
from utils.core.tables import read_table, write_table
from utils.masks.probability_file import Probabilities
from utils.scoring.class_metrics import CLIP

Style = Literal["probability", "name", "names", "columns"]
NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
HEADER = ("id", "label")
"""Columns if there is no sample submission."""


def write_class_submission(
    probabilities: Probabilities,
    thresholds: Mapping[str, float] | None,
    sample: Path | None,
    submission_dir: str | Path,
    fn: str,
) -> Path:
    """Write the submission of a probability file, check it, and print its path and a summary.

    Columns, style and order of the ids are taken from the sample submission. Without one, the columns are id,label, and
    a cell holds the most probable of exclusive classes, all classes above their thresholds, or the probability of the
    only class.

    Args:
        probabilities: probabilities of N images and K classes.
        thresholds: threshold of each class for the style `names`; None: .5 for all.
        sample: the sample submission, if it exists.
        submission_dir: folder for the file, which `timestamped_file` names.
        fn: start of the file name.

    Returns:
        the path of the submission.

    Raises:
        UserError: the sample does not fit these classes, a class has no threshold, or the check found a problem; no
            submission is written.
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
    name = named_after(fn, probabilities.info, probabilities.path)
    with timestamped_file(submission_dir, name) as (path, part):
        cells = _cells(style, array, labels, header[1:], thresholds)
        write_table(part, dict(zip(header, [ids, *cells], strict=True)))
        verdict = check_class_submission(part, sample, labels, exclusive)
        if verdict.problems:
            more = f" (and {len(verdict.problems) - 1} more)" if len(verdict.problems) > 1 else ""
            raise UserError(f"{path}: not written, the check found: {verdict.problems[0]}{more}")
    compared = f"ids and order as in {sample}" if sample else "ids not compared with a sample submission"
    print(f"{path}: {_description(style, labels)}; {compared}\n{verdict.as_text()}")
    return path


def style_of(sample: Mapping[str, Sequence[str]] | None, labels: Sequence[str], exclusive: bool, origin: str) -> Style:
    """Return the style of a submission: what its cells hold.

    Args:
        sample: columns of the sample submission, the ids first, if it exists.
        labels: names of the K classes.
        exclusive: whether an image has exactly one of the classes.
        origin: name of the sample for error messages.

    Raises:
        UserError: the sample does not fit these classes.
    """
    usual: Style = "name" if exclusive else "probability" if len(labels) == 1 else "names"
    if sample is None:
        return usual
    columns, ours = list(sample)[1:], ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
    if len(columns) != 1 or columns[0] in labels:
        if not columns or not set(columns) <= set(labels):
            found = ", ".join(columns[:8]) or "none"
            raise UserError(f"{origin}: expected id,label or one column per class ({ours}), found columns {found}")
        return "columns"
    cells = sample[columns[0]]
    known = {word for cell in cells for word in cell.split()}
    example = next((cell for cell in cells if cell.strip()), "")
    if known and all(NUMBER.fullmatch(word) for word in known) and any("." in word for word in known):
        if len(labels) > 2 or (len(labels) == 2 and not exclusive):
            raise UserError(
                f"{origin}: one probability per image (such as {example}) needs one class or two exclusive ones, found "
                f"{ours}"
            )
        return "probability"
    if known and known.isdisjoint(labels):
        raise UserError(f"{origin}: expected {ours} in its cells, found {example}; train on the names in this file")
    if any(len(cell.split()) > 1 for cell in cells) and usual != "names":
        raise UserError(
            f"{origin}: its images have several classes (such as {example}), but the network predicts one of {ours}"
        )
    return usual


def check_class_submission(
    path: str | Path, sample: str | Path | None, labels: Sequence[str], exclusive: bool
) -> Verdict:
    """Check header, ids, order and every cell of a submission of image classes.

    Args:
        path: the csv file.
        sample: the competition's sample submission with the expected header, ids, order and style; or None.
        labels: names of the K classes.
        exclusive: whether an image has exactly one of the classes.

    Raises:
        UserError: a file does not exist or is not a table, or the sample does not fit these classes.
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
    """Check that each image has one row, in the order of the sample."""
    if again := len(ids) - len(set(ids)):
        verdict.problems.append(f"ids: {again} rows repeat an id (such as {Counter(ids).most_common(1)[0][0]})")
    if expected is not None:
        check_order(list(dict.fromkeys(ids)), list(dict.fromkeys(expected)), verdict)


def _fault(style: Style, cell: str, labels: Sequence[str]) -> str | None:
    """Return what is wrong with a cell, or None."""
    words = cell.split()
    if not words:
        return "the cell is empty"
    if style in ("probability", "columns"):
        number = float(cell) if NUMBER.fullmatch(cell) else None
        return None if number is not None and number <= 1 else f"expected a probability in [0, 1], found {cell}"
    if unknown := [word for word in words if word not in labels]:
        return f"{unknown[0]} is not a class"
    if cell != " ".join(dict.fromkeys(words)):
        return f"expected each class once, with one blank between two, found {cell}"
    return f"expected one class, found {cell}" if style == "name" and len(words) > 1 else None


def _cells(
    style: Style,
    array: np.ndarray,
    labels: Sequence[str],
    columns: Sequence[str],
    thresholds: Mapping[str, float] | None,
) -> Iterator[list[str]]:
    """Yield the cells of each column."""
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
    """Return the thresholds in the order of the classes, (K,) float64."""
    if thresholds is None:
        return np.full(len(labels), 0.5)
    if missing := [name for name in labels if name not in thresholds]:
        raise UserError(f"labels.json: no threshold for {missing[0]}; run optimize_threshold.py for these classes")
    return np.array([thresholds[name] for name in labels], dtype=np.float64)


def _numbers(values: np.ndarray) -> list[str]:
    """Format numbers as float32 without an exponent, with as many decimals as identify the value."""
    return [np.format_float_positional(value, trim="0") for value in values.astype(np.float32)]


def _description(style: Style, labels: Sequence[str]) -> str:
    return {
        "probability": f"the probability of {labels[-1]}",
        "name": "the most probable class",
        "names": "the classes above their thresholds",
        "columns": "the probability of each class",
    }[style]
