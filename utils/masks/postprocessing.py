"""Post-processing: turn the probabilities of an image into a mask or a label map.

The steps, in this order:

1. `crf` refines the probabilities along the image's edges, before the threshold is applied. It is the dense conditional
   random field of Krähenbühl and Koltun (NIPS 2011) in pydensecrf2, an optional dependency that needs a C++ compiler
   (`make crf`).
2. Masks: `min_area` empties masks with fewer pixels, counted before holes are filled because the threshold was fitted
   that way; then `fill_holes` fills background that the mask encloses. Instances: they are grown from seeds above
   `seed_th`, their holes are filled, and then those with fewer pixels are removed (utils/masks/instances.py).
3. `keep_largest` keeps the K largest connected components or instances.
4. `constant_is_empty` empties the masks of images of one single colour, and `full_is_empty` empties masks that cover
   the whole image.

Pixels are neighbours if they share an edge (4-connectivity).
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from utils.core.errors import UsageError, UserError
from utils.core.prediction_settings import RuleSettings
from utils.data.packed_data import Shapes
from utils.masks.instances import InstanceRules, connected_components, fill_instance_holes, label_instances
from utils.masks.mask_file import Masks, binarize

LEAST = 1e-4
"""Probabilities are clipped this far from 0 and 1, where logarithms diverge; float16 rounds to 1 from .99976."""


@dataclass(frozen=True)
class PostProcessing:
    """Thresholds and rules that turn the probabilities of one image into a mask or a label map."""

    threshold: float = 0.5
    """Pixels with a probability greater than this are mask."""
    min_area: int = 0
    """Masks with fewer pixels than this are emptied."""
    instances: InstanceRules = field(default_factory=InstanceRules)
    """Thresholds, minimum area and hole filling for instances."""
    rules: RuleSettings = field(default_factory=RuleSettings)
    """The flags for the CRF, holes in masks, largest components, full masks and constant images."""


@dataclass(frozen=True)
class PostProcessed:
    """The masks and instances of a mask file after post-processing, computed one image at a time."""

    masks: Masks
    how: PostProcessing
    shapes: Shapes
    """(height, width) of the output masks, for all images or by id; probabilities of another size are resized."""
    image_of: Callable[[str], np.ndarray] | None = None
    """id -> the packed image (H, W, C) uint8; only used if a rule needs the image."""
    empty: Collection[str] = ()
    """ids whose mask is empty regardless of the prediction: gated out, or images of one single colour."""

    def each_mask(self, ids: Iterable[str]) -> Iterator[np.ndarray]:
        """Yield the bool mask of each image, at its size in `shapes`."""
        rows = {name: row for row, name in enumerate(self.masks.ids)}
        return (self._mask(name, rows[name]) for name in ids)

    def each_instance_map(self) -> Iterator[np.ndarray]:
        """Yield the label map (H, W) uint16 of each image, in the order and at the size of the mask file.

        Raises:
            UserError: an image has more instances than uint16 can number.
        """
        return (self._instance_map(name, row) for row, name in enumerate(self.masks.ids))

    def shape_of(self, name: str) -> tuple[int, int]:
        """Return the (height, width) of an image's output mask."""
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
            return np.zeros(self.masks.shapes[row], dtype=np.uint16)
        border = None if self.masks.border is None else self.masks.border[row]
        try:
            labels = label_instances(self._probabilities(name, row), border, self.how.instances)
        except ValueError as error:
            raise UserError(f"{self.masks.path}: {name}: {error}; use a larger --th or --min_area") from None
        return clean_instances(labels, self.how.rules)

    def _probabilities(self, name: str, row: int) -> np.ndarray:
        """Return the (H, W) probabilities of one image, refined by the CRF if the rules ask for it."""
        probabilities = self.masks.array[row]
        return refined(probabilities, self.image_of(name)) if self.how.rules.crf else probabilities


