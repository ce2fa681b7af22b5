"""Bootstrap intervals over images: of a mean score, and of a paired difference between two nets (Efron 1979)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


def mean_interval(scores: np.ndarray, n_resamples: int = 2000, seed: int = 4545) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean score under resampling of images (Efron 1979).

    Args:
        scores: (N,) float64, N at least 1.
        n_resamples: how many sets of N images are drawn, with replacement.
        seed: of the draws.
    """
    # a resampled set matters only by how often it drew each score: one multinomial draw instead of N
    values, times = np.unique(scores, return_counts=True)
    rng, n_images = np.random.default_rng(seed), len(scores)
    sizes = [min(100, n_resamples - start) for start in range(0, n_resamples, 100)]  # a table of all could be large
    means = [rng.multinomial(n_images, times / n_images, size=size) @ values / n_images for size in sizes]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """ "Is B better than A?": the mean of B - A over the images that both predicted out of fold (paired bootstrap)."""

    mean: float
    low: float
    """95 % percentile interval under resampling of images."""
    high: float
    n_images: int


def difference(a: Mapping[str, float], b: Mapping[str, float]) -> Difference | None:
    """Answer "Is B better than A?": average B - A over the images that are in both, by paired bootstrap (Efron 1979).

    Args:
        a: image id -> score, 0..1.
        b: the same, of the same data.

    Returns:
        None if no image is in both.
    """
    both = [name for name in a if name in b]
    if not both:
        return None
    # equal differences are equal numbers: .3 - .2 and .4 - .3 are not before they are rounded
    gains = np.round([b[name] - a[name] for name in both], 12)
    return Difference(float(gains.mean()), *mean_interval(gains), len(both))
