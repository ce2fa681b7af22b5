"""Measure how much each post-processing rule gains on validation masks, with an interval of the gain.

python bench/rules.py --masks_fn experiments/demo_fold0/val_tta.npy
python bench/rules.py --masks_fn experiments/salt_fold*/val_tta.npy --th .45

The threshold is the same with and without a rule (the run's, or --th), so the gain is due to the rule alone.
"""

import time
from dataclasses import dataclass, replace

import numpy as np

from utils.competition.after_prediction import cleaned_validation, mask_tenths
from utils.competition.decisions import mask_threshold
from utils.core.cli import run
from utils.core.errors import UserError
from utils.core.prediction_settings import RuleSettings
from utils.data.packed_data import open_packed
from utils.masks.mask_file import open_masks
from utils.masks.postprocessing import PostProcessing
from utils.scoring.bootstrap import mean_interval
from utils.scoring.stored_thresholds import run_folder_of

RULES = {
    "--min_area 20": RuleSettings(min_area=20),
    "--min_area 80": RuleSettings(min_area=80),
    "--fill_holes True": RuleSettings(fill_holes=True),
    "--keep_largest 1": RuleSettings(keep_largest=1),
    "--keep_largest 2": RuleSettings(keep_largest=2),
    "--constant_is_empty": RuleSettings(constant_is_empty=True),
    "--full_is_empty": RuleSettings(full_is_empty=True),
    "--crf": RuleSettings(crf=True),
}


@dataclass(frozen=True)
class Settings:
    masks_fn: tuple[str, ...]
    """mask files of validation images."""
    th: float | None = None
    """threshold; default: the one in the run's threshold.json, else .5."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Print one line per rule."""
    plain, _ = _tenths(settings, RuleSettings(min_area=0))
    print(f"{len(plain)} images, iout without rules {plain.mean() / 10:.4f}")
    print(f"{'rule':<20}  {'iout':>6}  {'gain':>7}  95 % interval      ms per image")
    for name, rules in RULES.items():
        try:
            with_rule, seconds = _tenths(settings, rules if rules.min_area is not None else replace(rules, min_area=0))
        except UserError as error:  # the rule needs a package that is not installed
            print(f"{name:<20}  {error}")
            continue
        gains = (with_rule - plain) / 10
        low, high = mean_interval(gains)
        score, each = with_rule.mean() / 10, 1000 * seconds / len(plain)
        print(f"{name:<20}  {score:.4f}  {gains.mean():+.4f}  {low:+.4f} to {high:+.4f}  {each:.1f}")


def _tenths(settings: Settings, rules: RuleSettings) -> tuple[np.ndarray, float]:
    """Return the score of each image in tenths, and the seconds that post-processing and scoring took."""
    found, seconds = [], 0.0
    for name in settings.masks_fn:
        masks = open_masks(name)
        packed = open_packed(masks.info.data_dir, "train")
        row_of = {one: row for row, one in enumerate(packed.ids)}
        th, _, _ = mask_threshold(settings.th, 0, [run_folder_of(masks.path)])
        truths, started = packed.masks[[row_of[one] for one in masks.ids]], time.perf_counter()
        how = PostProcessing(th, rules.min_area or 0, rules=rules)
        found.append(mask_tenths(cleaned_validation(masks, how, packed), truths))
        seconds += time.perf_counter() - started
    return np.concatenate(found), seconds


if __name__ == "__main__":
    run(main, Settings)
