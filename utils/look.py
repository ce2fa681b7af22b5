"""Draw predictions as rows of image | truth | probability | mask (or objects in colours), from best to worst score.

python utils/look.py --masks_fn masks.npy --truth_fn truth.csv --out look.png
python utils/look.py --masks_fn experiments/a_fold0/val_tta.npy --n_rows 12 --out look.png
python utils/look.py --masks_fn experiments/border_fold0/val.npy --objects --out objects.png
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.competition.decisions import instance_rules, mask_threshold
from utils.core.cli import run
from utils.core.errors import UsageError, UserError
from utils.core.files import atomic_file
from utils.core.prediction_settings import RuleSettings
from utils.core.settings import OptionalFloat, OptionalText
from utils.data.packed_data import PackedImages, open_packed
from utils.masks.drawing import coloured, labelled
from utils.masks.ground_truth import true_instances, true_masks
from utils.masks.instances import InstanceRules, label_instances
from utils.masks.mask_file import Masks, binarize, open_masks
from utils.scoring.instance_metrics import dsb2018_scores, match_counts
from utils.scoring.mask_metrics import counts, scores_from_counts
from utils.scoring.stored_thresholds import run_folder_of

TITLES = ("image", "truth", "probability", "mask")


@dataclass(frozen=True)
class Settings:
    """All flags of look.py."""

    masks_fn: str
    """mask file to show."""
    truth_fn: OptionalText = None
    """true masks: csv, .npy or packed folder; default: the packed folder that the mask file names."""
    data_dir: OptionalText = None
    """packed folder of the images; default: the packed folder that the mask file names."""
    th: OptionalFloat = None
    """threshold; default: from threshold.json (with --objects: objects.json) of the run, else .5."""
    objects: bool = False
    """show objects instead of masks, each in a colour, sorted by the score of DSB2018."""
    n_rows: int = 10
    """number of images, spread evenly from best to worst; images with empty truth and empty mask are left out."""
    out: str = "look.png"
    """PNG file to write."""
    debug: bool = False
    """show the traceback of an error."""


class Scored(NamedTuple):
    """Scores of an image, without its arrays: those of a large set do not fit into memory."""

    score: float
    """Score in [0, 1]."""
    iou: float
    """Pixel-level IoU, which orders images with equal scores."""
    empty: bool
    """Whether truth and prediction are both empty."""


Pairs = Iterator[tuple[np.ndarray, np.ndarray]]
"""Truth and prediction of images, each (H, W): masks of 0 and 1, or label maps."""


def main(settings: Settings) -> None:
    """Draw the rows, write them as a PNG file, and print its name."""
    if settings.n_rows < 1:
        raise UsageError(f"--n_rows {settings.n_rows}: expected 1 or more")
    if Path(settings.out).suffix not in (".png", ""):
        raise UsageError(f"--out {settings.out}: expected the name of a PNG file, such as look.png")
    masks = open_masks(settings.masks_fn)
    run_folders = [run_folder_of(name) for name in [masks.path, *masks.info.joined_from, *masks.info.snapshots]]
    folder = settings.data_dir or masks.info.data_dir or "data"
    packed = open_packed(folder, masks.info.part or "test")
    if unknown := set(masks.ids) - set(packed.ids):
        raise UserError(
            f"--data_dir {folder}: {len(unknown)} images of {masks.path} are not in it (such as {min(unknown)}); name "
            "the folder that they were predicted from"
        )
    if settings.objects:
        rules, origin = instance_rules(settings.th, RuleSettings(), run_folders)
        th, pairs = rules.th, partial(_object_pairs, masks, settings.truth_fn, rules)
    else:
        th, _, origin = mask_threshold(settings.th, None, run_folders, masks.info)
        pairs = partial(_mask_pairs, masks, settings.truth_fn, th)
    scored = [_scored(*pair, settings.objects) for pair in pairs(range(len(masks.ids)))]
    chosen = _spread(scored, settings.n_rows)
    rows = [
        _row(masks, packed, place, scored[place].score, *pair, settings.objects)
        for place, pair in zip(chosen, pairs(chosen), strict=True)
    ]

    from PIL import Image

    titles = (*TITLES[:3], "objects") if settings.objects else TITLES
    with atomic_file(settings.out) as part:
        Image.fromarray(labelled(rows, titles)).save(part, format="PNG")
    print(f"{settings.out}: {len(rows)} images, best to worst, at threshold {th:.6g} ({origin})")


def _mask_pairs(masks: Masks, truth_fn: str | None, th: float, rows: Sequence[int]) -> Pairs:
    for row, truth in zip(rows, true_masks(masks, truth_fn, rows), strict=True):
        yield truth, binarize(masks.array[row], th)


def _object_pairs(masks: Masks, truth_fn: str | None, rules: InstanceRules, rows: Sequence[int]) -> Pairs:
    for row, truth in zip(rows, true_instances(masks, truth_fn, rows), strict=True):
        yield truth, label_instances(masks.array[row], None if masks.border is None else masks.border[row], rules)


def _scored(truth: np.ndarray, found: np.ndarray, objects: bool) -> Scored:
    if objects:
        score = dsb2018_scores(match_counts(found, truth)[None])[0]
    else:
        score = scores_from_counts(*counts(found[None], truth[None]))[0] / 10
    return Scored(float(score), _iou(found, truth), not (truth.any() or found.any()))


def _iou(found: np.ndarray, truth: np.ndarray) -> float:
    inside, ours, theirs = (int(number[0]) for number in counts(found[None], truth[None]))
    return inside / max(ours + theirs - inside, 1)


def _spread(scored: Sequence[Scored], n_rows: int) -> list[int]:
    """Return the indices of images, evenly spaced from best to worst.

    Images with empty truth and empty mask are left out, unless all images are such.
    """
    places = [place for place, one in enumerate(scored) if not one.empty] or range(len(scored))
    order = sorted(places, key=lambda place: (-scored[place].score, -scored[place].iou))
    return [order[at] for at in np.linspace(0, len(order) - 1, min(n_rows, len(order))).astype(int)]


def _row(
    masks: Masks,
    packed: PackedImages,
    place: int,
    score: float,
    truth: np.ndarray,
    found: np.ndarray,
    objects: bool,
) -> tuple[str, list[np.ndarray]]:
    image = packed.images[packed.ids.index(masks.ids[place])]
    caption = f"{masks.ids[place]}  {score:.2f}" if objects else f"{masks.ids[place]}  {score:.1f}"
    truth, found = (coloured(truth), coloured(found)) if objects else (truth != 0, found)
    return caption, [image, truth, masks.array[place], found]


if __name__ == "__main__":
    run(main, Settings)
