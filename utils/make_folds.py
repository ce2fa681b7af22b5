"""Divide the training images into folds: train.csv -> train_with_folds.csv beside it, with a column `fold`, 0..n-1.

python utils/make_folds.py -p data/train.csv -n 10
python utils/make_folds.py --path data/train.csv --n_splits 5 --stratify coverage
python utils/make_folds.py -p data/train.csv -n 5 --stratify depth --group well
python utils/make_folds.py -p nuclei/train.csv -n 5 --stratify background+objects

Images that packing skipped as broken (stack_and_save.py --skip_broken) are in no fold.
scikit-learn does the splitting: KFold, StratifiedKFold, GroupKFold or StratifiedGroupKFold, shuffled by the seed.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import arg

from utils.core.cli import run
from utils.core.errors import UsageError
from utils.core.tables import write_table
from utils.data.packed_data import skipped_images
from utils.data.stratification import as_column, classes_of, coverage_of, read_images, split, values_of

SHOWN_CLASSES = 6


@dataclass(frozen=True)
class Settings:
    path: Annotated[str, arg(aliases=["-p", "--p"])] = "data/train.csv"
    """csv with a row an image, or a row an object with its run-lengths."""
    n_splits: Annotated[int, arg(aliases=["-n", "--n"])] = 10
    """number of folds."""
    stratify: str = "none"
    """what every fold gets the same mix of: none, coverage (deciles of mask area, empty apart), objects (deciles of
    their number, none apart), depth (z), a column, or several of these joined by +, such as background+objects."""
    group: str | None = None
    """column; images with the same entry stay in one fold."""
    seed: int = 4545
    """of the shuffling."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Read, split, write, and print what each fold holds."""
    if settings.n_splits < 2:
        raise UsageError(f"--n_splits {settings.n_splits}: at least 2, one to validate on and one to train on")
    if not 0 <= settings.seed < 2**32:
        raise UsageError(f"--seed {settings.seed}: a seed is from 0 to 2**32 - 1")
    path = Path(settings.path)
    skipped = skipped_images(path.parent)
    images = read_images(path, skipped)
    n_images = len(next(iter(images.values())))
    if n_images < settings.n_splits:
        raise UsageError(f"--n_splits {settings.n_splits}: more than the {n_images} images of {path}")
    values = values_of(images, settings.stratify, path)
    classes = classes_of(values, n_images, settings.n_splits)
    groups = as_column(images, settings.group, "--group", path) if settings.group else None
    folds = split(classes, groups, settings.n_splits, settings.seed)
    if n_rare := int((np.unique(classes, return_counts=True)[1] < settings.n_splits).sum()):
        print(f"classes of --stratify with fewer images than folds: {n_rare}; they are pooled")
    out = path.with_name("train_with_folds.csv")
    write_table(out, {**images, "fold": folds.tolist()})
    if skipped:
        print(f"broken images that packing skipped, in no fold: {len(skipped)}")
    print(as_text(folds, values, coverage_of(images, path)))
    print(f"written to {out}")


def as_text(folds: np.ndarray, values: Mapping[str, np.ndarray], coverage: np.ndarray | None) -> str:
    """The table of folds: how many images, the share with an empty mask, and the mix of what was stratified by."""
    head, columns = ["fold", "images"], [lambda rows: f"{len(rows)}"]
    if coverage is not None:
        head.append("empty")
        columns.append(lambda rows: f"{np.mean(coverage[rows] == 0):.1%}")
    for name, of_image in values.items():
        if of_image.dtype.kind == "f":
            head.append("mean" if len(values) == 1 else f"mean {name}")
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
