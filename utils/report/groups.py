"""Runs beside each other: which of them are folds of one experiment, which group is better, which settings differ."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from itertools import takewhile
from statistics import mean, stdev
from typing import Any

import numpy as np

from utils.report.facts import Group, Overview, RunFacts
from utils.runs.run_folder import FREE_ON_RESUME
from utils.scoring.bootstrap import difference
from utils.scoring.cross_fit import CrossFitted, partition
from utils.scoring.threshold_search import cross_fit_threshold, join

MEASURES = ("iout", "objects", "auc", "accuracy", "f2")
"""Groups are ranked within what their runs are ranked by, in this order."""
ALIKE = FREE_ON_RESUME - {"n_epochs", "encoder_weights", "snapshot"} | {"fold", "folds"}
"""Settings in which folds of one experiment may differ: the fold, and what does not change what is learned."""
OWN_COLUMNS = ("fold", "experiment_dir")
FOLD_PART = re.compile(r"[_\-. ]*fold[_\-]?(\d+)", re.IGNORECASE)
RULE_OF = {"accuracy": ("accuracy", "argmax"), "f2": ("f2",)}
"""Measure of a net for labels -> the rules of labels.json whose score is of that measure."""


def overview(runs: Sequence[RunFacts]) -> Overview:
    """Put the runs of a page into groups, rank these, and say in which settings they differ."""
    readable = [run for run in runs if run.state != "unreadable"]
    groups = sorted(_grouped(readable), key=_rank)
    first_of: dict[tuple[str, str], Group] = {}
    for group in groups:
        if group.cross and group.cross_scores:
            first_of.setdefault(_rivalry(group), group)
    groups = [_compared(group, first_of) for group in groups]
    unreadable = [Group(run.name, [run], None, None, None, {}) for run in runs if run.state == "unreadable"]
    differing, equal = _settings(readable)
    return Overview(groups + unreadable, differing, equal, datetime.now().astimezone().isoformat(timespec="seconds"))


def _measure(runs: Sequence[RunFacts]) -> str:
    """What runs are ranked by; one without an epoch cannot say it."""
    return next((run.measure for run in runs if run.best is not None), runs[0].measure)


def _rivalry(group: Group) -> tuple[str, str]:
    """What groups must have in common to be compared: measure and data."""
    return _measure(group.runs), _data_of(group.runs[0])


def _rank(group: Group) -> tuple[int, bool, float]:
    measure = _measure(group.runs)
    place = MEASURES.index(measure) if measure in MEASURES else len(MEASURES)
    score = group.cross.score if group.cross else group.score
    return place, group.cross is None, -score if score is not None else 1.0


def _compared(group: Group, first_of: Mapping[tuple[str, str], Group]) -> Group:
    best = first_of.get(_rivalry(group))
    if best is None or best is group or _measure(group.runs) != "iout":
        return group
    return replace(group, difference=difference(best.cross_scores, group.cross_scores))


def _grouped(runs: Sequence[RunFacts]) -> list[Group]:
    alike: dict[str, list[RunFacts]] = {}
    for run in runs:
        alike.setdefault(_signature(run), []).append(run)
    sets = [sisters for same in alike.values() for sisters in _without_twins(same)]
    sets = [sorted(sisters, key=lambda run: (run.fold is None, run.fold, run.name)) for sisters in sets]
    names = [_name_of(sisters) for sisters in sets]
    often = Counter(names)
    names = [
        name if often[name] == 1 else f"{name} ({_folds_of(sisters)})"
        for name, sisters in zip(names, sets, strict=True)
    ]
    return [_group(name, sisters) for name, sisters in zip(names, sets, strict=True)]


def _folds_of(runs: Sequence[RunFacts]) -> str:
    return f"fold{'s' if len(runs) > 1 else ''} {', '.join(str(run.fold) for run in runs)}"


def _signature(run: RunFacts) -> str:
    """What is the same in all folds of an experiment."""
    settings = {name: value for name, value in run.settings.items() if name not in ALIKE}
    if isinstance(settings.get("snapshot"), str):  # each fold may go on from the same fold of another experiment
        settings["snapshot"] = FOLD_PART.sub(
            lambda match: "_fold" if match[1] == str(run.fold) else match[0], settings["snapshot"]
        )
    return json.dumps([settings, _data_of(run)], sort_keys=True)


def _data_of(run: RunFacts) -> str:
    return run.digest or f"data_dir {run.settings.get('data_dir')}"


def _without_twins(runs: Sequence[RunFacts]) -> list[list[RunFacts]]:
    """Runs of the same settings, apart where a fold would be twice in a group, or an image held out by two runs."""
    if _are_folds(runs):
        return [list(runs)]
    sets: dict[str, list[list[RunFacts]]] = {}
    for run in runs:
        same_name = sets.setdefault(FOLD_PART.sub("", run.name), [])
        place = next((sisters for sisters in same_name if _are_folds([*sisters, run])), None)
        if place is None:
            same_name.append([run])
        else:
            place.append(run)
    return [sisters for same_name in sets.values() for sisters in same_name]


def _are_folds(runs: Sequence[RunFacts]) -> bool:
    folds = [run.fold for run in runs]
    ids = [name for run in runs if run.judged for name in run.judged.masks.ids]
    return len(runs) == 1 or (None not in folds and len(set(folds)) == len(folds) and len(set(ids)) == len(ids))


def _name_of(runs: Sequence[RunFacts]) -> str:
    if len(runs) == 1:
        return runs[0].name
    names = {FOLD_PART.sub("", run.name) for run in runs}
    if len(names) == 1 and (name := names.pop()):
        return name
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*(run.name for run in runs), strict=False))
    common = "".join(letters[0] for letters in alike).rstrip("_-. ")
    return common or f"{runs[0].name} and {len(runs) - 1} more"


def _group(name: str, runs: list[RunFacts]) -> Group:
    scores = [run.best for run in runs if run.best is not None]
    cross_scores, cross = _cross_scores(runs)
    return Group(
        name=name,
        runs=runs,
        score=mean(scores) if scores else None,
        spread=stdev(scores) if len(scores) > 1 else None,
        cross=cross if _measure(runs) == "iout" else _stored_cross(runs),
        cross_scores=cross_scores,
    )


def _cross_scores(runs: Sequence[RunFacts]) -> tuple[dict[str, float], CrossFitted | None]:
    """Return each image's cross-fitted iout (with several runs each fold is a part), and their mean."""
    judged = [run.judged for run in runs if run.judged]
    if len(judged) < 2:
        scores = {
            name: float(score) for one in judged for name, score in zip(one.masks.ids, one.cross_scores, strict=True)
        }
        return scores, judged[0].cross if judged else None
    areas = set.intersection(*(set(one.by_area) for one in judged))
    pooled = join([{area: one.by_area[area] for area in areas} for one in judged])
    by_part = cross_fit_threshold(pooled, partition([len(one.masks.ids) for one in judged]))
    ids = [name for one in judged for name in one.masks.ids]
    scores = (np.concatenate(by_part) / 10).tolist()  # each file is a part, so that they are in order
    return dict(zip(ids, scores, strict=True)), CrossFitted.of(by_part, unit=10)


