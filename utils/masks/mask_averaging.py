"""Weighted mean of mask files that hold the same images."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from utils.core.arrays import common_shape, shapes_in
from utils.core.errors import UsageError, UserError
from utils.masks.mask_file import Masks, open_masks

PIXELS_AT_ONCE = 2**22  # bounds memory at a few dozen MB, regardless of the number and size of the images


def open_agreeing(paths: Sequence[str]) -> list[Masks]:
    """Open mask files of the same images and the same size.

    Raises:
        UsageError: no file is given, or one file is given twice.
        UserError: ids or shapes differ, or a file is not a mask file.
    """
    if not paths:
        raise UsageError("no mask file given; name the files to average")
    resolved = [Path(path).resolve() for path in paths]
    for place, path in enumerate(resolved):
        if path in resolved[:place]:
            raise UsageError(f"{paths[place]}: given twice; use --weights to give one file more weight")
    first, *others = files = [open_masks(path) for path in paths]
    if not first.ids:
        raise UserError(f"{first.path}: holds no masks; predict again")
    if len(set(first.ids)) < len(first.ids):
        raise UserError(
            f"{first.path}: the same id is listed for several masks, so files cannot be matched by id; predict again"
        )
    for other in others:
        if other.ids != first.ids and sorted(other.ids) != sorted(first.ids):
            odd = sorted(set(other.ids) ^ set(first.ids))
            raise UserError(
                f"{other.path}: expected the images of {first.path}, but {len(odd)} are in only one of the two files "
                f"(such as {odd[0]}); average files of the same part and fold"
            )
        shapes, found = shapes_in(first.planes), shapes_in(other.planes, _order(other, first.ids))
        if shapes != found:
            name, shape, other_shape = next(
                each for each in zip(first.ids, shapes, found, strict=True) if each[1] != each[2]
            )
            raise UserError(
                f"{other.path}: expected a mask of shape {shape} for {name} like {first.path}, found {other_shape}; "
                "average files that were predicted from the same packed images"
            )
        digests = {masks.info.images_digest for masks in (first, other)} - {None}
        if len(digests) > 1:
            raise UserError(
                f"{other.path}: was predicted from other images than {first.path} under the same ids (the images were "
                "packed again in between); predict both again"
            )
    return files


def check_weights(weights: Sequence[float], n_files: int) -> np.ndarray:
    """Return (n_files,) float64 shares that sum to 1; equal shares if no weights are given.

    Raises:
        UsageError: the number of weights differs from the number of files, or a weight is not positive and finite.
    """
    weights = weights or [1.0] * n_files
    if len(weights) != n_files:
        raise UsageError(f"--weights: expected one weight for each mask file, found {len(weights)} for {n_files} files")
    for weight in weights:
        if not (weight > 0 and math.isfinite(weight)):
            raise UsageError(
                f"--weights {weight:g}: expected a positive finite number; leave out files that should not count"
            )
    return np.array(weights, dtype=np.float64) / math.fsum(weights)


def weighted_mean(files: Sequence[Masks], shares: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the mean masks batch by batch, in the order of the first file's ids.

    Args:
        files: as returned by `open_agreeing`.
        shares: (len(files),) float64 with sum 1.

    Yields:
        (k, H, W), or (k, 2, H, W) with borders, float32 in [0, 1] up to rounding; the batch sizes k sum to N, and k is
        1 if masks have different sizes.

    Raises:
        UserError: a value is not a probability.
    """
    shapes = shapes_in(files[0].planes)
    common = common_shape(shapes)
    step = max(1, PIXELS_AT_ONCE // math.prod(common)) if common else 1
    orders = [_order(masks, files[0].ids) for masks in files]
    for start in range(0, len(shapes), step):
        mean = np.zeros((min(step, len(shapes) - start), *shapes[start]), dtype=np.float32)
        for masks, share, order in zip(files, shares, orders, strict=True):
            batch = np.asarray(masks.planes[order[start : start + step]], dtype=np.float32)
            if not (batch.min() >= 0 and batch.max() <= 1):  # written so that NaN fails too
                found = f"{batch.min():g} to {batch.max():g}"
                raise UserError(f"{masks.path}: expected probabilities in [0, 1], found {found}; predict again")
            mean += np.float32(share) * batch
        yield mean


def _order(masks: Masks, ids: Sequence[str]) -> np.ndarray:
    """Return the rows of a mask file in the order of `ids`."""
    row_of = {name: row for row, name in enumerate(masks.ids)}
    return np.array([row_of[name] for name in ids])
