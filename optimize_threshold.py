"""Find the exact best threshold for validation masks, or the best settings for objects, and a cross-fitted score.

python optimize_threshold.py --masks_fn experiments/salt_fold0/val_tta.npy
python optimize_threshold.py --masks_fn experiments/salt_fold*/val_tta.npy --min_area 0 20 40 80
python optimize_threshold.py --masks_fn v0.npy v1.npy --truth_fn train.csv --out threshold.json
python optimize_threshold.py --masks_fn experiments/border_fold*/val_tta.npy --objective objects
python optimize_threshold.py --masks_fn v.npy --objective objects --metric airbus --gate_probs empty_oof.npy

predict_tta.py --part val writes the mask files of a fold, and train.py --folds all those of all folds (<name>_oof.npy).
The score at the best threshold is too optimistic, because the threshold was fitted on the same images. The cross-fitted
score is not: each file (each fifth of the images, for a single file) is scored at the threshold that is best for the
others.
"""

from utils.core.cli import run
from utils.core.files import write_json
from utils.core.names import pick
from utils.report.model_card import write_model_card
from utils.scoring.objectives import OBJECTIVES, OptimizeSettings, check_flags


def main(settings: OptimizeSettings) -> None:
    """Fit the thresholds, store and print the result, and update the model cards of the runs."""
    fit = pick(OBJECTIVES, settings.objective, "--objective")
    check_flags(settings)
    found = fit(settings)
    for path in found.paths:
        write_json(path, found.contents)
    print(found.text)
    print("stored in", *found.paths)
    runs = [path.parent for path in found.paths if (path.parent / "config.json").is_file()]
    if not runs and settings.out is None:
        print("note: the predict scripts read thresholds from run folders only; use --out to store it in one")
    for run_folder in runs:
        write_model_card(run_folder)


if __name__ == "__main__":
    run(main, OptimizeSettings)
