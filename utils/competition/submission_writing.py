"""Write the submission of a mask file, and check it before it is called done."""

import csv
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from utils.competition.submission_check import Shapes, check_submission, read_ids, sample_in
from utils.core.errors import UsageError, UserError
from utils.core.files import whole_file
from utils.core.prediction_settings import RuleSettings, SubmissionSettings
from utils.data.formats import FORMATS, Format, read_format
from utils.data.image_ids import stem_of
from utils.data.packed import open_packed, read_manifest
from utils.data.rle import encode, encode_instances
from utils.masks.instances import (
    InstanceRules,
    instances_path,
    label_instances,
    resize_instances,
    write_instance_maps,
    write_instance_png,
)
from utils.masks.mask_file import Masks, binarize
from utils.masks.postprocessing import check_rules, clean_instances, clean_mask, constant_images
from utils.scoring.stored_results import choose_rules, choose_threshold

Rows = Iterator[tuple[str, str]]  # id, run-lengths


@dataclass(frozen=True)
class Job:
    """What rows are made from."""

    masks: Masks
    form: Format
    ids: Sequence[str]
    """in the order of the submission; the same ids as the mask file's."""
    shapes: Shapes
    """of the masks in the submission."""
    rules: RuleSettings
    """of thumb."""
    picture_of: Callable[[str], np.ndarray] | None
    """id -> the packed image (H, W, C) uint8, where a rule needs it."""
    silent: Collection[str]
    """ids whose mask is empty whatever was predicted."""


def mask_rows(job: Job, th: float, min_area: int) -> Rows:
    """A row an image."""
    for name, mask in zip(job.ids, clean_masks(job, th, min_area), strict=True):
        yield name, encode(mask, job.form.by_row)


def clean_masks(job: Job, th: float, min_area: int) -> Iterator[np.ndarray]:
    """The bool mask of each image, in the order of the ids, each of its source image's size."""
    return (_mask(job, name, row, th, min_area) for name, row in _places(job.masks, job.ids))


def _mask(job: Job, name: str, row: int, th: float, min_area: int) -> np.ndarray:
    """Bool mask of one image, of its source image's size."""
    shape = _shape(job, name)
    if name in job.silent:
        return np.zeros(shape, dtype=bool)
    probabilities = _probabilities(job, name, row)
    mask = binarize(probabilities, th)
    if np.count_nonzero(mask) < min_area:
        return np.zeros(shape, dtype=bool)
    if mask.shape != shape:
        mask = binarize(_resized(probabilities, shape), th)
    return clean_mask(mask, job.rules)


def write_label_maps(job: Job, how: InstanceRules) -> np.ndarray:
    """Write the label maps beside the mask file, in its order and at its size: (N, H, W) uint16, memory-mapped.

    Raises:
        UserError: more objects in an image than can be numbered.
    """
    about = {"masks": str(job.masks.path), "objects": vars(how), "rules": vars(job.rules)}
    return write_instance_maps(
        instances_path(job.masks.path), job.masks.ids, label_maps(job, how), job.masks.array.shape[1:], about
    )


def label_maps(job: Job, how: InstanceRules) -> Iterator[np.ndarray]:
    """The label map (H, W) uint16 of each image, in the order and at the size of the mask file; raises as above."""
    return (_labels(job, name, row, how) for name, row in _places(job.masks, job.masks.ids))


def _labels(job: Job, name: str, row: int, how: InstanceRules) -> np.ndarray:
    """(H, W) uint16 label map of one image, of the mask file's size."""
    if name in job.silent:
        return np.zeros(job.masks.array.shape[1:], dtype=np.uint16)
    border = None if job.masks.border is None else job.masks.border[row]
    try:
        labels = label_instances(_probabilities(job, name, row), border, how)
    except ValueError as error:
        raise UserError(f"{job.masks.path}: {name}: {error}; a larger --th or --min_area leaves fewer") from None
    return clean_instances(labels, job.rules)


