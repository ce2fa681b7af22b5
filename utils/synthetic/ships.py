"""Synthetic images of ships from above: boats, barges, container ships, tankers and bulkers, with shadows and wakes."""

from dataclasses import dataclass, replace

import numpy as np

from utils.synthetic.noise import fractal
from utils.synthetic.sea import Pier, Place, blend, clouds, cover, local, place

WHITE, GREY, RUST, DARK = (226, 228, 224), (158, 162, 164), (122, 66, 54), (52, 56, 64)
HULLS = (WHITE, WHITE, GREY, RUST, DARK, (76, 104, 92), (66, 88, 126), (186, 116, 66), (196, 190, 170))
CONTAINERS = ((150, 60, 50), (60, 92, 140), (190, 186, 176), (84, 116, 84), (196, 142, 62), (96, 98, 104))


@dataclass(frozen=True)
class Ship:
    """Position, size and kind of a ship."""

    middle: np.ndarray
    """(2,) position of the centre, down and across."""
    angle: float
    """Direction of the bow in radians, from "across" towards "down"."""
    length: float
    width: float
    kind: str
    """boat, barge, cargo, tanker or bulker."""


def moved(middle: np.ndarray, angle: float, along: float, across: float) -> np.ndarray:
    """Return the position `middle`, (2,) down and across, moved along and across the direction `angle`."""
    sine, cosine = np.sin(angle), np.cos(angle)
    return middle + along * np.array([sine, cosine]) + across * np.array([cosine, -sine])


def window_of(ship: Ship, size: int, margin: float) -> tuple[slice, slice] | None:
    """Return the part of the image with a ship and `margin` pixels around it, or None if that is outside the image."""
    reach = ship.length / 2 + margin
    low = np.clip(np.floor(ship.middle - reach), 0, size).astype(int)
    high = np.clip(np.ceil(ship.middle + reach), 0, size).astype(int)
    return (slice(low[0], high[0]), slice(low[1], high[1])) if (high > low).all() else None


def outside(ship: Ship, window: tuple[slice, slice]) -> np.ndarray:
    """Return the approximate distance of each pixel to the hull, in pixels; negative inside."""
    along, across = local(window, ship.middle, ship.angle)
    return np.maximum(np.abs(across) - _half_width(ship, along), np.abs(along) - ship.length / 2)


def _half_width(ship: Ship, along: np.ndarray) -> np.ndarray:
    """Return half the width of the hull at positions along it: narrower at the stern and pointed at the bow."""
    place_along = np.clip(along / ship.length + 0.5, 0, 1)  # 0 at the stern, 1 at the bow
    if ship.kind == "barge":
        return np.full_like(along, ship.width / 2)
    bow = {"boat": 0.55, "tanker": 0.82}.get(ship.kind, 0.76)
    taper = np.clip((place_along - bow) / (1 - bow), 0, 1)
    return ship.width / 2 * np.sqrt(1 - taper**2 * 0.98) * (0.75 + 0.25 * np.clip(place_along / 0.1, 0, 1))


def draw_wake(rng: np.random.Generator, image: np.ndarray, ship: Ship, foam: np.ndarray) -> None:
    """Draw the wake of a ship: foam at the bow and behind it, and two arms. Some ships are stationary and have none."""
    strength = np.clip(rng.uniform(-0.4, 0.8), 0, 1)
    if strength == 0:
        return
    size, reach = len(image), ship.length * rng.uniform(1.0, 5.0)
    window = (slice(0, size), slice(0, size))
    along, across = local(window, ship.middle, ship.angle)
    behind, aside = -along - 0.45 * ship.length, np.abs(across)
    fading = np.exp(-np.maximum(behind, 0) / np.float32(0.45 * reach)) * (behind > 0)
    track = np.exp(-((aside / (0.35 * ship.width + 0.03 * np.maximum(behind, 0))) ** 2))
    arms = np.exp(-(((aside - 0.4 * ship.width - rng.uniform(0.12, 0.3) * behind) / (1 + 0.02 * np.abs(behind))) ** 2))
    bow = np.exp(-((outside(ship, window) - 0.5) ** 2) / 1.5) * (along > 0)
    torn = np.clip(0.7 + 0.4 * fractal(rng, size, 7, 3), 0, 1.3)
    opacity = strength * torn * (fading * (track + np.float32(rng.uniform(0.1, 0.6)) * arms) + 0.6 * bow)
    blend(image, foam, np.clip(opacity, 0, 0.95).astype(np.float32))


