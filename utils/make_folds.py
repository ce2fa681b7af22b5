"""Divide the training images into folds: write train_with_folds.csv next to train.csv, with a column `fold`, 0..n-1.

python utils/make_folds.py -p data/train.csv -n 10
python utils/make_folds.py --path data/train.csv --n_splits 5 --stratify coverage
python utils/make_folds.py -p data/train.csv -n 5 --stratify depth --group well
python utils/make_folds.py -p nuclei/train.csv -n 5 --stratify background+objects

Images that packing skipped as broken (stack_and_save.py --skip_broken) are not in any fold.
The folds come from scikit-learn's KFold, StratifiedKFold, GroupKFold or StratifiedGroupKFold, shuffled with the seed.
"""

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import arg

from utils.core.cli import run
from utils.core.errors import UsageError, UserError
from utils.core.settings import OptionalText
from utils.core.tables import write_table
from utils.data.folds import differences
from utils.data.image_ids import as_packed, id_column
from utils.data.packed_data import PartEntry, manifest_if_any, skipped_images
from utils.data.stratification import as_column, classes_of, coverage_of, read_images, split, values_of

SHOWN_CLASSES = 6


@dataclass(frozen=True)
class Settings:
    """All flags of make_folds.py."""

    path: Annotated[str, arg(aliases=["-p", "--p"])] = "data/train.csv"
    """csv with one row per image, or one row per object with its run-lengths."""
    n_splits: Annotated[int, arg(aliases=["-n", "--n"])] = 10
    """number of folds."""
    stratify: str = "none"
    """property that is distributed equally over the folds: none, coverage (deciles of mask area, empty masks separate),
    objects (deciles of their number, zero separate), depth (column z of the csv or of depths.csv), a column of the csv,
    or several of these joined by +, such as background+objects (columns of the train.csv that packing writes)."""
    group: OptionalText = None
    """column of groups: images with the same entry are put in the same fold."""
    seed: int = 4545
    """seed of the shuffling."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Read train.csv, split its images, write the folds, and print a summary of each fold."""
    if settings.n_splits < 2:
        raise UsageError(f"--n_splits {settings.n_splits}: expected 2 or more, one to validate on and one to train on")
    if not 0 <= settings.seed < 2**32:
        raise UsageError(f"--seed {settings.seed}: expected 0 to 2**32 - 1")
    path = Path(settings.path)
    if path.is_dir():
        raise UsageError(f"--path {path}: expected a csv file, found a folder; use for example {path / 'train.csv'}")
    skipped = skipped_images(path.parent)
    images = read_images(path, skipped)
    packed = manifest_if_any(path.parent).parts.get("train")
    if packed is not None:
        _check_packed(images, packed, path)
    n_images = len(next(iter(images.values())))
    if n_images < settings.n_splits:
        raise UsageError(f"--n_splits {settings.n_splits}: {path} has only {n_images} images; use fewer folds")
    values = values_of(images, settings.stratify, path)
    classes = classes_of(values, n_images, settings.n_splits)
    groups = as_column(images, settings.group, "--group", path) if settings.group else None
    folds = split(classes, groups, settings.n_splits, settings.seed)
    if n_rare := int((np.unique(classes, return_counts=True)[1] < settings.n_splits).sum()):
        print(f"{n_rare} classes of --stratify have fewer images than there are folds; they are merged into one class")
    out = path.with_name("train_with_folds.csv")
    write_table(out, {**images, "fold": folds.tolist()})
    if skipped:
        print(f"{len(skipped)} broken images that packing skipped are not in any fold")
    in_pixels = "coverage" not in images  # run-lengths give the area of a mask, not its share of the image
    shown = {"mask pixels" if name == "coverage" and in_pixels else name: found for name, found in values.items()}
    print(as_text(folds, shown, coverage_of(images, path)))
    folder = path.parent
    if packed is not None and "masks" in packed.arrays:
        command = ["train.py", "--data_dir", str(folder), "--folds", "all"]
        command += ["--experiment_dir", f"experiments/{folder.resolve().name}"]
        print(f"written to {out}; next: python {shlex.join(command)}")
    else:
        print(f"written to {out}")


def _check_packed(images: Mapping[str, list[str]], packed: PartEntry, path: Path) -> None:
    """Raise UserError if a csv in a packed folder lists other images than the packed training images."""
    if differing := differences(as_packed(images[id_column(images, path)], packed.ids), packed.ids, "row"):
        raise UserError(
            f"{path}: {differing}; name the train.csv of the packed folder, or pack again if the images have changed"
        )


def as_text(folds: np.ndarray, values: Mapping[str, np.ndarray], coverage: np.ndarray | None) -> str:
    """Format the table of folds: number of images, share of empty masks, and distribution of the stratified values."""
    head, columns = ["fold", "images"], [lambda rows: f"{len(rows)}"]
    if coverage is not None:
        head.append("empty")
        columns.append(lambda rows: f"{np.mean(coverage[rows] == 0):.1%}")
    for name, of_image in values.items():
        if of_image.dtype.kind == "f":
            head.append(f"mean {name}")
            columns.append(lambda rows, of_image=of_image: f"{of_image[rows].mean():.5g}")
            continue
        for word, _ in Counter(of_image.tolist()).most_common(SHOWN_CLASSES):
            head.append(word or "(none)")
            columns.append(lambda rows, of_image=of_image, word=word: f"{np.mean(of_image[rows] == word):.1%}")
    table = [head] + [
        [str(fold), *(column(np.flatnonzero(folds == fold)) for column in columns)] for fold in range(folds.max() + 1)
    ]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table)


if __name__ == "__main__":
    run(main, Settings)
