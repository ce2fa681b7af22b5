"""Run-lengths: a binary mask as text, in `start length` pairs of 1-indexed pixels.

The encoding follows the Kaggle segmentation competitions (TGS salt, DSB2018, Airbus): pixels are numbered top to
bottom, then left to right; pairs are sorted and do not overlap; an empty mask is an empty text. In a mask of 3 rows and
2 columns, "2 3" is the lower two pixels of the left column and the upper pixel of the right column. Carvana numbers
pixels left to right, then top to bottom (`by_row`); there, "2 3" is the upper right pixel and both pixels of the middle
row.
"""

from collections.abc import Iterable, Sequence

import numpy as np


def encode(mask: np.ndarray, by_row: bool = False) -> str:
    """Return the run-lengths of a mask.

    Args:
        mask: (H, W), any dtype; nonzero pixels are mask.
        by_row: number pixels left to right, then top to bottom.

    Returns:
        "start length start length ...", with as few pairs as possible; "" for an empty mask.

    Raises:
        ValueError: the mask is not two-dimensional.
    """
    texts = encode_instances(np.asarray(mask) != 0, by_row)
    return texts[0] if texts else ""


def encode_instances(labels: np.ndarray, by_row: bool = False) -> list[str]:
    """Return the run-lengths of each object in a label map, in the order of the objects' numbers.

    Args:
        labels: (H, W) integers, 0 = background; numbers without pixels are skipped.
        by_row: as for `encode`.

    Raises:
        ValueError: the label map is not two-dimensional.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2:
        raise ValueError(f"expected a mask (height, width), found shape {labels.shape}")
    pixels = np.zeros(labels.size + 2, dtype=labels.dtype)  # background at both ends, so that every run has both ends
    pixels[1:-1] = labels.ravel(order="C" if by_row else "F")
    changes = np.append(np.flatnonzero(pixels[1:] != pixels[:-1]), labels.size)
    objects = pixels[changes[:-1] + 1]
    pairs = np.stack([changes[:-1] + 1, np.diff(changes)], axis=1)[objects != 0]
    objects = objects[objects != 0]
    pairs = pairs[np.argsort(objects, kind="stable")]
    ends = np.cumsum(np.unique(objects, return_counts=True)[1])
    return [" ".join(map(str, run.ravel().tolist())) for run in np.split(pairs, ends[:-1])] if len(ends) else []


def decode(text: str, shape: tuple[int, int], by_row: bool = False) -> np.ndarray:
    """Return the mask that run-lengths describe.

    Runs that touch ("1 2 3 1") are accepted, although `encode` never writes them.

    Args:
        text: "start length start length ..." or "".
        shape: (height, width) of the mask.
        by_row: as for `encode`.

    Returns:
        (H, W) uint8, 0 or 1.

    Raises:
        ValueError: the run-lengths are malformed; the message is one line.
    """
    starts, ends = spans(text, shape)
    steps = np.zeros(shape[0] * shape[1] + 1, dtype=np.int8)
    steps[starts] += 1
    steps[ends] -= 1
    flat = np.cumsum(steps[:-1], dtype=np.int8).view(np.uint8)
    return flat.reshape(shape, order="C" if by_row else "F").copy(order="C")


def decode_instances(texts: Sequence[str], shape: tuple[int, int], by_row: bool = False) -> np.ndarray:
    """Return the label map of an image's objects.

    Args:
        texts: run-lengths, one text per object; a single empty text means that there is no object.
        shape: (height, width) of the image.
        by_row: as for `encode`.

    Returns:
        (H, W) uint16, 0 = background; the k-th text is object k, counted from 1.

    Raises:
        ValueError: run-lengths are malformed, objects overlap, an object has no pixels, or there are more than 65,535
            objects; the message is one line.
    """
    if len(texts) > np.iinfo(np.uint16).max:
        raise ValueError(f"expected at most {np.iinfo(np.uint16).max} objects, found {len(texts)}; remove rows")
    flat = np.zeros(shape[0] * shape[1], dtype=np.uint16)
    for number, text in enumerate([] if is_none(texts) else texts, start=1):
        try:
            paint(flat, *spans(text, shape), number)
        except ValueError as error:
            raise ValueError(f"object {number}: {error}") from None
    return flat.reshape(shape, order="C" if by_row else "F").copy(order="C")


def is_none(texts: Sequence[str]) -> bool:
    """Return True if an image's run-lengths are a single empty text, which means that it has no object."""
    return len(texts) == 1 and not texts[0].strip()


