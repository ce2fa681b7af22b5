"""Synthetic images of the sea from above: water, coasts, islands, piers and clouds, and helpers to draw on them."""

from dataclasses import dataclass

import numpy as np

from utils.synthetic.noise import fractal, waves


def local(window: tuple[slice, slice], middle: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of a window's pixels in the frame of an object: along and across its axis.

    Args:
        window: rows and columns.
        middle: (2,) position of the object in the image, down and across.
        angle: direction of the object's axis in radians, from "across" towards "down".

    Returns:
        (along, across), each (H, W) float32, in pixels.
    """
    down, across = (np.arange(part.start, part.stop, dtype=np.float32) for part in window)
    down, across = (down - middle[0])[:, None], (across - middle[1])[None]
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return across * cosine + down * sine, down * cosine - across * sine


def blend(image: np.ndarray, colour: np.ndarray, opacity: np.ndarray) -> None:
    """Blend a colour, (3,) or (H, W, 3), into an image (H, W, 3), in place, with an opacity (H, W) in [0, 1]."""
    image += (colour - image) * opacity[..., None]


def shifted(field: np.ndarray, down: int, across: int) -> np.ndarray:
    """Return a field, (S, S) float32, moved by an integer number of pixels; the gaps repeat the nearest edge."""
    rows, columns = np.arange(len(field)) - down, np.arange(len(field)) - across
    return field[rows.clip(0, len(field) - 1)[:, None], columns.clip(0, len(field) - 1)]


WATERS = ((13, 36, 58), (16, 52, 68), (34, 64, 70), (8, 22, 40), (58, 80, 86), (30, 48, 44), (44, 74, 92))
VEGETATION = ((44, 62, 38), (70, 82, 52), (96, 92, 64), (58, 60, 44))
SOILS = ((128, 112, 86), (150, 138, 112), (104, 92, 76), (138, 134, 128))
ROCKS = ((84, 76, 66), (112, 104, 92), (62, 66, 58), (140, 132, 116))


@dataclass(frozen=True)
class Pier:
    """A pier that extends from the coast into the sea."""

    middle: np.ndarray
    """(2,) position of the centre, down and across."""
    angle: float
    """Direction of the long axis in radians, from "across" towards "down"."""
    length: float
    width: float


@dataclass(frozen=True)
class Place:
    """A piece of sea before ships and clouds are drawn."""

    image: np.ndarray
    """(S, S, 3) float32, on the scale of 0 to 255 but not clipped."""
    blocked: np.ndarray
    """(S, S) bool: land, rocks and piers, where no ship can be."""
    piers: list[Pier]
    foam: np.ndarray
    """(3,) float32: colour of foam in this light."""
    wind: float
    """Direction of the waves in radians, from "across" towards "down"."""


def place(rng: np.random.Generator, size: int) -> Place:
    """Draw a piece of sea of `size` x `size` pixels; some pieces have a coast, some have islands or rocks."""
    wind = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(0.75, 1.2)
    foam = np.clip(np.float32([222, 228, 230]) * light, 0, 250)
    image = _water(rng, size, wind, foam) * np.float32(light)
    land, piers = np.full((size, size), -1e3, np.float32), []
    if rng.random() < 0.14:
        land, piers = _coast(rng, size)
    if rng.random() < 0.22:
        land = np.maximum(land, _islands(rng, size))
    if land.max() > -200:
        image = _with_land(rng, image, land, foam, light)
    blocked = land > -2
    for pier in piers:
        _build(rng, pier, image, blocked, light)
    return Place(image, blocked, piers, foam, wind)


def _water(rng: np.random.Generator, size: int, wind: float, foam: np.ndarray) -> np.ndarray:
    first, second = (np.float32(WATERS[one]) for one in rng.integers(len(WATERS), size=2))
    patches = 0.5 + 0.35 * fractal(rng, size, rng.uniform(200, 500), 3)
    image = first + (second - first) * np.clip(patches, 0, 1)[..., None] * np.float32(rng.uniform(0, 0.5))
    image *= np.float32(np.exp(rng.normal(0, 0.15, 3)))
    rough = rng.beta(1.5, 2.5)
    gusts = np.exp(np.float32(0.35) * fractal(rng, size, 130, 2))
    swell = waves(rng, size, rng.uniform(14, 50), wind, 0.2)
    chop = waves(rng, size, rng.uniform(3.5, 8), wind + rng.normal(0, 0.3), 0.6)
    relief = gusts * ((0.02 + 0.08 * rough * rng.random()) * swell + (0.03 + 0.10 * rough) * chop)
    image *= (1 + relief)[..., None]
    if rng.random() < 0.25:
        _add_glint(rng, image, relief / relief.std(), foam)
    if rough > 0.4:
        _add_whitecaps(rng, image, chop * gusts, wind, rough, foam)
    return image


def _add_glint(rng: np.random.Generator, image: np.ndarray, relief: np.ndarray, foam: np.ndarray) -> None:
    """Draw a broad band of sunlight in which the waves sparkle, in place."""
    size = len(image)
    along, _ = local((slice(0, size), slice(0, size)), rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi))
    band = np.exp(-((along / np.float32(rng.uniform(0.2, 0.7) * size)) ** 2)) * np.float32(rng.uniform(0.1, 0.4))
    blend(image, foam * np.float32(0.8), band * (0.6 + 0.25 * np.clip(relief, -2, 3)).clip(0, 1.4))
    blend(image, foam, np.clip((relief - 2.2) * band * 2.5, 0, 0.9))


def _add_whitecaps(
    rng: np.random.Generator, image: np.ndarray, height: np.ndarray, wind: float, rough: float, foam: np.ndarray
) -> None:
    """Draw short streaks of foam where the highest waves break, in place."""
    import cv2

    share = np.exp(rng.uniform(np.log(2e-5), np.log(1.2e-3))) * rough
    crests = (height > np.quantile(height, 1 - share)).astype(np.float32)
    length = int(rng.uniform(3, 9))
    reach = np.arange(-length, length + 1, dtype=np.float32)
    across, down = reach[None], reach[:, None]
    along_crest, over_crest = -across * np.sin(wind) + down * np.cos(wind), across * np.cos(wind) + down * np.sin(wind)
    brush = np.exp(-((along_crest / (0.4 * length)) ** 2) - (over_crest / 0.8) ** 2).astype(np.float32)
    blend(image, foam, np.clip(cv2.filter2D(crests, -1, brush) * np.float32(rng.uniform(0.5, 1.0)), 0, 0.9))


def _coast(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[Pier]]:
    """Return the approximate distance to the coast in pixels, (S, S), positive on land, and the piers on the coast."""
    angle, cover = rng.uniform(0, 2 * np.pi), rng.uniform(-0.45, -0.1) * size
    window, middle = (slice(0, size), slice(0, size)), np.full(2, size / 2)
    along, _ = local(window, middle, angle)
    rugged = rng.uniform(4, 34)
    land = along + np.float32(cover) + np.float32(rugged) * fractal(rng, size, rng.uniform(60, 220), 6)
    piers = []
    for _ in range(rng.integers(0, 4)):
        length, width = rng.uniform(40, 130), rng.uniform(5, 16)
        side, turn = rng.uniform(-0.4, 0.4) * size, rng.normal(0, 0.25)
        reach = -cover - 0.4 * length  # from the middle of the image; the foot of the pier is then on land
        toward, beside = np.array([np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), -np.sin(angle)])
        piers.append(Pier(middle + reach * toward + side * beside, angle + turn, length, width))
    return land, piers


def _islands(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return the same distance as `_coast` for islands, some of them rocks as small as a ship."""
    land = np.full((size, size), -1e3, np.float32)
    window = (slice(0, size), slice(0, size))
    rough = fractal(rng, size, 24, 4)
    for _ in range(rng.integers(1, 7)):
        radius = np.exp(rng.uniform(np.log(2.5), np.log(min(70, size / 8))))
        along, across = local(window, rng.uniform(0, size, 2), rng.uniform(0, np.pi))
        slender = np.float32(rng.uniform(1, 2.6))
        away = np.hypot(along / slender, across)
        land = np.maximum(land, np.float32(radius) - away + rough * np.float32(min(0.4 * radius, 9)))
    return land


def _with_land(
    rng: np.random.Generator, image: np.ndarray, land: np.ndarray, foam: np.ndarray, light: float
) -> np.ndarray:
    """Draw shallows, surf, a beach, and behind it vegetation or rock, soil and houses; change and return the image."""
    import cv2

    size = len(image)
    shallow = np.float32([70, 122, 118]) * np.float32(rng.uniform(0.5, 1.0) * light)
    blend(
        image, shallow, np.exp(np.minimum(land, 0) / np.float32(rng.uniform(4, 40))) * np.float32(rng.uniform(0, 0.7))
    )
    surf = np.exp(-(((land + 2) / np.float32(rng.uniform(1.5, 4))) ** 2)) * np.clip(fractal(rng, size, 12, 3), 0, 1)
    blend(image, foam, np.clip(surf * np.float32(rng.uniform(0.2, 1.0)), 0, 0.95))
    table = ROCKS if rng.random() < 0.4 else VEGETATION
    first, second = (np.float32(table[one]) for one in rng.permutation(len(table))[:2])
    soil = np.float32(SOILS[rng.integers(len(SOILS))])
    ground = first + (second - first) * np.clip(0.5 + 0.6 * fractal(rng, size, 60, 5), 0, 1)[..., None]
    blend(ground, soil, np.clip(fractal(rng, size, 40, 5) * 1.2 - 0.5, 0, 0.9))
    beach = rng.uniform(1, 9)
    blend(ground, np.float32([176, 164, 138]), np.clip(1 - land / np.float32(beach), 0, 1) * np.float32(0.8))
    if rng.random() < 0.7:
        town = land - 40 * np.abs(fractal(rng, size, 150, 2))
        for _ in range(int(size**2 / 700)):
            _add_house(rng, ground, town)
    ground *= (np.float32(light) * (1 + 0.10 * fractal(rng, size, 6, 3)))[..., None]
    edge = cv2.GaussianBlur(np.clip(land + 0.5, 0, 1), (0, 0), 0.6)
    blend(image, ground, edge)
    return image


def _add_house(rng: np.random.Generator, ground: np.ndarray, town: np.ndarray) -> None:
    """Draw a roof with its shadow at a random pixel, unless `town` is less than 14 there."""
    size = len(ground)
    row, column = rng.integers(0, size, 2)
    height, width = rng.integers(3, 12, 2)
    if town[row, column] < 14:
        return
    ground[row + 1 : row + height + 2, column + 1 : column + width + 2] *= 0.6
    roof = np.float32(rng.choice(((205, 203, 198), (150, 96, 78), (120, 122, 126), (226, 222, 212))))
    ground[row : row + height, column : column + width] = roof * np.float32(rng.uniform(0.7, 1.05))


def _build(rng: np.random.Generator, pier: Pier, image: np.ndarray, blocked: np.ndarray, light: float) -> None:
    """Draw a pier into `image` and mark it in `blocked`, both in place."""
    size = len(image)
    along, across = local((slice(0, size), slice(0, size)), pier.middle, pier.angle)
    outside = np.maximum(np.abs(along) - pier.length / 2, np.abs(across) - pier.width / 2)
    concrete = np.float32(rng.uniform(95, 185) * light) * (1 + 0.07 * fractal(rng, size, 5, 2))
    blend(image, concrete[..., None] * np.float32([1.0, 0.99, 0.95]), np.clip(0.5 - outside, 0, 1))
    blocked |= outside < 0.3


def clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return the opacity of the clouds, (S, S) float32 in [0, 0.97]; 45 % of the images have no clouds."""
    chance = rng.random()
    if chance < 0.45:
        return np.zeros((size, size), np.float32)
    if chance < 0.62:  # veils
        veil = np.clip(0.3 + 0.3 * fractal(rng, size, rng.uniform(150, 400), 5), 0, 1)
        return veil * np.float32(rng.uniform(0.2, 0.7))
    if chance < 0.85:  # puffs
        level, cell, hard = rng.uniform(0.8, 2.0), rng.uniform(18, 110), rng.uniform(0.6, 1.8)
    else:  # a bank
        level, cell, hard = rng.uniform(-0.1, 0.9), rng.uniform(200, 420), rng.uniform(0.7, 1.8)
    thickness = np.clip((fractal(rng, size, cell, 6) - np.float32(level)) / np.float32(hard), 0, 1)
    return thickness * thickness * (3 - 2 * thickness) * np.float32(rng.uniform(0.75, 0.97))


def cover(rng: np.random.Generator, image: np.ndarray, opacity: np.ndarray) -> None:
    """Draw clouds and their shadow over an image, in place."""
    if not opacity.any():
        return
    down, across = (int(step) for step in rng.integers(-40, 41, 2))
    blend(image, np.float32([8, 14, 24]), np.float32(0.5) * shifted(opacity, down, across))
    white = np.float32(rng.uniform(205, 250)) * (1 + 0.03 * fractal(rng, len(image), 30, 3))
    blend(image, white[..., None] * np.float32([0.99, 1.0, 1.01]), opacity)
