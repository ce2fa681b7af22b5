"""From label probabilities to the exact best threshold of each label, and the score to believe."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from utils.core.errors import UserError
from utils.data.image_classes import ImageClasses
from utils.masks.mask_file import binarize
from utils.masks.probability_file import Probabilities
from utils.scoring.class_metrics import UNIT, common_steps, f2_units
from utils.scoring.cross_fit import CrossFitted, check_files, cross_fit, cross_fitted_line, partition
from utils.scoring.threshold_search import Steps, middle_of, widest

LABELS_FILE = "labels.json"
Rule = Literal["f2", "accuracy", "argmax"]

SAID: dict[Rule, str] = {
    "f2": "mean F2, a threshold for each label; each is the exact best one given the others",
    "accuracy": "accuracy of one label, at the exact best threshold",
    "argmax": "accuracy of the most probable label; there is no threshold to fit",
}


@dataclass(frozen=True)
class ClassFit:
    """What was found for the labels of N images."""

    rule: Rule
    """what counts: mean F2 (several labels an image), accuracy of one label, accuracy of the most probable label."""
    thresholds: dict[str, float]
    """by label; an image has those whose probability is greater. Empty where the most probable label is taken."""
    intervals: dict[str, tuple[float, float]]
    """by label: thresholds in [low, high) score the same, the other labels' staying as they are."""
    score: float
    """0..1, on all images."""
    score_at_common: float
    """with the best threshold that all labels share; the same as `score` where there is at most one."""
    cross_fitted: CrossFitted | None
    """None if there is one image only."""
    n_images: int
    n_files: int

    def as_json(self, files: Sequence[Probabilities]) -> dict[str, Any]:
        """What labels.json holds."""
        return {
            "rule": self.rule,
            "thresholds": self.thresholds,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "score": self.score,
            "score_at_common": self.score_at_common,
            "cross_fitted": self.cross_fitted and asdict(self.cross_fitted),
            "probabilities": [str(file.path) for file in files],
            "n_images": self.n_images,
        }

    def as_text(self) -> str:
        """The same as a short table."""
        width = max([16, *map(len, self.thresholds)])
        files = f"{self.n_files} file{'s' if self.n_files > 1 else ''} of probabilities"
        lines = [f"images           {self.n_images} of {files}", f"score            {SAID[self.rule]}"]
        for name, (low, high) in self.intervals.items():
            lines.append(f"{name:<{width}} {self.thresholds[name]:.6g}   (equally good from {low:.6g} to {high:.6g})")
        lines.append(f"score there      {self.score:.5f}   (fitted on these images)")
        if self.rule == "f2":
            lines.append(f"one for all      {self.score_at_common:.5f}   (the best threshold that all labels share)")
        return "\n".join([*lines, cross_fitted_line(self.cross_fitted, self.n_files)])


def fit_classes(files: Sequence[Probabilities], truths: Sequence[ImageClasses]) -> ClassFit:
    """Fit a threshold for each label on the images of all files.

    Several labels an image: thresholds start from the best one that all share and are then improved label by label,
    each to the exact best one given the others, until none improves; that may not be the best of all combinations. One
    label: the threshold of the best accuracy. One of several labels: nothing is fitted, the most probable is taken.

    Args:
        files: at least one; with several, each is a part of the cross-fit.
        truths: the labels of each file's images, in its order.

    Raises:
        UserError: other labels than the truth's, no images, or an image in two files.
    """
    for file, truth in zip(files, truths, strict=True):
        if file.labels != truth.names:
            ours, theirs = ", ".join(file.labels[:8]), ", ".join(truth.names[:8])
            raise UserError(f"{file.path}: probabilities of {ours}; the true labels are {theirs}; predict again")
    check_files(files)
    exclusive, names = truths[0].exclusive, truths[0].names
    rule: Rule = "accuracy" if len(names) == 1 else "argmax" if exclusive else "f2"
    given = np.concatenate([file.array for file in files])
    true = np.concatenate([truth.matrix for truth in truths])
    thresholds, intervals = _fitted(rule, given, true)
    common = np.full(len(names), _common(given, true)) if rule == "f2" else thresholds
    cross_fitted = cross_fit(
        partition([len(file.ids) for file in files]),
        fit=lambda images: _fitted(rule, given[images], true[images])[0],
        score=lambda fitted, images: _units(rule, given[images], true[images], fitted),
    )
    return ClassFit(
        rule=rule,
        thresholds=dict(zip(names, thresholds.tolist(), strict=False)),
        intervals=dict(zip(names, intervals, strict=False)),  # none for argmax
        score=_mean(_units(rule, given, true, thresholds)),
        score_at_common=_mean(_units(rule, given, true, common)),
        cross_fitted=CrossFitted.of(cross_fitted, UNIT),
        n_images=len(given),
        n_files=len(files),
    )


