"""Rows of the packed arrays: reads one listed image with its truth and counts findings."""

from collections import Counter
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import NamedTuple

import numpy as np

from utils.data.compact_rows import row_digest
from utils.data.image_files import BrokenImage, image_from, read_file, read_mask, resize_image, resize_mask
from utils.data.layouts import Item, Source
from utils.data.rle import decode_union
from utils.data.source_files import image_files_in

MAX_OBJECTS = 65_535
"""Largest object number in a uint16 label map."""
COLOURED = 5
"""Images with at least this mean difference between largest and smallest channel, of 255, are coloured."""
BRIGHT = 128
"""Grey images with at least this median grey value, of 255, have a bright background."""


class Sample(NamedTuple):
    """A row of the packed arrays."""

    arrays: dict[str, np.ndarray]
    """images (H, W, C) uint8; masks (H, W) uint8, 0 or 1; labels (H, W) uint16, 0 = background, 1.. = objects."""
    source_size: tuple[int, int]
    content: bytes
    """Content of the image's file."""
    digest: bytes
    """Digest of the source image's shape and pixels."""
    seen: Counter[str]
    """Kind of finding -> its count in this image."""
    background: str
    """Result of `background_of` for the source image."""

    @property
    def truth(self) -> dict[str, np.ndarray]:
        """The arrays besides the image."""
        return {name: row for name, row in self.arrays.items() if name != "images"}


def load_sample(item: Item, source: Source, shape: tuple[int, int] | None, channels: int) -> Sample:
    """Read an image and its truth, with the channels and the size of the packed arrays (None: its own size).

    Raises:
        BrokenImage: a file is broken, a mask and its image have different sizes, or run-lengths are malformed.
        ColourFound: the image has colours, and the arrays one channel.
    """
    content = read_file(item.image)
    seen: Counter[str] = Counter()
    image = image_from(BytesIO(content), item.image, channels, strict=True, seen=seen)
    size = image.shape[:2]
    seen["constant_images"] = int(image.min() == image.max())
    digest, background = row_digest(image), background_of(image)
    arrays = {"images": image, **_read_truth(item, size, source, seen)}
    if shape and size != shape:
        arrays = _resized(arrays, shape, seen)
    if "labels" in arrays:
        seen["objects"] = int(arrays["labels"].max())
    return Sample(arrays, size, content, digest, seen, background)


def check_item(item: Item, source: Source) -> None:
    """Read an image and its truth only to see whether `load_sample` can read them.

    Raises:
        BrokenImage: as for `load_sample`.
    """
    size = image_from(BytesIO(read_file(item.image)), item.image, channels=1).shape[:2]
    _read_truth(item, size, source, Counter())


def _read_truth(item: Item, size: tuple[int, int], source: Source, seen: Counter[str]) -> dict[str, np.ndarray]:
    """Read the mask (and label map) of an image at its source `size`; return no arrays for an image without truth."""
    arrays: dict[str, np.ndarray] = {}
    if item.objects or (item.run_lengths is not None and not item.mask):
        try:
            arrays["labels"] = number_instances(_objects(item, size, source, seen), size, seen)
        except ValueError as error:
            raise BrokenImage(
                f"{item.objects or source.run_length_table}: {item.id}: {error}; split the image"
            ) from None
        arrays["masks"] = (arrays["labels"] != 0).astype(np.uint8)
    elif item.mask:
        arrays["masks"] = _mask_of(item.mask, size, item.image, seen)
    if item.run_lengths is not None and (item.mask or item.objects):
        listed = _decoded(item, size, source, item.run_lengths)
        seen["masks_unlike_csv"] = int(not np.array_equal(listed, arrays["masks"]))
    if "masks" in arrays:
        seen["empty_masks"] = int(not arrays["masks"].any())
    return arrays


