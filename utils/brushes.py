"""What synthetic pictures of the sea are drawn with: places along and across, colours laid over, noise, and waves."""

import numpy as np

from utils.wavelets import smooth_noise


def local(window: tuple[slice, slice], middle: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across a thing, for the pixels of a window.

    Args:
        window: rows and columns.
        middle: (2,) where the thing lies, down and across.
        angle: radians, from "across" towards "down": where it points.

    Returns:
        two (H, W) float32, in pixels.
    """
    down, across = (np.arange(part.start, part.stop, dtype=np.float32) for part in window)
    down, across = (down - middle[0])[:, None], (across - middle[1])[None]
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return across * cosine + down * sine, down * cosine - across * sine


def blend(image: np.ndarray, colour: np.ndarray, opacity: np.ndarray) -> None:
    """Lay a colour, (3,) or (H, W, 3), over an image (H, W, 3), in place; opacity (H, W), [0, 1]."""
    image += (colour - image) * opacity[..., None]


def fractal(rng: np.random.Generator, size: int, cell: float, octaves: int, fall: float = 0.55) -> np.ndarray:
    """(S, S) float32 of mean 0 and a standard deviation of about 1: hills `cell` wide, with ever finer detail."""
    total, weight, weights = np.zeros((size, size), np.float32), 1.0, 0.0
    for _ in range(octaves):
        total += np.float32(weight) * smooth_noise(rng, (size, size), (cell, cell)).astype(np.float32)
        weights += weight**2
        weight, cell = weight * fall, max(cell / 2, 1.5)
    return total / np.float32(weights**0.5)


def waves(rng: np.random.Generator, size: int, period: float, angle: float, spread: float) -> np.ndarray:
    """(S, S) float32, standard deviation 1: waves of about this period that run to `angle`, give or take `spread`."""
    down, across = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    octaves = np.log2(np.maximum(np.hypot(down, across), 1e-6) * period)
    off = np.arctan2(down, across) - angle
    off = np.abs((off + np.pi / 2) % np.pi - np.pi / 2)  # a front has no sign
    strength = np.exp(-((octaves / 0.6) ** 2) - (off / spread) ** 2)
    noise = rng.standard_normal((2, *strength.shape))
    field = np.fft.irfft2(strength * (noise[0] + 1j * noise[1]), s=(size, size)).astype(np.float32)
    return field / field.std()


def shifted(field: np.ndarray, down: int, across: int) -> np.ndarray:
    """(S, S) float32, moved by whole pixels; what comes in from outside is like the nearest edge."""
    rows, columns = np.arange(len(field)) - down, np.arange(len(field)) - across
    return field[rows.clip(0, len(field) - 1)[:, None], columns.clip(0, len(field) - 1)]
