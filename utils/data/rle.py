"""Run-lengths: a binary mask as text, 1-indexed, top to bottom and then left to right, as `start length` pairs.

The rule is the one of the Kaggle segmentation competitions (TGS salt, DSB2018, Airbus): pairs sorted, no overlap, an
empty mask is an empty text. On a mask of 3 rows and 2 columns "2 3" is the lower two pixels of the left column and the
upper one of the right column. Carvana numbers left to right first (`by_row`): there it is the upper right pixel and the
two of the middle row.
"""

from collections.abc import Iterable, Sequence

import numpy as np


def encode(mask: np.ndarray, by_row: bool = False) -> str:
    """The run-lengths of a mask.

    Args:
        mask: (H, W), any dtype; what is not 0 is mask.
        by_row: pixels are numbered left to right first, then top to bottom.

    Returns:
        "start length start length ...", as few pairs as possible; "" for an empty mask.

    Raises:
        ValueError: not two-dimensional.
    """
    texts = encode_instances(np.asarray(mask) != 0, by_row)
    return texts[0] if texts else ""


def encode_instances(labels: np.ndarray, by_row: bool = False) -> list[str]:
    """The run-lengths of each object of a label map, in the order of their numbers.

    Args:
        labels: (H, W) integers, 0 = background; a number that no pixel has is passed over.
        by_row: as for `encode`.

    Raises:
        ValueError: not two-dimensional.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2:
        raise ValueError(f"expected a mask (height, width), found shape {labels.shape}")
    pixels = np.zeros(labels.size + 2, dtype=labels.dtype)  # background at both ends, so that every run has two
    pixels[1:-1] = labels.ravel(order="C" if by_row else "F")
    changes = np.append(np.flatnonzero(pixels[1:] != pixels[:-1]), labels.size)
    objects = pixels[changes[:-1] + 1]
    pairs = np.stack([changes[:-1] + 1, np.diff(changes)], axis=1)[objects != 0]
    objects = objects[objects != 0]
    pairs = pairs[np.argsort(objects, kind="stable")]
    ends = np.cumsum(np.unique(objects, return_counts=True)[1])
    return [" ".join(map(str, run.ravel().tolist())) for run in np.split(pairs, ends[:-1])] if len(ends) else []


def decode(text: str, shape: tuple[int, int], by_row: bool = False) -> np.ndarray:
    """The mask that run-lengths describe.

    Runs that touch ("1 2 3 1") are accepted, although `encode` never writes them.

    Args:
        text: "start length start length ..." or "".
        shape: (height, width) of the mask.
        by_row: as for `encode`.

    Returns:
        (H, W) uint8, 0 or 1.

    Raises:
        ValueError: malformed; the message is one line.
    """
    starts, ends = spans(text, shape)
    steps = np.zeros(shape[0] * shape[1] + 1, dtype=np.int8)
    steps[starts] += 1
    steps[ends] -= 1
    flat = np.cumsum(steps[:-1], dtype=np.int8).view(np.uint8)
    return flat.reshape(shape, order="C" if by_row else "F").copy(order="C")


def decode_instances(texts: Sequence[str], shape: tuple[int, int], by_row: bool = False) -> np.ndarray:
    """The label map of an image's objects.

    Args:
        texts: run-lengths, one for each object; one empty text says that there is none.
        shape: (height, width) of the image.
        by_row: as for `encode`.

    Returns:
        (H, W) uint16, 0 = background; object k is the k-th text.

    Raises:
        ValueError: malformed, objects that overlap, one without pixels, more than 65,535; the message is one line.
    """
    if len(texts) > np.iinfo(np.uint16).max:
        raise ValueError(f"{len(texts)} objects, expected at most {np.iinfo(np.uint16).max}; remove rows")
    flat = np.zeros(shape[0] * shape[1], dtype=np.uint16)
    for number, text in enumerate([] if is_none(texts) else texts, start=1):
        try:
            paint(flat, *spans(text, shape), number)
        except ValueError as error:
            raise ValueError(f"object {number}: {error}") from None
    return flat.reshape(shape, order="C" if by_row else "F").copy(order="C")


def is_none(texts: Sequence[str]) -> bool:
    """Whether an image's run-lengths say that it has no object: one text, and that empty."""
    return len(texts) == 1 and not texts[0].strip()


