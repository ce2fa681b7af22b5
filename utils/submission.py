"""Check a submission before it is uploaded, and score one where the truth is known.

python utils/submission.py check submissions/submission.csv --sample data/sample_submission.csv
python utils/submission.py check submissions/submission.csv --shape 101x101
python utils/submission.py score submissions/validation.csv --truth data/train.csv
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from utils.cli import run_commands
from utils.errors import UsageError, UserError
from utils.metrics import counts, scores_from_counts
from utils.rle import decode
from utils.stack import MANIFEST
from utils.submission_check import Shapes, check_submission, read_row_by_row, shapes_of
from utils.truth import read_run_lengths

SALT_SHAPE = (101, 101)


@dataclass(frozen=True)
class CheckSettings:
    sub: Positional[str]
    """the submission, a csv file."""
    sample: str | None = None
    """the competition's sample submission; default: <data_dir>/sample_submission.csv if it is there."""
    shape: str | None = None
    """<height>x<width> of every image; default: as packed in data_dir if it is there, else 101x101."""
    data_dir: str = "data"
    """folder with the packed images."""
    debug: bool = False
    """show the traceback of an error."""


@dataclass(frozen=True)
class ScoreSettings:
    sub: Positional[str]
    """the submission, a csv file."""
    truth: str
    """csv of the true masks; an image may have several rows, one an object."""
    shape: str | None = None
    """<height>x<width> of every image; default: as packed in data_dir if it is there, else 101x101."""
    data_dir: str = "data"
    """folder with the packed images."""
    debug: bool = False
    """show the traceback of an error."""


def check(settings: CheckSettings) -> None:
    """Print the verdict; a submission that is not valid ends with exit code 1."""
    beside = Path(settings.data_dir) / "sample_submission.csv"
    sample = settings.sample or (beside if beside.is_file() else None)
    verdict = check_submission(settings.sub, sample, _shapes(settings.shape, settings.data_dir))
    if sample is None:
        print("ids and their order: not checked, --sample names no sample submission")
    *lines, last = verdict.as_text().splitlines()
    print(*lines, sep="\n", end="\n" if lines else "")
    if verdict.problems:
        raise UserError(f"{settings.sub}: {last}")
    print(last)


def score(settings: ScoreSettings) -> None:
    """Print score, the score of a submission without any mask, and mean IoU."""
    shapes = _shapes(settings.shape, settings.data_dir)
    ours, theirs = read_run_lengths(settings.sub), read_run_lengths(settings.truth)
    missing = [name for name in theirs if name not in ours]
    if missing or not theirs:
        example = f" (such as {missing[0]})" if missing else ""
        raise UserError(f"{settings.sub}: no row for {len(missing)} of the {len(theirs)} images of the truth{example}")
    sums = np.zeros(4)  # score, score read row by row, score of an empty mask, IoU
    for name, cells in theirs.items():
        shape = shapes.get(name) if isinstance(shapes, Mapping) else shapes
        if shape is None:
            raise UserError(
                f"--data_dir {settings.data_dir}: the size of {name} is not known; --shape gives one for all"
            )
        truth = _decoded(settings.truth, name, cells, shape, decode)
        mask = _decoded(settings.sub, name, ours[name], shape, decode)
        turned = _decoded(settings.sub, name, ours[name], shape, read_row_by_row)
        inside, pixels, true = counts(np.stack([mask, turned, 0 * mask]), np.stack([truth] * 3))
        union = pixels[0] + true[0] - inside[0]
        sums += *scores_from_counts(inside, pixels, true) / 10, inside[0] / union if union else 1
    means = sums / len(theirs)
    print(f"images              {len(theirs)}")
    print(f"score (iout)        {means[0]:.5f}")
    print(f"all masks empty     {means[2]:.5f}")
    print(f"mean IoU            {means[3]:.5f}")
    if means[1] > means[0]:
        print(f"warning: read row by row the masks would score {means[1]:.5f}; run-lengths go top to bottom first")


def _decoded(path: str, name: str, cells: list[str], shape: tuple[int, int], read: Callable) -> np.ndarray:
    """The union of an image's run-lengths."""
    try:
        return np.maximum.reduce([read(cell, shape) for cell in cells])
    except ValueError as error:
        raise UserError(f"{path}: {name}: {error}") from None


def _shapes(shape: str | None, data_dir: str) -> Shapes:
    """What --shape says, else the packed folder, else the salt images' size; and say which."""
    if shape is not None:
        if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", shape):
            raise UsageError(f"--shape {shape}: expected <height>x<width>, such as 101x101")
        height, _, width = shape.partition("x")
        return int(height), int(width)
    if (Path(data_dir) / MANIFEST).is_file():
        shapes = shapes_of(data_dir)
        found = "as each is" if isinstance(shapes, Mapping) else "{}x{}".format(*shapes)
        print(f"size of the images: {found}, from {data_dir}")
        return shapes
    print(f"size of the images: 101x101, as --shape says nothing and {data_dir} is not packed")
    return SALT_SHAPE


if __name__ == "__main__":
    run_commands({"check": (check, CheckSettings), "score": (score, ScoreSettings)})