def _fitted(rule: Rule, probabilities: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """The best threshold of each label, (K,) float64, and the interval [low, high) around it; none for argmax."""
    if rule == "argmax":
        return np.zeros(0), []
    if rule == "accuracy":
        true = truths[:, 0].astype(np.int64) * UNIT
        low, high, _ = widest(*_curve(probabilities[:, 0], with_it=true, without=UNIT - true))
        return np.array([middle_of(low, high)]), [(low, high)]
    return _ascend(probabilities, truths)


def _ascend(probabilities: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """`_fitted` for the mean F2: label by label, until none can be improved given the others."""
    true, labels = truths.sum(axis=1, dtype=np.int64), range(truths.shape[1])
    thresholds = np.full(len(labels), _common(probabilities, truths))
    predicted = probabilities > thresholds

    def curve_of(label: int) -> tuple[np.ndarray, np.ndarray]:
        rest = predicted.copy()
        rest[:, label] = False
        hits, others = (rest & (truths != 0)).sum(axis=1), rest.sum(axis=1)
        with_it = f2_units(hits + truths[:, label], others + 1, true)
        return _curve(probabilities[:, label], with_it, f2_units(hits, others, true))

    def move(label: int, low: float, high: float) -> None:
        thresholds[label] = middle_of(low, high)
        predicted[:, label] = binarize(probabilities[:, label], thresholds[label])

    while True:
        for label in labels:  # also where that only moves it into the middle of where the score is the same
            *interval, total = widest(*curve_of(label))
            move(label, *interval)
        intervals = []
        for label in labels:  # which may have opened a way up for another one
            values, totals = curve_of(label)
            if totals.max() > total:
                *interval, total = widest(values, totals)
                move(label, *interval)
                break
            here = int(np.searchsorted(values, thresholds[label], side="right")) - 1
            intervals.append((float(values[here]), float(np.append(values, 1.0)[here + 1])))
        else:
            return thresholds, intervals


def _curve(probabilities: np.ndarray, with_it: np.ndarray, without: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The total over one label's thresholds, as `Steps.curve`, from each image's score with and without it, (N,)."""
    number, everywhere = len(probabilities), np.arange(len(probabilities))
    return Steps(
        np.append(everywhere, everywhere),
        np.append(np.zeros(number), probabilities.astype(np.float64)),
        np.append(with_it, without - with_it),
        number,
    ).curve()


def _common(probabilities: np.ndarray, truths: np.ndarray) -> float:
    """The best threshold that all labels share."""
    values, changes = common_steps(probabilities, truths)
    return middle_of(*widest(*Steps(np.zeros(len(values), dtype=np.int64), values, changes, len(truths)).curve())[:2])


def _units(rule: Rule, probabilities: np.ndarray, truths: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(N,) int64: the score of each image in whole numbers of 1 / UNIT."""
    if rule == "argmax":
        return UNIT * (probabilities.argmax(axis=1) == truths.argmax(axis=1)).astype(np.int64)
    predicted, true = probabilities > thresholds, truths != 0  # thresholds are an array of float64: nothing is rounded
    if rule == "accuracy":
        return UNIT * (predicted[:, 0] == true[:, 0]).astype(np.int64)
    return f2_units((predicted & true).sum(axis=1), predicted.sum(axis=1), true.sum(axis=1))


def _mean(units: np.ndarray) -> float:
    return int(units.sum()) / (UNIT * len(units))
