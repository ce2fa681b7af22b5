"""Check a submission before it is uploaded, or score a submission whose truth is known.

python utils/submission.py check submissions/submission.csv --sample data/sample_submission.csv
python utils/submission.py check submissions/submission.csv --shape 101x101
python utils/submission.py score submissions/validation.csv --truth data/train.csv
python utils/submission.py score submissions/ships.csv --truth data/truth.csv --format airbus

The competition (TGS salt, DSB2018, Airbus, Carvana) is recognised by the columns of the sample submission or the file.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from utils.competition.submission_check import check_submission, read_ids, sample_in
from utils.core.cli import run_commands
from utils.core.errors import UsageError, UserError
from utils.core.settings import OptionalFormat, OptionalText
from utils.data.formats import FORMATS, read_format
from utils.data.packed_data import MANIFEST, Shapes, manifest_if_any, shapes_of
from utils.data.rle import decode_instances, decode_union
from utils.masks.ground_truth import read_run_lengths
from utils.scoring.instance_metrics import INSTANCE_METRICS, match_counts
from utils.scoring.mask_metrics import by_size, counts, iou, scores_from_counts

SALT_SHAPE = (101, 101)


@dataclass(frozen=True)
class CheckSettings:
    """All flags of submission.py check."""

    sub: Positional[str]
    """the submission, a csv file."""
    sample: OptionalText = None
    """the competition's sample submission; default: the one in data_dir, if there is one."""
    shape: OptionalText = None
    """<height>x<width> of every image; default: the sizes in data_dir if it is packed, else 101x101."""
    data_dir: str = "data"
    """folder with the packed images."""
    format: OptionalFormat = None
    """the competition whose rules apply; default: by the columns of the sample submission, else of the submission."""
    debug: bool = False
    """show the traceback of an error."""


@dataclass(frozen=True)
class ScoreSettings:
    """All flags of submission.py score."""

    sub: Positional[str]
    """the submission, a csv file."""
    truth: str
    """csv of the true masks, in the format that its columns have; an image may have several rows, one per object."""
    shape: OptionalText = None
    """<height>x<width> of every image; default: the sizes in data_dir if it is packed, else 101x101."""
    data_dir: str = "data"
    """folder with the packed images."""
    format: OptionalFormat = None
    """the competition whose metric is used: tgs iout, dsb2018 and airbus by objects, carvana Dice; default: by the
    columns of the submission."""
    debug: bool = False
    """show the traceback of an error."""


def check(settings: CheckSettings) -> None:
    """Print the verdict; raise UserError if the submission is not valid."""
    sample = settings.sample or sample_in(settings.data_dir)
    form = FORMATS[settings.format] if settings.format else None
    verdict = check_submission(settings.sub, sample, _shapes(settings.shape, settings.data_dir), form)
    if sample is None:
        print("order of the ids: not checked, because there is no sample submission; name one with --sample")
        missing = _test_ids(settings.data_dir) - set(read_ids(settings.sub))
        if missing and not verdict.problems:
            of = f"of the test images in {settings.data_dir} are missing (such as {min(missing)})"
            verdict.problems.append(f"ids: {len(missing)} {of}")
    *lines, last = verdict.as_text().splitlines()
    print(*lines, sep="\n", end="\n" if lines else "")
    if verdict.problems:
        raise UserError(f"{settings.sub}: {last}")
    print(last)


def _test_ids(data_dir: str) -> set[str]:
    """Return the ids of the packed test images; none if the folder is not packed or has no test images."""
    parts = manifest_if_any(data_dir).parts
    return set(parts["test"].ids) if "test" in parts else set()