def _stored_cross(runs: Sequence[RunFacts]) -> CrossFitted | None:
    """What optimize_threshold.py found for just these runs, if it was of the measure that they are ranked by."""
    rules, measure = runs[0].stored_rules, _measure(runs)
    if rules is None or any(run.stored_rules != rules for run in runs):
        return None
    files = rules.get("masks" if measure == "objects" else "probabilities")
    if not isinstance(files, list) or len(files) != len(runs):
        return None
    if measure != "objects" and rules.get("rule") not in RULE_OF.get(measure, ()):
        return None
    cross = rules.get("cross_fitted")
    numbers = [cross.get(entry.name) for entry in fields(CrossFitted)] if isinstance(cross, dict) else [None]
    return CrossFitted(*numbers) if all(isinstance(number, int | float) for number in numbers) else None


def _settings(runs: Iterable[RunFacts]) -> tuple[list[str], dict[str, Any]]:
    """The settings that differ between runs that have them, and those that do not, in the order of the flags."""
    values: dict[str, dict[str, Any]] = {}
    for run in runs:
        for name, value in run.settings.items():
            values.setdefault(name, {})[json.dumps(value, sort_keys=True)] = value
    shown = {name: found for name, found in values.items() if name not in OWN_COLUMNS}
    differing = [name for name, found in shown.items() if len(found) > 1]
    return differing, {name: next(iter(found.values())) for name, found in shown.items() if len(found) == 1}
