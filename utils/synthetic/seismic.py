"""Synthetic seismic sections: the grid of the model, the wavelet, salt bodies, sediments, and the resulting image.

Lengths are in pixels, both down and across; one pixel down is 4 ms of two-way time. The model extends above and below
the image because the wavelet reaches into the image from there. It has several samples per pixel down each trace, so
that a layer does not jump by a full pixel from one trace to the next.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from utils.synthetic.noise import smooth_noise

SIZE = 101  # height and width of an image
MARGIN = 30  # pixels that are modelled above and below the image
FINE = 4  # samples per pixel, down
ROWS = (SIZE + 2 * MARGIN) * FINE
IN_IMAGE = slice(MARGIN * FINE, (MARGIN + SIZE) * FINE, FINE)  # rows of the model that belong to the image
PIXELS_A_SECOND = 250.0


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Return z (ROWS, 1) and x (1, SIZE), float64 in pixels; z = 0 is the first row of the image."""
    return np.arange(ROWS)[:, None] / FINE - MARGIN, np.arange(float(SIZE))[None]


def wave_period(rng: np.random.Generator, depth: float) -> float:
    """Return the period, in pixels, of the dominant frequency at a depth in metres.

    It is about 6 at 50 m (41 Hz) and 18 at 950 m (14 Hz), because the ground absorbs high frequencies, and varies by
    about 20 % from image to image.
    """
    frequency = 44.0 * np.exp(-depth / 820.0) * np.exp(0.2 * np.clip(rng.standard_normal(), -2, 2))
    return float(PIXELS_A_SECOND / frequency)


def ricker(distance: np.ndarray, period: float) -> np.ndarray:
    """Return the Ricker wavelet: the negative second derivative of a Gaussian, 1 at 0, peak frequency 1 / period."""
    squared = (np.pi * distance / period) ** 2
    return (1.0 - 2.0 * squared) * np.exp(-squared)


def convolve_down(reflectivity: np.ndarray, period: float) -> np.ndarray:
    """Convolve each column of (ROWS, SIZE) with a Ricker wavelet; return float32 of the same shape."""
    import cv2

    reach = np.arange(-MARGIN, MARGIN + 1 / FINE, 1 / FINE)
    return cv2.filter2D(reflectivity.astype(np.float32), -1, ricker(reach, period)[:, None].astype(np.float32))


def wave_noise(rng: np.random.Generator, period: float, dip: float, spread: float) -> np.ndarray:
    """Return noise made of short crossing wavelets of varying strength.

    Migration turns recorded noise and chaotic rock into such a pattern.

    Args:
        rng: random generator.
        period: period of the wavelets, in pixels.
        dip: dip of the wavefronts in degrees; 0 is horizontal, 90 vertical.
        spread: variation of the dip around `dip`, in degrees.

    Returns:
        (SIZE, SIZE), standard deviation 1.
    """
    n = 128
    down, across = np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None]
    cycles = np.hypot(down, across) * period
    angle = np.degrees(np.arctan2(across, down))  # dip of the wavefront, 0..180; 180 - a is the mirror image of a
    one_way, other_way = (np.exp(-(((angle - leant) / spread) ** 2)) for leant in (dip, 180 - dip))
    fan = one_way + rng.random() * other_way
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, n))) * fan * cycles**2 * np.exp(-(cycles**2)))
    noise = noise[:SIZE, :SIZE] if rng.random() < 0.5 else noise[:SIZE, SIZE - 1 :: -1]
    return noise / noise.std()


# deciles of the coverage of images with salt: 10 % of them have less than 6 % salt, half have more than 38 %
COVERAGES = (0.02, 0.06, 0.12, 0.19, 0.28, 0.38, 0.48, 0.59, 0.71, 0.83, 0.94)
Shape = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]
"""(rng, z (rows, 1), x (1, columns)) -> (rows, columns): a level that rises outwards; its contours are outlines."""


@dataclass(frozen=True)
class Salt:
    """A salt body on the grid of the model; arrays are (ROWS, SIZE)."""

    distance: np.ndarray
    """Distance to the outline in pixels, negative inside; accurate near the outline, approximate far from it."""
    down: np.ndarray
    """Downward part of the unit vector into the body: 1 at a flat top, 0 at a vertical flank, -1 at a flat base."""
    across: np.ndarray
    """Horizontal part of the unit vector into the body, positive to the right."""


