"""Write the submission of a mask file, and check it before success is reported."""

import csv
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import numpy as np

from utils.competition.decisions import MaskDecisions
from utils.competition.submission_check import check_submission, read_ids
from utils.competition.submission_names import named_after, timestamped_file
from utils.core.arrays import Rows
from utils.core.errors import UserError
from utils.core.prediction_settings import SubmissionSettings
from utils.data.image_ids import stem_of
from utils.data.packed_data import PackedImages, Shapes, open_packed
from utils.data.rle import encode, encode_instances
from utils.masks.instances import instances_path, resize_instances, write_instance_maps, write_instance_png
from utils.masks.mask_file import Masks, check_same_images
from utils.masks.postprocessing import PostProcessed, constant_images

Lines = Iterator[tuple[str, str]]
"""(id, run-lengths) of each line."""


def write_mask_submission(
    masks: Masks,
    decisions: MaskDecisions,
    settings: SubmissionSettings,
    gated_out: Collection[str] | None = None,
) -> Path:
    """Write the submission of masks or instances, image by image, check it, and print its path and a summary.

    Formats with one row per object (dsb2018, airbus) need instances. They are separated by the border plane of the mask
    file or, if it has none, are connected components; their label maps are written next to the mask file. Rows are in
    the order of the sample submission if it has the same ids. If packing resized the images, the results are resized to
    the source images: probabilities before the threshold, label maps by nearest pixel.

    Args:
        masks: (N, H, W) probabilities, with or without borders.
        decisions: threshold, post-processing rules and format.
        settings: file names and format.
        gated_out: ids of the images that are gated out; None if there is no gate.

    Returns:
        the path of the submission.

    Raises:
        UserError: the packed folder does not fit the masks, or the check found a problem; no submission is written.
    """
    form, sample = decisions.form, decisions.sample
    images = _Images(masks, decisions)
    constant = constant_images(masks.ids, images.image_of) if decisions.how.rules.constant_is_empty else set()
    empty = {*(gated_out or ()), *constant}
    cleaned = PostProcessed(masks, decisions.how, images.shapes, images.image_of, empty)
    ids = _ordered(masks.ids, read_ids(sample) if sample else images.ids)
    name = named_after(settings.fn, masks.info, masks.path)
    if form.of_instances:
        rows = instance_rows(cleaned, ids, _write_label_maps(cleaned), form.by_row, settings.label_pngs)
        how = _describe_instances(decisions)
    else:
        rows = mask_rows(cleaned, ids, form.by_row)
        how = f"threshold {decisions.how.threshold:.6g} ({decisions.threshold_from}), "
        how += f"minimum area {decisions.how.min_area}"
    with timestamped_file(settings.submission_dir, name) as (path, part):
        _write_rows(part, rows, form.columns)
        verdict = check_submission(part, sample, images.shapes, form if settings.format else None)
        if verdict.problems:
            more = f" (and {len(verdict.problems) - 1} more)" if len(verdict.problems) > 1 else ""
            raise UserError(f"{path}: not written, the check found: {verdict.problems[0]}{more}")
    if empty:
        by_gate = set(masks.ids).intersection(gated_out or ())
        more = f"{len(constant - by_gate)} more of one single colour"
        print(f"emptied regardless of the prediction: {len(by_gate)} images by the gate, {more}")
    order = f"ids and order as in {sample}" if sample else "ids not compared with a sample submission"
    print(f"{path}: format {form.name}, {how}; {order}\n{verdict.as_text()}")
    return path


def mask_rows(cleaned: PostProcessed, ids: Iterable[str], by_row: bool) -> Lines:
    """Yield one row per image."""
    ids = list(ids)
    for name, mask in zip(ids, cleaned.each_mask(ids), strict=True):
        yield name, encode(mask, by_row)


