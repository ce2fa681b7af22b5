"""From probability masks to a submission that was checked before it is called done."""

import csv
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from utils.errors import UsageError, UserError
from utils.files import whole_file
from utils.formats import FORMATS, Format, read_format
from utils.label_file import labels_beside
from utils.mask_file import Masks
from utils.objects import choose_rules
from utils.prediction_settings import RuleSettings, SubmissionSettings
from utils.rle import encode
from utils.rules import check_rules, constant_images
from utils.stack import open_stack, read_manifest
from utils.stored_threshold import choose_threshold
from utils.submission_check import Shapes, check_submission, read_ids, sample_in
from utils.submission_rows import Job, Rows, mask_rows, object_rows, write_label_maps

Folders = Sequence[str | Path | None]


def check_flags(settings: SubmissionSettings, rules: RuleSettings, folders: Folders) -> None:
    """See that flags make sense alone and together, before the first image is predicted.

    Args:
        settings: of the submission.
        rules: of thumb.
        folders: run folders to look for threshold.json and objects.json.

    Raises:
        UsageError: the first that does not.
        UserError: a threshold.json or objects.json that is none.
    """
    check_rules(rules)
    if settings.format:
        _check_format(settings, rules, FORMATS[settings.format], f"--format {settings.format}")
    of_objects = FORMATS[settings.format].of_objects if settings.format else settings.objects
    choose_threshold(settings.th, rules.min_area, folders)
    choose_rules(settings.th, rules.seed_th, rules.min_area, rules.fill_holes, folders if of_objects else [])


def finish_submission(
    masks: Masks,
    settings: SubmissionSettings,
    rules: RuleSettings,
    folders: Folders,
    data_dir: str | Path | None = None,
    silenced: Collection[str] | None = None,
) -> Path:
    """Make masks or objects image by image, write the submission, check it, and print where it is and what it holds.

    Its format is --format, else that of the packed folder's sample submission, else dsb2018 with --objects, else tgs.
    Formats of one row an object (dsb2018, airbus) make objects without --objects too: by the border plane of the mask
    file, or as connected components where it has none; the label maps are written beside the mask file. Rows are in
    the order of the sample submission where that has the same ids. Where packing resized the images, probabilities are
    resized back to each source image's size before the threshold, label maps by nearest pixel.

    Args:
        masks: (N, H, W) probabilities, with or without borders.
        settings: threshold, format, names of files.
        rules: of thumb (utils/rules.py has their order); min_area counts pixels at the size of the mask file.
        folders: run folders to look for threshold.json (objects: objects.json) where flags say nothing.
        data_dir: the packed folder the images are from; None: the one that the mask file names, if it is here.
        silenced: ids whose image is empty because a gate says so; None: there is no gate.

    Returns:
        the path of the submission.

    Raises:
        UsageError: flags that make no sense, alone or together.
        UserError: the packed folder does not fit the masks, or the check found a problem; then no submission is
            written.
    """
    check_flags(settings, rules, folders)
    folder = _data_folder(masks, data_dir)
    sample = sample_in(folder) if folder else None
    form = _format(settings, rules, sample)
    shapes, picture_of = _source_shapes(masks, folder), _pictures(masks, rules, folder)
    compared = sample if masks.about.get("part", "test") == "test" else None
    constant = constant_images(masks.ids, picture_of) if rules.constant_is_empty else set()
    job = Job(masks, form, _ids(masks, compared), shapes, rules, picture_of, {*(silenced or ()), *constant})
    path = timestamped(settings.submission_dir, settings.fn)
    rows, how = (
        _object_rows(job, settings, folders)
        if form.of_objects
        else _mask_rows(job, settings, folders, silenced is not None)
    )
    with whole_file(path) as part:
        _write_rows(part, rows, form.columns)
        verdict = check_submission(part, compared, shapes, form if settings.format else None)
        if verdict.problems:
            more = f" (and {len(verdict.problems) - 1} more)" if len(verdict.problems) > 1 else ""
            raise UserError(f"{path}: not written, the check found: {verdict.problems[0]}{more}")
    if job.silent:
        by_gate = set(masks.ids).intersection(silenced or ())
        more = f"{len(constant - by_gate)} more of one single colour"
        print(f"empty whatever was predicted: {len(by_gate)} images by the gate, {more}")
    order = f"ids and order as in {compared}" if compared else "ids not compared, there is no sample_submission.csv"
    print(f"{path}: format {form.name}, {how}; {order}\n{verdict.as_text()}")
    return path


def timestamped(submission_dir: str | Path, fn: str) -> Path:
    """<submission_dir>/<fn>_<year>-<month>-<day>_<hour>:<minute>.csv; if that exists, ..._2.csv, and so on."""
    stem = f"{fn}_{datetime.now():%Y-%m-%d_%H:%M}"
    path, number = Path(submission_dir) / f"{stem}.csv", 1
    while path.exists():
        number += 1
        path = path.with_name(f"{stem}_{number}.csv")
    return path


def write_submission(
    path: str | Path,
    ids: Iterable[str],
    masks: Iterable[np.ndarray],
    columns: tuple[str, str] = ("id", "rle_mask"),
) -> None:
    """Write a submission of one row an image, whole or not at all, taking one mask at a time.

    Args:
        path: the csv file.
        ids: N image ids.
        masks: N times (H, W), what is not 0 is mask.
        columns: the header.

    Raises:
        ValueError: more ids than masks, or the other way round.
    """
    with whole_file(path) as part:
        _write_rows(part, ((name, encode(mask)) for name, mask in zip(ids, masks, strict=True)), columns)


