"""A dense conditional random field (Krähenbühl and Koltun, NIPS 2011): probabilities that follow the image's edges.

pydensecrf2 does the inference; it is an extra, `pip install -e '.[crf]'`, that needs a C++ compiler.
"""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from utils.core.errors import UsageError
from utils.core.prediction_settings import RuleSettings
from utils.masks.instances import fill_instance_holes

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


def check_rules(rules: RuleSettings) -> None:
    """Raise a UsageError for a flag whose value makes no sense, or whose package is not installed."""
    if rules.keep_largest is not None and rules.keep_largest < 1:
        raise UsageError(f"--keep_largest {rules.keep_largest}: a number of components, 1 or more")
    if rules.crf:
        need_crf()


def clean_mask(mask: np.ndarray, rules: RuleSettings) -> np.ndarray:
    """Fill holes, keep the largest components, and empty a full mask, as the rules say.

    Args:
        mask: (H, W) bool, already of `min_area` pixels.
        rules: the flags.

    Returns:
        (H, W) bool.
    """
    if rules.fill_holes:
        mask = fill_instance_holes(mask.astype(np.uint8)) != 0
    if rules.keep_largest is not None and mask.any():
        from scipy import ndimage

        mask = largest_instances(ndimage.label(mask)[0], rules.keep_largest) != 0
    return np.zeros_like(mask) if rules.full_is_empty and mask.all() else mask


def clean_instances(labels: np.ndarray, rules: RuleSettings) -> np.ndarray:
    """Keep the largest objects and empty a map that covers the whole image, as the rules say.

    Args:
        labels: (H, W) uint16, 0 = background, as `label_instances` makes it.
        rules: the flags.

    Returns:
        (H, W) uint16, numbered without a gap.
    """
    if rules.keep_largest is not None:
        labels = largest_instances(labels, rules.keep_largest)
    return np.zeros_like(labels) if rules.full_is_empty and labels.all() else labels


def largest_instances(labels: np.ndarray, count: int) -> np.ndarray:
    """The `count` largest objects (of equally large ones those numbered first), numbered anew in their old order.

    Args:
        labels: (H, W) integers, 0 = background.
        count: 1 or more.

    Returns:
        the same shape and dtype.
    """
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    kept = np.sort(np.argsort(-areas, kind="stable")[:count])
    kept = kept[areas[kept] > 0]
    numbers = np.zeros(len(areas), dtype=labels.dtype)
    numbers[kept] = np.arange(1, len(kept) + 1)
    return numbers[labels]


def constant_images(ids: Iterable[str], picture_of: Callable[[str], np.ndarray]) -> set[str]:
    """Those of `ids` whose image (H, W, C) has one single colour."""
    return {name for name in ids if _is_constant(picture_of(name))}


def _is_constant(image: np.ndarray) -> bool:
    return bool((image == image[:1, :1]).all())
