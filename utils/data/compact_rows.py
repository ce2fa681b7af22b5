"""Compact rows, decoded when they are read: images as the bytes of their files, masks as runs, probabilities by zstd.

The rows are two arrays: the encoded values of all rows one after another, and the end of each row in it. The decoded
rows are those of raw arrays, bit by bit.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, overload

import numpy as np

from utils.core.arrays import (
    Rows,
    RowsWriter,
    Shape,
    array_header,
    common_shape,
    open_array,
    open_rows,
    rows_writer,
)
from utils.core.errors import UserError
from utils.core.files import atomic_file
from utils.core.parallel import in_threads
from utils.data.image_files import BrokenImage, image_from, resize_image

AGAIN = "predict again, or pack the folder again with --force"


class Encoded(NamedTuple):
    """Encoded rows on the disk."""

    values: np.ndarray
    """(bytes,) uint8, or (runs, 2) uint32 with codec runs; memory-mapped."""
    ends: np.ndarray
    """(N,) int64, end of each row in `values`."""
    codec: str
    """Name in CODECS."""


class CompactRows:
    """Rows that are decoded when they are read.

    Args:
        encoded: what is on the disk.
        shapes: shape of each decoded row.
        dtype: of the decoded rows.
        plane: take only this index of the first axis of every row; None takes whole rows.
    """

    def __init__(self, encoded: Encoded, shapes: Sequence[Shape], dtype: str, plane: int | None = None) -> None:
        self.encoded, self._whole, self.dtype, self.plane = encoded, list(shapes), np.dtype(dtype), plane
        self.shapes = self._whole if plane is None else [shape[1:] for shape in self._whole]
        self._alike = common_shape(self.shapes) is not None

    def with_plane(self, plane: int) -> "CompactRows":
        """Return the rows with this index of their first axis alone."""
        return CompactRows(self.encoded, self._whole, self.dtype.name, plane)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the names of memory-mapped files instead of their contents: loader workers map them again."""
        places = tuple(getattr(array, "filename", array) for array in self.encoded[:2])
        return _again, (*places, self.encoded.codec, self._whole, self.dtype.name, self.plane)

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
        found = in_threads(self._decoded, several)
        return np.stack(found) if self._alike and found else found

    def encoded_row(self, row: int) -> np.ndarray:
        """Return the encoded values of a row."""
        ends = self.encoded.ends
        return self.encoded.values[(ends[row - 1] if row else 0) : ends[row]]

    def _decoded(self, row: int) -> np.ndarray:
        try:
            decoded = CODECS[self.encoded.codec](self.encoded_row(row), self._whole[row], self.dtype)
        except (BrokenImage, ValueError) as error:
            place = getattr(self.encoded.values, "filename", "packed data")
            raise UserError(f"{place}: row {row} is damaged ({error}); {AGAIN}") from None
        return decoded if self.plane is None else decoded[self.plane]


def _again(values: Any, ends: Any, codec: str, shapes: list[Shape], dtype: str, plane: int | None) -> CompactRows:
    arrays = (open_array(one) if isinstance(one, str | Path) else one for one in (values, ends))
    return CompactRows(Encoded(*arrays, codec), shapes, dtype, plane)


