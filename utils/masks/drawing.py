"""Rows of pictures for visual inspection: image | truth | probability | mask."""

from collections.abc import Sequence

import numpy as np

GAP = 4


def as_rgb(picture: np.ndarray) -> np.ndarray:
    """Convert (h, w) or (h, w, 1 or 3) uint8, bool or float in [0, 1] to (h, w, 3) uint8."""
    if picture.dtype != np.uint8:
        picture = np.round(255 * picture.astype(np.float32)).astype(np.uint8)
    picture = picture if picture.ndim == 3 else picture[..., None]
    return np.broadcast_to(picture, (*picture.shape[:2], 3))


def coloured(labels: np.ndarray) -> np.ndarray:
    """Colour a label map (h, w) as (h, w, 3) uint8: black background, distant hues for consecutive numbers."""
    hue = (labels.astype(np.float64) * 0.618034) % 1  # golden-ratio steps keep successive hues far apart
    angle = 6 * hue[..., None] + np.array([0, 4, 2])
    bright = np.clip(np.abs(angle % 6 - 3) - 1, 0, 1)
    return np.where(labels[..., None] == 0, 0, 55 + 200 * bright).astype(np.uint8)


def outlined(image: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Tint the true pixels of an image green, the predicted ones red, and pixels that are both yellow.

    Args:
        image: (h, w, 1 or 3) uint8.
        truth: (h, w), non-zero pixels are mask.
        mask: (h, w), non-zero pixels are mask.

    Returns:
        (h, w, 3) uint8.
    """
    tinted = as_rgb(image).astype(np.float32)
    tint = np.stack([mask != 0, truth != 0, np.zeros_like(truth, bool)], axis=-1)
    covered = tint.any(-1, keepdims=True)
    return np.where(covered, 0.6 * tinted + 0.4 * 255 * tint, tinted).astype(np.uint8)


def grid(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Arrange rows of equally many pictures in one (H, W, 3) uint8 picture with white gaps.

    The pictures of a row have one size; if rows differ, the smaller pictures are at the upper left of their places.
    """
    tiles = [[as_rgb(picture) for picture in row] for row in rows]
    width = max(row[0].shape[1] for row in tiles)
    tall = GAP + sum(row[0].shape[0] + GAP for row in tiles)
    canvas, top = np.full((tall, len(tiles[0]) * (width + GAP) + GAP, 3), 255, dtype=np.uint8), GAP
    for row in tiles:
        for number, tile in enumerate(row):
            left = GAP + number * (width + GAP)
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        top += row[0].shape[0] + GAP
    return canvas


def labelled(rows: Sequence[tuple[str, Sequence[np.ndarray]]], titles: Sequence[str], least: int = 160) -> np.ndarray:
    """Arrange rows of pictures with a title above each column and a caption above each row.

    Args:
        rows: (caption, pictures), all pictures of a row of one size.
        titles: one word for each column.
        least: pictures whose longer side is shorter than this many pixels are enlarged by an integer factor.

    Returns:
        (H, W, 3) uint8, on light grey so that the edge of a white mask is visible.
    """
    from PIL import Image, ImageDraw

    shapes = [pictures[0].shape[:2] for _, pictures in rows]
    factors = [max(1, -(-least // max(shape))) for shape in shapes]
    sizes = [(width * factor, height * factor) for (height, width), factor in zip(shapes, factors, strict=True)]
    wide, line = max(width for width, _ in sizes) + GAP, 16
    tall = line + sum(height + GAP + line for _, height in sizes) + GAP
    canvas = Image.new("RGB", (len(titles) * wide + GAP, tall), "lightgrey")
    draw, top = ImageDraw.Draw(canvas), line
    for column, title in enumerate(titles):
        draw.text((GAP + column * wide, 2), title, fill="black")
    for (caption, pictures), size in zip(rows, sizes, strict=True):
        draw.text((GAP, top + 2), caption, fill="black")
        for column, picture in enumerate(pictures):
            tile = Image.fromarray(as_rgb(picture)).resize(size, Image.Resampling.NEAREST)
            canvas.paste(tile, (GAP + column * wide, top + line))
        top += size[1] + GAP + line
    return np.asarray(canvas)
