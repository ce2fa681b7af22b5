"""Arrays on disk, written row by row and opened memory-mapped, so that memory use does not depend on their length.

Rows of one shape are a plain array (N, ...). Rows of different shapes lie one after another in a flat array, which
MixedRows presents as rows.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol, overload

import numpy as np

from utils.core.errors import UserError
from utils.core.files import atomic_file

Shape = tuple[int, ...]


class MixedRows:
    """Rows of different shapes: row i is a part of a flat array.

    Args:
        flat: (total,), the values of all rows, one row after another.
        shapes: shape of each row.
        plane: take only this index of the first axis of every row; None takes whole rows.
    """

    def __init__(self, flat: np.ndarray, shapes: Sequence[Shape], plane: int | None = None) -> None:
        self.flat, self._whole, self.plane = flat, [tuple(shape) for shape in shapes], plane
        self.shapes = self._whole if plane is None else [shape[1:] for shape in self._whole]
        self.dtype = flat.dtype
        sizes = [math.prod(shape) for shape in self._whole]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def with_plane(self, plane: int) -> "MixedRows":
        """Return the rows with this index of their first axis alone."""
        return MixedRows(self.flat, self._whole, plane)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the name of a memory-mapped file instead of its content: loader workers map it again."""
        if not isinstance(self.flat, np.memmap):
            return MixedRows, (self.flat, self._whole, self.plane)
        return _mixed_again, (self.flat.filename, self._whole, self.plane)

    def __len__(self) -> int:
        return len(self.shapes)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, rows: int | np.integer) -> np.ndarray: ...

    @overload
    def __getitem__(self, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]: ...

    def __getitem__(self, rows: Any) -> np.ndarray | list[np.ndarray]:
        """Return one row, or a list of rows."""
        if not isinstance(rows, int | np.integer):
            return [self[int(row)] for row in rows]
        whole = self.flat[self._starts[rows] : self._starts[rows + 1]].reshape(self._whole[rows])
        return whole if self.plane is None else whole[self.plane]


class ReadRows(Protocol):
    """Rows that are made when they are read: parts of a flat array, or decoded ones (utils/data/compact_rows.py)."""

    shapes: Sequence[Shape]
    dtype: np.dtype

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[np.ndarray]: ...

    def __getitem__(self, rows: Any) -> Any: ...


Rows = np.ndarray | ReadRows
"""Rows of one shape or of several; `rows[i]` is a row, and `for row in rows` goes over all of them."""


def _mixed_again(path: str, shapes: Sequence[Shape], plane: int | None) -> MixedRows:
    return MixedRows(open_array(path), shapes, plane)


def common_shape(shapes: Sequence[Shape]) -> Shape | None:
    """Return the shape that all rows have; None if they differ."""
    return shapes[0] if len(set(shapes)) == 1 else None


def shapes_in(array: Rows, rows: Iterable[int] | None = None) -> list[Shape]:
    """Return the shape of each row, or of the given ones."""
    places = range(len(array)) if rows is None else rows
    return [array.shape[1:] if isinstance(array, np.ndarray) else array.shapes[row] for row in places]


