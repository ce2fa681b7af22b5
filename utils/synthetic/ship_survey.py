"""A synthetic set of satellite images with ships in the layout of Kaggle's Airbus ship detection challenge.

The set has train_v2, test_v2, train_ship_segmentations_v2.csv (one row per ship, or one row with an empty cell for an
image without ships) and sample_submission_v2.csv, as in the competition. It also has truth.csv with the ships of the
test images, which the competition does not publish. utils/synthetic/ships.py describes and draws the content of the
images.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.core.errors import UsageError
from utils.core.parallel import in_processes
from utils.core.progress import progress_bar
from utils.core.tables import write_table
from utils.data.rle import encode_instances
from utils.synthetic.demo_files import check_folder, write_picture
from utils.synthetic.ships import scene

SIZE = 768  # rows and columns of the competition's images
SMALLEST, LARGEST = 128, 4096
SHARE_WITHOUT_SHIPS = 0.7  # the competition has 78 %


@dataclass(frozen=True)
class Written:
    """Rows of the table of one part, in order, and the areas of its ships."""

    ids: list[str]
    """Image id of each row: one row per ship, and one row for an image without ships."""
    run_lengths: list[str]
    """Run-length encoded ship of each row; "" for an image without ships."""
    pixels: list[int]
    """Area of each ship, in pixels."""


def write_ships(out_dir: Path, n_train: int, n_test: int, seed: int, size: int | None) -> Iterator[str]:
    """Draw and write the images and tables, and yield lines for the user that describe them.

    Raises:
        UsageError: the folder contains other files, or the size is out of range.
    """
    size = SIZE if size is None else size
    if not SMALLEST <= size <= LARGEST:
        raise UsageError(f"--size {size}: expected {SMALLEST} to {LARGEST} pixels; ships do not fit in smaller ones")
    plan = draw_plan(n_train, n_test, seed)
    check_folder(out_dir, (f"{part}_v2/{name}" for part, names in plan.items() for name in names))
    train, test = (write_part(out_dir, part, with_ships, seed, size) for part, with_ships in plan.items())
    names = list(plan["test"])
    write_table(out_dir / "sample_submission_v2.csv", {"ImageId": names, "EncodedPixels": ["1 2"] * len(names)})
    write_table(out_dir / "truth.csv", {"ImageId": test.ids, "EncodedPixels": test.run_lengths})
    table = out_dir / "train_ship_segmentations_v2.csv"
    write_table(table, {"ImageId": train.ids, "EncodedPixels": train.run_lengths})
    yield f"train_v2, {table.name}: {summary(train)}"
    yield f"test_v2, truth.csv: {summary(test)}"
    yield f"written to {out_dir}; next: python utils/stack_and_save.py --data_dir {out_dir}"


def draw_plan(n_train: int, n_test: int, seed: int) -> dict[str, dict[str, bool]]:
    """Draw the ids of the images and which images contain ships.

    The ids depend on the numbers of images as well as on the seed.

    Returns:
        part ("train", "test") -> id (such as "00003e153.jpg", sorted, unique) -> True if the image contains ships.
    """
    rng = np.random.default_rng([seed, n_train, n_test])
    ids = [f"{number:09x}.jpg" for number in rng.choice(16**9, size=n_train + n_test, replace=False)]
    plan = {}
    for part, names in (("train", sorted(ids[:n_train])), ("test", sorted(ids[n_train:]))):
        with_ships = np.arange(len(names)) >= round(SHARE_WITHOUT_SHIPS * len(names))
        plan[part] = dict(zip(names, rng.permutation(with_ships).tolist(), strict=True))
    return plan


def write_part(out_dir: Path, part: str, with_ships: Mapping[str, bool], seed: int, size: int) -> Written:
    """Draw and write the images of one part (id -> True if the image contains ships), with all cores."""
    ids, run_lengths, pixels = [], [], []
    jobs = [(out_dir / f"{part}_v2" / name, has_ships, seed, size) for name, has_ships in with_ships.items()]
    drawn = progress_bar(in_processes(_write_scene, jobs), part, "image", total=len(jobs))
    for name, (areas, cells) in zip(with_ships, drawn, strict=True):
        ids += [name] * max(len(areas), 1)
        run_lengths += cells or [""]
        pixels += areas
    return Written(ids, run_lengths, pixels)


def _write_scene(job: tuple[Path, bool, int, int]) -> tuple[list[int], list[str]]:
    """Draw and write an image, and return the area and the run-lengths of each of its ships."""
    path, has_ships, seed, size = job
    drawn = scene(np.random.default_rng([seed, int(path.stem, 16)]), size, has_ships)
    write_picture(path, drawn.image)
    return np.bincount(drawn.labels.ravel())[1:].tolist(), encode_instances(drawn.labels)


def summary(written: Written) -> str:
    """Return a line with the numbers of images, of images without ships and of ships, and the areas of the ships."""
    n_images, n_empty = len(set(written.ids)), written.run_lengths.count("")
    text = f"{n_images} images, {n_empty} ({n_empty / n_images:.1%}) without a ship"
    if not written.pixels:
        return text
    low, middle, high = np.percentile(written.pixels, (0, 50, 100))
    return f"{text}; {len(written.pixels)} ships of {low:.0f} to {high:.0f} pixels, median {middle:.0f}"
