"""Random fields for synthetic images: smooth noise, fractal noise and waves."""

import numpy as np


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: tuple[float, float]) -> np.ndarray:
    """Return a smooth random surface of the given shape, with mean 0 and a standard deviation of about 1.

    Args:
        rng: random generator.
        shape: number of samples down and across.
        cell: approximate height and width of a hill, in samples.
    """
    import cv2

    coarse = rng.standard_normal([int(length / size) + 4 for length, size in zip(shape, cell, strict=True)])
    height, width = (int(count * size) for count, size in zip(coarse.shape, cell, strict=True))
    surface = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    top, left = (int(size) for size in cell)  # the outermost cells are cropped: they have neighbours on one side only
    return 1.3 * surface[top : top + shape[0], left : left + shape[1]]


def fractal(rng: np.random.Generator, size: int, cell: float, octaves: int, fall: float = 0.55) -> np.ndarray:
    """Return fractal noise, (S, S) float32, with mean 0 and a standard deviation of about 1.

    Args:
        rng: random generator.
        size: height and width in pixels.
        cell: approximate size of the largest hills, in pixels; halved in each further octave, down to 1.5.
        octaves: number of levels of detail.
        fall: amplitude of an octave relative to the one before.
    """
    total, weight, weights = np.zeros((size, size), np.float32), 1.0, 0.0
    for _ in range(octaves):
        total += np.float32(weight) * smooth_noise(rng, (size, size), (cell, cell)).astype(np.float32)
        weights += weight**2
        weight, cell = weight * fall, max(cell / 2, 1.5)
    return total / np.float32(weights**0.5)


def waves(rng: np.random.Generator, size: int, period: float, angle: float, spread: float) -> np.ndarray:
    """Return a field of waves, (S, S) float32, with standard deviation 1.

    Args:
        rng: random generator.
        size: height and width in pixels.
        period: approximate wavelength in pixels.
        angle: direction of the waves in radians, from "across" towards "down".
        spread: variation of the direction around `angle`, in radians.
    """
    down, across = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    octaves = np.log2(np.maximum(np.hypot(down, across), 1e-6) * period)
    off = np.arctan2(down, across) - angle
    off = np.abs((off + np.pi / 2) % np.pi - np.pi / 2)  # waves in opposite directions look the same
    strength = np.exp(-((octaves / 0.6) ** 2) - (off / spread) ** 2)
    noise = rng.standard_normal((2, *strength.shape))
    field = np.fft.irfft2(strength * (noise[0] + 1j * noise[1]), s=(size, size)).astype(np.float32)
    return field / field.std()