def instance_rows(
    cleaned: PostProcessed, ids: Iterable[str], maps: np.ndarray, by_row: bool, label_pngs: str | None = None
) -> Lines:
    """Yield one row per instance in the order of their numbers, or one empty row for an image without instances.

    Args:
        cleaned: the post-processed images.
        ids: image ids in the order of the submission.
        maps: (N, H, W) label maps in the order of the mask file.
        by_row: True if pixels are numbered left to right first.
        label_pngs: folder for a PNG of each label map at the size of its image; None: no PNGs are written.
    """
    row_of = {name: row for row, name in enumerate(cleaned.masks.ids)}
    for name in ids:
        of_source = resize_instances(maps[row_of[name]], cleaned.shape_of(name))
        if label_pngs is not None:
            write_instance_png(Path(label_pngs) / f"{stem_of(name)}.png", of_source)
        for cell in encode_instances(of_source, by_row) or [""]:
            yield name, cell


def _write_rows(path: Path, rows: Iterable[tuple[str, str]], columns: tuple[str, str]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _write_label_maps(cleaned: PostProcessed) -> Rows:
    """Write the N label maps (H, W) uint16 next to the mask file, in its order and sizes; return them memory-mapped."""
    masks, how = cleaned.masks, cleaned.how
    about = {"masks": str(masks.path), "objects": vars(how.instances), "rules": vars(how.rules)}
    path = instances_path(masks.path)
    maps = write_instance_maps(path, masks.ids, cleaned.each_instance_map(), masks.shapes, about)
    separation = "touching objects separated by borders" if masks.border is not None else "connected components"
    print(f"{path}: the objects of {len(maps)} images, {separation}")
    return maps


def _describe_instances(decisions: MaskDecisions) -> str:
    how = decisions.how.instances
    holes = "holes filled" if how.fill_holes else "holes kept"
    described = f"threshold {how.th:.6g}, seeds above {how.seed_th:.6g}, minimum area {how.min_area}"
    return f"{described}, {holes} ({decisions.instances_from})"


def _ordered(ids: list[str], wanted: list[str]) -> list[str]:
    """Return the ids of the mask file, in the wanted order if that has the same ids."""
    return wanted if set(wanted) == set(ids) else list(ids)


class _Images:
    """The packed images of a mask file: ids, size of each mask, and the pixels if a post-processing rule needs them.

    Raises:
        UserError: the images are not in the packed folder, or do not fit the masks.
    """

    def __init__(self, masks: Masks, decisions: MaskDecisions) -> None:
        self.shapes: Shapes = masks.shape or dict(zip(masks.ids, masks.shapes, strict=True))
        self.ids = masks.ids
        self.image_of: Callable[[str], np.ndarray] | None = None
        rules, folder = decisions.how.rules, decisions.folder
        flag = "--crf" if rules.crf else "--constant_is_empty" if rules.constant_is_empty else None
        if folder is None:
            print(f"{masks.path}: found no packed images for it, so its masks keep their size")
            if flag:
                raise UserError(f"{flag}: needs the packed images, but found none; name their folder with --data_dir")
            return
        packed = open_packed(folder, masks.info.part or "test")
        if unknown := set(masks.ids).difference(packed.ids):
            raise UserError(
                f"{folder}: lacks {len(unknown)} images of {masks.path} (such as {min(unknown)}); check --data_dir"
            )
        check_same_images(masks.path, masks.info, packed, folder)
        self.ids = packed.ids
        self.shapes = self._source_shapes(packed, masks, folder)
        row_of = {name: row for row, name in enumerate(packed.ids)}
        for name, shape in zip(masks.ids, masks.shapes, strict=True) if rules.crf else ():
            if (expected := packed.shapes[row_of[name]]) != shape:
                raise UserError(f"--crf: expected a mask of {expected} for {name} as in {folder}, found {shape}")
        if flag:
            self.image_of = lambda name: packed.images[row_of[name]]

    def _source_shapes(self, packed: PackedImages, masks: Masks, folder: Path) -> Shapes:
        if packed.sizes:
            return dict(zip(packed.ids, packed.sizes, strict=True))
        expected = dict(zip(packed.ids, packed.shapes, strict=True))
        for name, shape in zip(masks.ids, masks.shapes, strict=True):
            if shape != expected[name]:
                raise UserError(
                    "{}: the mask of {} is {}x{}, but the image in {} is {}x{}; val_transforms must restore the size "
                    "of the images".format(masks.path, name, *shape, folder, *expected[name])
                )
        return self.shapes
