"""Comparison of runs: find folds of one experiment, rank the resulting groups, and find settings that differ."""

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
from utils.report.read_run import OF_MASKS
from utils.runs.run_folder import FREE_ON_RESUME
from utils.scoring.bootstrap import difference
from utils.scoring.cross_fit import CrossFitted, partition
from utils.scoring.mask_metrics import METRICS
from utils.scoring.threshold_search import cross_fit_threshold, join

MEASURES = (*METRICS, "objects", "auc", "accuracy", "f2")
"""Groups are ordered by measure, in this order, and ranked by score within each measure."""
ALIKE = FREE_ON_RESUME - {"n_epochs", "encoder_weights", "snapshot"} | {"fold", "folds"}
"""Settings that may differ between folds of one experiment: the fold, and all that does not change what is learned."""
OWN_COLUMNS = ("fold", "experiment_dir")
FOLD_PART = re.compile(r"[_\-. ]*fold[_\-]?(\d+)", re.IGNORECASE)
RULE_OF = {"accuracy": ("accuracy", "argmax"), "f2": ("f2",)}
"""Measure of a classifier -> the rules in labels.json whose score is that measure."""


def overview(runs: Sequence[RunFacts]) -> Overview:
    """Group the runs of a page, rank the groups, and find the settings in which the runs differ."""
    readable = [run for run in runs if run.state != "unreadable"]
    groups = sorted(_grouped(readable), key=_rank)
    first_of: dict[tuple[str, str], Group] = {}
    for group in groups:
        if group.cross and group.cross_scores:
            first_of.setdefault(_comparison_key(group), group)
    groups = [_compared(group, first_of) for group in groups]
    unreadable = [Group(run.name, [run], None, None, None, {}) for run in runs if run.state == "unreadable"]
    differing, equal = _settings(readable)
    return Overview(groups + unreadable, differing, equal, datetime.now().astimezone().isoformat(timespec="seconds"))


def _measure(runs: Sequence[RunFacts]) -> str:
    """Return the measure that runs are ranked by, from the first run that has completed an epoch if there is one."""
    return next((run.measure for run in runs if run.best is not None), runs[0].measure)


def _comparison_key(group: Group) -> tuple[str, str]:
    """Return the measure and the data of a group, which groups must share to be compared."""
    return _measure(group.runs), _data_of(group.runs[0])


def _rank(group: Group) -> tuple[int, bool, float]:
    measure = _measure(group.runs)
    place = MEASURES.index(measure) if measure in MEASURES else len(MEASURES)
    score = group.cross.score if group.cross else group.score
    return place, group.cross is None, -score if score is not None else 1.0


def _compared(group: Group, first_of: Mapping[tuple[str, str], Group]) -> Group:
    best = first_of.get(_comparison_key(group))
    if best is None or best is group or not group.cross_scores:
        return group
    return replace(group, difference=difference(best.cross_scores, group.cross_scores))


def _grouped(runs: Sequence[RunFacts]) -> list[Group]:
    alike: dict[str, list[RunFacts]] = {}
    for run in runs:
        alike.setdefault(_signature(run), []).append(run)
    sets = [members for same in alike.values() for members in _split_duplicates(same)]
    sets = [sorted(members, key=lambda run: (run.fold is None, run.fold, run.name)) for members in sets]
    names = [_name_of(members) for members in sets]
    often = Counter(names)
    names = [
        name if often[name] == 1 else f"{name} ({_folds_of(members)})"
        for name, members in zip(names, sets, strict=True)
    ]
    return [_group(name, members) for name, members in zip(names, sets, strict=True)]


def _folds_of(runs: Sequence[RunFacts]) -> str:
    return f"fold{'s' if len(runs) > 1 else ''} {', '.join(str(run.fold) for run in runs)}"


