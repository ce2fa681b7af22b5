"""Decide how predictions become a submission, once, before the first image is predicted.

Each value is taken from its flag, else from what optimize_threshold.py has stored in the runs of the snapshots, else
from the default, and the decision records where it is from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from utils.competition.class_submission import style_of
from utils.competition.submission_check import sample_in
from utils.core.errors import UsageError, UserError
from utils.core.prediction_settings import PredictionSettings, RuleSettings, SubmissionSettings
from utils.core.tables import read_table
from utils.data.formats import FORMATS, Format, read_format
from utils.data.image_classes import NOT_EMPTY
from utils.masks.gate import OPEN
from utils.masks.instances import InstanceRules
from utils.masks.mask_file import PredictionInfo
from utils.masks.postprocessing import PostProcessing, check_rules
from utils.scoring.stored_thresholds import (
    GATE_FILE,
    OBJECTS_FILE,
    THRESHOLD_FILE,
    Stored,
    choose_stored,
    read_class_thresholds,
    read_gate,
    read_instance_rules,
    read_threshold,
    unlike,
)

FOR_CLASSES = ("masks_fn", "fn", "submission_dir")
"""Flags of a submission that apply to image classes."""
Runs = Sequence[str | Path | None]
"""The run folder of each snapshot (or mask file); None for one outside of a run folder."""


@dataclass(frozen=True)
class MaskDecisions:
    """Settings that turn a mask file into a submission or into the scores of a validation fold."""

    how: PostProcessing
    threshold_from: str
    """Origin of the mask threshold, for messages."""
    instances_from: str
    """Origin of the instance rules, for messages."""
    gate_threshold: float | None
    """Images with a gate probability not greater than this are emptied; None if there is no gate."""
    gate_from: str
    """Origin of the gate threshold, for messages; empty if there is no gate."""
    form: Format
    """The competition format of the submission."""
    sample: Path | None
    """The sample submission that determines ids and order."""
    folder: Path | None
    """The packed folder of the images, if known."""
    notes: tuple[str, ...] = ()
    """Remarks on these values for the user, one per line."""


@dataclass(frozen=True)
class ClassDecisions:
    """Settings that turn a probability file of image classes into a submission."""

    thresholds: dict[str, float] | None
    """Threshold of each class; None: .5 for all."""
    sample: Path | None
    notes: tuple[str, ...] = ()


def decide_masks(
    submission: SubmissionSettings,
    rules: RuleSettings,
    runs: Runs,
    info: PredictionInfo,
    folder: Path | None,
    has_border: bool,
    scored: bool = False,
    has_instances: bool = False,
    gate_th: float | None = None,
    has_gate: bool = False,
) -> MaskDecisions:
    """Decide how masks are thresholded, cleaned and submitted.

    Args:
        submission: the flags of the submission.
        rules: the flags of post-processing.
        runs: run folders that may hold stored thresholds.
        info: description of the mask file, which need not exist yet.
        folder: the packed folder of its images; None if unknown.
        has_border: whether borders are predicted.
        scored: True to score a validation fold instead of making a submission.
        has_instances: whether the validation fold is also scored by instances.
        gate_th: value of --gate_th.
        has_gate: whether there is a gate.

    Raises:
        UsageError: a flag is invalid, or contradicts another flag or the data.
        UserError: a stored result is invalid.
    """
    check_rules(rules)
    _check_shares(submission.th, rules, gate_th, has_gate)
    if Path(submission.submission_dir).is_file():
        raise UsageError(f"--submission_dir {submission.submission_dir}: expected a folder, found a file")
    sample = sample_in(folder) if folder else None
    form = _form(submission, rules, sample, scored)
    if rules.seed_th is not None and not has_border:
        raise UsageError(
            f"--seed_th {rules.seed_th}: seeds need a border (mask minus border > seed_th), but these networks predict "
            "no border; leave it out"
        )
    of_instances = has_instances if scored else form.of_instances
    threshold, min_area, threshold_from, notes = _mask_threshold(submission.th, rules.min_area, runs, info, has_gate)
    instances, instances_from, more = _instance_rules(submission.th, rules, runs if of_instances else [], info)
    gate, gate_from, still = _gate(gate_th, has_gate, runs, of_instances and not scored)
    used = [*([] if of_instances and not scored else notes), *more, *still]
    if of_instances and not has_gate:
        used += _missing_gate(runs)
    return MaskDecisions(
        how=PostProcessing(threshold, min_area, instances, rules),
        threshold_from=threshold_from,
        instances_from=instances_from,
        gate_threshold=gate,
        gate_from=gate_from,
        form=form,
        sample=sample if info.part in (None, "test") else None,
        folder=folder,
        notes=tuple(dict.fromkeys(used)),
    )


def decide_classes(
    settings: PredictionSettings, runs: Runs, outputs: Sequence[str], exclusive: bool, info: PredictionInfo
) -> ClassDecisions:
    """Decide how class probabilities are submitted.

    Args:
        settings: the flags of the predict script.
        runs: run folders that may hold stored thresholds.
        outputs: names of the classes.
        exclusive: whether an image has exactly one of the classes.
        info: description of the probability file, which need not exist yet.

    Raises:
        UsageError: a flag applies only to masks.
        UserError: a labels.json is invalid or lacks a class, or the sample submission does not fit these classes.
    """
    given = [flag for flag, value in (("gate", settings.gate.gate), ("tile", settings.predict.tile)) if value]
    for group in (settings.submission, settings.rules):
        flags = [entry for entry in fields(group) if entry.name not in FOR_CLASSES]
        given += [entry.name for entry in flags if getattr(group, entry.name) != entry.default]
    if given:
        raise UsageError(f"--{given[0]}: applies to masks, but the snapshot predicts image classes; leave it out")
    if settings.predict.part != "test" or list(outputs) == [NOT_EMPTY]:
        return ClassDecisions(None, None)
    stored, notes = choose_stored(read_class_thresholds, runs)
    sample = sample_in(settings.predict.data_dir)
    style = style_of(read_table(sample) if sample else None, outputs, exclusive, str(sample))
    if stored and style == "names" and (missing := [name for name in outputs if name not in stored.thresholds]):
        raise UserError(f"{stored.path}: no threshold for {missing[0]}; run optimize_threshold.py for these classes")
    notes += unlike(stored, info, runs) if stored else []
    return ClassDecisions(stored.thresholds if stored else None, sample, tuple(notes))


def mask_threshold(
    th: float | None, min_area: int | None, runs: Runs, info: PredictionInfo | None = None
) -> tuple[float, int, str]:
    """Return threshold, minimum area and the origin of the threshold for masks that are not submitted.

    Raises:
        UsageError: th is outside [0, 1] or min_area is below 0.
        UserError: a threshold.json is invalid.
    """
    _check_shares(th, RuleSettings(min_area=min_area), None, False)
    return _mask_threshold(th, min_area, runs, info or PredictionInfo(), False)[:3]


def instance_rules(th: float | None, rules: RuleSettings, runs: Runs) -> tuple[InstanceRules, str]:
    """Return the instance rules and their origin; raise errors as `mask_threshold` does."""
    _check_shares(th, rules, None, False)
    return _instance_rules(th, rules, runs, PredictionInfo())[:2]


def _check_shares(th: float | None, rules: RuleSettings, gate_th: float | None, has_gate: bool) -> None:
    for flag, value in (("--th", th), ("--seed_th", rules.seed_th), ("--gate_th", gate_th)):
        if value is not None and not 0 <= value <= 1:
            raise UsageError(f"{flag} {value}: expected a probability threshold in [0, 1]")
    if rules.min_area is not None and rules.min_area < 0:
        raise UsageError(f"--min_area {rules.min_area}: expected a number of pixels, 0 or more")
    if gate_th is not None and not has_gate:
        raise UsageError(f"--gate_th {gate_th}: needs a gate; name one, or leave it out")


def _mask_threshold(
    th: float | None, min_area: int | None, runs: Runs, info: PredictionInfo, gated: bool
) -> tuple[float, int, str, list[str]]:
    """Return threshold, minimum area, origin and notes: from flags, else stored, else the defaults .5 and 0.

    With a gate, the values of gate.json, which were fitted together with it, precede those of threshold.json.
    """
    stored, notes = None, []
    for name in (GATE_FILE, THRESHOLD_FILE) if gated else (THRESHOLD_FILE,):
        if stored is None:
            stored, notes = choose_stored(partial(read_threshold, name=name), runs)
    if th is not None:
        return th, (stored.min_area if stored else 0) if min_area is None else min_area, "--th", []
    area = min_area if min_area is not None else stored.min_area if stored else 0
    if stored is None:
        return 0.5, area, f"no {THRESHOLD_FILE} found", []
    return stored.threshold, area, str(stored.path), [*notes, *unlike(stored, info, runs)]


def _instance_rules(
    th: float | None, rules: RuleSettings, runs: Runs, info: PredictionInfo
) -> tuple[InstanceRules, str, list[str]]:
    """Return the instance rules, their origin and notes: each rule from its flag, else stored, else the default."""
    stored, notes = choose_stored(read_instance_rules, runs)
    origin = str(stored.path) if stored else f"no {OBJECTS_FILE} found"
    flags = {"th": th, "seed_th": rules.seed_th, "min_area": rules.min_area, "fill_holes": rules.fill_holes}
    given = {name: value for name, value in flags.items() if value is not None}
    named = " ".join(f"--{name}" for name in given)
    if len(given) == len(flags):
        return InstanceRules(**given), named, []
    notes += unlike(stored, info, runs) if stored else []
    base = stored.rules if stored else InstanceRules()
    return replace(base, **given), f"{named}, for the rest {origin}" if given else origin, notes


def _gate(gate_th: float | None, has_gate: bool, runs: Runs, of_instances: bool) -> tuple[float | None, str, list[str]]:
    """Return the gate threshold, its origin and notes: from the flag, else stored, else .5.

    For instances, a gate threshold in objects.json precedes the one in gate.json.
    """
    if not has_gate:
        return None, "", []
    stored: tuple[Stored | None, list[str]] = (None, [])
    if of_instances:
        stored = choose_stored(partial(read_gate, name=OBJECTS_FILE), runs)
    if stored[0] is None:
        stored = choose_stored(read_gate, runs)
    if gate_th is not None:
        return gate_th, "--gate_th", []
    if stored[0] is None:
        return 0.5, f"no {GATE_FILE} found", []
    return stored[0].threshold, stored[0].origin, stored[1]


def _missing_gate(runs: Runs) -> list[str]:
    """Return a note if the instance rules were fitted together with a gate but none is given now."""
    stored, _ = choose_stored(partial(read_gate, name=OBJECTS_FILE), runs)
    if stored is None or stored.threshold == OPEN:
        return []
    return [f"{stored.path} was fitted together with a gate; add that gate with --gate, or fit the rules without one"]


def _form(submission: SubmissionSettings, rules: RuleSettings, sample: Path | None, scored: bool) -> Format:
    """Return the format: --format, else by the sample submission's columns, else dsb2018 with --objects, else tgs."""
    if submission.format:
        form, origin = FORMATS[submission.format], f"--format {submission.format}"
    elif sample is None:
        form, origin = FORMATS["dsb2018" if submission.objects else "tgs"], "without --objects the submission"
    else:
        form = read_format(sample)
        origin = f"{sample}, which has the columns {','.join(form.columns)},"
    about_instances = {
        "--objects": submission.objects,
        "--label_pngs": submission.label_pngs is not None,
        "--seed_th": rules.seed_th is not None,
    }
    given = [flag for flag, is_given in about_instances.items() if is_given]
    if given and not form.of_instances and not scored:
        raise UsageError(
            f"{given[0]}: {origin} has one row per image; leave it out, or use --format dsb2018 or airbus, which have "
            "one row per object"
        )
    return form
