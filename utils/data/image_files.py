"""Image files as numpy arrays: images as uint8, masks as 0 and 1, with errors that name the file."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from utils.core.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


EXIF_ORIENTATION = 274
"""Tag of the direction in which a camera was held; 1 means upright."""
DARK_16_BIT = 2**12
"""16-bit images with only smaller values are dark: less than 16 grey levels of them remain in 8 bits."""


class BrokenImage(UserError):
    """An image that cannot be packed, because it or its truth is broken or the two do not match.

    The message names the file and ends with what to do about it. Disk errors remain OSErrors, because an image that
    could not be read from the disk is not necessarily broken.
    """


class ColourFound(Exception):
    """A colour image among images that were taken for grey."""


def image_size(path: str) -> tuple[int, int]:
    """Return (height, width) of an image from the header of its file; raise BrokenImage if it is invalid."""
    with _opened(path, path) as picture:
        return picture.size[1], picture.size[0]


def is_grey(path: str) -> bool:
    """Return True if an image has one channel, or three equal ones; raise BrokenImage if its file is invalid."""
    with _opened(path, path) as picture:
        return _has_equal_channels(_pixels(picture, path))


def _has_equal_channels(pixels: np.ndarray) -> bool:
    return pixels.ndim == 2 or all(np.array_equal(pixels[..., 0], pixels[..., k]) for k in (1, 2))


def read_file(path: str) -> bytes:
    """Return the content of an image file; raise BrokenImage if it is empty."""
    with open(path, "rb") as file:
        content = file.read()
    _check_length(len(content), path)
    return content


def image_from(
    file: str | BinaryIO, name: str, channels: int, strict: bool = False, seen: Counter[str] | None = None
) -> np.ndarray:
    """Decode an image file without its alpha channel; 16-bit grey is reduced to its upper 8 bits.

    Args:
        file: path of the file, or its content.
        name: name of the file, for errors.
        channels: 1 takes the first channel, 3 repeats the channel of a grey image.
        strict: do not take the first channel of a colour image.
        seen: counter of findings to add to: exif_rotations and dark_16_bit_images.

    Returns:
        (H, W, channels) uint8, [0, 255].

    Raises:
        BrokenImage: truncated or invalid image file.
        ColourFound: `strict`, one channel was asked for, and the image has different ones.
    """
    with _opened(file, name) as picture:
        pixels = _pixels(picture, name)
        turned = picture.getexif().get(EXIF_ORIENTATION, 1) != 1
    if seen is not None:
        dark = pixels.dtype == np.uint16 and 0 < pixels.max() < DARK_16_BIT
        seen.update({"exif_rotations": 1} if turned else {}, **({"dark_16_bit_images": 1} if dark else {}))
    if strict and channels == 1 and not _has_equal_channels(pixels):
        raise ColourFound(name)
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], channels, axis=2)
    return pixels[..., :channels]


def read_mask(path: str) -> tuple[np.ndarray, list[str]]:
    """Read a mask: pixels brighter than half of the file's range (8 or 16 bit) are mask.

    The brightness of a colour pixel is its largest channel. If no pixel is that bright, all but 0 are mask: 0 and 1, or
    the numbers of classes or objects.

    Returns:
        (mask, flaws): (H, W) uint8, 0 or 1; and a list with "masks_not_binary" if the file has more than two values and
        "masks_too_dark" if it has values greater than 1 but none above half of the range.

    Raises:
        BrokenImage: truncated or invalid image file, small values without a 0, or a mask in the alpha channel.
    """
    with _opened(path, path) as picture:
        pixels = _pixels(picture, path)
        alpha = np.asarray(picture.getchannel("A")) if picture.mode in ("LA", "RGBA") else None
    if pixels.ndim == 3:
        pixels = pixels.max(axis=2)
    if alpha is not None and pixels.min() == pixels.max() and alpha.min() < alpha.max():
        raise BrokenImage(f"{path}: expected the mask in the colours, found it in the alpha channel; save it as grey")
    low, high, half = pixels.min(), pixels.max(), np.iinfo(pixels.dtype).max // 2
    flaws = []
    if not ((pixels == low) | (pixels == high)).all():
        flaws.append("masks_not_binary")
    if 1 < high <= half:
        flaws.append("masks_too_dark")
        if low > 0:
            raise BrokenImage(
                f"{path}: expected a mask with 0 for the background, found values from {low} to {high}; save it with 0 "
                "and 255"
            )
    return (pixels > (half if high > half else 0)).astype(np.uint8), flaws


def resize_image(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, C) uint8 to (*shape, C): by area averaging if neither side grows, otherwise bilinearly."""
    import cv2

    shrinks = shape[0] <= image.shape[0] and shape[1] <= image.shape[1]
    resized = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(*shape, image.shape[2])  # OpenCV drops a single channel


def resize_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize (H, W) uint8 or uint16 to `shape` with nearest-neighbour sampling, so that no new values appear."""
    import cv2

    # INTER_NEAREST takes the upper left pixel instead of the middle one, which shifts the mask by half a pixel
    return cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def _check_length(length: int, path: str) -> None:
    if length == 0:
        raise BrokenImage(f"{path}: expected an image, found an empty file of 0 bytes; download it again")


@contextmanager
def _opened(file: str | BinaryIO, path: str) -> Iterator["Image"]:
    """Open an image file, given by its path or content; turn any error of the decoder into a line that names it."""
    from PIL import Image

    if isinstance(file, str):
        _check_length(os.path.getsize(file), path)
    Image.MAX_IMAGE_PIXELS = None  # Pillow's limit is for files from strangers; these are the user's own, often large
    try:
        with Image.open(file) as picture:
            if picture.format in ("GIF", "TIFF") and picture.is_animated:
                raise BrokenImage(f"{path}: expected one image, found several frames or pages; keep one of them")
            yield picture
    except (UserError, MemoryError):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and others
        if isinstance(error, OSError) and error.errno:
            raise  # a disk or permission error, so the image itself may be valid
        reason = "unknown image format" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise BrokenImage(
            f"{path}: expected an image, found a truncated or invalid file ({reason}); download it again"
        ) from None


def _pixels(picture: "Image", path: str) -> np.ndarray:
    """Return the pixels of an opened image: (H, W) or (H, W, 3), uint8 or (grey only) uint16."""
    mode = picture.mode
    if mode in ("P", "PA"):
        return np.asarray(picture.convert("RGBA"))[..., :3]  # Pillow warns if a palette with alpha is converted to RGB
    if mode.startswith("I;16"):
        return np.asarray(picture).astype(np.uint16)
    if mode in ("I", "F"):
        raise BrokenImage(f"{path}: expected 8 or 16 bits per channel, found 32 bits (mode {mode}); convert it")
    if mode in ("L", "RGB"):
        return np.asarray(picture)
    if mode in ("LA", "RGBA"):
        return np.asarray(picture)[..., 0 if mode == "LA" else slice(3)]
    return np.asarray(picture.convert("L" if mode == "1" else "RGB"))
