"""The flags of optimize_threshold.py and the fit function of each --objective."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from utils.core.errors import UsageError
from utils.core.names import pick
from utils.core.settings import Ints, OptionalText, Texts
from utils.data.image_classes import NOT_EMPTY, ImageClasses, read_classes
from utils.masks.mask_file import Masks, open_masks
from utils.masks.probability_file import Probabilities, open_probabilities
from utils.scoring.class_search import fit_classes
from utils.scoring.gate_search import fit_gated
from utils.scoring.instance_search import fit_instances
from utils.scoring.mask_metrics import METRICS, Metric
from utils.scoring.metric_search import fit_metric, fit_metric_gated
from utils.scoring.stored_thresholds import (
    GATE_FILE,
    LABELS_FILE,
    OBJECTS_FILE,
    THRESHOLD_FILE,
    describe_fit,
    run_folder_of,
)
from utils.scoring.threshold_search import fit_files, plot_threshold


@dataclass(frozen=True)
class OptimizeSettings:
    """All flags of optimize_threshold.py."""

    masks_fn: tuple[str, ...]
    """mask files of validation images (labels: probability files of image classes), one per fold, or one for all folds;
    no image may be in two of them."""
    objective: str = "pixels"
    """pixels: fit the threshold of masks; objects: fit th, seed_th, min_area and fill_holes of objects together;
    labels: fit a threshold for each class of images (train_classifier.py --target)."""
    gate_probs: Texts = ()
    """out-of-fold probabilities that an image contains anything (train_classifier.py); the gate's threshold is fitted
    together with those of masks or objects."""
    metric: OptionalText = None
    """score to maximise. pixels: iout, iou, dice (means over images), pooled_iou, pooled_dice; default: the one that
    ranked the snapshots of the training, else iout. objects: dsb2018 or airbus (F2); default: dsb2018."""
    truth_fn: OptionalText = None
    """the truth: a packed folder, a csv of run-lengths or a .npy of masks; default: the folder the masks are from."""
    min_area: Ints = ()
    """minimum areas to try; masks (or objects) with fewer pixels are removed; 0 is always tried; default: 0 (objects: 0
    to 256)."""
    out: OptionalText = None
    """file or folder for the result; default: threshold.json, gate.json, objects.json or labels.json in the run folders
    of the mask files, or next to the first mask file if it is in no run folder."""
    debug: bool = False
    """show the traceback of an error."""


class Result(NamedTuple):
    """The result of a fit."""

    text: str
    """a short table for the user."""
    contents: dict[str, Any]
    """the contents of the result files."""
    paths: list[Path]
    """the result files."""


def fit_pixels(settings: OptimizeSettings) -> Result:
    """Fit threshold and minimum area of masks, and the threshold of a gate if there is one.

    Without a gate, the score over all thresholds is plotted into a png file next to each result file.
    """
    files = _opened(settings.masks_fn)
    metric, where = _metric(settings, files), (settings.truth_fn, settings.min_area)
    by_iout = metric.name == "iout"
    if settings.gate_probs:
        gate = [open_probabilities(name) for name in settings.gate_probs]
        gated = fit_gated(files, gate, *where) if by_iout else fit_metric_gated(files, gate, *where, metric)
        return _result(gated.as_text(), gated.as_json(files, gate), files, settings.out, GATE_FILE)
    fit = fit_files(files, *where) if by_iout else fit_metric(files, *where, metric)
    result = _result(fit.as_text(), fit.as_json(files), files, settings.out, THRESHOLD_FILE)
    plot_threshold([path.with_suffix(".png") for path in result.paths], fit)
    return result


def _metric(settings: OptimizeSettings, files: Sequence[Masks]) -> Metric:
    """Return the metric of masks that was asked for, else the one that ranked the snapshots, else iout."""
    recorded = {masks.info.metric for masks in files} & set(METRICS)
    return pick(METRICS, settings.metric or (recorded.pop() if len(recorded) == 1 else "iout"), "--metric")


def fit_objects(settings: OptimizeSettings) -> Result:
    """Fit the rules that turn probabilities into instances, and the threshold of a gate if there is one."""
    files = _opened(settings.masks_fn)
    gate = [open_probabilities(name) for name in settings.gate_probs]
    fit = fit_instances(files, settings.truth_fn, settings.min_area, settings.metric or "dsb2018", gate)
    return _result(fit.as_text(), fit.as_json(files), files, settings.out, OBJECTS_FILE)


def fit_labels(settings: OptimizeSettings) -> Result:
    """Fit a threshold for each class on the probabilities that a classifier predicted for its validation images."""
    if not settings.masks_fn:
        raise UsageError("--masks_fn: name at least one probability file")
    files = [open_probabilities(name) for name in settings.masks_fn]
    fit = fit_classes(files, [_classes_of(file, settings.truth_fn) for file in files])
    return _result(fit.as_text(), fit.as_json(files), files, settings.out, LABELS_FILE)


def _classes_of(file: Probabilities, truth_fn: str | None) -> ImageClasses:
    """Read the true classes of a file's images from the csv `truth_fn`, or else from the folder that the file names."""
    column, folder = file.info.target, file.info.data_dir
    if file.labels == [NOT_EMPTY]:
        raise UsageError(
            f"{file.path}: these are gate probabilities; pass them with --gate_probs, and mask files with --masks_fn"
        )
    if not column or not (truth_fn or folder):
        raise UsageError(f"{file.path}: does not record the column or data folder of its labels; predict again")
    return read_classes(truth_fn or Path(folder) / "train_with_folds.csv", column, file.ids)


OBJECTIVES: dict[str, Callable[[OptimizeSettings], Result]] = {
    "pixels": fit_pixels,
    "objects": fit_objects,
    "labels": fit_labels,
}
OBJECTIVES_WITH = dict.fromkeys(("metric", "gate_probs", "min_area"), ("pixels", "objects"))
"""Flag -> the objectives that use it; the other flags are used by every objective."""


def check_flags(settings: OptimizeSettings) -> None:
    """Raise UsageError if a flag is set that the objective does not use."""
    for flag, objectives in OBJECTIVES_WITH.items():
        if getattr(settings, flag) and settings.objective not in objectives:
            named = " or ".join(objectives)
            raise UsageError(f"--{flag}: is for --objective {named}, not for {settings.objective}; leave it out")


def _result(
    text: str, contents: dict[str, Any], files: Sequence[Masks | Probabilities], out: str | None, name: str
) -> Result:
    """Add a description of the files to the contents, and choose where the result is stored.

    The result is stored in `out` if given, else as `name` in the run folder of every file. For a joined file these are
    the run folders of the files it was joined from. Without any run folder it is stored next to the first file.
    """
    contents = {**contents, **describe_fit([file.info for file in files])}
    if out:
        return Result(text, contents, [Path(out) / name if Path(out).is_dir() else Path(out)])
    made_from = [path for file in files for path in (str(file.path), *file.info.joined_from)]
    runs = {run for path in made_from if (run := run_folder_of(path))}
    return Result(text, contents, [folder / name for folder in sorted(runs) or [files[0].path.parent]])


def _opened(names: tuple[str, ...]) -> list[Masks]:
    if not names:
        raise UsageError("--masks_fn: name at least one mask file")
    return [open_masks(name) for name in names]
