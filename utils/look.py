"""One picture to look at: rows of image | truth | probability | mask, from the best to the worst score.

python utils/look.py --masks_fn masks.npy --truth_fn truth.csv --out look.png
python utils/look.py --masks_fn experiments/a_fold0/val_tta.npy --n_rows 12 --out look.png
"""

from dataclasses import dataclass

import numpy as np

from utils.cli import run
from utils.errors import UsageError, UserError
from utils.files import whole_file
from utils.gallery import labelled
from utils.mask_file import Masks, open_masks
from utils.metrics import binarize, counts, scores_from_counts
from utils.stack import Stack, open_stack
from utils.threshold import choose_threshold, run_folder_of
from utils.truth import truths_of

TITLES = ("image", "truth", "probability", "mask")


@dataclass(frozen=True)
class Settings:
    masks_fn: str
    """mask file to look at."""
    truth_fn: str | None = None
    """true masks: csv, .npy or packed folder; default: those of the folder that the mask file names."""
    data_dir: str | None = None
    """packed folder of the images; default: the one that the mask file names."""
    th: float | None = None
    """threshold; default: the threshold.json of the run, else .5."""
    n_rows: int = 10
    """images to show: evenly from the best to the worst of those with anything in truth or mask."""
    out: str = "look.png"
    """the picture."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Draw the rows and say where."""
    if settings.n_rows < 1:
        raise UsageError(f"--n_rows {settings.n_rows}: expected 1 or more")
    masks = open_masks(settings.masks_fn)
    run_folders = [run_folder_of(name) for name in [masks.path, *masks.about.get("snapshots", [])]]
    th, _, origin = choose_threshold(settings.th, None, run_folders)
    stack = open_stack(settings.data_dir or masks.about.get("data_dir", "data"), masks.about.get("part", "test"))
    if unknown := set(masks.ids) - set(stack.ids):
        raise UserError(f"{masks.path}: {len(unknown)} of its images are not packed there (such as {min(unknown)})")
    truths = list(truths_of(masks, settings.truth_fn))
    rows = [_row(masks, stack, place, truths[place], th) for place in _spread(masks, truths, th, settings.n_rows)]

    from PIL import Image

    with whole_file(settings.out) as part:
        Image.fromarray(labelled(rows, TITLES)).save(part, format="PNG")
    print(f"{settings.out}: {len(rows)} images, best to worst, at threshold {th:.6g} ({origin})")


def _spread(masks: Masks, truths: list[np.ndarray], th: float, n_rows: int) -> np.ndarray:
    """Places of images with anything in truth or mask, evenly over their order from best to worst."""
    inside, ours, theirs = counts(binarize(masks.array, th), np.stack(truths))
    places = np.flatnonzero(ours + theirs) if (ours + theirs).any() else np.arange(len(truths))
    union = np.maximum(ours + theirs - inside, 1)[places]
    order = places[np.lexsort((-inside[places] / union, -scores_from_counts(inside, ours, theirs)[places]))]
    return order[np.linspace(0, len(order) - 1, min(n_rows, len(order))).astype(int)]


def _row(masks: Masks, stack: Stack, place: int, truth: np.ndarray, th: float) -> tuple[str, list[np.ndarray]]:
    probabilities = masks.array[place]
    mask = binarize(probabilities, th)
    score = scores_from_counts(*counts(mask[None], truth[None]))[0] / 10
    image = stack.images[stack.ids.index(masks.ids[place])]
    return f"{masks.ids[place]}  {score:.1f}", [image, truth != 0, probabilities, mask]


if __name__ == "__main__":
    run(main, Settings)