def open_compact(path: Path, ends: np.ndarray, codec: str, shapes: Sequence[Shape], dtype: str) -> CompactRows:
    """Open compact rows, memory-mapped.

    Raises:
        UserError: the file is missing or truncated, `ends` are not those of its rows, or the codec is unknown.
    """
    if codec not in CODECS:
        expected = " or ".join(CODECS)
        raise UserError(f"{path}: unknown codec {codec}, expected {expected}; update Strata, or {AGAIN}")
    values = open_array(path)
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or values.dtype.kind != "u":
        raise UserError(f"{path}: expected whole numbers and one end for each row; {AGAIN}")
    if len(ends) != len(shapes) or (len(ends) and ends[-1] != len(values)):
        raise UserError(
            f"{path}: expected {len(shapes)} rows that end at {len(values)}, found the ends of {len(ends)} rows; "
            f"{AGAIN}"
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
    """Decode pairs (n, 2) of a value and a number of pixels, or their bytes, to a row of this shape and dtype.

    Raises:
        ValueError: the runs are longer or shorter than the row.
    """
    if pairs.dtype == np.uint8:
        pairs = np.frombuffer(pairs.tobytes(), np.uint32).reshape(-1, 2)
    lengths = pairs[:, 1].astype(np.int64)
    if lengths.sum() != np.prod(shape):
        raise ValueError(f"expected runs of {np.prod(shape)} pixels, found {lengths.sum()}")
    return np.repeat(pairs[:, 0].astype(dtype), lengths).reshape(shape)


def decoded_probabilities(data: np.ndarray, shape: Shape, _dtype: np.dtype) -> np.ndarray:
    """Undo `encoded_probabilities`.

    Raises:
        ValueError: the data are damaged.
    """
    import zstandard

    try:
        split = np.frombuffer(zstandard.decompress(data.tobytes()), np.uint8)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
    folded = np.ascontiguousarray(split.reshape(2, -1).T).view(np.uint16).reshape(shape)
    steps = ((folded >> 1) ^ -(folded & 1)).view(np.int16)
    return steps.cumsum(axis=-1, dtype=np.int16).cumsum(axis=-2, dtype=np.int16).view(np.float16)


def encoded_probabilities(row: np.ndarray) -> bytes:
    """Compress probabilities (..., H, W) float16 without loss, to .4 to .7 of their bytes.

    The bits of a probability, as a whole number, are predicted from its neighbours to the left and above; the small
    differences are folded to positive numbers, and their high and low bytes are compressed apart.
    """
    import zstandard

    bits = np.ascontiguousarray(row, dtype=np.float16).view(np.int16)
    steps = np.diff(np.diff(bits, axis=-2, prepend=np.int16(0)), axis=-1, prepend=np.int16(0))
    folded = ((steps << 1) ^ (steps >> 15)).astype(np.int16)
    return zstandard.compress(np.ascontiguousarray(folded.reshape(-1, 1).view(np.uint8).T).tobytes(), level=1)


CODECS: dict[str, Callable[[np.ndarray, Shape, np.dtype], np.ndarray]] = {
    "file": decoded_image,
    "runs": decoded_runs,
    "zstd": decoded_probabilities,
}
"""Functions that decode a row by the name of the codec."""


class CompactWriter:
    """Writer that appends encoded rows, in order."""

    def __init__(self, file: BinaryIO, encode: Callable[[np.ndarray], bytes], shapes: Sequence[Shape]) -> None:
        self._file, self._encode, self._shapes = file, encode, shapes
        self.ends: list[int] = []
        """Ends of the rows that are written."""

    def append(self, rows: Sequence[np.ndarray] | np.ndarray) -> None:
        """Append rows; raise ValueError if one has another shape than was announced."""
        for row in rows:
            if len(self.ends) == len(self._shapes) or row.shape != self._shapes[len(self.ends)]:
                raise ValueError(f"expected rows of shapes {self._shapes[len(self.ends) :][:1]}, found {row.shape}")
            data = self._encode(row)
            self._file.write(data)
            self.ends.append((self.ends[-1] if self.ends else 0) + len(data))


@contextmanager
def compact_writer(
    path: Path, shapes: Sequence[Shape], encode: Callable[[np.ndarray], bytes]
) -> Iterator[CompactWriter]:
    """Yield a writer for a `.npy` file of encoded rows; it appears under `path` only when all rows are written."""
    with atomic_file(path) as part, open(part, "wb") as file:
        file.write(array_header((0,), "uint8"))
        writer = CompactWriter(file, encode, shapes)
        yield writer
        if len(writer.ends) != len(shapes):
            raise ValueError(f"expected {len(shapes)} rows, but {len(writer.ends)} were written")
        file.seek(0)
        file.write(array_header((writer.ends[-1] if writer.ends else 0,), "uint8"))  # as long as the first one


def runs_of(row: np.ndarray) -> np.ndarray:
    """Return the runs of a mask or label map in reading order: pairs (n, 2) uint32 of value and number of pixels."""
    pixels = row.ravel()
    starts = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1])
    return np.stack([pixels[starts], np.diff(starts, append=pixels.size)], axis=1).astype(np.uint32)


ENCODERS = {"float16": ("zstd", encoded_probabilities), "uint16": ("runs", lambda row: runs_of(row).tobytes())}
"""Codec, and function that encodes a row to bytes, by the dtype of the rows of a file."""
COMPACT_FROM = 2**30
"""Bytes from which files of predictions are compact: reading takes longer, but many disks have no room for them."""


@contextmanager
def predictions_writer(
    path: Path, shapes: Sequence[Shape], dtype: str
) -> Iterator[tuple[RowsWriter | CompactWriter, dict[str, Any]]]:
    """Yield a writer for rows of these shapes, and what `open_predictions` has to know when all rows are written.

    The rows are a plain array if they are alike, else flat, and compact if they take more than COMPACT_FROM.
    """
    described: dict[str, Any] = {} if common_shape(shapes) else {"shapes": [list(shape) for shape in shapes]}
    if np.dtype(dtype).itemsize * sum(map(math.prod, shapes)) <= COMPACT_FROM:
        with rows_writer(path, shapes, dtype) as writer:
            yield writer, described
        return
    codec, encode = ENCODERS[dtype]
    with compact_writer(path, shapes, encode) as writer:
        described |= {"shapes": [list(shape) for shape in shapes], "codec": codec, "ends": writer.ends}
        yield writer, described


def open_predictions(path: Path, described: Mapping[str, Any], dtype: str) -> Rows:
    """Open what `predictions_writer` has written, memory-mapped; `described` is read from a .json.

    Raises:
        UserError: the file is missing or truncated, or does not fit its description.
    """
    shapes, ends = _shapes(described.get("shapes"), path), described.get("ends")
    if "codec" not in described:
        return open_rows(path, shapes)
    if not isinstance(ends, list) or not all(isinstance(end, int) for end in ends):
        raise UserError(f"{path.with_suffix('.json')}: expected the end of each row under ends; predict again")
    return open_compact(path, np.array(ends, dtype=np.int64), described["codec"], shapes or [], dtype)


def _shapes(stored: Any, path: Path) -> list[Shape] | None:
    """Return stored shapes; raise UserError if they are not all (H, W), or all (2, H, W)."""
    if stored is None:
        return None
    valid = isinstance(stored, list) and all(
        isinstance(shape, list) and all(isinstance(side, int) and side > 0 for side in shape) for shape in stored
    )
    if not valid or {len(shape) for shape in stored} not in ({2}, {3}, set()):
        raise UserError(f"{path.with_suffix('.json')}: expected the shape of each mask; predict again")
    return [tuple(shape) for shape in stored]


def digest_of_rows(digests: Iterable[bytes]) -> str:
    """Return the digest of an array from those of its rows, as hex digits: the same for raw and compact rows."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def row_digest(row: np.ndarray) -> bytes:
    """Return a digest of the shape and values of a row; that of a mask or label map is one of its runs."""
    values = row if row.ndim == 3 else runs_of(row)
    return hashlib.blake2b(np.ascontiguousarray(values), digest_size=16, key=str(row.shape).encode()).digest()
