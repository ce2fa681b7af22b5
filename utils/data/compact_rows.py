"""Compact rows: images as the bytes of their files, masks and label maps as runs, decoded when they are read.

A store of rows is two arrays: the encoded values of all rows one after another, and the end of each row in it. The
decoded rows are those of raw arrays, pixel by pixel. Per random row of 768x768, a decoded mask takes 55 us; per
image, the time of its decoder. bench/stores.py compares with Arrow, HDF5, Zarr and WebDataset.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from utils.core.arrays import Shape, common_shape, open_array
from utils.core.errors import UserError
from utils.data.image_files import BrokenImage, image_from, resize_image

CODECS = ("file", "runs")
"""file: images as the bytes of their files; runs: pairs (value, number of pixels) in reading order."""


class Encoded(NamedTuple):
    """Encoded rows on the disk."""

    values: np.ndarray
    """(bytes,) uint8 with codec file, (runs, 2) uint32 with codec runs; memory-mapped."""
    ends: np.ndarray
    """(N,) int64, end of each row in `values`."""
    codec: str


class CompactRows:
    """Rows that are decoded when they are read.

    Args:
        encoded: what is on the disk.
        shapes: shape of each decoded row.
        dtype: of the decoded rows.
    """

    def __init__(self, encoded: Encoded, shapes: Sequence[Shape], dtype: str) -> None:
        self.encoded, self.shapes, self.dtype = encoded, list(shapes), np.dtype(dtype)
        self._alike = common_shape(self.shapes) is not None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the names of memory-mapped files instead of their contents: loader workers map them again."""
        places = tuple(getattr(array, "filename", array) for array in self.encoded[:2])
        return _again, (*places, self.encoded.codec, self.shapes, self.dtype.name)

    def __len__(self) -> int:
        return len(self.shapes)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, rows: int | np.integer) -> np.ndarray: ...

    @overload
    def __getitem__(self, rows: Sequence[int] | np.ndarray | slice) -> np.ndarray | list[np.ndarray]: ...

    def __getitem__(self, rows: Any) -> np.ndarray | list[np.ndarray]:
        """Return one row; or several, as one array if all rows have the same shape, else as a list.

        Raises:
            UserError: the row does not decode to its shape, because the file is damaged.
        """
        if isinstance(rows, int | np.integer):
            return self._decoded(range(len(self))[rows])
        several = range(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows).tolist()
        found = [self._decoded(row) for row in several]
        return np.stack(found) if self._alike and found else found

    def encoded_row(self, row: int) -> np.ndarray:
        """Return the encoded values of a row."""
        ends = self.encoded.ends
        return self.encoded.values[(ends[row - 1] if row else 0) : ends[row]]

    def _decoded(self, row: int) -> np.ndarray:
        decode = decoded_image if self.encoded.codec == "file" else decoded_runs
        try:
            return decode(self.encoded_row(row), self.shapes[row], self.dtype)
        except (BrokenImage, ValueError) as error:
            place = getattr(self.encoded.values, "filename", "packed data")
            raise UserError(f"{place}: row {row} is damaged ({error}); pack the folder again") from None


def _again(values: Any, ends: Any, codec: str, shapes: list[Shape], dtype: str) -> CompactRows:
    arrays = (open_array(one) if isinstance(one, str | Path) else one for one in (values, ends))
    return CompactRows(Encoded(*arrays, codec), shapes, dtype)


def open_compact(path: Path, ends_path: Path, codec: str, shapes: Sequence[Shape], dtype: str) -> CompactRows:
    """Open compact rows, memory-mapped.

    Raises:
        UserError: a file is missing or truncated, the two do not belong together, or the codec is unknown.
    """
    if codec not in CODECS:
        raise UserError(f"{path}: unknown codec {codec}, expected {' or '.join(CODECS)}; update Strata, or pack again")
    values, ends = open_array(path), open_array(ends_path)
    if len(ends) != len(shapes) or (len(ends) and ends[-1] != len(values)):
        raise UserError(
            f"{path}: expected {len(shapes)} rows that end at {len(values)}, found {len(ends)} rows in "
            f"{ends_path.name}; pack the folder again"
        )
    return CompactRows(Encoded(values, ends, codec), shapes, dtype)


def decoded_image(data: np.ndarray, shape: Shape, _dtype: np.dtype) -> np.ndarray:
    """Decode the bytes of an image file to (H, W, C) uint8, resized if the file has another size.

    Raises:
        BrokenImage: the bytes are no image.
    """
    image = image_from(BytesIO(data.tobytes()), "its file", shape[2])
    return image if image.shape == shape else resize_image(image, shape[:2])


def decoded_runs(pairs: np.ndarray, shape: Shape, dtype: np.dtype) -> np.ndarray:
    """Decode pairs (n, 2) of a value and a number of pixels to a row of this shape and dtype.

    Raises:
        ValueError: the runs are longer or shorter than the row.
    """
    lengths = pairs[:, 1].astype(np.int64)
    if lengths.sum() != np.prod(shape):
        raise ValueError(f"expected runs of {np.prod(shape)} pixels, found {lengths.sum()}")
    return np.repeat(pairs[:, 0].astype(dtype), lengths).reshape(shape)


def runs_of(row: np.ndarray) -> np.ndarray:
    """Return the runs of a mask or label map in reading order: pairs (n, 2) uint32 of value and number of pixels."""
    pixels = row.ravel()
    starts = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1])
    return np.stack([pixels[starts], np.diff(starts, append=pixels.size)], axis=1).astype(np.uint32)


def digest_of_rows(digests: Iterable[bytes]) -> str:
    """Return the digest of an array from those of its rows, as hex digits: the same for raw and compact rows."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def row_digest(row: np.ndarray) -> bytes:
    """Return a digest of the shape and values of a row; that of a mask or label map is one of its runs."""
    values = row if row.ndim == 3 else runs_of(row)
    return hashlib.blake2b(np.ascontiguousarray(values), digest_size=16, key=str(row.shape).encode()).digest()
