"""The charts of a run: curves over epochs, score against threshold, reliability of the probabilities."""

from dataclasses import dataclass

import numpy as np

from utils.report.charts import MOST_POINTS, Line, Mark, chart
from utils.report.facts import Judged, RunFacts
from utils.report.formatting import count, score, threshold
from utils.scoring.threshold_search import Steps

NO_SCORES = {"epoch", "cycle", "lr", "images_per_s", "seconds"}
FULL = (0.0, 1.0)


@dataclass(frozen=True)
class Figure:
    """A chart and its heading."""

    title: str
    svg: str


def curves(run: RunFacts, ident: str) -> list[Figure]:
    """Draw the losses, scores and learning rates in log.csv over epochs; restarts are thin vertical lines."""
    epochs = np.asarray(run.log.get("epoch", []), dtype=np.float64)
    if not len(epochs):
        return []
    cycles = np.asarray(run.log.get("cycle", np.ones(len(epochs))))
    restarts = [Mark("restart", float(at), quiet=True) for at in epochs[1:][cycles[1:] != cycles[:-1]]]
    losses = [name for name in run.log if name.endswith("loss")]
    scores = [name for name in run.log if name not in NO_SCORES and name not in losses]
    kinds = [("loss", "Loss", losses), ("score", "Scores", scores), ("rate", "Learning rate", ["lr"])]
    found = []
    for kind, title, names in kinds:
        lines = [Line(name, epochs, np.asarray(run.log[name], dtype=np.float64)) for name in names if name in run.log]
        lines = [line for line in lines if len(line.y) == len(epochs)]
        if not lines:
            continue
        marks = list(restarts)
        if kind == "score" and run.best_epoch is not None and epochs[0] <= run.best_epoch <= epochs[-1]:
            marks.append(Mark(f"best {run.measure}", run.best_epoch))
        words = "; ".join(_text(line) for line in lines) + (f"; {count(len(restarts), 'restart')}" if restarts else "")
        long = [Line(line.name.removesuffix("_loss"), line.x, line.y) if kind == "loss" else line for line in lines]
        spread = (epochs[0] - 0.5, epochs[0] + 0.5) if len(epochs) == 1 else None
        found.append(Figure(title, chart(f"{ident}-{kind}", title, words, long, "epoch", spread, None, marks)))
    return found


def _text(line: Line) -> str:
    finite = line.y[np.isfinite(line.y)]
    if not len(finite):
        return f"{line.name}: no finite values"
    return (
        f"{line.name} from {finite[0]:.4g} to {finite[-1]:.4g}, minimum {finite.min():.4g}, maximum {finite.max():.4g}"
    )


def threshold_figure(judged: Judged, ident: str) -> Figure:
    """Draw the score as a step function of the threshold, with the optimal interval and the threshold of the run."""
    best, title = judged.best, "Score against threshold"
    values, tenths = _seen(judged.steps)
    scores = tenths / (10 * judged.steps.n_images)
    words = (
        f"highest {score(best.score)} for thresholds from {threshold(best.low)} to {threshold(best.high)}; "
        f"the run's threshold is {threshold(judged.threshold)} ({judged.threshold_from})"
    )
    marks = [Mark("optimal", best.low, best.high), Mark(f"in use: {threshold(judged.threshold)}", judged.threshold)]
    line = Line("score", values, scores, steps=True)
    return Figure(title, chart(f"{ident}-th", title, words, [line], "threshold", FULL, _upper(values, scores), marks))


def _upper(values: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return the range of the score axis, which leaves out the tenth of all thresholds with the lowest scores."""
    low = float(np.quantile(scores[np.searchsorted(values, np.linspace(0, 1, 201), side="right") - 1], 0.1))
    high = float(scores.max())
    room = max(0.08 * (high - low), 0.005)
    return low - room, high + room


def _seen(steps: Steps) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of the mean score; if there are many, its values at 400 thresholds and around the best ones."""
    values, tenths = steps.curve()
    if len(values) <= MOST_POINTS:
        return values, tenths
    highest = np.flatnonzero(tenths == tenths.max())
    asked = np.unique(
        [*np.linspace(0, 1, MOST_POINTS), *values[highest], *values[np.minimum(highest + 1, len(values) - 1)]]
    )
    return asked, tenths[np.searchsorted(values, asked, side="right") - 1]


def reliability_figure(judged: Judged, ident: str) -> Figure | None:
    """Draw the observed share of mask against the predicted probability; return None if there are no pixels."""
    bins = [one for one in judged.reliability if one.n_pixels]
    if not bins:
        return None
    title = "Reliability diagram"
    words = "; ".join(
        f"predicted {one.probability:.2f}, actual {one.really:.2f}, {one.n_pixels:,} pixels" for one in bins
    )
    given, really = np.array([one.probability for one in bins]), np.array([one.really for one in bins])
    lines = [
        Line("observed share of mask", given, really, dots=True),
        Line("perfect calibration", np.array(FULL), np.array(FULL), quiet=True),
    ]
    return Figure(title, chart(f"{ident}-rel", title, words, lines, "predicted probability", FULL, FULL))