def _resized(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize (H, W) probabilities to `shape` (height, width), float32."""
    import cv2

    return cv2.resize(probabilities.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)


class Potentials(NamedTuple):
    """Pairwise potentials of the CRF: standard deviations in pixels and in grey values (0..255), and weights."""

    smooth_xy: float = 3.0
    """standard deviation of the distance between pixels that smooth each other regardless of colour."""
    smooth_weight: float = 3.0
    """cost when two pixels within `smooth_xy` disagree."""
    colour_xy: float = 30.0
    """standard deviation of the distance between pixels of similar colour that smooth each other."""
    colour_grey: float = 13.0
    """standard deviation of the colour difference that counts as similar."""
    colour_weight: float = 5.0
    """cost when two pixels of similar colour disagree."""
    steps: int = 5
    """number of mean-field inference steps."""


DEFAULT_POTENTIALS = Potentials()


def need_crf() -> None:
    """Raise UsageError with the install command if pydensecrf2 is not installed."""
    if find_spec("pydensecrf") is None:
        raise UsageError("--crf: needs pydensecrf2, which is not installed; run: make crf")


def refined(probabilities: np.ndarray, image: np.ndarray, potentials: Potentials = DEFAULT_POTENTIALS) -> np.ndarray:
    """Return the probabilities after mean-field inference over mask and background.

    Args:
        probabilities: (H, W) float, [0, 1].
        image: (H, W, C) uint8, C = 1 (grey) or 3 (RGB).
        potentials: pairwise potentials.

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
        raise ValueError(
            f"expected an image of {height}x{width}, the size of its mask, found {image.shape[0]}x{image.shape[1]}"
        )
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
    """Raise UsageError if a flag has an invalid value or needs a package that is not installed."""
    if rules.keep_largest is not None and rules.keep_largest < 1:
        raise UsageError(f"--keep_largest {rules.keep_largest}: expected a number of components, 1 or more")
    if rules.crf:
        need_crf()


def clean_mask(mask: np.ndarray, rules: RuleSettings) -> np.ndarray:
    """Fill holes, keep the largest components and empty a full mask, according to the rules.

    Args:
        mask: (H, W) bool, with at least `min_area` pixels.
        rules: the flags.

    Returns:
        (H, W) bool.
    """
    if rules.fill_holes:
        mask = fill_instance_holes(mask.astype(np.uint8)) != 0
    if rules.keep_largest is not None and mask.any():
        mask = largest_instances(connected_components(mask)[0], rules.keep_largest) != 0
    return np.zeros_like(mask) if rules.full_is_empty and mask.all() else mask


def clean_instances(labels: np.ndarray, rules: RuleSettings) -> np.ndarray:
    """Keep the largest instances and empty a label map without background, according to the rules.

    Args:
        labels: (H, W) uint16, 0 = background, as returned by `label_instances`.
        rules: the flags.

    Returns:
        (H, W) uint16, numbered without a gap.
    """
    if rules.keep_largest is not None:
        labels = largest_instances(labels, rules.keep_largest)
    return np.zeros_like(labels) if rules.full_is_empty and labels.all() else labels


def largest_instances(labels: np.ndarray, count: int) -> np.ndarray:
    """Keep the `count` largest instances and renumber them from 1 in their old order; ties keep the lower numbers.

    Args:
        labels: (H, W) integers, 0 = background.
        count: 1 or more.

    Returns:
        same shape and dtype.
    """
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    kept = np.sort(np.argsort(-areas, kind="stable")[:count])
    kept = kept[areas[kept] > 0]
    numbers = np.zeros(len(areas), dtype=labels.dtype)
    numbers[kept] = np.arange(1, len(kept) + 1)
    return numbers[labels]


def constant_images(ids: Iterable[str], picture_of: Callable[[str], np.ndarray]) -> set[str]:
    """Return the ids whose image (H, W, C) has one single colour."""
    return {name for name in ids if _is_constant(picture_of(name))}


def _is_constant(image: np.ndarray) -> bool:
    return bool((image == image[:1, :1]).all())