def paint(flat: np.ndarray, starts: np.ndarray, ends: np.ndarray, number: int) -> None:
    """Write an object's number to its pixels.

    Args:
        flat: (H * W,) integers, 0 = background: a label map, flattened in the order in which pixels are numbered.
        starts: starts of the object's runs, as returned by `spans`.
        ends: ends of the object's runs, as returned by `spans`.
        number: number of the object.

    Raises:
        ValueError: the object has no pixels, or overlaps another one, whose number is then overwritten.
    """
    shared, other = 0, 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if taken := int(np.count_nonzero(flat[start:end])):
            shared, other = shared + taken, int(flat[start:end].max())
        flat[start:end] = number
    if shared:
        raise ValueError(f"overlap: it shares {shared} pixels with object {other}; assign each pixel to one object")
    if not len(starts):
        raise ValueError("it has no pixels; remove this row")


def spans(text: str, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts and ends of the runs in a mask of `shape`: int64, 0-indexed; an end is the pixel after the run.

    Raises:
        ValueError: runs are malformed, out of order, overlapping or past the last pixel; the message is one line.
    """
    starts, lengths = _pairs(text)
    ends = starts + lengths  # 1-indexed, the pixel after the run
    n_pixels = shape[0] * shape[1]
    if (bad := np.flatnonzero(starts[1:] <= starts[:-1])).size:
        raise ValueError(f"expected ascending starts: {starts[bad[0]]} is followed by {starts[bad[0] + 1]}")
    if (bad := np.flatnonzero(starts[1:] < ends[:-1])).size:
        run = f"{starts[bad[0]]} {lengths[bad[0]]}"
        raise ValueError(f"runs overlap: {run} reaches past the next start {starts[bad[0] + 1]}")
    if ends.size and ends[-1] > n_pixels + 1:
        run = f"{starts[-1]} {lengths[-1]}"
        raise ValueError(f"run {run} ends at pixel {ends[-1] - 1}, but a {shape[0]}x{shape[1]} mask has {n_pixels}")
    return starts - 1, ends - 1


def merge(texts: Iterable[str]) -> str:
    """Return the run-lengths of the union of masks, such as the objects of one image, regardless of the image's size.

    Raises:
        ValueError: run-lengths are malformed.
    """
    pairs = [np.zeros((2, 0), dtype=np.int64), *(np.stack(_pairs(text)) for text in texts)]
    starts, lengths = np.concatenate(pairs, axis=1)
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate((starts + lengths)[order])
    opens = np.append(True, starts[1:] > ends[:-1])[: len(starts)]  # runs that touch or overlap are joined
    closes = np.append(opens[1:], True)[: len(starts)]
    return " ".join(map(str, np.stack([starts[opens], ends[closes] - starts[opens]], axis=1).ravel().tolist()))


def area(text: str) -> int:
    """Return the number of mask pixels that run-lengths describe, regardless of the image's size.

    Raises:
        ValueError: the run-lengths are malformed.
    """
    return int(_pairs(text)[1].sum())


def _pairs(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and lengths, all at least 1, as int64; raise ValueError if they are malformed."""
    words = text.split()
    if text.lstrip().startswith(("[", "(", "{")):
        raise ValueError(f"expected numbers separated by blanks, found a printed list, {_shown(text)}")
    for word in words:
        # isdecimal alone accepts non-ASCII digits; 18 digits always fit in 64 bits
        if not (word.isdecimal() and word.isascii() and len(word) <= 18):
            raise ValueError(f"expected whole numbers of at least 1, found {_shown(word)}")
    if len(words) % 2:
        raise ValueError(f"expected pairs of start and length, found an odd number of values, {len(words)}")
    starts, lengths = np.array(words, dtype=np.int64).reshape(-1, 2).T
    if (starts < 1).any():
        raise ValueError("expected starts of at least 1, found 0; pixels are numbered from 1")
    if (lengths < 1).any():
        raise ValueError("expected lengths of at least 1, found 0")
    return starts, lengths


def _shown(text: str) -> str:
    return repr(text if len(text) <= 24 else text[:24] + "...")


def decode_union(cells: list[str], shape: tuple[int, int], by_row: bool = False) -> np.ndarray:
    """Return the union of several run-lengths: (H, W) uint8, 0 or 1. Arguments and errors are as for `decode`."""
    mask = np.zeros(shape, dtype=np.uint8)
    for cell in cells:
        mask |= decode(cell, shape, by_row)
    return mask
