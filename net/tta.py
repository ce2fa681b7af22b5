"""Views of an image for test-time augmentation; they only move pixels, so that their inverse is exact."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.core.names import pick


@dataclass(frozen=True)
class View:
    """A rearrangement of pixels along the last two axes (which it may swap), and its inverse."""

    see: Callable[[Tensor], Tensor]
    undo: Callable[[Tensor], Tensor]


def _turned(quarters: int) -> View:
    return View(lambda x: torch.rot90(x, quarters, (-2, -1)), lambda x: torch.rot90(x, -quarters, (-2, -1)))


def _own_inverse(see: Callable[[Tensor], Tensor]) -> View:
    return View(see, see)


VIEWS: dict[str, View] = {
    "null": _own_inverse(lambda x: x),
    "hflip": _own_inverse(lambda x: x.flip(-1)),
    "vflip": _own_inverse(lambda x: x.flip(-2)),
    "rot90": _turned(1),
    "rot180": _turned(2),
    "rot270": _turned(3),
    "transpose": _own_inverse(lambda x: x.transpose(-2, -1)),
    "transverse": _own_inverse(lambda x: x.transpose(-2, -1).flip(-2, -1)),
}

GROUPS = {"d4": list(VIEWS)}  # the eight symmetries of the square


def views_by_name(names: str) -> list[View]:
    """Return the views of a `_`-joined list such as null_hflip, or of a group such as d4.

    Raises:
        UsageError: a view is unknown; the message suggests the nearest names.
    """
    for word in names.split("_"):
        pick({**VIEWS, **GROUPS}, word, "--tta")
    return [VIEWS[name] for name in view_names(names)]


def view_names(names: str) -> list[str]:
    """Return the single names in a `_`-joined list of views and groups; they are not checked."""
    return [name for word in names.split("_") for name in GROUPS.get(word, [word])]
