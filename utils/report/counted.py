"""One look at the pixels of each validation image: what is counted of it at a threshold, and how sure the net was."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from utils.metrics import binarize, counts
from utils.report.facts import Reliability, Share
from utils.threshold import mean_interval

N_BINS = 10
COVERAGES = (("empty", 0.0), ("thin", 0.1), ("half", 0.75), ("nearly full", 1.0))
"""Class -> the largest share of the image that its true mask covers: nothing, up to a tenth, up to three quarters."""


@dataclass(frozen=True)
class Counted:
    """What is counted of N images."""

    inside: np.ndarray
    """(N,) int64: pixels in both masks ..."""
    ours: np.ndarray
    """... in the predicted one; 0 where it has fewer than the least area ..."""
    theirs: np.ndarray
    """... and in the true one."""
    uncertain: np.ndarray
    """(N,) float64, 0..0.25: the mean of p (1 - p) over all pixels, which is the variance of a pixel's answer."""
    n_pixels: int
    """of an image."""
    reliability: list[Reliability]
    """of all pixels; tenths of the probability that no pixel has are left out."""

    @property
    def wrong(self) -> np.ndarray:
        """(N,) int64: pixels that are mask in one of both only."""
        return self.ours + self.theirs - 2 * self.inside

    @property
    def coverage(self) -> np.ndarray:
        """(N,) float64, 0..1: the share of the image that the true mask covers."""
        return self.theirs / self.n_pixels

    @property
    def ious(self) -> np.ndarray:
        """(N,) float64, 0..1: intersection / union, 1 where both masks are empty."""
        union = self.ours + self.theirs - self.inside
        return np.where(union == 0, 1.0, self.inside / np.maximum(union, 1))

    @property
    def empties(self) -> np.ndarray:
        """(2, 2) int64: images by [truth has a mask][prediction has a mask]."""
        table = np.zeros((2, 2), dtype=np.int64)
        np.add.at(table, ((self.theirs > 0).astype(int), (self.ours > 0).astype(int)), 1)
        return table


def count_images(masks: Iterable[np.ndarray], truths: Iterable[np.ndarray], th: float, min_area: int) -> Counted:
    """Count N images, read one at a time.

    Args:
        masks: N times (H, W) floats, [0, 1]; N at least 1.
        truths: N times (H, W), what is not 0 is mask.
        th: a pixel is mask where its probability is greater.
        min_area: a predicted mask of fewer pixels counts as empty.
    """
    numbers, uncertain = [], []
    tally, total = np.zeros((N_BINS, 2), dtype=np.int64), np.zeros(N_BINS)
    for mask, truth in zip(masks, truths, strict=True):
        true = truth != 0
        inside, ours, theirs = (int(number[0]) for number in counts(binarize(mask, th)[None], true[None]))
        numbers.append((inside, ours, theirs) if ours >= min_area else (0, 0, theirs))
        given = np.asarray(mask, dtype=np.float32).ravel()
        uncertain.append(float((given * (1 - given)).mean(dtype=np.float64)))
        # ten times a float16 is exact in float32
        places = np.minimum((given * N_BINS).astype(np.intp), N_BINS - 1)
        tally += np.bincount(2 * places + true.ravel(), minlength=2 * N_BINS).reshape(N_BINS, 2)
        total += np.bincount(places, weights=given, minlength=N_BINS)
    pixels = tally.sum(axis=1)
    bins = [
        Reliability(
            low=place / N_BINS,
            high=(place + 1) / N_BINS,
            n_pixels=int(pixels[place]),
            probability=float(total[place] / pixels[place]),
            really=float(tally[place, 1] / pixels[place]),
        )
        for place in np.flatnonzero(pixels).tolist()
    ]
    columns = np.array(numbers, dtype=np.int64).T
    return Counted(*columns, np.array(uncertain), mask.size, bins)


def coverage_shares(tenths: np.ndarray, coverage: np.ndarray) -> list[Share]:
    """The score of images by how much of them the true mask covers.

    Args:
        tenths: (N,) int64, 0..10.
        coverage: (N,) float64, 0..1.
    """
    shares, above = [], -1.0
    for name, most in COVERAGES:
        scores = tenths[(coverage > above) & (coverage <= most)] / 10
        numbers = (float(scores.mean()), *mean_interval(scores)) if len(scores) else (None, None, None)
        shares.append(Share(name, len(scores), *numbers))
        above = most
    return shares
