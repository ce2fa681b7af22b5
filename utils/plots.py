"""Plots, drawn without a display."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.files import whole_file
from utils.threshold import Best, Steps


def plot_threshold(paths: Sequence[str | Path], steps: Steps, best: Best) -> None:
    """Draw score against threshold as the step function it is, with the optimal interval, into png files.

    Args:
        paths: where the picture goes; the same one to each.
        steps: of all images, with masks under best.min_area as empty.
        best: the interval to mark.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure and asks for a display

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    values, tenths = steps.curve()
    scores = tenths / (10 * steps.n_images)
    axes.step(np.append(values, 1), np.append(scores, scores[-1]), where="post", color="#1f4e79", linewidth=1.2)
    axes.axvspan(
        best.low,
        best.high,
        color="#e8a33d",
        alpha=0.5,
        linewidth=1,
        label=f"optimal: {best.low:.6g} to {best.high:.6g}",
    )
    axes.axvline(0.5, color="grey", linewidth=0.8, linestyle=":", label="0.5")
    axes.set(xlabel="threshold", ylabel="score (iout)", xlim=(0, 1))
    area = f", masks under {best.min_area} pixels empty" if best.min_area else ""
    axes.set_title(f"best {best.score:.4f} at threshold {best.threshold:.6g}{area}")
    axes.legend(loc="lower center", facecolor="white", framealpha=1, edgecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
    for path in paths:
        with whole_file(path) as part:
            figure.savefig(part, format="png", dpi=150)
