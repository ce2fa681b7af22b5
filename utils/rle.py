"""Run-lengths: a binary mask as text, 1-indexed, top to bottom and then left to right, as `start length` pairs.

The rule is the one of the Kaggle segmentation competitions (TGS salt, DSB2018, Airbus): pairs sorted, no overlap, an
empty mask is an empty text. On a mask of 3 rows and 2 columns "2 3" is the lower two pixels of the left column and the
upper one of the right column.
"""

from collections.abc import Iterable

import numpy as np


def encode(mask: np.ndarray) -> str:
    """The run-lengths of a mask.

    Args:
        mask: (H, W), any dtype; what is not 0 is mask.

    Returns:
        "start length start length ...", as few pairs as possible; "" for an empty mask.

    Raises:
        ValueError: not two-dimensional.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"expected a mask (height, width), found shape {mask.shape}")
    pixels = np.zeros(mask.size + 2, dtype=bool)  # a background pixel at both ends, so that every run has two
    pixels[1:-1] = (mask != 0).ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1])
    pairs = np.stack([changes[::2] + 1, changes[1::2] - changes[::2]], axis=1)
    return " ".join(map(str, pairs.ravel().tolist()))


def decode(text: str, shape: tuple[int, int]) -> np.ndarray:
    """The mask that run-lengths describe.

    Runs that touch ("1 2 3 1") are accepted, although `encode` never writes them.

    Args:
        text: "start length start length ..." or "".
        shape: (height, width) of the mask.

    Returns:
        (H, W) uint8, 0 or 1.

    Raises:
        ValueError: malformed; the message is one line.
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
    steps = np.zeros(n_pixels + 1, dtype=np.int8)
    steps[starts - 1] += 1
    steps[ends - 1] -= 1
    return np.cumsum(steps[:-1], dtype=np.int8).view(np.uint8).reshape(shape, order="F").copy(order="C")


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
