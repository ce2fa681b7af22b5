"""Arrays on disk: written row by row, opened memory-mapped, so that memory does not grow with the number of images."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils.core.errors import UserError
from utils.core.files import whole_file


class ArrayWriter:
    """Takes the rows of one array in order; `sha256` is the digest of the bytes so far (without the header)."""

    def __init__(self, file: BinaryIO, shape: Sequence[int], dtype: np.dtype) -> None:
        self._file, self._shape, self._dtype = file, tuple(shape), dtype
        self._rows, self._hash = 0, hashlib.sha256()

    def append(self, rows: np.ndarray) -> None:
        """Write rows of shape (k, *shape[1:]); they are converted to the array's dtype."""
        if rows.shape[1:] != self._shape[1:]:
            raise ValueError(f"rows of shape {rows.shape[1:]} in an array of {self._shape[1:]}")
        block = np.ascontiguousarray(rows, dtype=self._dtype).tobytes()
        self._file.write(block)  # not through a memory map: a full disk would end in SIGBUS instead of an error
        self._hash.update(block)
        self._rows += len(rows)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def check_full(self) -> None:
        if self._rows != self._shape[0]:
            raise ValueError(f"{self._rows} rows written of {self._shape[0]}")


@contextmanager
def array_writer(path: str | Path, shape: Sequence[int], dtype: str | np.dtype) -> Iterator[ArrayWriter]:
    """Write a `.npy` of known shape row by row; it appears under `path` only when all rows are there."""
    dtype = np.dtype(dtype)
    with whole_file(path) as part:
        with open(part, "wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
            np.lib.format.write_array_header_1_0(file, header)
            writer = ArrayWriter(file, shape, dtype)
            yield writer
        writer.check_full()


def open_array(path: str | Path) -> np.ndarray:
    """A `.npy` file, memory-mapped and read-only.

    Raises:
        UserError: no such file, no array in it, or shorter than its header says.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: no whole .npy array ({error}); write it again") from None
