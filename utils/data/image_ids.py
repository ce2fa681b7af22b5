"""Ids of images in csv files: which column holds them, and which packed image each one means."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from utils.core.errors import UserError
from utils.core.names import nearest

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
"""Of pictures."""

ID_COLUMNS = (
    *("id", "ImageId", "img", "image_id", "image_name", "image", "Image"),
    *("filename", "file_name", "file", "id_code", "Id"),
)
"""What columns of ids are called; the first that a csv has is the one (`Id` beside `Image` is a class of whales)."""


def id_column(header: Collection[str], path: str | Path) -> str:
    """The name of the column of ids.

    Args:
        header: names of columns.
        path: the csv, for the message.

    Raises:
        UserError: there is none.
    """
    for name in ID_COLUMNS:
        if name in header:
            return name
    raise UserError(f"{path}: no column {ID_COLUMNS[0]} (nor {', '.join(ID_COLUMNS[1:])}); {nearest('id', header)}")


def stem_of(name: str) -> str:
    """An id without the suffix of a picture, where it has one."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def as_packed(names: Iterable[str], ids: Collection[str]) -> list[str]:
    """Ids of a csv as the packed images are called.

    Packing takes the suffix of a picture off where a layout tells images by their stem, while the csv keeps it: what is
    no packed id loses its suffix.

    Args:
        names: of the csv.
        ids: of the packed images.
    """
    known = set(ids)
    return [name if name in known else stem_of(name) for name in names]
