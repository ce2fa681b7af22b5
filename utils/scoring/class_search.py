"""Search for the exact best threshold of each class of images, with a cross-fitted score.

Flags and files call the classes labels: `--objective labels`, labels.json.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from utils.core.errors import UserError
from utils.data.image_classes import ImageClasses
from utils.masks.mask_file import binarize
from utils.masks.probability_file import Probabilities
from utils.scoring.class_metrics import UNIT, common_steps, f2_units
from utils.scoring.cross_fit import CrossFitted, check_files, cross_fit, cross_fitted_line, partition, scores_by_id
from utils.scoring.threshold_search import Steps, middle_of, widest

Rule = Literal["f2", "accuracy", "argmax"]

SAID: dict[Rule, str] = {
    "f2": "mean F2 with a threshold for each label, each the exact best one given the others",
    "accuracy": "accuracy of one label at its exact best threshold",
    "argmax": "accuracy of the most probable label; there is no threshold to fit",
}


@dataclass(frozen=True)
class ClassFit:
    """The result of optimize_threshold.py for the classes of N images."""

    rule: Rule
    """f2: mean F2 (several classes per image); accuracy: of one class; argmax: accuracy of the most probable class."""
    thresholds: dict[str, float]
    """by class; an image has the classes whose probability is greater than their threshold. Empty for argmax."""
    intervals: dict[str, tuple[float, float]]
    """by class; thresholds in [low, high) have the same score as long as the other thresholds do not change."""
    score: float
    """0..1, on all images."""
    score_at_common: float
    """score with the best threshold shared by all classes; equal to `score` if there is at most one threshold."""
    cross_fitted: CrossFitted | None
    """None if there is only one image."""
    image_scores: dict[str, float]
    """cross-fitted score of each image by its id; empty if there is only one image."""
    n_images: int
    n_files: int

    def as_json(self, files: Sequence[Probabilities]) -> dict[str, Any]:
        """Return the contents of labels.json."""
        return {
            "rule": self.rule,
            "thresholds": self.thresholds,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "score": self.score,
            "score_at_common": self.score_at_common,
            "cross_fitted": self.cross_fitted and asdict(self.cross_fitted),
            "image_scores": self.image_scores,
            "probabilities": [str(file.path) for file in files],
            "n_images": self.n_images,
        }

    def as_text(self) -> str:
        """Format the result as a short table."""
        width = max([16, *map(len, self.thresholds)])
        files = f"{self.n_files} probability file{'s' if self.n_files > 1 else ''}"
        lines = [f"images           {self.n_images} in {files}", f"score            {SAID[self.rule]}"]
        for name, (low, high) in self.intervals.items():
            lines.append(f"{name:<{width}} {self.thresholds[name]:.6g}   (equally good from {low:.6g} to {high:.6g})")
        lines.append(f"fitted score     {self.score:.5f}   (on the images used for the fit)")
        if self.rule == "f2":
            lines.append(f"shared threshold {self.score_at_common:.5f}   (score at the best threshold for all labels)")
        return "\n".join([*lines, cross_fitted_line(self.cross_fitted, self.n_files)])


def fit_classes(files: Sequence[Probabilities], truths: Sequence[ImageClasses]) -> ClassFit:
    """Fit a threshold for each class on the images of all files.

    - Several classes per image: all thresholds start at the best one shared by all classes. They are then improved
      class by class, each to the exact best one given the others, until none improves. The result may not be the best
      of all combinations.
    - One class: the threshold with the best accuracy.
    - One of several classes per image: nothing is fitted, and the most probable class is predicted.

    Args:
        files: at least one; several files are the parts of the cross-fit.
        truths: the classes of each file's images, in its order.

    Raises:
        UserError: a file has other classes than the truth or no images, or an image is in two files.
    """
    for file, truth in zip(files, truths, strict=True):
        if file.labels != truth.names:
            ours, theirs = ", ".join(file.labels[:8]), ", ".join(truth.names[:8])
            raise UserError(f"{file.path}: expected probabilities of the labels {theirs}, found {ours}; predict again")
    check_files(files)
    exclusive, names = truths[0].exclusive, truths[0].names
    rule: Rule = "accuracy" if len(names) == 1 else "argmax" if exclusive else "f2"
    given = np.concatenate([file.array for file in files])
    true = np.concatenate([truth.matrix for truth in truths])
    thresholds, intervals = _fitted(rule, given, true)
    common = np.full(len(names), _common(given, true)) if rule == "f2" else thresholds
    parts = partition([len(file.ids) for file in files])
    cross_fitted = cross_fit(
        parts,
        fit=lambda images: _fitted(rule, given[images], true[images])[0],
        score=lambda fitted, images: _units(rule, given[images], true[images], fitted),
    )
    return ClassFit(
        rule=rule,
        thresholds=dict(zip(names, thresholds.tolist(), strict=False)),
        intervals=dict(zip(names, intervals, strict=False)),  # empty for argmax
        score=_mean(_units(rule, given, true, thresholds)),
        score_at_common=_mean(_units(rule, given, true, common)),
        cross_fitted=CrossFitted.of(cross_fitted, UNIT),
        image_scores=scores_by_id([name for file in files for name in file.ids], parts, cross_fitted, UNIT),
        n_images=len(given),
        n_files=len(files),
    )


def _fitted(rule: Rule, probabilities: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Return the best threshold of each class, (K,) float64, and its interval [low, high); both empty for argmax."""
    if rule == "argmax":
        return np.zeros(0), []
    if rule == "accuracy":
        true = truths[:, 0].astype(np.int64) * UNIT
        low, high, _ = widest(*_curve(probabilities[:, 0], with_it=true, without=UNIT - true))
        return np.array([middle_of(low, high)]), [(low, high)]
    return _ascend(probabilities, truths)


