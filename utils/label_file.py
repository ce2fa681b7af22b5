"""Files of label maps: NAME_labels.npy, uint16, objects numbered from 1, with the ids in .json; and 16-bit PNGs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.arrays import array_writer, open_array
from utils.errors import UserError
from utils.files import whole_file, write_json


def labels_beside(masks_path: str | Path) -> Path:
    """Where the label maps of a mask file go: <stem>_labels.npy beside it."""
    return Path(masks_path).with_name(f"{Path(masks_path).stem}_labels.npy")


def write_labels(
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


def write_png(path: Path, labels: np.ndarray) -> None:
    """Write a label map (H, W) uint16 as a grey PNG of 16 bits."""
    import cv2

    done, content = cv2.imencode(".png", labels)
    if not done:
        raise UserError(f"{path}: {labels.shape[0]}x{labels.shape[1]} cannot be written as PNG; leave --label_pngs out")
    with whole_file(path) as part:
        part.write_bytes(content.tobytes())


def resized_labels(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) uint16 label map in another (height, width), each pixel the nearest one's; small objects may vanish."""
    import cv2

    if labels.shape == shape:
        return labels
    return cv2.resize(np.asarray(labels), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
