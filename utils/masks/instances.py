"""Instances: from probabilities to numbered objects, and the files that hold label maps.

Instances are connected components, or a watershed where a net predicts borders too. With a border net, mask minus
border is high inside objects and low where two of them touch: its components are seeds, and the watershed (Meyer 1994;
scikit-image) grows them into the mask until they meet, which is along the borders. Pixels are neighbours by their
edges, not by their corners, everywhere here. NAME_labels.npy holds label maps as uint16, objects numbered from 1.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.arrays import array_writer, open_array
from utils.core.errors import UserError
from utils.core.files import whole_file, write_json
from utils.masks.mask_file import binarize


@dataclass(frozen=True)
class InstanceRules:
    """How probabilities become objects."""

    th: float = 0.5
    """a pixel belongs to an object where its mask probability is greater, [0, 1]."""
    seed_th: float = 0.5
    """and to a seed where mask minus border is greater, [0, 1]; without borders it has no say."""
    min_area: int = 0
    """objects of fewer pixels vanish."""
    fill_holes: bool = False
    """background enclosed by one object becomes part of it (before its pixels are counted)."""


def label_instances(mask: np.ndarray, border: np.ndarray | None, rules: InstanceRules) -> np.ndarray:
    """Number the objects of one image.

    Args:
        mask: (H, W) float16, float32 or float64 probabilities, [0, 1].
        border: the same shape, the probability that a pixel lies between two objects; None: no border net, so that the
            connected components of the mask are the objects.
        rules: thresholds and clean-up.

    Returns:
        (H, W) uint16, 0 = background, objects numbered from 1 without a gap; each hangs together.

    Raises:
        ValueError: shapes differ, or there are more objects than uint16 can number.
    """
    labels = grow_instances(mask, border, rules.th, rules.seed_th)
    return _numbered(fill_instance_holes(labels) if rules.fill_holes else labels, rules.min_area)


def grow_instances(mask: np.ndarray, border: np.ndarray | None, th: float, seed_th: float) -> np.ndarray:
    """The objects before any clean-up: (H, W) int32, 0 = background; arguments as for `label_instances`.

    A component of the mask without a seed is an object of its own: where the border net sees nothing but border, that
    is more often right than that there is nothing.
    """
    from scipy import ndimage

    if mask.ndim != 2 or (border is not None and border.shape != mask.shape):
        raise ValueError(
            f"expected a mask (height, width), and a border like it, found {mask.shape}, {np.shape(border)}"
        )
    inside = binarize(mask, th)
    components, n_components = ndimage.label(inside)
    if border is None or n_components == 0:
        return components
    height = mask.astype(np.float32) - border.astype(np.float32)  # of float16 values: exact
    # only within the mask: a bridge of seed outside of it would make one object of two that do not touch
    seeds, n_seeds = ndimage.label(binarize(height, seed_th) & inside)
    component_of = np.zeros(n_seeds + 1, dtype=np.int64)
    component_of[seeds.ravel()] = components.ravel()  # a seed hangs together, so that it lies in one component
    contested = np.bincount(component_of[1:], minlength=n_components + 1) > 1
    if not contested.any():
        return components
    return _flooded(components, seeds, height, contested)


def _flooded(components: np.ndarray, seeds: np.ndarray, height: np.ndarray, contested: np.ndarray) -> np.ndarray:
    """`components` with those of several seeds divided among these."""
    from skimage.segmentation import watershed

    ground = contested[components]  # the watershed is the slow part, and one seed alone would take all of it anyway
    divided = watershed(-height, np.where(ground, seeds, 0), mask=ground)
    return np.where(ground, divided + (len(contested) - 1), components)  # numbers after those of the components


def fill_instance_holes(labels: np.ndarray) -> np.ndarray:
    """Give background that one object encloses to that object.

    A hole that touches the frame of the image or a second object stays.

    Args:
        labels: (H, W) integers, 0 = background.

    Returns:
        the same shape and dtype; `labels` itself if nothing is filled.
    """
    from scipy import ndimage

    background, n_regions = ndimage.label(labels == 0)
    enclosed = np.ones(n_regions + 1, dtype=bool)
    enclosed[0] = False
    for edge in (background[0], background[-1], background[:, 0], background[:, -1]):
        enclosed[edge] = False
    if not enclosed.any():
        return labels
    base, keys = int(labels.max()) + 1, []
    for region, owner in (
        *((background[1:], labels[:-1]), (background[:-1], labels[1:])),
        *((background[:, 1:], labels[:, :-1]), (background[:, :-1], labels[:, 1:])),
    ):
        meet = enclosed[region] & (owner != 0)
        keys.append(region[meet].astype(np.int64) * base + owner[meet])
    regions, owners = np.divmod(np.unique(np.concatenate(keys)), base)
    alone = np.bincount(regions, minlength=n_regions + 1)[regions] == 1
    if not alone.any():
        return labels
    owner_of = np.zeros(n_regions + 1, dtype=labels.dtype)
    owner_of[regions[alone]] = owners[alone]
    return labels + owner_of[background]


def _numbered(labels: np.ndarray, min_area: int) -> np.ndarray:
    """Number 1.. without a gap, in the order of the numbers before, leaving out objects of fewer pixels."""
    kept = np.bincount(labels.ravel()) >= max(min_area, 1)
    kept[0] = False
    n_objects = int(np.count_nonzero(kept))
    if n_objects > np.iinfo(np.uint16).max:
        raise ValueError(f"expected at most {np.iinfo(np.uint16).max} objects in an image, found {n_objects}")
    numbers = (np.cumsum(kept) * kept).astype(np.uint16)
    return numbers[labels]


def instances_path(masks_path: str | Path) -> Path:
    """Where the label maps of a mask file go: <stem>_labels.npy beside it."""
    return Path(masks_path).with_name(f"{Path(masks_path).stem}_labels.npy")


def write_instance_maps(
    path: Path, ids: Sequence[str], maps: Iterable[np.ndarray], shape: tuple[int, int], about: Mapping[str, Any]
) -> np.ndarray:
    """Write the label maps of `ids`, one at a time; both files appear when all are there.

    Args:
        path: the .npy; the ids and `about` go beside it, in .json.
        ids: N image ids.
        maps: N times (H, W) uint16.
        shape: (H, W).
        about: plain values, what made them.

    Returns:
        (N, H, W) uint16, memory-mapped.
    """
    with array_writer(path, (len(ids), *shape), np.uint16) as writer:
        for labels in maps:
            writer.append(labels[None])
        path.with_suffix(".json").unlink(missing_ok=True)  # an array without its description is half of a pair
    write_json(path.with_suffix(".json"), {"ids": list(ids), **about})
    return open_array(path)


def write_instance_png(path: Path, labels: np.ndarray) -> None:
    """Write a label map (H, W) uint16 as a grey PNG of 16 bits."""
    import cv2

    done, content = cv2.imencode(".png", labels)
    if not done:
        raise UserError(f"{path}: {labels.shape[0]}x{labels.shape[1]} cannot be written as PNG; leave --label_pngs out")
    with whole_file(path) as part:
        part.write_bytes(content.tobytes())


def resize_instances(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) uint16 label map in another (height, width), each pixel the nearest one's; small objects may vanish."""
    import cv2

    if labels.shape == shape:
        return labels
    return cv2.resize(np.asarray(labels), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
