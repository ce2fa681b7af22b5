"""The grid of a synthetic seismic section, its wavelet, and random fields on it.

Lengths are in pixels, down as well as across; a pixel down is 4 ms of two-way time. The model reaches above and below
the image, because the wavelet reaches in from there, and has several samples a pixel down the trace, so that a layer
does not jump by a whole pixel from trace to trace.
"""

import numpy as np

SIZE = 101  # rows and columns of an image
MARGIN = 30  # pixels that are modelled above and below it
FINE = 4  # samples a pixel, down
ROWS = (SIZE + 2 * MARGIN) * FINE
IN_IMAGE = slice(MARGIN * FINE, (MARGIN + SIZE) * FINE, FINE)  # the rows of the model that are the image's
PIXELS_A_SECOND = 250.0


def grid() -> tuple[np.ndarray, np.ndarray]:
    """z (ROWS, 1) and x (1, SIZE), float64 pixels; z = 0 is the first row of the image."""
    return np.arange(ROWS)[:, None] / FINE - MARGIN, np.arange(float(SIZE))[None]


def wave_period(rng: np.random.Generator, depth: float) -> float:
    """The period, in pixels, of the strongest frequency at `depth` metres.

    About 6 at 50 m (41 Hz) and 18 at 950 m (14 Hz), as the earth swallows high frequencies; by some 20 % different from
    image to image.
    """
    frequency = 44.0 * np.exp(-depth / 820.0) * np.exp(0.2 * np.clip(rng.standard_normal(), -2, 2))
    return float(PIXELS_A_SECOND / frequency)


def ricker(distance: np.ndarray, period: float) -> np.ndarray:
    """The Ricker wavelet: 1 at distance 0, the second derivative of a bell, strongest at frequency 1 / period."""
    squared = (np.pi * distance / period) ** 2
    return (1.0 - 2.0 * squared) * np.exp(-squared)


def convolve_down(reflectivity: np.ndarray, period: float) -> np.ndarray:
    """Blur (ROWS, SIZE) down each trace with a Ricker wavelet; float32, the same shape."""
    import cv2

    reach = np.arange(-MARGIN, MARGIN + 1 / FINE, 1 / FINE)
    return cv2.filter2D(reflectivity.astype(np.float32), -1, ricker(reach, period)[:, None].astype(np.float32))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: tuple[float, float]) -> np.ndarray:
    """A smooth random surface (`shape`) of mean 0 and a standard deviation of about 1.

    Args:
        rng: the source.
        shape: samples down and across.
        cell: the same unit; hills are about so high and so wide.
    """
    import cv2

    coarse = rng.standard_normal([int(length / size) + 4 for length, size in zip(shape, cell, strict=True)])
    height, width = (int(count * size) for count, size in zip(coarse.shape, cell, strict=True))
    surface = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    top, left = (int(size) for size in cell)  # the outermost cells are only half surrounded
    return 1.3 * surface[top : top + shape[0], left : left + shape[1]]


def wave_noise(rng: np.random.Generator, period: float, dip: float, spread: float) -> np.ndarray:
    """Short wavelets of every strength that cross each other: what migration makes of noise, and of chaos in the rock.

    Args:
        rng: the source.
        period: of the wavelets, in pixels.
        dip: degrees, 0 is level, 90 upright.
        spread: degrees around `dip`.

    Returns:
        (SIZE, SIZE), standard deviation 1.
    """
    n = 128
    down, across = np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None]
    cycles = np.hypot(down, across) * period
    angle = np.degrees(np.arctan2(across, down))  # of the wave's front: 0..180, where 180 - a is a leant the other way
    one_way, other_way = (np.exp(-(((angle - leant) / spread) ** 2)) for leant in (dip, 180 - dip))
    fan = one_way + rng.random() * other_way
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, n))) * fan * cycles**2 * np.exp(-(cycles**2)))
    noise = noise[:SIZE, :SIZE] if rng.random() < 0.5 else noise[:SIZE, SIZE - 1 :: -1]
    return noise / noise.std()
