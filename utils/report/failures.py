"""The picture of a model card: the validation images that a net answered worst."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.files import whole_file
from utils.gallery import as_rgb, labelled, outlined
from utils.metrics import binarize
from utils.report.facts import GalleryRow, Judged

TITLES = ("image", "truth", "probability", "overlay")
LONGEST_SIDE = 240
"""Pixels of a tile; larger images are shrunk to it."""
MOST_BYTES = 1_000_000


def write_failures(judged: Judged, path: Path) -> list[GalleryRow]:
    """Draw the worst images that are not all right, as many as MOST_BYTES have room for.

    Returns:
        those that are in the picture, the worst first; none: there is no picture.

    Raises:
        OSError: it cannot be written.
    """
    rows = [row for row in judged.galleries["Worst"] if row.score < 1]
    drawn = [(f"{row.name}  iout {row.score:.1f}, iou {row.iou:.2f}", _tiles(judged, row)) for row in rows]
    while drawn and len(content := _png(drawn)) > MOST_BYTES:
        drawn.pop()
    if not drawn:
        return []
    with whole_file(path) as part:
        part.write_bytes(content)
    return rows[: len(drawn)]


def _tiles(judged: Judged, row: GalleryRow) -> list[np.ndarray]:
    place = judged.place[row.name]
    image, truth, probability = judged.stack.images[place], judged.stack.masks[place], judged.masks.array[row.row]
    found = binarize(probability, judged.threshold)
    if found.sum() < judged.min_area:
        found[:] = False
    return [_shrunk(tile) for tile in (image, truth != 0, probability, outlined(image, truth, found))]


def _shrunk(picture: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8, at most LONGEST_SIDE pixels a side."""
    from PIL import Image

    rgb = as_rgb(picture)
    share = LONGEST_SIDE / max(rgb.shape[:2])
    if share >= 1:
        return rgb
    size = max(1, round(rgb.shape[1] * share)), max(1, round(rgb.shape[0] * share))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))


def _png(drawn: Sequence[tuple[str, Sequence[np.ndarray]]]) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(labelled(drawn, TITLES)).save(content, format="PNG")
    return content.getvalue()
