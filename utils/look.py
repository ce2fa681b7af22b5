"""Draw predictions as rows of image | truth | probability | mask (or objects in colours), from best to worst score.

python utils/look.py --masks_fn masks.npy --truth_fn truth.csv --out look.png
python utils/look.py --masks_fn experiments/a_fold0/val_tta.npy --n_rows 12 --out look.png
python utils/look.py --masks_fn experiments/border_fold0/val.npy --objects --out objects.png
"""

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Shown:
    """Truth and prediction of an image: masks of 0 and 1, or label maps."""

    truth: np.ndarray
    found: np.ndarray
    score: float
    """Score in [0, 1]."""
    iou: float
    """Pixel-level IoU, which orders images with equal scores."""


def main(settings: Settings) -> None:
    """Draw the rows, write them as a PNG file, and print its name."""
    if settings.n_rows < 1:
        raise UsageError(f"--n_rows {settings.n_rows}: expected 1 or more")
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
        th, shown = rules.th, _objects(masks, settings.truth_fn, rules)
    else:
        th, _, origin = mask_threshold(settings.th, None, run_folders, masks.info)
        shown = _masks(masks, settings.truth_fn, th)
    rows = [_row(masks, packed, place, shown[place], settings.objects) for place in _spread(shown, settings.n_rows)]

    from PIL import Image

    titles = (*TITLES[:3], "objects") if settings.objects else TITLES
    with atomic_file(settings.out) as part:
        Image.fromarray(labelled(rows, titles)).save(part, format="PNG")
    print(f"{settings.out}: {len(rows)} images, best to worst, at threshold {th:.6g} ({origin})")


def _masks(masks: Masks, truth_fn: str | None, th: float) -> list[Shown]:
    shown = []
    for probabilities, truth in zip(masks.array, true_masks(masks, truth_fn), strict=True):
        found = binarize(probabilities, th)
        tenths = scores_from_counts(*counts(found[None], truth[None]))[0]
        shown.append(Shown(truth, found, tenths / 10, _iou(found, truth)))
    return shown


def _objects(masks: Masks, truth_fn: str | None, rules: InstanceRules) -> list[Shown]:
    shown, borders = [], [None] * len(masks.ids) if masks.border is None else masks.border
    for mask, border, truth in zip(masks.array, borders, true_instances(masks, truth_fn), strict=True):
        found = label_instances(mask, border, rules)
        shown.append(Shown(truth, found, dsb2018_scores(match_counts(found, truth)[None])[0], _iou(found, truth)))
    return shown


def _iou(found: np.ndarray, truth: np.ndarray) -> float:
    inside, ours, theirs = (int(number[0]) for number in counts(found[None], truth[None]))
    return inside / max(ours + theirs - inside, 1)


def _spread(shown: Sequence[Shown], n_rows: int) -> list[int]:
    """Return the indices of images, evenly spaced from best to worst.

    Images with empty truth and empty mask are left out, unless all images are such.
    """
    places = [place for place, one in enumerate(shown) if one.truth.any() or one.found.any()] or range(len(shown))
    order = sorted(places, key=lambda place: (-shown[place].score, -shown[place].iou))
    return [order[at] for at in np.linspace(0, len(order) - 1, min(n_rows, len(order))).astype(int)]


def _row(masks: Masks, packed: PackedImages, place: int, one: Shown, objects: bool) -> tuple[str, list[np.ndarray]]:
    image = packed.images[packed.ids.index(masks.ids[place])]
    truth, found = (coloured(one.truth), coloured(one.found)) if objects else (one.truth != 0, one.found)
    caption = f"{masks.ids[place]}  {one.score:.2f}" if objects else f"{masks.ids[place]}  {one.score:.1f}"
    return caption, [image, truth, masks.array[place], found]


if __name__ == "__main__":
    run(main, Settings)
