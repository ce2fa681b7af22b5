"""The table of the page: a row for each group of runs and for each of its runs; the scores that the script compares."""

import hashlib
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.core.progress import duration
from utils.report import formatting as words
from utils.report.charts import whisker
from utils.report.facts import Group, Overview, RunFacts
from utils.scoring.bootstrap import Difference
from utils.scoring.cross_fit import CrossFitted


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, and the value that the column is sorted by."""

    text: str
    value: float | str | None = None
    """sort key; None comes last in both directions."""
    detail: str = ""
    """secondary text, shown less prominently after the text."""
    svg: str = ""
    states: tuple[tuple[str, int], ...] = ()
    """(state, number of runs), shown instead of the text."""


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    key: str
    title: str
    number: bool = True
    best_first: bool = False
    """the first click sorts in descending order."""


@dataclass(frozen=True)
class Row:
    """A table row: a group of runs, or a single run."""

    name: str
    anchor: str
    """id of the run's section; empty for a group of several runs."""
    note: str
    cells: list[Cell]


@dataclass(frozen=True)
class Entry:
    """A group with its runs, which are sorted, filtered and expanded together."""

    row: Row
    members: list[Row]
    """rows of its runs; empty if there is only one."""
    states: list[str]
    """distinct states of its runs."""
    text: str
    """text that the filter searches in addition to the visible text: names, notes and settings of all its runs."""


def anchor_of(run: RunFacts) -> str:
    """Return the id of a run's section, which is the same each time the page is built."""
    return "run-" + hashlib.sha256(os.fsencode(str(run.path))).hexdigest()[:12]


def columns_of(overview: Overview) -> list[Column]:
    """Return the columns that follow the name."""
    measures = {group.runs[0].measure for group in overview.groups if group.score is not None}
    best = f"best {measures.pop()}" if len(measures) == 1 else "best score"
    return [
        Column("state", "state", number=False),
        Column("fold", "fold"),
        Column("best", best, best_first=True),
        Column("cross", "cross-fitted", best_first=True),
        Column("difference", "vs. best", best_first=True),
        Column("threshold", "threshold"),
        Column("epochs", "epochs"),
        Column("time", "time"),
        Column("rate", "images/s", best_first=True),
        *(Column(f"setting {name}", name, number=False) for name in overview.differing),
    ]


def entries_of(overview: Overview) -> list[Entry]:
    """Return the entries of the table in the order of the groups."""
    crosses = [group.cross for group in overview.groups if group.cross is not None]
    reach = (min(cross.low for cross in crosses), max(cross.high for cross in crosses)) if crosses else (0.0, 1.0)
    across = reach if reach[1] > reach[0] else (reach[0] - 0.01, reach[1] + 0.01)
    several = len({group.runs[0].measure for group in overview.groups if group.score is not None}) > 1
    leaders = _leaders(overview.groups)
    return [_entry(group, overview.differing, across, several, id(group) in leaders) for group in overview.groups]


def _leaders(groups: Sequence[Group]) -> set[int]:
    """Return `id()` of the groups that others are compared to: the first group with the same measure and images."""

    def data_of(group: Group) -> tuple[str, str]:
        return group.runs[0].measure, group.runs[0].digest or str(group.runs[0].settings.get("data_dir"))

    compared = {data_of(group) for group in groups if group.difference is not None}
    first: dict[tuple[str, str], int] = {}
    for group in groups:
        if group.cross is not None and group.cross_scores and data_of(group) in compared:
            first.setdefault(data_of(group), id(group))
    return set(first.values())


def _entry(group: Group, names: Sequence[str], across: tuple[float, float], several: bool, leads: bool) -> Entry:
    runs = group.runs
    measure = runs[0].measure if several and group.score is not None else ""
    spread = f"± {words.score(group.spread)}" if group.spread is not None else ""
    best = Cell(words.score(group.score), group.score, f"{spread} {measure}".strip())
    difference = Cell("best", 0.0) if leads else _difference(group.difference)
    cells = [
        _states(runs),
        _folds(runs),
        best,
        _cross(group.cross, across),
        difference,
        *_shared(runs),
        *(_setting([run.settings.get(name) for run in runs if name in run.settings]) for name in names),
    ]
    note = runs[0].note if len(runs) == 1 else words.count(len(runs), "run")
    row = Row(group.name, anchor_of(runs[0]) if len(runs) == 1 else "", note, cells)
    members = [_member(run, names) for run in runs] if len(runs) > 1 else []
    flags = {f"{name}={words.setting(value)}" for run in runs for name, value in run.settings.items()}
    text = " ".join([*(f"{run.name} {run.note}" for run in runs), *sorted(flags)])
    return Entry(row, members, sorted({run.state for run in runs}), text.lower())


def _member(run: RunFacts, names: Sequence[str]) -> Row:
    best = Cell(words.score(run.best), run.best)
    judged = run.judged if run.measure == "iout" else None  # judged scores are always iout
    cross = _cross(judged.cross if judged else None, None)
    settings = (_setting([run.settings[name]] if name in run.settings else []) for name in names)
    cells = [_states([run]), _folds([run]), best, cross, Cell(""), *_shared([run]), *settings]
    return Row(run.name, anchor_of(run), run.note, cells)


