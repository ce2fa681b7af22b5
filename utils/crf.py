"""A dense conditional random field (Krähenbühl and Koltun, NIPS 2011): probabilities that follow the image's edges.

pydensecrf2 does the inference; it is an extra, `pip install -e '.[crf]'`, that needs a C++ compiler.
"""

from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from utils.errors import UsageError

LEAST = 1e-4
"""Probabilities are kept this far from 0 and 1, where their logarithms end; float16 rounds to 1 from .99976."""


class Potentials(NamedTuple):
    """How far a pixel speaks to others, in pixels and grey values of 0..255, and how much it counts."""

    smooth_xy: float = 3.0
    """standard deviation of the distance at which pixels smooth each other, whatever their colour."""
    smooth_weight: float = 3.0
    """the cost of two such pixels disagreeing."""
    colour_xy: float = 30.0
    """the same for pixels of like colour: distance, ..."""
    colour_grey: float = 13.0
    """... difference of colour, ..."""
    colour_weight: float = 5.0
    """... and cost."""
    steps: int = 5
    """of mean-field inference."""


USUAL = Potentials()


def need_crf() -> None:
    """Raise a UsageError with the command that installs it, if pydensecrf2 is not there."""
    if find_spec("pydensecrf") is None:
        raise UsageError("--crf: needs pydensecrf2, which is not installed; run: pip install -e '.[crf]'")


def refined(probabilities: np.ndarray, image: np.ndarray, potentials: Potentials = USUAL) -> np.ndarray:
    """Probabilities after mean-field inference over mask and background.

    Args:
        probabilities: (H, W) float, [0, 1].
        image: (H, W, C) uint8, C = 1 (grey) or 3 (RGB).
        potentials: of the pairs of pixels.

    Returns:
        (H, W) float32, [0, 1].

    Raises:
        ValueError: the sizes differ.
        UsageError: pydensecrf2 is not installed.
    """
    need_crf()
    from pydensecrf.densecrf import DenseCRF2D

    height, width = probabilities.shape
    if image.shape[:2] != (height, width):
        raise ValueError(f"expected an image of {height}x{width}, as its mask, found {image.shape[0]}x{image.shape[1]}")
    inside = np.clip(probabilities.astype(np.float32), LEAST, 1 - LEAST).ravel()
    field = DenseCRF2D(width, height, 2)
    field.setUnaryEnergy(np.ascontiguousarray(-np.log(np.stack([1 - inside, inside]))))
    field.addPairwiseGaussian(sxy=potentials.smooth_xy, compat=potentials.smooth_weight)
    field.addPairwiseBilateral(
        sxy=potentials.colour_xy,
        srgb=potentials.colour_grey,
        rgbim=np.array(np.broadcast_to(image, (height, width, 3)), order="C"),
        compat=potentials.colour_weight,
    )
    return np.array(field.inference(potentials.steps), dtype=np.float32)[1].reshape(height, width)