def _ascend(probabilities: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Fit the thresholds for the mean F2 class by class, until none can be improved given the others."""
    true, classes = truths.sum(axis=1, dtype=np.int64), range(truths.shape[1])
    thresholds = np.full(len(classes), _common(probabilities, truths))
    predicted = probabilities > thresholds

    def curve_of(index: int) -> tuple[np.ndarray, np.ndarray]:
        rest = predicted.copy()
        rest[:, index] = False
        hits, others = (rest & (truths != 0)).sum(axis=1), rest.sum(axis=1)
        with_it = f2_units(hits + truths[:, index], others + 1, true)
        return _curve(probabilities[:, index], with_it, f2_units(hits, others, true))

    def move(index: int, low: float, high: float) -> None:
        thresholds[index] = middle_of(low, high)
        predicted[:, index] = binarize(probabilities[:, index], thresholds[index])

    while True:
        for index in classes:  # moves a threshold to the middle of its interval even if the score stays the same
            *interval, total = widest(*curve_of(index))
            move(index, *interval)
        intervals = []
        for index in classes:  # check again, because these moves may allow another threshold to improve
            values, totals = curve_of(index)
            if totals.max() > total:
                *interval, total = widest(values, totals)
                move(index, *interval)
                break
            here = int(np.searchsorted(values, thresholds[index], side="right")) - 1
            intervals.append((float(values[here]), float(np.append(values, 1.0)[here + 1])))
        else:
            return thresholds, intervals


def _curve(probabilities: np.ndarray, with_it: np.ndarray, without: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the total score over one class's threshold in the form of `Steps.curve`.

    `with_it` and `without` are the scores (N,) of the images if the class is predicted or not.
    """
    number, everywhere = len(probabilities), np.arange(len(probabilities))
    return Steps(
        np.append(everywhere, everywhere),
        np.append(np.zeros(number), probabilities.astype(np.float64)),
        np.append(with_it, without - with_it),
        number,
    ).curve()


def _common(probabilities: np.ndarray, truths: np.ndarray) -> float:
    """Return the best threshold shared by all classes."""
    values, changes = common_steps(probabilities, truths)
    return middle_of(*widest(*Steps(np.zeros(len(values), dtype=np.int64), values, changes, len(truths)).curve())[:2])


def _units(rule: Rule, probabilities: np.ndarray, truths: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the score of each image in units of 1 / UNIT, (N,) int64."""
    if rule == "argmax":
        return UNIT * (probabilities.argmax(axis=1) == truths.argmax(axis=1)).astype(np.int64)
    predicted, true = probabilities > thresholds, truths != 0  # exact, because thresholds are a float64 array
    if rule == "accuracy":
        return UNIT * (predicted[:, 0] == true[:, 0]).astype(np.int64)
    return f2_units((predicted & true).sum(axis=1), predicted.sum(axis=1), true.sum(axis=1))


def _mean(units: np.ndarray) -> float:
    return int(units.sum()) / (UNIT * len(units))
