"""Salt bodies for synthetic seismic sections: domes, diapirs, walls, sheets, canopies, pillows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from utils.wavelets import FINE, IN_IMAGE, SIZE, smooth_noise

# coverage by rank among images with salt: a tenth of them have less than 6 % of salt, half of them more than 38 %
COVERAGES = (0.02, 0.06, 0.12, 0.19, 0.28, 0.38, 0.48, 0.59, 0.71, 0.83, 0.94)

Shape = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]
"""(rng, z (rows, 1), x (1, columns)) -> (rows, columns): least deep inside, more outward; its contours are outlines."""


@dataclass(frozen=True)
class Salt:
    """A body on the grid of the model; arrays are (ROWS, SIZE)."""

    distance: np.ndarray
    """pixels to the outline, negative inside; right near the outline, rough far from it."""
    down: np.ndarray
    """downward part of the unit vector into the body: 1 at a flat top, 0 at an upright flank, -1 at a flat base."""
    across: np.ndarray
    """sideward part of it."""


def salt_body(rng: np.random.Generator, z: np.ndarray, x: np.ndarray) -> Salt:
    """A body of random shape, grown until it covers a share of the image that is drawn from `COVERAGES`.

    Args:
        rng: the source.
        z: (ROWS, 1) pixels.
        x: (1, SIZE) pixels.
    """
    shapes, shares = zip(*BODIES.values(), strict=True)
    level = shapes[rng.choice(len(shapes), p=shares)](rng, z, x)
    for cell in (30.0, 9.0):  # broad bulges, and often some rugged detail
        level = level + rng.uniform(0, 0.13) * cell * smooth_noise(rng, level.shape, (cell * FINE, cell))
    coverage = np.interp(rng.random(), np.linspace(0, 1, len(COVERAGES)), COVERAGES)
    level -= np.quantile(level[IN_IMAGE], coverage)
    down, across = np.gradient(level, 1 / FINE, 1.0)
    slope = np.maximum(np.hypot(down, across), 0.3)
    return Salt(level / slope, -down / slope, -across / slope)


def _dome(rng: np.random.Generator, z: np.ndarray, x: np.ndarray) -> np.ndarray:
    width, height, tilt = rng.uniform(14, 45), rng.uniform(15, 75), rng.normal(0, 0.2)
    return tilt * (x - 50) - height * np.exp(-(((x - rng.uniform(0, 100)) / width) ** 2)) - z


def _diapir(rng: np.random.Generator, z: np.ndarray, x: np.ndarray) -> np.ndarray:
    top, lean = rng.uniform(-20, 80), rng.normal(0, 0.25)
    axis = rng.uniform(-15, 115) + lean * (z - 50)
    bulge = rng.uniform(-8, 14) * np.exp(-(((z - top - 12) / 25) ** 2))  # a head wider, or narrower, than the stem
    taper = rng.uniform(0, 0.4) * (SIZE - z)  # the stem is broader at its foot
    return np.hypot(x - axis, np.minimum(z - top, 0)) + taper - bulge


def _wall(rng: np.random.Generator, z: np.ndarray, x: np.ndarray) -> np.ndarray:
    slope, bend = np.tan(np.radians(rng.uniform(-40, 40))), rng.normal(0, 0.004)
    return rng.choice((-1.0, 1.0)) * (x - slope * (z - 50) - bend * (z - 50) ** 2)


def _sheet(rng: np.random.Generator, z: np.ndarray, x: np.ndarray) -> np.ndarray:
    middle = (
        rng.uniform(20, 80) + rng.normal(0, 0.3) * (x - 50) + rng.uniform(2, 8) * smooth_noise(rng, x.shape, (1, 35))
    )
    beyond = np.maximum(rng.choice((-1.0, 1.0)) * (x - rng.uniform(20, 80)), 0)
    return np.hypot(z - middle, 0.35 * beyond)  # it thins out to one side


def _canopy(rng: np.random.Generator, z: np.ndarray, x: np.ndarray) -> np.ndarray:
    return z - rng.normal(0, 0.3) * (x - 50) - rng.uniform(3, 14) * smooth_noise(rng, x.shape, (1, 35))


def _pillow(rng: np.random.Generator, z: np.ndarray, x: np.ndarray) -> np.ndarray:
    down, across, tilt = z - rng.uniform(20, 90), x - rng.uniform(-10, 110), rng.normal(0, 0.35)
    return np.hypot(down - tilt * across, (across + tilt * down) / rng.uniform(1.5, 3.5))


BODIES: dict[str, tuple[Shape, float]] = {
    "dome": (_dome, 0.28),
    "diapir": (_diapir, 0.26),
    "wall": (_wall, 0.24),
    "sheet": (_sheet, 0.08),
    "canopy": (_canopy, 0.10),
    "pillow": (_pillow, 0.04),
}
"""Name -> (shape, share of the bodies)."""