def draw_ship(rng: np.random.Generator, image: np.ndarray, ship: Ship, sun: float) -> None:
    """Draw the hull with the fittings on its deck, and its shadow on the water."""
    window = window_of(ship, len(image), 4)
    part = image[window]
    tall = min(0.25 * ship.width, 3)
    shadow = replace(ship, middle=moved(ship.middle, sun, tall, 0))
    blend(part, np.float32([6, 10, 16]), np.clip(0.5 - outside(shadow, window), 0, 1) * np.float32(0.45))
    along, across = local(window, ship.middle, ship.angle)
    lengthwise = along / ship.length + 0.5
    sideways = across / np.maximum(_half_width(ship, along), 0.5)
    deck = np.empty_like(part)
    deck[:] = np.float32(HULLS[rng.integers(len(HULLS))]) * np.float32(np.exp(rng.normal(0, 0.12)))
    if ship.length >= 14:
        FITTINGS[ship.kind](rng, deck, lengthwise, sideways, ship)
    rim = np.clip(np.abs(sideways) - 0.6, 0, 1) * np.sign(sideways)  # one side is in the light, the other in the shade
    deck *= 1 + np.float32(0.25) * rng.choice((-1, 1)) * rim[..., None]
    blend(part, deck, np.clip(0.5 - outside(ship, window), 0, 1))


def _fit_boat(
    rng: np.random.Generator, deck: np.ndarray, lengthwise: np.ndarray, sideways: np.ndarray, ship: Ship
) -> None:
    """Draw a cabin and an open cockpit behind it."""
    front = rng.uniform(0.5, 0.7)
    cabin = (lengthwise > front - 0.25) & (lengthwise < front) & (np.abs(sideways) < 0.6)
    deck[cabin] = np.float32(WHITE if rng.random() < 0.5 else DARK)
    deck[(lengthwise < 0.25) & (lengthwise > 0.06) & (np.abs(sideways) < 0.6)] *= np.float32(rng.uniform(0.55, 1))


def _fit_barge(
    rng: np.random.Generator, deck: np.ndarray, lengthwise: np.ndarray, sideways: np.ndarray, ship: Ship
) -> None:
    """Draw a hold with a dark, rusty or sandy load."""
    hold = (np.abs(lengthwise - 0.52) < rng.uniform(0.3, 0.42)) & (np.abs(sideways) < 0.75)
    load = np.float32(rng.choice((DARK, RUST, (168, 150, 118), (96, 90, 84))))
    deck[hold] = load * rng.uniform(0.85, 1.1, (int(hold.sum()), 1)).astype(np.float32)


def _fit_cargo(
    rng: np.random.Generator, deck: np.ndarray, lengthwise: np.ndarray, sideways: np.ndarray, ship: Ship
) -> None:
    """Draw stacks of containers in random colours, with gaps."""
    rows, files = max(int(ship.length / 7), 2), max(int(ship.width / 2.5), 2)
    colours = np.float32(CONTAINERS)[rng.integers(len(CONTAINERS), size=(rows, files))]
    colours *= rng.uniform(0.8, 1.15, (rows, files, 1)).astype(np.float32)
    row = ((lengthwise - 0.2) / 0.68 * rows).astype(int)
    file = ((np.clip(sideways, -0.99, 0.99) + 1) / 2 * files).astype(int)
    stacked = (lengthwise > 0.2) & (lengthwise < 0.88) & (np.abs(sideways) < 0.9)
    stacked &= (rng.random((rows, files)) < 0.85)[row.clip(0, rows - 1), file]
    deck[stacked] = colours[row.clip(0, rows - 1), file][stacked]
    _add_bridge(deck, lengthwise, sideways)


