"""From validation mask files to the best threshold: fitted on all of them, and cross-fitted for an honest score."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UsageError, UserError
from utils.mask_file import Masks
from utils.stored_threshold import FILE, run_folder_of
from utils.threshold import (
    Best,
    ByArea,
    Steps,
    best_joint,
    bootstrap_interval,
    cross_fitted,
    interleaved,
    join,
    steps_of,
)
from utils.truth import truths_of

PARTS_OF_ONE_FILE = 5


@dataclass(frozen=True)
class CrossFitted:
    """The score when no image has a say in its own threshold."""

    score: float
    """0..1."""
    low: float
    """95 % bootstrap interval over images ..."""
    high: float
    """... of the score."""
    n_parts: int
    """files, or parts of the one file."""


@dataclass(frozen=True)
class Fit:
    """What optimize_threshold.py finds."""

    best: Best
    """on all images."""
    score_at_half: float
    """at threshold .5, without a least area."""
    cross_fitted: CrossFitted | None
    """None if there is one image only."""
    steps: Steps
    """the score over all thresholds, at the best least area."""
    n_files: int

    def as_json(self, files: Sequence[Masks]) -> dict[str, Any]:
        """What threshold.json holds."""
        return {
            **asdict(self.best),
            "score_at_half": self.score_at_half,
            "cross_fitted": self.cross_fitted and asdict(self.cross_fitted),
            "masks": [str(masks.path) for masks in files],
            "n_images": self.steps.n_images,
        }

    def as_text(self) -> str:
        """The same as a short table."""
        best, area = self.best, f", masks under {self.best.min_area} pixels empty" if self.best.min_area else ""
        lines = [
            f"images           {self.steps.n_images} of {self.n_files} mask file{'s' if self.n_files > 1 else ''}",
            f"best threshold   {best.threshold:.6g}   (equally good from {best.low:.6g} to {best.high:.6g}{area})",
            f"score there      {best.score:.5f}   (fitted on these images)",
            f"score at .5      {self.score_at_half:.5f}",
        ]
        return "\n".join([*lines, cross_fitted_line(self.cross_fitted, self.n_files)])


def cross_fitted_line(cross: CrossFitted | None, n_files: int) -> str:
    """The last row of the table."""
    if cross is None:
        return "cross-fitted     not with one image"
    parts = "files" if n_files > 1 else "interleaved parts of the one file"
    interval = f"95 % interval {cross.low:.5f} to {cross.high:.5f}"
    return f"cross-fitted     {cross.score:.5f}   ({interval}; {cross.n_parts} {parts}) <- believe this"


def fit_files(files: Sequence[Masks], truth_fn: str | None, min_areas: Sequence[int]) -> Fit:
    """Fit threshold and least area on the images of all files.

    Args:
        files: at least one; with several, each is a part of the cross-fit.
        truth_fn: as for `truths_of`.
        min_areas: least areas to try; 0 is always among them.

    Raises:
        UserError: no truth, something that is no probability, an image in two files.
        UsageError: an area below 0.
    """
    if min(min_areas, default=0) < 0:
        raise UsageError(f"--min_area {min(min_areas)}: a number of pixels is not negative")
    check_distinct(files)
    areas = sorted({0, *min_areas})
    by_file = [steps_of_file(masks, truth_fn, areas) for masks in files]
    pooled = join(by_file)
    best, n_images = best_joint(pooled), pooled[0].n_images
    _, cross = cross_fit(by_file)
    return Fit(
        best=best,
        score_at_half=int(pooled[0].tenths_at(0.5).sum()) / (10 * n_images),
        cross_fitted=cross,
        steps=pooled[best.min_area],
        n_files=len(files),
    )


def result_paths(files: Sequence[Masks], out: str | None, name: str = FILE) -> list[Path]:
    """Where the result is stored: `out`, else as `name` in every run that a file lies in, else beside the first."""
    if out:
        return [Path(out) / name if Path(out).is_dir() else Path(out)]
    runs = {run for masks in files if (run := run_folder_of(masks.path))}
    return [folder / name for folder in sorted(runs) or [files[0].path.parent]]


def cross_fit(by_file: Sequence[ByArea]) -> tuple[np.ndarray | None, CrossFitted | None]:
    """Each image's score at the threshold and area that are best for the other files (of one file: its other parts).

    Args:
        by_file: the steps of the images of at least one file, all for the same least areas.

    Returns:
        (N,) int64, 0..10: the tenths of the images of all files, in order; and their mean. None with one image.
    """
    n_images = next(iter(by_file[0].values())).n_images
    n_parts = len(by_file) if len(by_file) > 1 else min(PARTS_OF_ONE_FILE, n_images)
    if n_parts < 2:
        return None, None
    if len(by_file) > 1:
        tenths = cross_fitted(by_file)
    else:
        tenths = np.empty(n_images, dtype=np.int64)
        order = np.concatenate([np.arange(part, n_images, n_parts) for part in range(n_parts)])
        tenths[order] = cross_fitted(interleaved(by_file[0], n_parts))
    return tenths, CrossFitted(int(tenths.sum()) / (10 * len(tenths)), *bootstrap_interval(tenths), n_parts)


def steps_of_file(masks: Masks, truth_fn: str | None, areas: Sequence[int]) -> ByArea:
    """The steps of the images of one mask file, for each least area; raises UserError as `fit_files` does."""
    if not masks.ids:
        raise UserError(f"{masks.path}: holds no masks")
    truths = truths_of(masks, truth_fn)
    try:
        return steps_of(masks.array, truths, areas)
    except ValueError as error:
        raise UserError(f"{masks.path}: {error}") from None


def check_distinct(files: Sequence[Masks]) -> None:
    """An image in two files would be scored at a threshold that was fitted on itself."""
    seen: dict[str, Path] = {}
    for masks in files:
        for name in masks.ids:
            if name in seen:
                raise UserError(
                    f"--masks_fn: image {name} is in {seen[name]} and again in {masks.path}; "
                    "give validation masks of different folds, each image once"
                )
            seen[name] = masks.path
