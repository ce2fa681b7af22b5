"""The border that train_border.py learns: where objects touch, and their rims."""

import numpy as np

BORDERS = ("outline", "touching", "both")


def border_of(objects: np.ndarray, kind: str, width: int) -> np.ndarray:
    """The border in a map of objects.

    Distances are counted in king's moves; beyond the image's frame there is nothing, so the frame is no border.

    Args:
        objects: (h, w) uint8 or uint16, 0 = background, objects numbered as they like; a plain mask is one object.
        kind: outline: pixels of an object that have background or another object within `width`; touching: pixels, also
            of the background, that have two objects within `width`; both: either.
        width: pixels, at least 1.

    Returns:
        (h, w) uint8, 0 or 1.
    """
    import cv2

    window = np.ones((2 * width + 1, 2 * width + 1), dtype=np.uint8)
    objects = np.ascontiguousarray(objects)
    highest = cv2.dilate(objects, window)
    border = np.zeros(objects.shape, dtype=bool)
    if kind != "touching":
        border |= (objects != 0) & (cv2.erode(objects, window) != highest)
    if kind != "outline":
        beyond = np.iinfo(objects.dtype).max
        lowest = beyond - cv2.dilate(np.where(objects != 0, beyond - objects, 0).astype(objects.dtype), window)
        border |= (highest != 0) & (lowest != highest)
    return border.astype(np.uint8)
