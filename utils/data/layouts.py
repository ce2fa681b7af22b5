"""Known folder layouts of images and masks: detection of the layout, and matching of images with their truth.

A layout is one function (folder -> Source, or None if the folder has another layout) and one entry in LAYOUTS.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from utils.core.errors import UserError
from utils.data.formats import RLE_COLUMNS
from utils.data.image_ids import stem_of
from utils.data.packed_tables import find_class_table
from utils.data.source_files import (
    header_of,
    image_files_in,
    image_folders_in,
    images_in,
    in_csv_order,
    is_packing_table,
    need,
    rows_of,
)


class Item(NamedTuple):
    """One image and the location of its truth. Paths are str, because a Path takes several times the memory."""

    id: str
    image: str
    mask: str | None = None
    """Path of the mask file."""
    objects: str | None = None
    """Path of a folder with one mask file per object."""
    run_lengths: tuple[str, ...] | None = None
    """Run-lengths of the image in a csv: the truth if there are no mask files, otherwise compared with them."""


@dataclass(frozen=True)
class Source:
    """Images and tables found in a folder, in the order in which they are packed."""

    train: list[Item]
    test: list[Item] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    """csv files that the packed folder needs too: train.csv, depths.csv, sample_submission.csv."""
    run_length_table: Path | None = None
    """csv with the run-lengths of `train`."""
    class_table: Path | None = None
    """csv with the classes of the images in `train`, if they have classes instead of masks."""
    has_instances: bool = False
    """True if the truth distinguishes the objects of an image."""
    layout: str = ""
    folder: str = ""

    @property
    def parts(self) -> dict[str, list[Item]]:
        """{"train": items, "test": items}, without parts that have no images."""
        return {part: items for part, items in (("train", self.train), ("test", self.test)) if items}


def find_source(data_dir: str | Path) -> Source:
    """Detect the layout of a folder and list its images.

    Raises:
        UserError: the folder does not exist, has no known layout, or has files that are missing, duplicated or not
            listed in its csv.
    """
    folder = Path(data_dir)
    if not folder.is_dir():
        found = "expected a folder, found a file" if folder.exists() else "no such folder"
        raise UserError(f"--data_dir {folder}: {found}; name the folder with images and masks")
    there = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in os.scandir(folder))
    if not there:
        raise UserError(f"--data_dir {folder}: expected images and masks, found an empty folder")
    for name, (_, finder) in LAYOUTS.items():
        source = finder(folder)
        if source and not source.train:
            raise UserError(f"--data_dir {folder}: expected training images (layout {name}), found only test images")
        if source:
            return replace(source, layout=name, folder=str(folder))
    looked_for = "; ".join(f"{name}: {looks}" for name, (looks, _) in LAYOUTS.items())
    found = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
    raise UserError(f"--data_dir {folder}: expected one of the known layouts ({looked_for}), found {found}")


def _salt(folder: Path) -> Source | None:
    images, masks, table = folder / "train/images", folder / "train/masks", folder / "train.csv"
    if not (images.is_dir() and masks.is_dir()):
        return None
    rows = rows_of(table)
    train = _pair(in_csv_order(images_in(images), rows, images, table), images, image_files_in(masks), masks, rows)
    test = _test(folder / "test/images", folder / "sample_submission.csv")
    return Source(train, test, _tables(folder), table)


def _flat(folder: Path) -> Source | None:
    images, masks = folder / "images", folder / "masks"
    train_table, test_table = folder / "train.csv", folder / "sample_submission.csv"
    if not (images.is_dir() and masks.is_dir()):
        return None
    train_rows, written = rows_of(train_table), rows_of(test_table, as_written=True)
    test_rows = None if written is None else {stem_of(name): name for name in written}
    if train_rows is None and test_rows is None:
        return None
    pictures, test_rows = images_in(images), test_rows or {}
    if train_rows is None:
        train_rows = {stem: [] for stem in pictures if stem not in test_rows}
    if both := [name for name in train_rows if name in test_rows]:
        raise UserError(
            f"{test_table}: {both[0]} is also in train.csv (affected: {len(both)}); remove it from one of the two"
        )
    need(train_rows, pictures, train_table, f"has no image in {images}")
    need(test_rows, pictures, test_table, f"has no image in {images}")
    need(pictures, {*train_rows, *test_rows}, images, f"is in neither {train_table.name} nor {test_table.name}")
    train = _pair({name: pictures[name] for name in train_rows}, images, image_files_in(masks), masks, train_rows)
    return Source(train, [Item(name, pictures[stem]) for stem, name in test_rows.items()], _tables(folder), train_table)


def _pairs(folder: Path) -> Source | None:
    images, masks = folder / "images", folder / "masks"
    if not (images.is_dir() and masks.is_dir()):
        return None
    return Source(_pair(images_in(images), images, image_files_in(masks), masks))


def _carvana(folder: Path) -> Source | None:
    images, masks = folder / "train", folder / "train_masks"
    if not (images.is_dir() and masks.is_dir()):
        return None
    of_image = {stem.removesuffix("_mask"): path for stem, path in image_files_in(masks).items()}
    test = _test(folder / "test", folder / "sample_submission.csv")
    # train_masks.csv of Carvana numbers pixels row by row, so that the masks are not compared with it
    train = _pair(images_in(images), images, of_image, masks)
    return Source(train, test, _tables(folder))


def _dsb2018(folder: Path) -> Source | None:
    train, table = folder / "stage1_train", folder / "stage1_train_labels.csv"
    test, order = folder / "stage1_test", folder / "stage1_sample_submission.csv"
    if not train.is_dir():
        return None
    images, rows = image_folders_in(train), rows_of(table, many=True)
    in_csv_order(images, rows, train, table)
    need(images, {name for name in images if (train / name / "masks").is_dir()}, train, "has no folder masks")
    items = [
        Item(name, image, objects=str(train / name / "masks"), run_lengths=tuple(rows[name]) if rows else None)
        for name, image in images.items()
    ]
    listed = in_csv_order(image_folders_in(test), rows_of(order), test, order) if test.is_dir() else {}
    return Source(items, [Item(*pair) for pair in listed.items()], _tables(folder), table, has_instances=True)


def _airbus(folder: Path) -> Source | None:
    places = [folder / name for name in ("train_v2", "train/images", "train", "images")]
    images = next((place for place in places if place.is_dir()), None)
    table = _run_length_table(folder)
    if images is None or table is None:
        return None
    rows = rows_of(table, many=True) or {}
    pictures = in_csv_order(images_in(images), rows, images, table)
    train = [Item(name, path, run_lengths=tuple(rows[name])) for name, path in pictures.items()]
    test, order = _test_and_order(folder, "test_v2", "test/images", "test")
    if any(name != stem_of(name) for name in rows):  # the ids of this csv are file names
        test = [item._replace(id=os.path.basename(item.image)) for item in test]
    return Source(train, test, order, table, has_instances=True)


def _labels(folder: Path) -> Source | None:
    places = [folder / name for name in ("train/images", "train-jpg", "train", "images")]
    images = next((place for place in places if place.is_dir()), None)
    if images is None or any((folder / name).is_dir() for name in ("train/masks", "train_masks", "masks")):
        return None
    table = find_class_table(folder)
    if table is None:
        return None
    pictures = in_csv_order(images_in(images), rows_of(table), images, table)
    test, order = _test_and_order(folder, "test/images", "test-jpg", "test")
    return Source([Item(*pair) for pair in pictures.items()], test, order, class_table=table)


LAYOUTS: dict[str, tuple[str, Callable[[Path], Source | None]]] = {
    "salt": ("train/images and train/masks", _salt),
    "flat": ("images, masks and train.csv or sample_submission.csv", _flat),
    "pairs": ("images and masks", _pairs),
    "carvana": ("train and train_masks/*_mask.gif", _carvana),
    "dsb2018": ("stage1_train/<id>/images and masks", _dsb2018),
    "airbus": ("train_v2, train or images, and a csv of run-lengths", _airbus),
    "labels": ("train, train-jpg or images, a csv with a column of classes, and no masks", _labels),
}
"""Name -> (contents of a folder with this layout, function that lists it); the first layout that matches is used."""
NOT_FOR_TRAINING = ("train_with_folds.csv", "truth.csv")
"""csv files with run-lengths that are derived from train.csv or belong to the test images (utils/make_demo.py)."""


def _run_length_table(folder: Path) -> Path | None:
    """Return the csv with run-lengths, or None.

    Without run-lengths and classes, the training csv is returned, whose columns then cause an error.

    Raises:
        UserError: there are several.
    """
    tables = [
        path
        for path in sorted(folder.glob("*.csv"))
        if path.name not in NOT_FOR_TRAINING and "submission" not in path.name and not is_packing_table(path)
    ]
    with_run_lengths = [path for path in tables if not set(RLE_COLUMNS).isdisjoint(header_of(path))]
    if not with_run_lengths and find_class_table(folder):
        return None
    tables = with_run_lengths or [path for path in tables if path.name.startswith("train")]
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise UserError(f"{folder}: expected one csv with run-lengths, found {names}; move the others away")
    return tables[0] if tables else None


def _pair(
    images: dict[str, str],
    images_dir: Path,
    masks: dict[str, str],
    masks_dir: Path,
    rows: dict[str, list[str]] | None = None,
) -> list[Item]:
    """Return each image with its mask and, from `rows`, its run-lengths.

    Raises:
        UserError: a mask or an image is missing.
    """
    need(images, masks, images_dir, f"has no mask in {masks_dir}")
    need(masks, images, masks_dir, f"has no image in {images_dir}")
    cells = rows or {}
    return [Item(name, path, masks[name], None, tuple(cells.get(name, ())) or None) for name, path in images.items()]


def _test(images: Path, order: Path) -> list[Item]:
    """Return the images without truth, in the order of the sample submission."""
    if not images.is_dir():
        return []
    rows = rows_of(order, as_written=True)  # a submission must have exactly these ids
    return [Item(name, path) for name, path in in_csv_order(images_in(images), rows, images, order).items()]


def _test_and_order(folder: Path, *places: str) -> tuple[list[Item], list[Path]]:
    """Return the images without truth from the first of some folders, and the sample submission, if there is one."""
    order = max(folder.glob("sample_submission*.csv"), default=folder / "sample_submission.csv")  # prefers _v2
    images = next((folder / place for place in places if (folder / place).is_dir()), folder / places[0])
    return _test(images, order), [order] if order.is_file() else []


def _tables(folder: Path) -> list[Path]:
    names = ("train.csv", "depths.csv", "sample_submission.csv", "stage1_sample_submission.csv")
    return [folder / name for name in names if (folder / name).is_file() and not is_packing_table(folder / name)]
