"""A synthetic set of satellite images with ships in the layout of Kaggle's Airbus ship detection challenge.

train_v2, test_v2, train_ship_segmentations_v2.csv (a row a ship, an empty cell where there is none) and
sample_submission_v2.csv as the competition has them, and truth.csv: the ships of the test images, which it has not.
utils/synthetic/ships.py tells what the images show.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.core.errors import UsageError
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
    """What is remembered of the images of one part, in order."""

    ids: list[str]
    """A row a ship, and one for an image without."""
    run_lengths: list[str]
    pixels: list[int]
    """Of each ship."""


def write_ships(out_dir: Path, n_train: int, n_test: int, seed: int, size: int | None) -> Iterator[str]:
    """Draw the images, write them, and yield what there is.

    Raises:
        UsageError: the folder holds something else, or the size is out of range.
    """
    size = SIZE if size is None else size
    if not SMALLEST <= size <= LARGEST:
        raise UsageError(f"--size {size}: expected {SMALLEST} to {LARGEST} pixels, so that a ship has room")
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
    """Part (train, test) -> id ("00003e153.jpg", sorted, none twice) -> whether there are ships in the image.

    Other numbers of images get other ids.
    """
    rng = np.random.default_rng([seed, n_train, n_test])
    ids = [f"{number:09x}.jpg" for number in rng.choice(16**9, size=n_train + n_test, replace=False)]
    plan = {}
    for part, names in (("train", sorted(ids[:n_train])), ("test", sorted(ids[n_train:]))):
        with_ships = np.arange(len(names)) >= round(SHARE_WITHOUT_SHIPS * len(names))
        plan[part] = dict(zip(names, rng.permutation(with_ships).tolist(), strict=True))
    return plan


def write_part(out_dir: Path, part: str, with_ships: Mapping[str, bool], seed: int, size: int) -> Written:
    """Draw and write the images of one part (id -> whether with ships)."""
    ids, run_lengths, pixels = [], [], []
    for name, there in progress_bar(with_ships.items(), part, "image"):
        drawn = scene(np.random.default_rng([seed, int(name.partition(".")[0], 16)]), size, there)
        write_picture(out_dir / f"{part}_v2" / name, drawn.image)
        counts = np.bincount(drawn.labels.ravel())[1:].tolist()
        ids += [name] * max(len(counts), 1)
        run_lengths += encode_instances(drawn.labels) or [""]
        pixels += counts
    return Written(ids, run_lengths, pixels)


def summary(written: Written) -> str:
    """One line: how many images, how many without a ship, how many ships and of how many pixels."""
    n_images, n_empty = len(set(written.ids)), written.run_lengths.count("")
    text = f"{n_images} images, {n_empty} ({n_empty / n_images:.1%}) without a ship"
    if not written.pixels:
        return text
    low, middle, high = np.percentile(written.pixels, (0, 50, 100))
    return f"{text}; {len(written.pixels)} ships of {low:.0f} to {high:.0f} pixels, {middle:.0f} in the median"