def salt_body(rng: np.random.Generator, z: np.ndarray, x: np.ndarray) -> Salt:
    """Draw a salt body of random shape that covers a share of the image drawn from `COVERAGES`.

    Args:
        rng: random generator.
        z: (ROWS, 1) pixels.
        x: (1, SIZE) pixels.
    """
    shapes, shares = zip(*BODIES.values(), strict=True)
    level = shapes[rng.choice(len(shapes), p=shares)](rng, z, x)
    for cell in (30.0, 9.0):  # broad bulges and rugged detail, both of random strength
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
    bulge = rng.uniform(-8, 14) * np.exp(-(((z - top - 12) / 25) ** 2))  # the head is wider or narrower than the stem
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
    return np.hypot(z - middle, 0.35 * beyond)  # the sheet thins out to one side


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
"""Name -> (shape, share of all bodies)."""


@dataclass(frozen=True)
class Section:
    """Image of the survey and its salt mask."""

    image: np.ndarray
    """(101, 101) uint8, [0, 255]."""
    mask: np.ndarray
    """(101, 101) uint8: 1 where there is salt, else 0."""


def blank_section(rng: np.random.Generator) -> Section:
    """Return a section without recorded traces: a single grey value, usually black, and no salt."""
    value = 0 if rng.random() < 0.8 else rng.integers(1, 256)
    return Section(np.full((SIZE, SIZE), value, np.uint8), np.zeros((SIZE, SIZE), np.uint8))


def section(rng: np.random.Generator, depth: float, with_salt: bool) -> Section:
    """Draw one image.

    Args:
        rng: random generator.
        depth: metres, 50 to 950; deeper sections have lower frequencies.
        with_salt: include a salt body that covers 2 to 94 % of the image.

    Returns:
        the image and the mask of the body, which is all 0 without salt.
    """
    z, x = grid()
    period = wave_period(rng, depth)
    salt = salt_body(rng, z, x) if with_salt else None
    signal = _sediments(rng, z, x, period, salt)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    if salt is not None:
        signal = _with_salt(rng, signal, salt, period)
        mask[salt.distance[IN_IMAGE] < 0] = 1
    signal += rng.uniform(0.03, 0.3) * wave_noise(rng, period, 0, 45)
    if rng.random() < 0.3:  # steep artefacts of migration, from poorly recorded places
        signal += rng.uniform(0.1, 0.35) * wave_noise(rng, period, rng.uniform(30, 75), 25)
    return Section(_to_grey(rng, _with_gain(rng, signal)), mask)


def _sediments(rng: np.random.Generator, z: np.ndarray, x: np.ndarray, period: float, salt: Salt | None) -> np.ndarray:
    """Return the signal of the layers, (101, 101), as if the salt that deforms them were transparent.

    Its standard deviation is about 1.
    """
    import cv2

    age = _age(rng, z, x, salt)
    impedance, loudness = _impedance(rng, age), np.ones_like(age)
    if rng.random() < 0.25:  # layers with low contrast, as weak as the inside of salt
        loudness -= rng.uniform(0.7, 0.95) * _between(rng, age, x, 15, 60)
    if rng.random() < 0.35:  # gas or a hard bank, as strong as the top of salt
        across, down = (x - rng.uniform(0, 100)) / rng.uniform(10, 50), (age - rng.uniform(0, 100)) / rng.uniform(2, 6)
        loudness += rng.uniform(1, 4) * np.exp(-(across**2) - down**2)
    if salt is None and rng.random() < 0.07:  # water
        sea = z < _surface(rng, x, 10, 60)
        impedance = np.where(sea, impedance.min() - 1, impedance)
        loudness[sea] = 0
    traces = convolve_down(loudness * np.diff(impedance, axis=0, prepend=impedance[:1]), period)
    alike = rng.uniform(0.4, 0.12 * period)  # pixels; neighbouring traces cover the same ground
    traces = cv2.GaussianBlur(traces, (0, 0), sigmaX=alike, sigmaY=1e-3)[IN_IMAGE]
    traces /= traces.std()
    if rng.random() < 0.2:  # a slump: broken layers between intact ones
        torn = _between(rng, z[IN_IMAGE], x, 15, 55)
        chaos = wave_noise(rng, period, rng.uniform(0, 40), 40)
        traces = traces + torn * (rng.uniform(0.15, 0.9) * chaos - 0.9 * traces)
    return traces


def _age(rng: np.random.Generator, z: np.ndarray, x: np.ndarray, salt: Salt | None) -> np.ndarray:
    """Return the depth of each point before the layers were deformed, (ROWS, 101), in pixels."""
    flat = z + 0 * x
    if salt is not None:  # the rising salt dragged the adjacent layers upwards
        reach = rng.uniform(8, 30)
        flat = flat + rng.uniform(0, 0.8) * reach * np.exp(-np.maximum(salt.distance, 0) / reach)
    age = _folded(rng, flat, x)
    for _ in range(rng.poisson(1.3)):
        side = rng.choice((-1.0, 1.0))
        plane = rng.uniform(0, 100) + side * np.tan(np.radians(rng.uniform(10, 40))) * (z - 50)
        growth = np.clip((z - rng.uniform(-80, 60)) / 20, 0, 1)  # layers younger than the fault are not offset
        age = age - np.where(x > plane, side * rng.uniform(2, 12) * growth, 0)  # the hanging wall slid down
    if rng.random() < 0.3:  # an unconformity: other layers, at another angle, above the eroded ones
        age = np.where(flat < _surface(rng, x, 15, 80), _folded(rng, flat, x) + 500, age)
    return age