def _states(runs: Sequence[RunFacts]) -> Cell:
    states = [run.state for run in runs]
    counted = tuple((state, states.count(state)) for state in sorted(set(states)))
    return Cell(", ".join(state for state, _ in counted), counted[0][0], states=counted)


def _folds(runs: Sequence[RunFacts]) -> Cell:
    folds = [run.fold for run in runs if run.fold is not None]
    return Cell(words.spans(folds), float(min(folds)) if folds else None)


def _cross(cross: CrossFitted | None, across: tuple[float, float] | None) -> Cell:
    if cross is None:
        return Cell("")
    svg = whisker(cross.low, cross.score, cross.high, across) if across else ""
    detail = f"{words.score(cross.low)} to {words.score(cross.high)}"
    return Cell(words.score(cross.score), cross.score, detail, svg)


def _difference(difference: Difference | None) -> Cell:
    if difference is None:
        return Cell("")
    detail = f"{words.signed(difference.low)} to {words.signed(difference.high)}"
    return Cell(words.signed(difference.mean), difference.mean, detail)


def _shared(runs: Sequence[RunFacts]) -> list[Cell]:
    """Return the cells of threshold, epochs, time (sum over runs) and images/s (median over runs)."""
    taken = [value for run in runs if (value := _threshold(run)) is not None]
    th = sorted({words.threshold(value) for value in taken}, key=float)
    threshold = Cell(f"{th[0]} to {th[-1]}" if len(th) > 1 else "".join(th), statistics.mean(taken) if taken else None)
    seconds = [run.seconds for run in runs if run.seconds is not None]
    rates = [run.images_per_s for run in runs if run.images_per_s is not None]
    rate = statistics.median(rates) if rates else None
    time = Cell(duration(sum(seconds)), sum(seconds)) if seconds else Cell("")
    return [threshold, _epochs(runs), time, Cell(words.rate(rate), rate)]


def _threshold(run: RunFacts) -> float | None:
    """Return the threshold of masks or objects, if any; labels have one each, listed in the run's section."""
    if run.measure == "objects":
        stored = (run.stored_rules or {}).get("th")
        return float(stored) if isinstance(stored, int | float) else None
    return run.judged.threshold if run.judged is not None else None


def _epochs(runs: Sequence[RunFacts]) -> Cell:
    done = [len(run.log.get("epoch", [])) for run in runs if run.log or run.n_epochs is not None]
    if not done:
        return Cell("")
    asked = sorted({run.n_epochs for run in runs if run.n_epochs is not None})
    text = str(done[0]) if len(set(done)) == 1 else f"{min(done)} to {max(done)}"
    late = len(asked) == 1 and any(number < asked[0] for number in done)
    return Cell(text, statistics.mean(done), f"of {asked[0]}" if late else "")


def _setting(values: Sequence[Any]) -> Cell:
    found = list(dict.fromkeys(words.setting(value) for value in values))
    number = values[0] if len(found) == 1 and isinstance(values[0], int | float) else None
    text = ", ".join(found)
    return Cell(text, text or None if number is None or isinstance(number, bool) else float(number))


MOST_SCORES = 1_500_000
"""Limit for the scores of all groups, two characters each; beyond it, images are left out, the same in each group."""
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
ABSENT = "--"
CODES = [DIGITS[number // 36] + DIGITS[number % 36] for number in range(1001)]


def encoded_scores(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return the data of the groups for the page's script.

    Returns:
        a dictionary per group with the keys `name`; `data`, a number shared by groups on the same packed images, None
        if these are unknown; `measure`; `scores`, two characters per image, in an order shared by groups on the same
        data: the score in thousandths in base 36, or `--` if the group has no out-of-fold prediction of the image;
        `of`, the total number of images, of which `scores` may cover only a random sample.
    """
    ids: dict[str, dict[str, None]] = {}
    for group in groups:
        ids.setdefault(digest_of(group) or "", {}).update(dict.fromkeys(group.cross_scores))
    numbers = {digest: number for number, digest in enumerate(ids)}
    n_scores = sum(len(ids[digest_of(group) or ""]) for group in groups if group.cross_scores)
    keep = min(1.0, MOST_SCORES / max(n_scores, 1))
    order = {digest: _even_choice(sorted(names), keep) for digest, names in ids.items()}
    return [
        {
            "name": group.name,
            "data": numbers[digest] if (digest := digest_of(group) or "") else None,
            "measure": group.runs[0].measure,
            "scores": "".join(_code(group.cross_scores.get(name)) for name in order[digest])
            if group.cross_scores
            else "",
            "of": len(ids[digest]),
        }
        for group in groups
    ]


def digest_of(group: Group) -> str | None:
    """Return the digest of a group's packed images; None if it is unknown."""
    return group.runs[0].digest


def _code(score: float | None) -> str:
    return ABSENT if score is None else CODES[round(1000 * score)]


def _even_choice(names: list[str], share: float) -> list[str]:
    if share == 1:
        return names
    rows = np.random.default_rng(4545).choice(len(names), int(share * len(names)), replace=False)
    return [names[row] for row in sorted(rows)]