def score(settings: ScoreSettings) -> None:
    """Print the competition's score (also by size), that of only empty masks, and the mean pixel-level IoU."""
    shapes = _shapes(settings.shape, settings.data_dir)
    form = FORMATS[settings.format] if settings.format else read_format(settings.sub)
    ours, theirs = read_run_lengths(settings.sub), read_run_lengths(settings.truth)
    missing = [name for name in theirs if name not in ours]
    if missing or not theirs:
        example = f" (such as {missing[0]})" if missing else ""
        raise UserError(f"{settings.sub}: no row for {len(missing)} of the {len(theirs)} images of the truth{example}")
    truth_by_row, found, sizes = read_format(settings.truth).by_row, np.zeros((4, len(theirs))), []
    for place, (name, cells) in enumerate(theirs.items()):
        shape = shapes.get(name) if isinstance(shapes, Mapping) else shapes
        if shape is None:
            raise UserError(
                f"--data_dir {settings.data_dir}: the size of {name} is unknown; set one for all images with --shape"
            )
        truth = _decoded(settings.truth, name, cells, shape, form.of_instances, truth_by_row)
        orders = form.by_row, not form.by_row
        mask, turned = (_decoded(settings.sub, name, ours[name], shape, form.of_instances, order) for order in orders)
        scores = [_score(form.metric, one, truth) for one in (mask, turned, 0 * mask)]
        found[:, place] = *scores, iou(mask[None], truth[None])
        sizes.append(shape)
    score, in_other_order, of_empty_masks, mean_iou = found.mean(axis=1)
    print(f"images              {len(theirs)}")
    print(f"{f'score ({form.metric})':<20}{score:.5f}")
    print(f"all masks empty     {of_empty_masks:.5f}")
    print(f"mean IoU            {mean_iou:.5f}")
    if len(set(sizes)) > 1:
        print(by_size("score", np.stack([found[0], np.ones(len(sizes))]), sizes))
    if in_other_order > score:
        print(f"warning: {form.other_order_hint.format(f'would score {in_other_order:.5f}')}")


def _score(metric: str, mask: np.ndarray, truth: np.ndarray) -> float:
    """Return the score of one image in [0, 1]; `mask` and `truth` are masks or label maps (H, W)."""
    if metric in INSTANCE_METRICS:
        return float(INSTANCE_METRICS[metric](match_counts(mask, truth)[None])[0])
    inside, ours, theirs = (int(count[0]) for count in counts(mask[None], truth[None]))
    if metric == "dice":  # Carvana, "Evaluation": 1 if both are empty
        return 2 * inside / (ours + theirs) if ours + theirs else 1.0
    return int(scores_from_counts(inside, ours, theirs)) / 10


def _decoded(
    path: str, name: str, cells: list[str], shape: tuple[int, int], of_instances: bool, by_row: bool
) -> np.ndarray:
    """Return the label map of an image's run-lengths, or the union of their masks."""
    try:
        return (decode_instances if of_instances else decode_union)(cells, shape, by_row)
    except ValueError as error:
        raise UserError(f"{path}: {name}: {error}") from None


def _shapes(shape: str | None, data_dir: str) -> Shapes:
    """Return the size in --shape, else the sizes in the packed folder, else 101x101; print the size without --shape."""
    if shape is not None:
        if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", shape):
            raise UsageError(f"--shape {shape}: expected <height>x<width>, such as 101x101")
        height, _, width = shape.partition("x")
        return int(height), int(width)
    if (Path(data_dir) / MANIFEST).is_file():
        shapes = shapes_of(data_dir)
        found = "different for each image" if isinstance(shapes, Mapping) else "{}x{}".format(*shapes)
        print(f"size of the images: {found}, from {data_dir}")
        return shapes
    if data_dir != "data" and not Path(data_dir).is_dir():
        raise UsageError(f"--data_dir {data_dir}: no such folder; name the packed folder, or set --shape")
    print(f"size of the images: 101x101, because --shape is not set and {data_dir} is not packed")
    return SALT_SHAPE


if __name__ == "__main__":
    run_commands({"check": (check, CheckSettings), "score": (score, ScoreSettings)})
