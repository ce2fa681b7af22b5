"""Image ids in csv files: the column that holds them, and the packed image that each one refers to."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from utils.core.errors import UserError
from utils.core.names import nearest

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
"""Suffixes of image files, in lower case."""

ID_COLUMNS = (
    *("id", "ImageId", "img", "image_id", "image_name", "image", "Image"),
    *("filename", "file_name", "file", "id_code", "Id"),
)
"""Known names of id columns; the first that a csv has is used. `Id` comes last, because in the whale competition it is
the class, next to `Image`."""


def id_column(header: Collection[str], path: str | Path) -> str:
    """Return the name of the id column.

    Args:
        header: column names of the csv.
        path: the csv, for the error message.

    Raises:
        UserError: no column has one of the known names.
    """
    for name in ID_COLUMNS:
        if name in header:
            return name
    raise UserError(f"{path}: no column {ID_COLUMNS[0]} (nor {', '.join(ID_COLUMNS[1:])}); {nearest('id', header)}")


def stem_of(name: str) -> str:
    """Return an id without its image suffix, if it has one."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def as_packed(names: Iterable[str], ids: Collection[str]) -> list[str]:
    """Return the ids of a csv in the form that the packed images have.

    In layouts that identify images by their stem, packing removes the image suffix, while the csv may keep it.
    Therefore the suffix is removed from every id that is not a packed id.

    Args:
        names: ids of the csv.
        ids: ids of the packed images.
    """
    known = set(ids)
    return [name if name in known else stem_of(name) for name in names]