class ArrayWriter:
    """Writer that appends the rows of one array in order."""

    def __init__(self, file: BinaryIO, shape: Sequence[int], dtype: np.dtype) -> None:
        self._file, self._shape, self._dtype = file, tuple(shape), dtype
        self._rows, self._hash = 0, hashlib.sha256()

    def append(self, rows: np.ndarray) -> None:
        """Append rows of shape (k, *shape[1:]), converted to the array's dtype.

        Raises:
            ValueError: the rows have another shape.
        """
        if rows.shape[1:] != self._shape[1:]:
            raise ValueError(f"expected rows of shape {self._shape[1:]}, found {rows.shape[1:]}")
        block = np.ascontiguousarray(rows, dtype=self._dtype).tobytes()
        self._file.write(block)  # with a memory map, a full disk would cause SIGBUS instead of an error
        self._hash.update(block)
        self._rows += len(rows)

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the data written so far, without the header."""
        return self._hash.hexdigest()

    def check_full(self) -> None:
        """Raise ValueError if the number of rows written is not the one given by the shape."""
        if self._rows != self._shape[0]:
            raise ValueError(f"expected {self._shape[0]} rows, but {self._rows} were written")


def array_header(shape: Sequence[int], dtype: str | np.dtype) -> bytes:
    """Return the header of a `.npy` file; its length does not depend on the length of the first axis."""
    header = BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


@contextmanager
def array_writer(path: str | Path, shape: Sequence[int], dtype: str | np.dtype) -> Iterator[ArrayWriter]:
    """Yield a writer for a `.npy` file of known shape; the file appears under `path` only when all rows are written."""
    dtype = np.dtype(dtype)
    with atomic_file(path) as part:
        with open(part, "wb") as file:
            file.write(array_header(shape, dtype))
            writer = ArrayWriter(file, shape, dtype)
            yield writer
        writer.check_full()


class MixedWriter:
    """Writer that appends rows of different shapes to a flat array, in order."""

    def __init__(self, flat: ArrayWriter, shapes: Sequence[Shape]) -> None:
        self._flat, self._shapes = flat, iter(shapes)

    def append(self, rows: Sequence[np.ndarray] | np.ndarray) -> None:
        """Append rows; raise ValueError if one has another shape than was announced."""
        for row in rows:
            expected = next(self._shapes, None)
            if row.shape != expected:
                raise ValueError(f"expected a row of shape {expected}, found {row.shape}")
            self._flat.append(row.ravel())

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the data written so far, without the header."""
        return self._flat.sha256


RowsWriter = ArrayWriter | MixedWriter


@contextmanager
def rows_writer(path: str | Path, shapes: Sequence[Shape], dtype: str | np.dtype) -> Iterator[RowsWriter]:
    """Yield a writer for rows of these shapes: a plain array if they are all the same, else a flat one."""
    with array_writer(path, array_shape(shapes), dtype) as writer:
        yield writer if common_shape(shapes) else MixedWriter(writer, shapes)


def array_shape(shapes: Sequence[Shape]) -> Shape:
    """Return the shape of the array that holds rows of these shapes; one at least."""
    common = common_shape(shapes)
    return (len(shapes), *common) if common else (sum(map(math.prod, shapes)),)


def open_rows(path: str | Path, shapes: Sequence[Shape] | None) -> Rows:
    """Open the rows of a `.npy` file, memory-mapped and read-only.

    Args:
        path: the file.
        shapes: shape of each row if they differ; None for a plain array.

    Raises:
        UserError: as for `open_array`; the file has another length.
    """
    array = open_array(path)
    if shapes is None:
        return array
    if array.shape != array_shape(shapes):
        raise UserError(
            f"{path}: expected {array_shape(shapes)[0]} values in rows of several shapes, found {array.shape}; "
            "write it again"
        )
    return MixedRows(array, shapes)


def _reason(error: Exception) -> str:
    """Return numpy's reason, without its advice to load files of any origin unsafely."""
    return "not an array of numbers" if "pickle" in str(error) else str(error)


def open_array(path: str | Path) -> np.ndarray:
    """Open a `.npy` file, memory-mapped and read-only.

    Raises:
        UserError: the file is missing, is not a `.npy` array, or is shorter than its header says.
    """
    if Path(path).is_dir():
        raise UserError(f"{path}: expected a .npy file, found a folder; name a file in it")
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    with open(path, "rb") as file:
        begins = file.read(len(np.lib.format.MAGIC_PREFIX))
    if not np.lib.format.MAGIC_PREFIX.startswith(begins):  # a truncated file may hold only a part of the prefix
        raise UserError(f"{path}: expected a .npy file, found something else; name the .npy file")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: truncated or invalid .npy file ({_reason(error)}); write it again") from None
