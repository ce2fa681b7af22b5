"""Post-processing: how the probabilities of an image become a mask, or a map of instances, in this order:

1. `crf` refines the probabilities by the image's edges, before the threshold: a dense conditional random field
   (Krähenbühl and Koltun, NIPS 2011) of pydensecrf2, an extra that needs a C++ compiler (`pip install -e '.[crf]'`).
2. `min_area` empties a mask of fewer pixels, as the threshold was fitted; `fill_holes` then gives what a mask encloses
   to it. Instances are made from seeds over `seed_th`, filled, and then each counted (utils/masks/instances.py).
3. `keep_largest` leaves the K largest connected components or instances.
4. `constant_is_empty` empties images of one single colour, and `full_is_empty` masks that cover the whole image.

Pixels are neighbours by their edges, not by their corners.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from utils.core.errors import UsageError, UserError
from utils.core.prediction_settings import RuleSettings
from utils.data.packed_data import Shapes
from utils.masks.instances import InstanceRules, fill_instance_holes, label_instances
from utils.masks.mask_file import Masks, binarize

LEAST = 1e-4
"""Probabilities are kept this far from 0 and 1, where their logarithms end; float16 rounds to 1 from .99976."""


@dataclass(frozen=True)
class PostProcessing:
    """How the probabilities of one image become a mask, or instances."""

    threshold: float = 0.5
    """A pixel is mask where its probability is greater ..."""
    min_area: int = 0
    """... and a mask of fewer pixels is empty."""
    instances: InstanceRules = field(default_factory=InstanceRules)
    """Threshold, seeds, minimum area and holes of instances."""
    rules: RuleSettings = field(default_factory=RuleSettings)
    """The flags: CRF, holes of masks, largest components, full and constant images."""


@dataclass(frozen=True)
class PostProcessed:
    """The masks and instances of a mask file after post-processing, made one image at a time."""

    masks: Masks
    how: PostProcessing
    shapes: Shapes
    """(height, width) of the masks to make, for all or by id; probabilities of another size are resized."""
    image_of: Callable[[str], np.ndarray] | None = None
    """id -> the packed image (H, W, C) uint8, where a rule needs it."""
    empty: Collection[str] = ()
    """ids whose mask is empty whatever was predicted: gated out, or of one single colour."""

    def each_mask(self, ids: Iterable[str]) -> Iterator[np.ndarray]:
        """Yield the bool mask of each image, of the size that `shapes` gives it."""
        rows = {name: row for row, name in enumerate(self.masks.ids)}
        return (self._mask(name, rows[name]) for name in ids)

    def each_instance_map(self) -> Iterator[np.ndarray]:
        """Yield the label map (H, W) uint16 of each image, in the order and at the size of the mask file.

        Raises:
            UserError: more instances in an image than can be numbered.
        """
        return (self._instance_map(name, row) for row, name in enumerate(self.masks.ids))

    def shape_of(self, name: str) -> tuple[int, int]:
        """Return the (height, width) that an image's mask should have."""
        return self.shapes if isinstance(self.shapes, tuple) else self.shapes[name]

    def _mask(self, name: str, row: int) -> np.ndarray:
        shape, th = self.shape_of(name), self.how.threshold
        if name in self.empty:
            return np.zeros(shape, dtype=bool)
        probabilities = self._probabilities(name, row)
        mask = binarize(probabilities, th)
        if np.count_nonzero(mask) < self.how.min_area:
            return np.zeros(shape, dtype=bool)
        if mask.shape != shape:
            mask = binarize(_resized(probabilities, shape), th)
        return clean_mask(mask, self.how.rules)

    def _instance_map(self, name: str, row: int) -> np.ndarray:
        if name in self.empty:
            return np.zeros(self.masks.array.shape[1:], dtype=np.uint16)
        border = None if self.masks.border is None else self.masks.border[row]
        try:
            labels = label_instances(self._probabilities(name, row), border, self.how.instances)
        except ValueError as error:
            raise UserError(f"{self.masks.path}: {name}: {error}; a larger --th or --min_area leaves fewer") from None
        return clean_instances(labels, self.how.rules)

    def _probabilities(self, name: str, row: int) -> np.ndarray:
        """(H, W) of one image, refined by its edges if the rules say so."""
        probabilities = self.masks.array[row]
        return refined(probabilities, self.image_of(name)) if self.how.rules.crf else probabilities


def _resized(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) probabilities as float32 of another (height, width)."""
    import cv2

    return cv2.resize(probabilities.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)


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