def _write_rows(path: Path, rows: Iterable[tuple[str, str]], columns: tuple[str, str]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _mask_rows(job: Job, settings: SubmissionSettings, folders: Folders, gated: bool) -> tuple[Rows, str]:
    """The rows, and how they are made."""
    th, min_area, origin = choose_threshold(settings.th, job.rules.min_area, folders, gated)
    return mask_rows(job, th, min_area), f"threshold {th:.6g} ({origin}), least area {min_area}"


def _object_rows(job: Job, settings: SubmissionSettings, folders: Folders) -> tuple[Rows, str]:
    """The rows, once the label maps are written, and how they are made."""
    flags = settings.th, job.rules.seed_th, job.rules.min_area, job.rules.fill_holes
    how, origin = choose_rules(*flags, folders)
    labels = write_label_maps(job, how)
    apart = "touching ones kept apart by borders" if job.masks.border is not None else "connected components"
    print(f"{labels_beside(job.masks.path)}: the objects of {len(labels)} images, {apart}")
    described = f"threshold {how.th:.6g}, seeds {how.seed_th:.6g}, least area {how.min_area}"
    holes = "holes filled" if how.fill_holes else "holes kept"
    return object_rows(job, labels, settings.label_pngs), f"{described}, {holes} ({origin})"


def _format(settings: SubmissionSettings, rules: RuleSettings, sample: Path | None) -> Format:
    """What --format says, else what the columns of the sample submission say."""
    if settings.format:
        return FORMATS[settings.format]
    if sample is None:
        form, origin = FORMATS["dsb2018" if settings.objects else "tgs"], "without --objects the submission"
    else:
        form, origin = read_format(sample), f"{sample}, which has the columns {','.join(read_format(sample).columns)},"
    _check_format(settings, rules, form, origin)
    return form


def _check_format(settings: SubmissionSettings, rules: RuleSettings, form: Format, origin: str) -> None:
    """See that flags about objects meet a format that has a row an object."""
    about_objects = {
        "--objects": settings.objects,
        "--label_pngs": settings.label_pngs is not None,
        "--seed_th": rules.seed_th is not None,
    }
    given = [flag for flag, is_given in about_objects.items() if is_given]
    if given and not form.of_objects:
        raise UsageError(
            f"{given[0]}: {origin} has one row an image; leave it out, or take --format dsb2018 or airbus, which have "
            "one row an object"
        )


def _ids(masks: Masks, sample: Path | None) -> list[str]:
    """The ids of the mask file, in the order of the sample where that has the same."""
    wanted = read_ids(sample) if sample else []
    return wanted if set(wanted) == set(masks.ids) else list(masks.ids)


def _data_folder(masks: Masks, data_dir: str | Path | None) -> Path | None:
    if data_dir is not None:
        return Path(data_dir)
    recorded = masks.about.get("data_dir")
    if recorded and Path(recorded).is_dir():
        return Path(recorded)
    print(f"{masks.path}: the packed images it was made from are not here; its masks keep their size")
    return None


def _pictures(masks: Masks, rules: RuleSettings, folder: Path | None) -> Callable[[str], np.ndarray] | None:
    """Id -> packed image of the masks' images, if a rule looks at them."""
    flag = "--crf" if rules.crf else "--constant_is_empty" if rules.constant_is_empty else None
    if flag is None:
        return None
    if folder is None:
        raise UserError(f"{flag} looks at the images, and they are not here; --data_dir names the packed folder")
    stack = open_stack(folder, masks.about.get("part", "test"))
    if unknown := set(masks.ids).difference(stack.ids):
        raise UserError(
            f"{folder}: {len(unknown)} images of {masks.path} are not packed there (such as {min(unknown)})"
        )
    if rules.crf and stack.shape != masks.array.shape[1:]:
        raise UserError(f"--crf: the images in {folder} are {stack.shape}, their masks {masks.array.shape[1:]}")
    row_of = {name: row for row, name in enumerate(stack.ids)}
    return lambda name: stack.images[row_of[name]]


def _source_shapes(masks: Masks, folder: Path | None) -> Shapes:
    """The size that each mask of the submission has."""
    height, width = masks.array.shape[1:]
    if folder is None:
        return height, width
    part, parts = masks.about.get("part", "test"), read_manifest(folder)["parts"]
    if part not in parts:
        raise UserError(f"{folder}: holds no {part} images, of which the masks are; --data_dir names another folder")
    described = parts[part]
    if not described.get("sizes"):
        packed = tuple(described["arrays"]["images"]["shape"][1:3])
        if packed != (height, width):
            raise UserError(
                f"{masks.path}: masks of {height}x{width}, but the {part} images in {folder} are "
                f"{packed[0]}x{packed[1]}; val_transforms has to lead back to the images' size"
            )
        return height, width
    shapes = {name: (size[0], size[1]) for name, size in zip(described["ids"], described["sizes"], strict=True)}
    if unknown := [name for name in masks.ids if name not in shapes]:
        raise UserError(f"{folder}: {len(unknown)} images of {masks.path} are not packed there (such as {unknown[0]})")
    return shapes
