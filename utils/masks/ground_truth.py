"""True masks and instances by image id, read from a packed folder, a csv of run-lengths or a .npy with a .json."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from utils.core.arrays import Rows, open_array, shapes_in
from utils.core.errors import UsageError, UserError
from utils.core.files import read_json
from utils.core.tables import read_table
from utils.data.formats import read_format, run_length_columns
from utils.data.image_files import resize_mask
from utils.data.packed_data import MANIFEST, PackedImages, open_packed, read_manifest
from utils.data.rle import decode_instances, decode_union
from utils.masks.instances import resize_instances
from utils.masks.mask_file import Masks, check_same_images


def read_run_lengths(path: str | Path) -> dict[str, list[str]]:
    """Read a csv as id -> run-lengths, one for each row of that id (a row is a mask, or one instance of it)."""
    table = read_table(path)
    id_column, rle_column = run_length_columns(list(table), path)
    cells: dict[str, list[str]] = {}
    for name, cell in zip(table[id_column], table[rle_column], strict=True):
        cells.setdefault(name, []).append(cell)
    return cells


def true_masks(masks: Masks, truth_fn: str | None = None, rows: Iterable[int] | None = None) -> Iterator[np.ndarray]:
    """Yield the true mask of each image of a mask file, one at a time and in the order of the file.

    Args:
        masks: an opened mask file.
        truth_fn: a packed folder, a csv (id, rle_mask) in the size of the source images, or a .npy (M, H, W) of 0 and
            1 with a .json of its ids; None: the packed folder that the mask file names.
        rows: rows of the mask file to read, in this order; None: all rows.

    Yields:
        (H, W), integers or bool; non-zero pixels are mask.

    Raises:
        UserError: the true masks are missing, of another size, or do not cover all images. The error is raised by the
            call itself, before the first mask is requested.
    """
    source = truth_fn or _recorded_folder(masks)
    if Path(source).suffix == ".csv":
        return _from_csv(masks, source, rows, decode_union, resize_mask)
    if Path(source).suffix == ".npy":
        array, ids = _open_pair(Path(source))
    else:
        packed = _open_folder(source, truth_fn)
        if truth_fn is None:
            check_same_images(masks.path, masks.info, packed, source)
        array, ids = packed.masks, packed.ids
    if array is None:
        raise UserError(f"{source}: its images are packed without masks; pass the true masks with --truth_fn")
    found = {name: row for row, name in enumerate(ids)}
    truths = _by_id(masks, found, array.__getitem__, source, rows)
    _check_sizes(masks, array, found, f"the true masks in {source}")
    return truths


def true_instances(
    masks: Masks, truth_fn: str | None = None, rows: Iterable[int] | None = None
) -> Iterator[np.ndarray]:
    """Yield the true label map of each image of a mask file, one at a time and in the order of the file.

    Args:
        masks: an opened mask file.
        truth_fn: a packed folder with labels, or a csv with one row per instance (ImageId, EncodedPixels; an image
            without instances has a single row with an empty cell); None: the packed folder that the mask file names.
        rows: rows of the mask file to read; None: all rows.

    Yields:
        (H, W), integers: 0 = background, a number for each instance.

    Raises:
        UserError: the truth is missing, does not tell instances apart, is of another size, or does not cover all
            images; raised by the call itself, before the first map is requested. Instances in a csv that overlap, have
            no pixels or are too many are reported when their map is requested.
    """
    source = truth_fn or _recorded_folder(masks)
    if Path(source).suffix == ".csv":
        return _from_csv(masks, source, rows, decode_instances, resize_instances)
    if Path(source).suffix == ".npy":
        raise UserError(
            f"--truth_fn {source}: a .npy of masks does not tell objects apart; pass a packed folder with labels or a "
            "csv with a row for each object"
        )
    packed = _open_folder(source, truth_fn)
    if truth_fn is None:
        check_same_images(masks.path, masks.info, packed, source)
    if packed.instances is None:
        raise UserError(
            f"{source}: packed without labels, so its truth does not tell objects apart; pack a source with a mask or "
            "a csv row for each object, or pass such a csv with --truth_fn"
        )
    found = {name: row for row, name in enumerate(packed.ids)}
    truths = _by_id(masks, found, packed.instances.__getitem__, source, rows)
    _check_sizes(masks, packed.instances, found, f"the true objects in {source}")
    return truths


def _from_csv(
    masks: Masks, source: str, rows: Iterable[int] | None, decode: Callable, resize: Callable
) -> Iterator[np.ndarray]:
    """Yield truth from run-lengths; they are of the source images, so it is resized where packing resized those."""
    cells, by_row = read_run_lengths(source), read_format(source).by_row
    shape_of = dict(zip(masks.ids, masks.shapes, strict=True))
    source_shape_of = shape_of | _resized_from(masks)

    def truth_of(name: str) -> np.ndarray:
        try:
            truth = decode(cells[name], source_shape_of[name], by_row)
        except ValueError as error:
            raise UserError(f"{source}: the mask of {name}: {error}") from None
        return truth if truth.shape == shape_of[name] else resize(truth, shape_of[name])

    return _by_id(masks, {name: name for name in cells}, truth_of, source, rows)


def _resized_from(masks: Masks) -> dict[str, tuple[int, int]]:
    """Return id -> (height, width) of the source image, if packing resized the images that the masks were made from."""
    folder = masks.info.data_dir
    if folder is None or not (Path(folder) / MANIFEST).is_file():
        return {}
    part = read_manifest(folder).parts.get(masks.info.part or "train")
    if part is None or part.mixed or not part.sizes:
        return {}
    return {name: (height, width) for name, (height, width) in zip(part.ids, part.sizes, strict=True)}


def _by_id(
    masks: Masks, found: dict[str, object], truth_of: Callable, source: str | Path, rows: Iterable[int] | None = None
) -> Iterator[np.ndarray]:
    missing = [name for name in masks.ids if name not in found]
    if missing:
        raise UserError(
            f"{source}: no true mask for {len(missing)} of the {len(masks.ids)} images of {masks.path} "
            f"(such as {missing[0]}); pass another source with --truth_fn"
        )
    wanted = range(len(masks.ids)) if rows is None else rows
    return (truth_of(found[masks.ids[row]]) for row in wanted)


def _check_sizes(masks: Masks, truths: Rows, row_of: Mapping[str, int], what: str) -> None:
    """Raise UserError if a mask and its truth have different sizes."""
    expected = shapes_in(truths, [row_of[name] for name in masks.ids])
    for name, shape, found in zip(masks.ids, expected, masks.shapes, strict=True):
        if shape != found:
            raise UserError(
                f"{masks.path}: expected a mask of {shape[0]}x{shape[1]} for {name}, the size of {what}, found "
                f"{found[0]}x{found[1]}"
            )


def _recorded_folder(masks: Masks) -> str:
    folder, part = masks.info.data_dir, masks.info.part or "train"
    if folder is None or part != "train":
        found = "does not record its data folder" if folder is None else f"holds predictions for the {part} images"
        raise UsageError(f"{masks.path}: {found}, so its true masks are unknown; pass them with --truth_fn")
    if not Path(folder).is_dir():
        raise UserError(
            f"{masks.path}: predicted from {folder}, which does not exist; pass the true masks with --truth_fn"
        )
    return folder


def _open_folder(source: str, truth_fn: str | None) -> PackedImages:
    """Open the training images of a packed folder; the error names --truth_fn if it was given."""
    if truth_fn is not None and not (Path(source) / MANIFEST).is_file():
        found = "a folder that is not packed" if Path(source).is_dir() else "no such file or folder"
        found = "another file" if Path(source).is_file() else found
        raise UserError(
            f"--truth_fn {source}: expected a packed folder, a csv of run-lengths or a .npy of masks, found {found}"
        )
    return open_packed(source, "train")


def _open_pair(path: Path) -> tuple[np.ndarray, list[str]]:
    array, beside = open_array(path), path.with_suffix(".json")
    about = read_json(beside)
    ids = about.get("ids") if isinstance(about, dict) else about
    if array.ndim != 3 or array.dtype.kind not in "bui":
        raise UserError(
            f"{path}: expected true masks of 0 and 1 (images, height, width), found {array.dtype} {array.shape}"
        )
    if not isinstance(ids, list) or len(ids) != len(array):
        raise UserError(f"{beside}: expected a list of {len(array)} ids, one for each mask in {path.name}")
    return array, ids
