"""Border targets for train_border.py: where objects touch, and their outlines."""

import torch
from torch import Tensor
from torch.nn import functional as F


def border_of(objects: Tensor, kind: str, width: int) -> Tensor:
    """Return the border pixels of label maps.

    Distances are Chebyshev distances (king's moves). Pixels beyond the image frame are ignored, so the frame itself is
    not a border.

    Args:
        objects: (B, 1, S, S) uint8 or int32 below 2^24, 0 = background, objects with any distinct numbers; a plain mask
            is one object.
        kind: outline: pixels of an object that have background or another object within `width`; touching: pixels,
            including background, that have two objects within `width`; both: the union of the two.
        width: pixels, at least 1.

    Returns:
        (B, 1, S, S) uint8, 0 or 1.
    """

    def highest_around(values: Tensor) -> Tensor:
        return F.max_pool2d(values, 2 * width + 1, stride=1, padding=width)

    numbers = objects.float()
    highest = highest_around(numbers)
    border = torch.zeros_like(objects, dtype=torch.bool)
    if kind != "touching":
        border |= (objects != 0) & (-highest_around(-numbers) != highest)
    if kind != "outline":
        lowest_object = -highest_around(torch.where(objects != 0, -numbers, -torch.inf))
        border |= (highest != 0) & (lowest_object != highest)
    return border.to(torch.uint8)
