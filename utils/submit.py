"""From probability masks to a submission that was checked before it is called done."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files import whole_file
from utils.mask_file import Masks
from utils.metrics import binarize
from utils.rle import encode
from utils.stack import read_manifest
from utils.submission_check import Shapes, check_submission
from utils.tables import read_table
from utils.truth import run_length_columns


def write_submission(
    path: str | Path,
    ids: Iterable[str],
    masks: Iterable[np.ndarray],
    columns: tuple[str, str] = ("id", "rle_mask"),
) -> None:
    """Write a submission, whole or not at all, taking one mask at a time.

    Args:
        path: the csv file.
        ids: N image ids.
        masks: N times (H, W), what is not 0 is mask.
        columns: the header.

    Raises:
        ValueError: more ids than masks, or the other way round.
    """
    with whole_file(path) as part:
        _write_rows(part, ids, masks, columns)


def _write_rows(path: Path, ids: Iterable[str], masks: Iterable[np.ndarray], columns: tuple[str, str]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows((name, encode(mask)) for name, mask in zip(ids, masks, strict=True))


def timestamped(submission_dir: str | Path, fn: str) -> Path:
    """<submission_dir>/<fn>_<year>-<month>-<day>_<hour>:<minute>.csv; if that exists, ..._2.csv, and so on."""
    stem = f"{fn}_{datetime.now():%Y-%m-%d_%H:%M}"
    path, number = Path(submission_dir) / f"{stem}.csv", 1
    while path.exists():
        number += 1
        path = path.with_name(f"{stem}_{number}.csv")
    return path


def finish_submission(
    masks: Masks, th: float, min_area: int, submission_dir: str | Path, fn: str, data_dir: str | Path | None = None
) -> Path:
    """Binarize a mask file image by image, write the submission, check it, and print where it is and what it holds.

    Rows are in the order of data_dir/sample_submission.csv where that has the same ids. Where packing resized the
    images, the probabilities are resized back to each source image's size first.

    Args:
        masks: (N, H, W) probabilities.
        th: a pixel is mask where its probability is greater.
        min_area: a mask of fewer pixels, counted at the size of the mask file, becomes empty.
        submission_dir: folder for the file, which is named by `timestamped`.
        fn: start of its name.
        data_dir: the packed folder the images are from; None: the one that the mask file names, if it is here.

    Returns:
        the path of the submission.

    Raises:
        UserError: the packed folder does not fit the masks, or the check found a problem; then nothing is written.
    """
    folder = _data_folder(masks, data_dir)
    shapes = _source_shapes(masks, folder)
    sample = folder / "sample_submission.csv" if folder and masks.about.get("part", "test") == "test" else None
    ids, columns = list(masks.ids), ("id", "rle_mask")
    if sample and sample.is_file():
        table = read_table(sample)
        columns = run_length_columns(list(table), sample)
        wanted = list(dict.fromkeys(table[columns[0]]))
        ids = wanted if set(wanted) == set(ids) else ids
    else:
        sample = None
    path = timestamped(submission_dir, fn)
    with whole_file(path) as part:
        _write_rows(part, ids, _binary_masks(masks, ids, th, min_area, shapes), columns)
        verdict = check_submission(part, sample, shapes)
        if verdict.problems:
            more = f" (and {len(verdict.problems) - 1} more)" if len(verdict.problems) > 1 else ""
            raise UserError(f"{path}: not written, the check found: {verdict.problems[0]}{more}")
    compared = f"ids and order as in {sample}" if sample else "ids not compared, there is no sample_submission.csv"
    print(f"{path}: threshold {th:.6g}, least area {min_area}; {compared}\n{verdict.as_text()}")
    return path


def _binary_masks(masks: Masks, ids: Sequence[str], th: float, min_area: int, shapes: Shapes) -> Iterator[np.ndarray]:
    """Bool masks of `ids`, each of its source image's size."""
    row_of = {name: row for row, name in enumerate(masks.ids)}
    for name in ids:
        probabilities = masks.array[row_of[name]]
        mask = binarize(probabilities, th)
        shape = shapes if isinstance(shapes, tuple) else shapes[name]
        if np.count_nonzero(mask) < min_area:
            mask = np.zeros(shape, dtype=bool)
        elif mask.shape != shape:
            mask = binarize(_resized(probabilities, shape), th)
        yield mask


def _resized(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) probabilities as float32 of another (height, width)."""
    import cv2

    return cv2.resize(probabilities.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)


def _data_folder(masks: Masks, data_dir: str | Path | None) -> Path | None:
    if data_dir is not None:
        return Path(data_dir)
    recorded = masks.about.get("data_dir")
    if recorded and Path(recorded).is_dir():
        return Path(recorded)
    print(f"{masks.path}: the packed images it was made from are not here; its masks keep their size")
    return None


def _source_shapes(masks: Masks, folder: Path | None) -> Shapes:
    """The size that each mask of the submission has."""
    height, width = masks.array.shape[1:]
    if folder is None:
        return height, width
    part, parts = masks.about.get("part", "test"), read_manifest(folder)["parts"]
    if part not in parts:
        raise UserError(f"{folder}: holds no {part} images, of which the masks are; --data_dir names another folder")
    described = parts[part]
    if not described.get("sizes"):
        packed = tuple(described["arrays"]["images"]["shape"][1:3])
        if packed != (height, width):
            raise UserError(
                f"{masks.path}: masks of {height}x{width}, but the {part} images in {folder} are "
                f"{packed[0]}x{packed[1]}; val_transforms has to lead back to the images' size"
            )
        return height, width
    shapes = {name: (size[0], size[1]) for name, size in zip(described["ids"], described["sizes"], strict=True)}
    if unknown := [name for name in masks.ids if name not in shapes]:
        raise UserError(f"{folder}: {len(unknown)} images of {masks.path} are not packed there (such as {unknown[0]})")
    return shapes
