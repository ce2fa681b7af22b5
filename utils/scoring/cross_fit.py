"""Cross-fitting: score each part of the images with what was fitted on all other parts.

The score of thresholds on the images that they were fitted on is too good by what the fit found in the noise of these
images. The cross-fitted score is not: no image has a say in the thresholds that it is scored with.
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

    Of several files each is a part. One file is divided into PARTS_OF_ONE_FILE interleaved parts (image i goes into
    part i % n), or into as many as it has images if these are fewer.

    Args:
        sizes: the number of images in each file.

    Returns:
        for each part its images, (n,) int64, ascending; they are numbered from 0 through all files.
    """
    if len(sizes) > 1:
        return [np.arange(start, end) for start, end in pairwise(np.cumsum([0, *sizes]))]
    n_parts = min(PARTS_OF_ONE_FILE, sizes[0])
    return [np.arange(part, sizes[0], n_parts) for part in range(n_parts)]


def leave_one_out(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return, for each part, the images of all other parts; nothing if there is one part only."""
    if len(parts) < 2:
        return []
    return [np.concatenate([*parts[:held_out], *parts[held_out + 1 :]]) for held_out in range(len(parts))]


def cross_fit(
    parts: Sequence[np.ndarray],
    fit: Callable[[np.ndarray], Fitted],
    score: Callable[[Fitted, np.ndarray], np.ndarray],
) -> list[np.ndarray]:
    """Score the images of each part with what is fitted on all other parts.

    Args:
        parts: as `partition` returns them.
        fit: fits on the images (n,) int64.
        score: scores the images (n,) int64 with what was fitted; returns (n,).

    Returns:
        for each part the scores of its images; nothing if there is one part only.
    """
    return [score(fit(others), part) for others, part in zip(leave_one_out(parts), parts, strict=False)]


@dataclass(frozen=True)
class CrossFitted:
    """The mean of cross-fitted scores."""

    score: float
    """0..1."""
    low: float
    """95 % bootstrap interval over images ..."""
    high: float
    """... of the score."""
    n_parts: int
    """files, or parts of the one file."""

    @classmethod
    def of(cls, by_part: Sequence[np.ndarray], unit: int = 1) -> Self | None:
        """Average the scores of all images.

        Args:
            by_part: as `cross_fit` returns them.
            unit: what a score of 1 is; scores in whole numbers of 1 / unit are added up exactly.

        Returns:
            None if there are no scores, which is so with one image.
        """
        if not by_part:
            return None
        scores = np.concatenate(by_part)
        return cls(float(scores.sum() / (unit * len(scores))), *mean_interval(scores / unit), len(by_part))


def cross_fitted_line(cross: CrossFitted | None, n_files: int) -> str:
    """Format the last row of the table."""
    if cross is None:
        return "cross-fitted     not with one image"
    parts = "files" if n_files > 1 else "interleaved parts of the one file"
    interval = f"95 % interval {cross.low:.5f} to {cross.high:.5f}"
    return f"cross-fitted     {cross.score:.5f}   ({interval}; {cross.n_parts} {parts}) <- believe this"


def check_files(files: Sequence[Masks | Probabilities]) -> None:
    """Check that there are images in each file, and no image twice: it would be scored with a fit that has seen it.

    Raises:
        UserError: a file without images, or an image in two files or twice in one.
    """
    seen: dict[str, Path] = {}
    for file in files:
        if not file.ids:
            raise UserError(f"{file.path}: holds no images; predict again")
        for name in file.ids:
            if name in seen:
                raise UserError(
                    f"--masks_fn: image {name} is in {seen[name]} and again in {file.path}; "
                    "give validation files of different folds, each image once"
                )
            seen[name] = file.path
