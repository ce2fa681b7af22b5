"""Bootstrap intervals over images for a mean score and for a paired difference of two networks (Efron 1979)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


def mean_interval(scores: np.ndarray, n_resamples: int = 2000, seed: int = 4545) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean score under resampling of images (Efron 1979).

    Args:
        scores: (N,) float64, N at least 1.
        n_resamples: number of resampled sets of N images, drawn with replacement.
        seed: seed of the draws.
    """
    # the mean depends only on how often each distinct score is drawn, so one multinomial draw replaces N draws
    values, times = np.unique(scores, return_counts=True)
    rng, n_images = np.random.default_rng(seed), len(scores)
    sizes = [min(100, n_resamples - start) for start in range(0, n_resamples, 100)]  # bounds the size of the table
    means = [rng.multinomial(n_images, times / n_images, size=size) @ values / n_images for size in sizes]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def resampled_sums(columns: np.ndarray, n_resamples: int = 2000, seed: int = 4545) -> np.ndarray:
    """Return the sums of columns (N, K) over resampled images, (n_resamples, K) float64, for intervals of ratios.

    The arguments are those of `mean_interval`; the same images are drawn for all columns.
    """
    rng, n_images = np.random.default_rng(seed), len(columns)
    shares, most = np.full(n_images, 1 / n_images), max(1, 2_000_000 // n_images)  # most bounds the size of the table
    sizes = [min(most, n_resamples - start) for start in range(0, n_resamples, most)]
    return np.concatenate([rng.multinomial(n_images, shares, size=size) @ columns.astype(float) for size in sizes])


@dataclass(frozen=True)
class Difference:
    """Mean of B - A over the images that both networks predicted out of fold, with a paired bootstrap interval."""

    mean: float
    low: float
    """lower end of the 95 % percentile interval under resampling of images."""
    high: float
    """upper end of the 95 % percentile interval."""
    n_images: int


def difference(a: Mapping[str, float], b: Mapping[str, float]) -> Difference | None:
    """Average B - A over the images that are in both, with a paired bootstrap interval (Efron 1979).

    Args:
        a: image id -> score of A, 0..1.
        b: image id -> score of B on the same data, 0..1.

    Returns:
        None if no image is in both.
    """
    both = [name for name in a if name in b]
    if not both:
        return None
    # rounding makes equal differences equal numbers; .3 - .2 and .4 - .3 differ in floating point
    gains = np.round([b[name] - a[name] for name in both], 12)
    return Difference(float(gains.mean()), *mean_interval(gains), len(both))
