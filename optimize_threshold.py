"""The exact best threshold for validation masks, and the score to believe.

python optimize_threshold.py --masks_fn experiments/salt_fold0/val_masks.npy
python optimize_threshold.py --masks_fn experiments/salt_fold*/val_masks.npy --min_area 0 20 40 80
python optimize_threshold.py --masks_fn v0.npy v1.npy --truth_fn train.csv --out threshold.json

The score at the best threshold is fitted on the images it is counted on. The cross-fitted score is not: each file (of
one file: each fifth of its images) is scored at the threshold that is best for the others. Believe that one.
"""

from dataclasses import dataclass

from utils.cli import run
from utils.errors import UsageError
from utils.files import write_json
from utils.fit_threshold import fit_files, result_paths
from utils.mask_file import open_masks
from utils.plots import plot_threshold


@dataclass(frozen=True)
class Settings:
    masks_fn: tuple[str, ...]
    """mask files of validation images, one a fold; no image may be in two of them."""
    truth_fn: str | None = None
    """true masks: a packed folder, a csv (id, rle_mask) or a .npy; default: the folder the masks were made from."""
    min_area: tuple[int, ...] = (0,)
    """search jointly for the least area of a mask (smaller ones become empty) among these; 0 is always tried."""
    out: str | None = None
    """file for the result; default: threshold.json in the run folder of every mask file, else beside the first."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Fit, store, draw, print."""
    if not settings.masks_fn:
        raise UsageError("--masks_fn: name at least one mask file")
    files = [open_masks(name) for name in settings.masks_fn]
    fit = fit_files(files, settings.truth_fn, settings.min_area)
    paths = result_paths(files, settings.out)
    plot_threshold([path.with_suffix(".png") for path in paths], fit.steps, fit.best)
    for path in paths:
        write_json(path, fit.as_json(files))
    print(fit.as_text())
    print("stored in", *paths)


if __name__ == "__main__":
    run(main, Settings)
