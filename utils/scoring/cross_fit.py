"""Cross-fitting: score each part of the images with thresholds or rules fitted on all other parts.

The score on the images used for the fit is too high, because the fit adapts to the noise in these images. The
cross-fitted score does not have this bias: no image influences the thresholds that it is scored with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from utils.core.errors import UserError
from utils.masks.mask_file import Masks
from utils.masks.probability_file import Probabilities
from utils.scoring.bootstrap import mean_interval

Fitted = TypeVar("Fitted")
PARTS_OF_ONE_FILE = 5


def partition(sizes: Sequence[int]) -> list[np.ndarray]:
    """Divide the images of all files into the parts of a cross-fit.

    Several files are one part each. A single file is divided into PARTS_OF_ONE_FILE interleaved parts (image i goes
    into part i % n), or into one part per image if it has fewer images.

    Args:
        sizes: the number of images in each file.

    Returns:
        for each part its images, (n,) int64, ascending; images are numbered from 0 across all files.
    """
    if len(sizes) > 1:
        return [np.arange(start, end) for start, end in pairwise(np.cumsum([0, *sizes]))]
    n_parts = min(PARTS_OF_ONE_FILE, sizes[0])
    return [np.arange(part, sizes[0], n_parts) for part in range(n_parts)]


def leave_one_out(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return, for each part, the images of all other parts; an empty list if there is only one part."""
    if len(parts) < 2:
        return []
    return [np.concatenate([*parts[:held_out], *parts[held_out + 1 :]]) for held_out in range(len(parts))]


def cross_fit(
    parts: Sequence[np.ndarray],
    fit: Callable[[np.ndarray], Fitted],
    score: Callable[[Fitted, np.ndarray], np.ndarray],
) -> list[np.ndarray]:
    """Score the images of each part with the fit on all other parts.

    Args:
        parts: as returned by `partition`.
        fit: function that fits on the images (n,) int64.
        score: function that scores the images (n,) int64 with a fit and returns (n,).

    Returns:
        for each part the scores of its images; an empty list if there is only one part.
    """
    return [score(fit(others), part) for others, part in zip(leave_one_out(parts), parts, strict=False)]


def scores_by_id(
    ids: Sequence[str], parts: Sequence[np.ndarray], by_part: Sequence[np.ndarray], unit: int = 1
) -> dict[str, float]:
    """Return the cross-fitted score of each image, 0..1, rounded to 4 digits; empty if there are no scores.

    Args:
        ids: the images of all files, in order.
        parts: as returned by `partition`.
        by_part: as returned by `cross_fit`.
        unit: the value of a perfect score in `by_part`.
    """
    return {
        ids[image]: round(float(score) / unit, 4)
        for images, scores in zip(parts, by_part, strict=False)
        for image, score in zip(images, scores, strict=True)
    }


@dataclass(frozen=True)
class CrossFitted:
    """The mean of cross-fitted scores with a bootstrap interval."""

    score: float
    """0..1."""
    low: float
    """lower end of the 95 % bootstrap interval of the score over images."""
    high: float
    """upper end of the 95 % bootstrap interval."""
    n_parts: int
    """number of files, or of parts of a single file."""

    @classmethod
    def of(cls, by_part: Sequence[np.ndarray], unit: int = 1) -> Self | None:
        """Average the scores of all images.

        Args:
            by_part: as returned by `cross_fit`.
            unit: the value of a perfect score in `by_part`; integer scores in units of 1 / unit are summed exactly.

        Returns:
            None if there are no scores, which happens with a single image.
        """
        if not by_part:
            return None
        scores = np.concatenate(by_part)
        return cls(float(scores.sum() / (unit * len(scores))), *mean_interval(scores / unit), len(by_part))


def cross_fitted_line(cross: CrossFitted | None, n_files: int) -> str:
    """Format the row of the table with the cross-fitted score."""
    if cross is None:
        return "cross-fitted     not available with a single image"
    parts = "files" if n_files > 1 else "interleaved parts of the file"
    interval = f"95 % interval {cross.low:.5f} to {cross.high:.5f}"
    return f"cross-fitted     {cross.score:.5f}   ({interval}; {cross.n_parts} {parts}) <- trust this score"


def check_files(files: Sequence[Masks | Probabilities]) -> None:
    """Check that each file has images and that no image occurs twice.

    An image that occurs twice would be scored with a fit that has seen it.

    Raises:
        UserError: a file has no images, or an image is in two files or twice in one.
    """
    seen: dict[str, Path] = {}
    for file in files:
        if not file.ids:
            raise UserError(f"{file.path}: holds no images; predict again")
        for name in file.ids:
            if name in seen:
                raise UserError(
                    f"--masks_fn: image {name} is in {seen[name]} and again in {file.path}; "
                    "pass validation files of different folds, each image once"
                )
            seen[name] = file.path
