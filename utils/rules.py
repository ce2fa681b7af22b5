"""Rules of thumb for masks and objects, in this order:

1. `crf` refines the probabilities by the image's edges (utils/crf.py), before the threshold.
2. `min_area` empties a mask of fewer pixels, as the threshold was fitted; `fill_holes` then gives what a mask encloses
   to it. Objects are made from seeds over `seed_th`, filled, and then each counted (utils/objects.py).
3. `keep_largest` leaves the K largest connected components or objects.
4. `constant_is_empty` empties images of one single colour, and `full_is_empty` masks that cover the whole image.

Pixels are neighbours by their edges, not by their corners.
"""

from collections.abc import Callable, Iterable

import numpy as np

from utils.crf import need_crf
from utils.errors import UsageError
from utils.objects import fill_object_holes
from utils.prediction_settings import RuleSettings


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
        mask = fill_object_holes(mask.astype(np.uint8)) != 0
    if rules.keep_largest is not None and mask.any():
        from scipy import ndimage

        mask = largest_objects(ndimage.label(mask)[0], rules.keep_largest) != 0
    return np.zeros_like(mask) if rules.full_is_empty and mask.all() else mask


def clean_labels(labels: np.ndarray, rules: RuleSettings) -> np.ndarray:
    """Keep the largest objects and empty a map that covers the whole image, as the rules say.

    Args:
        labels: (H, W) uint16, 0 = background, as `label_objects` makes it.
        rules: the flags.

    Returns:
        (H, W) uint16, numbered without a gap.
    """
    if rules.keep_largest is not None:
        labels = largest_objects(labels, rules.keep_largest)
    return np.zeros_like(labels) if rules.full_is_empty and labels.all() else labels


def largest_objects(labels: np.ndarray, count: int) -> np.ndarray:
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