def _folded(rng: np.random.Generator, z: np.ndarray, x: np.ndarray) -> np.ndarray:
    tilt, wedge = rng.normal(0, 0.22), rng.normal(0, 0.12)
    fold = rng.gamma(1.5, 3.0) * smooth_noise(rng, z.shape, (len(z), rng.uniform(30, 80)))
    return (z - tilt * (x - 50) - fold) * (1 + wedge * (x - 50) / 50)


def _impedance(rng: np.random.Generator, age: np.ndarray) -> np.ndarray:
    """Return the logarithm of the impedance, one value per layer.

    Layers have random thickness; layers of strong and of weak contrast come in groups.
    """
    tops = np.cumsum(rng.lognormal(np.log(rng.uniform(2, 5)), 0.6, size=1000)) - 400
    groups = np.exp(0.45 * smooth_noise(rng, (1, len(tops)), (1, 7)))[0]
    values = rng.standard_normal(len(tops)) * groups
    return values[np.searchsorted(tops, age).clip(max=len(tops) - 1)]


def _surface(rng: np.random.Generator, x: np.ndarray, highest: float, lowest: float) -> np.ndarray:
    """Return the depth of a gently tilted, wavy surface, (1, 101), at around `highest` to `lowest` pixels."""
    wave = rng.uniform(0, 4.5) * smooth_noise(rng, x.shape, (1, 30))
    return rng.uniform(highest, lowest) + rng.normal(0, 0.12) * (x - 50) + wave


def _between(rng: np.random.Generator, down: np.ndarray, x: np.ndarray, thin: float, thick: float) -> np.ndarray:
    """Return 1 between two wavy surfaces `thin` to `thick` pixels apart and 0 elsewhere, with soft edges."""
    top = _surface(rng, x, -10, 80)
    base = top + rng.uniform(thin, thick) + rng.uniform(0, 5) * smooth_noise(rng, x.shape, (1, 30))
    return np.clip((down - top) / 2, 0, 1) * np.clip((base - down) / 2, 0, 1)


def _with_salt(rng: np.random.Generator, sediments: np.ndarray, salt: Salt, period: float) -> np.ndarray:
    """Return the signal of the sediments and the salt, (101, 101).

    The sediments end at the body, its outline reflects, its inside is faint, and the signal below it is weaker.
    """
    inside = 1 / (1 + np.exp(np.clip(salt.distance / (0.08 * period), -30, 30)))
    above = np.cumsum(inside, axis=0)[IN_IMAGE] / FINE  # pixels of salt above each point
    light = 1 - rng.uniform(0.2, 0.7) * (1 - np.exp(-above / 12))
    inside, distance, down, across = (part[IN_IMAGE] for part in (inside, salt.distance, salt.down, salt.across))
    unsteady = np.exp(0.4 * smooth_noise(rng, (SIZE, SIZE), (14, 14)))
    strength = rng.uniform(1.8, 3.6) * unsteady * (down + rng.uniform(0.1, 0.7) * np.abs(across))
    echo = rng.uniform(0, 0.12) * ricker(distance + rng.uniform(1.2, 3) * period, period)  # a multiple of the outline
    outline = strength * (ricker(distance, period) + echo)
    chaos = rng.uniform(0.1, 0.3) * wave_noise(rng, 1.2 * period, rng.uniform(60, 90), 25)
    return (1 - inside) * light * sediments + outline + inside * chaos


def _with_gain(rng: np.random.Generator, signal: np.ndarray) -> np.ndarray:
    """Apply gain that processing does not correct: it varies between traces, between regions and with depth."""
    traces = 1 + rng.uniform(0, 0.06) * rng.standard_normal(SIZE)
    trend = np.exp(rng.normal(0, 0.3) * np.linspace(-1, 1, SIZE))[:, None]
    return signal * traces * trend * np.exp(rng.uniform(0, 0.3) * smooth_noise(rng, signal.shape, (50, 50)))


def _to_grey(rng: np.random.Generator, signal: np.ndarray) -> np.ndarray:
    """Convert to uint8, stretched from black to white; a few extreme values are clipped."""
    clipped = rng.uniform(0, 0.8)
    low, high = np.percentile(signal, (clipped, 100 - clipped))
    return np.rint(np.clip((signal - low) / (high - low), 0, 1) * 255).astype(np.uint8)
