"""Border targets for train_border.py: where instances touch, and their outlines."""

import numpy as np

BORDERS = ("outline", "touching", "both")


def border_of(objects: np.ndarray, kind: str, width: int) -> np.ndarray:
    """Return the border pixels of a label map.

    Distances are Chebyshev distances (king's moves). Pixels beyond the image frame are ignored, so the frame itself is
    not a border.

    Args:
        objects: (h, w) uint8 or uint16, 0 = background, instances with any distinct numbers; a plain mask is one
            instance.
        kind: outline: pixels of an instance that have background or another instance within `width`; touching: pixels,
            including background, that have two instances within `width`; both: the union of the two.
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