def paint(flat: np.ndarray, starts: np.ndarray, ends: np.ndarray, number: int) -> None:
    """Write an object's number to its pixels.

    Args:
        flat: (H * W,) integers, 0 = background: a label map in the order that pixels are numbered in.
        starts: where the object's runs begin, as from `spans`.
        ends: where they end.
        number: the object's.

    Raises:
        ValueError: it has no pixels, or shares some with another object; then it has been given them.
    """
    shared, other = 0, 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if taken := int(np.count_nonzero(flat[start:end])):
            shared, other = shared + taken, int(flat[start:end].max())
        flat[start:end] = number
    if shared:
        raise ValueError(f"overlap: it shares {shared} pixels with object {other}; give each pixel to one of them")
    if not len(starts):
        raise ValueError("it has no pixels; remove this row")


def spans(text: str, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where the runs begin and end in a mask of `shape`: int64, 0-indexed, the end is the pixel after the run.

    Raises:
        ValueError: malformed, out of order, overlapping or past the last pixel; the message is one line.
    """
    starts, lengths = _pairs(text)
    ends = starts + lengths  # 1-indexed, the pixel after the run
    n_pixels = shape[0] * shape[1]
    if (bad := np.flatnonzero(starts[1:] <= starts[:-1])).size:
        raise ValueError(f"starts are not ascending: {starts[bad[0]]} is followed by {starts[bad[0] + 1]}")
    if (bad := np.flatnonzero(starts[1:] < ends[:-1])).size:
        run = f"{starts[bad[0]]} {lengths[bad[0]]}"
        raise ValueError(f"runs overlap: {run} reaches past the next start {starts[bad[0] + 1]}")
    if ends.size and ends[-1] > n_pixels + 1:
        run = f"{starts[-1]} {lengths[-1]}"
        raise ValueError(f"run {run} ends at pixel {ends[-1] - 1}, a mask of {shape[0]}x{shape[1]} has {n_pixels}")
    return starts - 1, ends - 1


def merge(texts: Iterable[str]) -> str:
    """The run-lengths of the union of masks, such as the objects of one image, whatever its size.

    Raises:
        ValueError: malformed, as for `decode`.
    """
    pairs = [np.zeros((2, 0), dtype=np.int64), *(np.stack(_pairs(text)) for text in texts)]
    starts, lengths = np.concatenate(pairs, axis=1)
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate((starts + lengths)[order])
    opens = np.append(True, starts[1:] > ends[:-1])[: len(starts)]  # runs that touch or overlap become one
    closes = np.append(opens[1:], True)[: len(starts)]
    return " ".join(map(str, np.stack([starts[opens], ends[closes] - starts[opens]], axis=1).ravel().tolist()))


def area(text: str) -> int:
    """The pixels of the mask that run-lengths describe, whatever its size. Raises ValueError as `decode` does."""
    return int(_pairs(text)[1].sum())


def _pairs(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths, both at least 1, as int64."""
    words = text.split()
    if text.lstrip().startswith(("[", "(", "{")):
        raise ValueError(f"a printed list, {_shown(text)}, where numbers with blanks between them are expected")
    for word in words:
        # isdecimal alone lets other scripts' digits pass; 18 digits always fit in 64 bits
        if not (word.isdecimal() and word.isascii() and len(word) <= 18):
            raise ValueError(f"expected whole numbers of at least 1, found {_shown(word)}")
    if len(words) % 2:
        raise ValueError(f"expected pairs of start and length, found an odd count of {len(words)} numbers")
    starts, lengths = np.array(words, dtype=np.int64).reshape(-1, 2).T
    if (starts < 1).any():
        raise ValueError("a start is 0, the first pixel is number 1")
    if (lengths < 1).any():
        raise ValueError("a run has length 0")
    return starts, lengths


def _shown(text: str) -> str:
    return repr(text if len(text) <= 24 else text[:24] + "...")


def decode_union(cells: list[str], shape: tuple[int, int], by_row: bool = False) -> np.ndarray:
    """The union of several run-lengths: (H, W) uint8, 0 or 1. Arguments and errors as for `rle.decode`."""
    mask = np.zeros(shape, dtype=np.uint8)
    for cell in cells:
        mask |= decode(cell, shape, by_row)
    return mask