def _fit_tanker(
    rng: np.random.Generator, deck: np.ndarray, lengthwise: np.ndarray, sideways: np.ndarray, ship: Ship
) -> None:
    """Draw pipes along the middle of the deck and across it."""
    deck[(np.abs(sideways) * ship.width / 2 < 0.9) & (lengthwise > 0.2) & (lengthwise < 0.92)] *= np.float32(1.35)
    for cross in rng.uniform(0.3, 0.85, 3):
        deck[(np.abs(lengthwise - cross) * ship.length < 0.8) & (np.abs(sideways) < 0.8)] *= np.float32(1.25)
    _add_bridge(deck, lengthwise, sideways)


def _fit_bulker(
    rng: np.random.Generator, deck: np.ndarray, lengthwise: np.ndarray, sideways: np.ndarray, ship: Ship
) -> None:
    """Draw a row of hatches."""
    n_hatches = rng.integers(4, 8)
    hatch = ((lengthwise - 0.2) / 0.7 * n_hatches % 1 < 0.68) & (lengthwise > 0.2) & (lengthwise < 0.9)
    deck[hatch & (np.abs(sideways) < 0.62)] *= np.float32(rng.choice((0.65, 1.4)))
    _add_bridge(deck, lengthwise, sideways)


def _add_bridge(deck: np.ndarray, lengthwise: np.ndarray, sideways: np.ndarray) -> None:
    """Draw the white bridge at the stern."""
    deck[(lengthwise > 0.06) & (lengthwise < 0.16) & (np.abs(sideways) < 0.9)] = np.float32(WHITE)
    deck[(np.abs(lengthwise - 0.175) < 0.015) & (np.abs(sideways) < 0.9)] *= np.float32(0.55)  # its shadow


FITTINGS = {"boat": _fit_boat, "barge": _fit_barge, "cargo": _fit_cargo, "tanker": _fit_tanker, "bulker": _fit_bulker}
"""Kind -> function that draws the fittings on the deck."""
LARGE = ("cargo", "tanker", "bulker")
SHORTEST, LONGEST = 8.0, 120.0  # pixels
MIN_PIXELS = 8  # minimum area of a ship in the label map
HIDDEN = 0.6  # no ship is placed where the mean opacity of the clouds is greater, because it could not be seen


@dataclass(frozen=True)
class Scene:
    """Image and the label map of its ships."""

    image: np.ndarray
    """(S, S, 3) uint8, [0, 255]."""
    labels: np.ndarray
    """(S, S) uint16: 0 where there is no ship; ships are numbered from 1 without gaps."""


def scene(rng: np.random.Generator, size: int, with_ships: bool) -> Scene:
    """Draw one image.

    Args:
        rng: random generator.
        size: height and width in pixels.
        with_ships: draw at least one ship.

    Returns:
        the image and the label map of its ships, which is all 0 without ships.
    """
    import cv2

    here, opacity = place(rng, size), clouds(rng, size)
    labels = np.zeros((size, size), np.uint16)
    moored, sailing = _fleet(rng, here, opacity, labels) if with_ships else ([], [])
    image, sun = here.image, rng.uniform(0, 2 * np.pi)
    for ship in sailing:
        draw_wake(rng, image, ship, here.foam)
    for ship in (*moored, *sailing):
        draw_ship(rng, image, ship, sun)
    cover(rng, image, opacity)
    blend(image, np.float32([150, 165, 178]), np.full((size, size), rng.beta(1.2, 8), np.float32))  # haze
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.45, 0.75))
    image += np.float32(rng.uniform(0.5, 3)) * rng.standard_normal((size, size, 1), dtype=np.float32)
    return Scene(np.rint(np.clip(image, 0, 255)).astype(np.uint8), labels)


