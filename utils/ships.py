"""Synthetic ships on a synthetic sea: hulls of many sizes and colours, wakes, and ships moored side by side.

No two ships share a pixel in the truth, but those of a group touch. Empty images have all that the others have (coasts,
rocks, foam, clouds) except ships. The sizes are those of the Airbus ship detection set: most ships are small.
"""

from dataclasses import dataclass, replace

import numpy as np

from utils.brushes import blend
from utils.hulls import Ship, draw_ship, draw_wake, moved, outside, window_of
from utils.sea import Pier, Place, clouds, cover, place

LARGE = ("cargo", "tanker", "bulker")
SHORTEST, LONGEST = 8.0, 120.0  # pixels
MIN_PIXELS = 8  # of a ship in the truth
HIDDEN = 0.6  # a ship under clouds of more than this opacity in the mean could not be seen, and is not put there


@dataclass(frozen=True)
class Scene:
    """What one image shows."""

    image: np.ndarray
    """(S, S, 3) uint8, [0, 255]."""
    labels: np.ndarray
    """(S, S) uint16, 0 = no ship, ships numbered from 1 without a gap."""


def scene(rng: np.random.Generator, size: int, with_ships: bool) -> Scene:
    """Draw one image.

    Args:
        rng: decides all that is left to chance.
        size: height and width in pixels.
        with_ships: put at least one in.

    Returns:
        the image, and the map of its ships; empty without.
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
    """Find places for ships, and number them in `labels`: those that lie in groups, those that sail or drift alone."""
    size = len(labels)
    moored: list[Ship] = []
    sailing: list[Ship] = []
    n_groups = int(rng.random() < 0.35) + (len(here.piers) if rng.random() < 0.7 else 0)
    for group in range(n_groups):
        ship = _new_ship(rng, size, at_least=14)
        if group < len(here.piers):
            ship = _beside(rng, here.piers[group], ship)
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
        if _number(ship, here.blocked, opacity if tries < 100 else 0 * opacity, labels, apart=True):
            sailing.append(ship)
        elif tries >= 60 and (moored or sailing):
            break
    return moored, sailing


def _new_ship(rng: np.random.Generator, size: int, at_least: float = SHORTEST, shrink: float = 1.0) -> Ship:
    """A ship anywhere: half of them are less than 30 pixels long."""
    length = at_least * (LONGEST / at_least) ** (rng.beta(1.0, 1.3) * shrink)
    kinds = ("boat",) if length < 22 else ("boat", "barge", "cargo") if length < 45 else ("barge", *3 * LARGE)
    width = max(length / rng.uniform(3.2, 5.2 if length < 45 else 7.2), 2.6)
    return Ship(rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi), length, width, str(rng.choice(kinds)))


def _beside(rng: np.random.Generator, pier: Pier, ship: Ship) -> Ship:
    """The ship, moored along one side of a pier."""
    off = rng.choice((-1.0, 1.0)) * (pier.width / 2 + ship.width / 2 + 1)
    middle = moved(pier.middle, pier.angle, rng.uniform(-0.4, -0.1) * pier.length, off)
    return replace(ship, middle=middle, angle=pier.angle + np.pi * rng.integers(2))


def _alongside(rng: np.random.Generator, ship: Ship) -> Ship:
    """A ship of about the same size, on the starboard side of `ship` and touching it."""
    scale = np.clip(ship.length * rng.uniform(0.75, 1.2), SHORTEST, LONGEST) / ship.length
    length, width = ship.length * scale, max(ship.width * scale * rng.uniform(0.9, 1.1), 2.6)
    step = rng.normal(0, 0.08) * ship.length
    middle = moved(ship.middle, ship.angle, step, (ship.width + width) / 2 + rng.uniform(-0.3, 0.7))
    return Ship(middle, ship.angle + rng.normal(0, 0.012), length, width, ship.kind)


def _number(ship: Ship, blocked: np.ndarray, opacity: np.ndarray, labels: np.ndarray, apart: bool) -> bool:
    """Give the ship the next number in `labels`, if it can lie and be seen there; otherwise change nothing.

    Args:
        ship: where it would be.
        blocked: (S, S) bool, land.
        opacity: (S, S), clouds.
        labels: (S, S), the ships so far, whose pixels stay theirs.
        apart: keep two pixels away from them.
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