def background_of(image: np.ndarray) -> str:
    """Return the kind of background that an image has.

    coloured: the channels of a pixel differ by 5 of 255 or more on average (stained tissue, photographs);
    bright: not coloured, and the median grey value is 128 or more (bright field);
    dark: all other images (fluorescence).
    In the nuclei set, all grey images have equal channels and a median of at most 44 or at least 226, and the palest
    stained image has a mean difference of 12.

    Args:
        image: (H, W, C) uint8, [0, 255], C = 1 or 3.

    Returns:
        "dark", "bright" or "coloured".
    """
    if image.shape[2] == 3:
        red, green, blue = image.transpose(2, 0, 1)  # comparing whole channels is ten times as fast as .max(axis=2)
        lowest = np.minimum(np.minimum(red, green), blue)
        if (np.maximum(np.maximum(red, green), blue) - lowest).mean() >= COLOURED:
            return "coloured"
    bright, half = np.count_nonzero(image >= BRIGHT), image.size / 2
    if bright == half:  # the median lies between a bright and a dark value
        return "bright" if np.median(image) >= BRIGHT else "dark"
    return "bright" if bright > half else "dark"  # counting is twenty times as fast as the median


def number_instances(objects: Iterable[np.ndarray], size: tuple[int, int], seen: Counter[str]) -> np.ndarray:
    """Combine the masks of objects into a label map; a pixel belongs to the first object that claims it.

    Args:
        objects: masks (H, W) uint8, 0 or 1.
        size: (H, W).
        seen: counter of findings to add to: overlapping_pixels, and objects that get no number because they have no
            pixels (objects_without_pixels) or because earlier objects have all of them (objects_hidden).

    Returns:
        (H, W) uint16, 0 = background, objects numbered from 1 without gaps.

    Raises:
        ValueError: there are more objects than uint16 can number.
    """
    labels, number = np.zeros(size, dtype=np.uint16), 0
    for mask in objects:
        free = (mask != 0) & (labels == 0)
        n_pixels, n_free = int(np.count_nonzero(mask)), int(np.count_nonzero(free))
        seen["overlapping_pixels"] += n_pixels - n_free
        if n_free == 0:
            seen["objects_hidden" if n_pixels else "objects_without_pixels"] += 1
            continue
        number += 1
        if number > MAX_OBJECTS:
            raise ValueError(f"expected at most {MAX_OBJECTS} objects in an image, found more")
        labels[free] = number
    return labels


def _objects(item: Item, size: tuple[int, int], source: Source, seen: Counter[str]) -> Iterator[np.ndarray]:
    if item.objects:
        for path in image_files_in(item.objects).values():
            yield _mask_of(path, size, item.image, seen)
    else:
        for cell in item.run_lengths or ():
            if cell.strip():  # an empty cell means that there is no object
                yield _decoded(item, size, source, [cell])


def _mask_of(path: str, size: tuple[int, int], image: str, seen: Counter[str]) -> np.ndarray:
    mask, flaws = read_mask(path)
    if mask.shape != size:
        sizes = f"{size[0]}x{size[1]} like {image}, found {mask.shape[0]}x{mask.shape[1]}"
        turned = "; the EXIF rotation of the image is ignored" if seen["exif_rotations"] else ""
        raise BrokenImage(f"{path}: expected a mask of {sizes} (height x width){turned}; replace one of the two files")
    seen.update(flaws)
    return mask


def _decoded(item: Item, size: tuple[int, int], source: Source, cells: Iterable[str]) -> np.ndarray:
    try:
        return decode_union(list(cells), size)
    except ValueError as error:
        raise BrokenImage(f"{source.run_length_table}: the mask of {item.id}: {error}; correct this row") from None


def _resized(arrays: dict[str, np.ndarray], shape: tuple[int, int], seen: Counter[str]) -> dict[str, np.ndarray]:
    resized = {"images": resize_image(arrays["images"], shape)}
    if "labels" in arrays:
        small = resize_mask(arrays["labels"], shape)
        left = np.union1d(small, [0])  # background and the objects that still have a pixel
        seen["objects_lost_by_resizing"] = int(arrays["labels"].max()) - (len(left) - 1)
        resized["labels"] = np.searchsorted(left, small).astype(np.uint16)
        resized["masks"] = (resized["labels"] != 0).astype(np.uint8)
    elif "masks" in arrays:
        resized["masks"] = resize_mask(arrays["masks"], shape)
    return resized
