"""Instances: label maps from probabilities, and the files that store label maps.

Instances are the connected components of the mask if the network predicts no borders. If it does, mask minus border is
high inside instances and low where two of them touch. The connected components where it is high are seeds, and a
watershed (Meyer 1994; scikit-image) grows them into the mask until they meet, which happens along the borders.

Pixels are neighbours if they share an edge (4-connectivity) everywhere in this module. NAME_labels.npy holds label maps
as uint16 with instances numbered from 1.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.arrays import Rows, Shape
from utils.core.errors import UserError
from utils.core.files import atomic_file, write_json
from utils.data.compact_rows import open_predictions, predictions_writer
from utils.masks.mask_file import binarize


@dataclass(frozen=True)
class InstanceRules:
    """Rules that turn probabilities into instances."""

    th: float = 0.5
    """pixels with a mask probability greater than this belong to an instance, [0, 1]."""
    seed_th: float = 0.5
    """pixels where mask minus border is greater than this belong to a seed, [0, 1]; unused without borders."""
    min_area: int = 0
    """instances with fewer pixels than this are removed."""
    fill_holes: bool = False
    """True if background enclosed by one instance becomes part of it (before its pixels are counted)."""


def label_instances(mask: np.ndarray, border: np.ndarray | None, rules: InstanceRules) -> np.ndarray:
    """Return the label map of one image.

    Args:
        mask: (H, W) float16, float32 or float64 probabilities, [0, 1].
        border: same shape, the probability that a pixel is between two instances; None if the network predicts no
            borders, so that the instances are the connected components of the mask.
        rules: thresholds and clean-up.

    Returns:
        (H, W) uint16, 0 = background, instances numbered from 1 without a gap; each instance is connected.

    Raises:
        ValueError: shapes differ, or there are more instances than uint16 can number.
    """
    labels = grow_instances(mask, border, rules.th, rules.seed_th)
    return _numbered(fill_instance_holes(labels) if rules.fill_holes else labels, rules.min_area)


def grow_instances(mask: np.ndarray, border: np.ndarray | None, th: float, seed_th: float) -> np.ndarray:
    """Return the instances before any clean-up, (H, W) int32, 0 = background (arguments as for `label_instances`).

    A component of the mask without a seed becomes one instance: where the network predicts nothing but border, this is
    right more often than removing the component.
    """
    if mask.ndim != 2 or (border is not None and border.shape != mask.shape):
        raise ValueError(
            f"expected a mask (height, width) and a border of the same shape, found {mask.shape}, {np.shape(border)}"
        )
    inside = binarize(mask, th)
    components, n_components = connected_components(inside)
    if border is None or n_components == 0:
        return components
    height = mask.astype(np.float32) - border.astype(np.float32)  # exact for float16 values
    # only within the mask: a bridge of seed pixels outside it would merge two instances that do not touch
    seeds, n_seeds = connected_components(binarize(height, seed_th) & inside)
    component_of = np.zeros(n_seeds + 1, dtype=np.int64)
    component_of[seeds.ravel()] = components.ravel()  # a seed is connected, so it is inside one component
    contested = np.bincount(component_of[1:], minlength=n_components + 1) > 1
    if not contested.any():
        return components
    return _flooded(components, seeds, height, contested)


def connected_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the connected components of a mask (H, W) bool, numbered from 1 in the order of their first pixels.

    Returns:
        (H, W) int32, 0 = background, and the number of components.
    """
    import cv2  # takes half as long as scipy's

    count, labels = cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=4)
    return labels, count - 1


def window_around(occupied: np.ndarray) -> tuple[slice, slice]:
    """Return (rows, columns) of the smallest window with all pixels of a mask (H, W) bool; one pixel if it is empty."""
    rows, columns = (np.flatnonzero(occupied.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return np.s_[:1, :1]
    return np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _flooded(components: np.ndarray, seeds: np.ndarray, height: np.ndarray, contested: np.ndarray) -> np.ndarray:
    """Split each component with several seeds among these seeds."""
    from skimage.segmentation import watershed

    ground = contested[components]  # the watershed is slow, and a single seed would fill its component anyway
    divided = watershed(-height, np.where(ground, seeds, 0), mask=ground)
    return np.where(ground, divided + (len(contested) - 1), components)  # new numbers follow the components' numbers


def fill_instance_holes(labels: np.ndarray) -> np.ndarray:
    """Assign background that one instance encloses to that instance.

    Background regions that touch the image frame or a second instance are not filled.

    Args:
        labels: (H, W) integers, 0 = background.

    Returns:
        same shape and dtype; `labels` itself if nothing is filled.
    """
    background, n_regions = connected_components(labels == 0)
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
    """Renumber instances from 1 without a gap, in their old order, after removing those under `min_area` pixels."""
    kept = np.bincount(labels.ravel()) >= max(min_area, 1)
    kept[0] = False
    n_objects = int(np.count_nonzero(kept))
    if n_objects > np.iinfo(np.uint16).max:
        raise ValueError(f"expected at most {np.iinfo(np.uint16).max} objects in an image, found {n_objects}")
    numbers = (np.cumsum(kept) * kept).astype(np.uint16)
    return numbers[labels]


def instances_path(masks_path: str | Path) -> Path:
    """Return the path for the label maps of a mask file: <stem>_labels.npy in the same folder."""
    return Path(masks_path).with_name(f"{Path(masks_path).stem}_labels.npy")


def write_instance_maps(
    path: Path, ids: Sequence[str], maps: Iterable[np.ndarray], shapes: Sequence[Shape], about: Mapping[str, Any]
) -> Rows:
    """Write the label maps of `ids` one at a time; both files appear only after the last map is written.

    Args:
        path: the .npy; `ids` and `about` are stored in a .json of the same name.
        ids: N image ids.
        maps: N label maps (H, W) uint16.
        shapes: (H, W) of each of them.
        about: plain values that describe how the maps were made.

    Returns:
        the N maps, memory-mapped.
    """
    with predictions_writer(path, shapes, "uint16") as (writer, described):
        for labels in maps:
            writer.append(labels[None])
        path.with_suffix(".json").unlink(missing_ok=True)  # an old description must not be paired with the new array
    write_json(path.with_suffix(".json"), {"ids": list(ids), **described, **about})
    return open_predictions(path, described, "uint16")


def write_instance_png(path: Path, labels: np.ndarray) -> None:
    """Write a label map (H, W) uint16 as a 16-bit grey PNG."""
    import cv2

    done, content = cv2.imencode(".png", labels)
    if not done:
        raise UserError(
            f"{path}: cannot write a label map of {labels.shape[0]}x{labels.shape[1]} as PNG; leave out --label_pngs"
        )
    with atomic_file(path) as part:
        part.write_bytes(content.tobytes())


def resize_instances(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize a label map (H, W) uint16 to `shape` (height, width) by nearest neighbour; small instances may vanish."""
    import cv2

    if labels.shape == shape:
        return labels
    return cv2.resize(np.asarray(labels), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