def _fleet(
    rng: np.random.Generator, here: Place, opacity: np.ndarray, labels: np.ndarray
) -> tuple[list[Ship], list[Ship]]:
    """Place ships and number them in `labels`; return the ships moored in groups and those alone at sea."""
    size = len(labels)
    moored: list[Ship] = []
    sailing: list[Ship] = []
    n_groups = int(rng.random() < 0.35) + (len(here.piers) if rng.random() < 0.7 else 0)
    for group in range(n_groups):
        ship = _new_ship(rng, size, at_least=14)
        if group < len(here.piers):
            ship = _at_pier(rng, here.piers[group], ship)
        if not _number(ship, here.blocked, opacity, labels, apart=True):
            continue
        moored.append(ship)
        for _ in range(rng.integers(1, 5)):
            ship = _alongside(rng, ship)
            if not _number(ship, here.blocked, opacity, labels, apart=False):
                break
            moored.append(ship)
    n_alone = int(rng.geometric(0.55)) - int(bool(moored))
    tries = 0
    while len(sailing) < n_alone or not (moored or sailing):
        ship = _new_ship(rng, size, shrink=0.98**tries)
        tries += 1
        # After 100 tries the clouds are ignored, so that the image gets a ship.
        if _number(ship, here.blocked, opacity if tries < 100 else 0 * opacity, labels, apart=True):
            sailing.append(ship)
        elif tries >= 60 and (moored or sailing):
            break
    return moored, sailing


def _new_ship(rng: np.random.Generator, size: int, at_least: float = SHORTEST, shrink: float = 1.0) -> Ship:
    """Draw a ship at a random position; half of them are less than 30 pixels long."""
    length = at_least * (LONGEST / at_least) ** (rng.beta(1.0, 1.3) * shrink)
    kinds = ("boat",) if length < 22 else ("boat", "barge", "cargo") if length < 45 else ("barge", *3 * LARGE)
    width = max(length / rng.uniform(3.2, 5.2 if length < 45 else 7.2), 2.6)
    return Ship(rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi), length, width, str(rng.choice(kinds)))


def _at_pier(rng: np.random.Generator, pier: Pier, ship: Ship) -> Ship:
    """Return the ship, moored along one side of a pier."""
    off = rng.choice((-1.0, 1.0)) * (pier.width / 2 + ship.width / 2 + 1)
    middle = moved(pier.middle, pier.angle, rng.uniform(-0.4, -0.1) * pier.length, off)
    return replace(ship, middle=middle, angle=pier.angle + np.pi * rng.integers(2))


def _alongside(rng: np.random.Generator, ship: Ship) -> Ship:
    """Draw a ship of about the same size that touches the starboard side of `ship`."""
    scale = np.clip(ship.length * rng.uniform(0.75, 1.2), SHORTEST, LONGEST) / ship.length
    length, width = ship.length * scale, max(ship.width * scale * rng.uniform(0.9, 1.1), 2.6)
    step = rng.normal(0, 0.08) * ship.length
    middle = moved(ship.middle, ship.angle, step, (ship.width + width) / 2 + rng.uniform(-0.3, 0.7))
    return Ship(middle, ship.angle + rng.normal(0, 0.012), length, width, ship.kind)


def _number(ship: Ship, blocked: np.ndarray, opacity: np.ndarray, labels: np.ndarray, apart: bool) -> bool:
    """Add a ship to `labels` under the next number if it fits and can be seen there; otherwise change nothing.

    Args:
        ship: the ship at its intended position.
        blocked: (S, S) bool, pixels where no ship can be.
        opacity: (S, S) opacity of the clouds.
        labels: (S, S) label map of the ships so far; their pixels are not overwritten.
        apart: require a gap of two pixels to other ships.

    Returns:
        True if the ship was added.
    """
    window = window_of(ship, len(labels), 4)
    if window is None:
        return False
    away = outside(ship, window)
    free = (away < 0) & (labels[window] == 0)
    n_pixels = int(np.count_nonzero(free))
    if n_pixels < max(MIN_PIXELS, 0.35 * ship.length * ship.width) or blocked[window][free].any():
        return False
    if apart and labels[window][away < 3].any():
        return False
    if opacity[window][free].mean() > HIDDEN:
        return False
    labels[window][free] = labels.max() + 1
    return True