def _signature(run: RunFacts) -> str:
    """Return a key that is the same for all folds of an experiment."""
    settings = {name: value for name, value in run.settings.items() if name not in ALIKE}
    if isinstance(settings.get("snapshot"), str):  # each fold may start from the same fold of another experiment
        settings["snapshot"] = FOLD_PART.sub(
            lambda match: "_fold" if match[1] == str(run.fold) else match[0], settings["snapshot"]
        )
    return json.dumps([settings, _data_of(run)], sort_keys=True)


def _data_of(run: RunFacts) -> str:
    return run.digest or f"data_dir {run.settings.get('data_dir')}"


def _split_duplicates(runs: Sequence[RunFacts]) -> list[list[RunFacts]]:
    """Split runs with equal settings so that no group has a fold twice or an image that two of its runs hold out."""
    if _are_folds(runs):
        return [list(runs)]
    sets: dict[str, list[list[RunFacts]]] = {}
    for run in runs:
        same_name = sets.setdefault(FOLD_PART.sub("", run.name), [])
        place = next((members for members in same_name if _are_folds([*members, run])), None)
        if place is None:
            same_name.append([run])
        else:
            place.append(run)
    return [members for same_name in sets.values() for members in same_name]


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
    if _measure(runs) == "iout":
        cross_scores, cross = _cross_scores(runs)
    else:
        cross = stored_cross(runs)
        cross_scores = _stored_scores(runs) if cross else {}
    return Group(
        name=name,
        runs=runs,
        score=mean(scores) if scores else None,
        spread=stdev(scores) if len(scores) > 1 else None,
        cross=cross,
        cross_scores=cross_scores,
    )


def _cross_scores(runs: Sequence[RunFacts]) -> tuple[dict[str, float], CrossFitted | None]:
    """Return each image's cross-fitted iout, and their mean; with several runs, each run is a part of the cross-fit."""
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
    scores = (np.concatenate(by_part) / 10).tolist()  # each mask file is one part, so the scores are in file order
    return dict(zip(ids, scores, strict=True)), CrossFitted.of(by_part, unit=10)


def stored_cross(runs: Sequence[RunFacts]) -> CrossFitted | None:
    """Return the cross-fitted score that optimize_threshold.py stored for exactly these runs and their measure."""
    rules, measure = runs[0].stored_rules, _measure(runs)
    if rules is None or any(run.stored_rules != rules for run in runs):
        return None
    files = rules.get("masks" if measure in OF_MASKS else "probabilities")
    if not isinstance(files, list) or len(files) != len(runs):
        return None
    if measure in METRICS and rules.get("metric") != measure:
        return None
    if measure not in OF_MASKS and rules.get("rule") not in RULE_OF.get(measure, ()):
        return None
    cross = rules.get("cross_fitted")
    numbers = [cross.get(entry.name) for entry in fields(CrossFitted)] if isinstance(cross, dict) else [None]
    return CrossFitted(*numbers) if all(isinstance(number, int | float) for number in numbers) else None


def _stored_scores(runs: Sequence[RunFacts]) -> dict[str, float]:
    """Return the cross-fitted score of each image in objects.json or labels.json; empty if the file has none."""
    scores = (runs[0].stored_rules or {}).get("image_scores")
    scores = scores if isinstance(scores, dict) else {}
    return {name: float(score) for name, score in scores.items() if isinstance(score, int | float) and 0 <= score <= 1}


def _settings(runs: Iterable[RunFacts]) -> tuple[list[str], dict[str, Any]]:
    """Return the settings that differ between the runs that have them, and the settings that do not, in flag order."""
    values: dict[str, dict[str, Any]] = {}
    for run in runs:
        for name, value in run.settings.items():
            values.setdefault(name, {})[json.dumps(value, sort_keys=True)] = value
    shown = {name: found for name, found in values.items() if name not in OWN_COLUMNS}
    differing = [name for name, found in shown.items() if len(found) > 1]
    return differing, {name: next(iter(found.values())) for name, found in shown.items() if len(found) == 1}
