"""Lay out a cloned public set as OUT/train/images and OUT/train/masks; bench/sets.sh clones the sets and calls this.

python bench/lay_out_set.py --set cats --clone /tmp/sets/.clones/cats --out /tmp/sets/cats
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from utils.core.cli import run
from utils.core.errors import UsageError, UserError

Found = tuple[str, Path, np.ndarray]
"""Name of an image, its file, and its mask (h, w) bool."""


@dataclass(frozen=True)
class Settings:
    set: str = ""
    """name of the set, one of SETS."""
    clone: str = ""
    """folder with the files of its repository."""
    out: str = ""
    """folder for the images and masks."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Copy the images, and write each mask as a PNG with 0 and 255."""
    if settings.set not in SETS:
        raise UsageError(f"--set {settings.set}: expected one of {', '.join(SETS)}")
    images, masks = (Path(settings.out) / "train" / part for part in ("images", "masks"))
    for folder in (images, masks):
        folder.mkdir(parents=True)
    count = 0
    for name, source, mask in SETS[settings.set](Path(settings.clone)):
        shutil.copyfile(source, images / f"{name}{source.suffix.lower()}")
        Image.fromarray(mask.astype(np.uint8) * 255).save(masks / f"{name}.png")
        count += 1
    if not count:
        raise UserError(f"{settings.clone}: no images of the set {settings.set} found")
    print(f"{settings.set}: {count} images")


def road_potholes(root: Path) -> Iterator[Found]:
    """Find the photos with a pothole that have the commonest size, 1024x640."""
    for source in sorted(root.glob("Dataset/*/*_RAW.jpg")):
        name = source.name.removesuffix("_RAW.jpg")
        mask = _pixels(source.with_name(f"{name}_POTHOLE.png"))[..., 0] > 127
        if mask.any() and mask.shape == (640, 1024):
            yield name, source, mask


def cats(root: Path) -> Iterator[Found]:
    """Find the photos of two parts; noise was added to those of the third, which has several versions of each."""
    for part in ("valid", "test"):
        folder = root / "feral-cat-segmentation.v1i.yolov8" / part
        for source in sorted((folder / "images").glob("*.jpg")):
            size = Image.open(source).size
            lines = (folder / "labels" / f"{source.stem}.txt").read_text().splitlines()
            outlines = [np.array(line.split()[1:], float).reshape(-1, 2) * size for line in lines]
            yield source.stem.split(".rf.")[0], source, _filled(size, outlines)


def leaf_lesions(root: Path) -> Iterator[Found]:
    """Find the leaves; red is a lesion and green the rest of the leaf."""
    data = root / "segmentation" / "dataset"
    for part in ("train", "val", "test"):
        for source in sorted((data / "images" / part).iterdir()):
            truth = _pixels(data / "annotations" / part / f"{source.stem}_mask.png")
            yield f"{part}_{source.stem}", source, (truth[..., 0] > 127) & (truth[..., 1] < 100)


def aerial_roads(root: Path) -> Iterator[Found]:
    """Find the aerial views."""
    for source in sorted(root.glob("data/training/images/*.png")):
        yield source.stem, source, _pixels(root / "data/training/groundtruth" / source.name) > 127


def melt_pools(root: Path) -> Iterator[Found]:
    """Find the micrographs; the outlines are polygons in the format of COCO."""
    data = root / "instance_segmentation" / "data"
    for part in ("train", "validation"):
        notes = json.loads((data / "annotations" / f"{part}.json").read_text())
        for entry in notes["images"]:
            source = data / part / Path(entry["file_name"]).name
            of_image = [note for note in notes["annotations"] if note["image_id"] == entry["id"]]
            outlines = [np.array(one).reshape(-1, 2) for note in of_image for one in _polygons(note)]
            yield f"{part}_{source.stem}", source, _filled((entry["width"], entry["height"]), outlines)


def _polygons(note: dict[str, Any]) -> list[list[float]]:
    polygons = note["segmentation"]
    return json.loads(polygons) if isinstance(polygons, str) else polygons


def _filled(size: tuple[int, int], outlines: Iterable[np.ndarray]) -> np.ndarray:
    """Fill polygons (n, 2) of x and y in pixels; return the mask (h, w) bool."""
    mask = Image.new("L", size)
    for outline in outlines:
        if len(outline) >= 3:
            ImageDraw.Draw(mask).polygon([tuple(corner) for corner in outline], fill=1)
    return np.asarray(mask) > 0


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


SETS: dict[str, Callable[[Path], Iterator[Found]]] = {
    "road_potholes": road_potholes,
    "cats": cats,
    "leaf_lesions": leaf_lesions,
    "aerial_roads": aerial_roads,
    "melt_pools": melt_pools,
}


if __name__ == "__main__":
    run(main, Settings)
