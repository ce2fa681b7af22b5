"""Arrays on disk, written row by row and opened memory-mapped, so that memory use does not depend on their length."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils.core.errors import UserError
from utils.core.files import atomic_file


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


@contextmanager
def array_writer(path: str | Path, shape: Sequence[int], dtype: str | np.dtype) -> Iterator[ArrayWriter]:
    """Yield a writer for a `.npy` file of known shape; the file appears under `path` only when all rows are written."""
    dtype = np.dtype(dtype)
    with atomic_file(path) as part:
        with open(part, "wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
            np.lib.format.write_array_header_1_0(file, header)
            writer = ArrayWriter(file, shape, dtype)
            yield writer
        writer.check_full()


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
        raise UserError(f"{path}: truncated or invalid .npy file ({error}); write it again") from None