def instance_rows(job: Job, labels: np.ndarray, label_pngs: str | None) -> Rows:
    """A row an object in the order of their numbers, an empty one for an image that has none.

    Args:
        job: the images.
        labels: (N, H, W) label maps in the mask file's order.
        label_pngs: folder to write each map to, at its image's size; None: none are written.
    """
    for name, row in _places(job.masks, job.ids):
        of_source = resize_instances(labels[row], _shape(job, name))
        if label_pngs is not None:
            write_instance_png(Path(label_pngs) / f"{stem_of(name)}.png", of_source)
        for cell in encode_instances(of_source, job.form.by_row) or [""]:
            yield name, cell


def _places(masks: Masks, ids: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Each id and its row in the mask file."""
    row_of = {name: row for row, name in enumerate(masks.ids)}
    return ((name, row_of[name]) for name in ids)


def _shape(job: Job, name: str) -> tuple[int, int]:
    return job.shapes if isinstance(job.shapes, tuple) else job.shapes[name]


def _probabilities(job: Job, name: str, row: int) -> np.ndarray:
    """(H, W) of one image, refined by its edges if the rules say so."""
    if not job.rules.crf:
        return job.masks.array[row]
    from utils.masks.postprocessing import refined

    return refined(job.masks.array[row], job.picture_of(name))


def _resized(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) probabilities as float32 of another (height, width)."""
    import cv2

    return cv2.resize(probabilities.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)


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
    of_instances = FORMATS[settings.format].of_instances if settings.format else settings.objects
    choose_threshold(settings.th, rules.min_area, folders)
    choose_rules(settings.th, rules.seed_th, rules.min_area, rules.fill_holes, folders if of_instances else [])


def finish_submission(
    masks: Masks,
    settings: SubmissionSettings,
    rules: RuleSettings,
    folders: Folders,
    data_dir: str | Path | None = None,
    gated_out: Collection[str] | None = None,
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
        rules: of post-processing (utils/masks/postprocessing.py has their order); min_area counts pixels at the size of
            the mask file.
        folders: run folders to look for threshold.json (objects: objects.json) where flags say nothing.
        data_dir: the packed folder the images are from; None: the one that the mask file names, if it is here.
        gated_out: ids whose image is empty because a gate says so; None: there is no gate.

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
    job = Job(masks, form, _ids(masks, compared), shapes, rules, picture_of, {*(gated_out or ()), *constant})
    path = timestamped(settings.submission_dir, settings.fn)
    rows, how = (
        _instance_rows(job, settings, folders)
        if form.of_instances
        else _mask_rows(job, settings, folders, gated_out is not None)
    )
    with whole_file(path) as part:
        _write_rows(part, rows, form.columns)
        verdict = check_submission(part, compared, shapes, form if settings.format else None)
        if verdict.problems:
            more = f" (and {len(verdict.problems) - 1} more)" if len(verdict.problems) > 1 else ""
            raise UserError(f"{path}: not written, the check found: {verdict.problems[0]}{more}")
    if job.silent:
        by_gate = set(masks.ids).intersection(gated_out or ())
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


def _instance_rows(job: Job, settings: SubmissionSettings, folders: Folders) -> tuple[Rows, str]:
    """The rows, once the label maps are written, and how they are made."""
    flags = settings.th, job.rules.seed_th, job.rules.min_area, job.rules.fill_holes
    how, origin = choose_rules(*flags, folders)
    labels = write_label_maps(job, how)
    apart = "touching ones kept apart by borders" if job.masks.border is not None else "connected components"
    print(f"{instances_path(job.masks.path)}: the objects of {len(labels)} images, {apart}")
    described = f"threshold {how.th:.6g}, seeds {how.seed_th:.6g}, least area {how.min_area}"
    holes = "holes filled" if how.fill_holes else "holes kept"
    return instance_rows(job, labels, settings.label_pngs), f"{described}, {holes} ({origin})"


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
    if given and not form.of_instances:
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
    packed = open_packed(folder, masks.about.get("part", "test"))
    if unknown := set(masks.ids).difference(packed.ids):
        raise UserError(
            f"{folder}: {len(unknown)} images of {masks.path} are not packed there (such as {min(unknown)})"
        )
    if rules.crf and packed.shape != masks.array.shape[1:]:
        raise UserError(f"--crf: the images in {folder} are {packed.shape}, their masks {masks.array.shape[1:]}")
    row_of = {name: row for row, name in enumerate(packed.ids)}
    return lambda name: packed.images[row_of[name]]


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
