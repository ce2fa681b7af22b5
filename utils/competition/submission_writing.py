"""Write the submission of a mask file, and check it before it is called done."""

import csv
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import numpy as np

from utils.competition.decisions import MaskDecisions
from utils.competition.submission_check import check_submission, read_ids
from utils.core.errors import UserError
from utils.core.files import timestamped, whole_file
from utils.core.prediction_settings import SubmissionSettings
from utils.data.image_ids import stem_of
from utils.data.packed_data import PackedImages, Shapes, open_packed
from utils.data.rle import encode, encode_instances
from utils.masks.instances import instances_path, resize_instances, write_instance_maps, write_instance_png
from utils.masks.mask_file import Masks, check_same_images
from utils.masks.postprocessing import PostProcessed, constant_images

Rows = Iterator[tuple[str, str]]
"""Id and run-lengths of each row."""


def write_mask_submission(
    masks: Masks,
    decisions: MaskDecisions,
    settings: SubmissionSettings,
    gated_out: Collection[str] | None = None,
) -> Path:
    """Make masks or instances image by image, write the submission, check it, and print where it is and what it holds.

    Formats of one row an object (dsb2018, airbus) make instances: by the border plane of the mask file, or as connected
    components where it has none; the label maps are written beside the mask file. Rows are in the order of the sample
    submission where that has the same ids. Where packing resized the images, probabilities are resized back to each
    source image's size before the threshold, label maps by nearest pixel.

    Args:
        masks: (N, H, W) probabilities, with or without borders.
        decisions: threshold, rules, format.
        settings: names of files.
        gated_out: ids whose image is empty because a gate says so; None: there is no gate.

    Returns:
        the path of the submission.

    Raises:
        UserError: the packed folder does not fit the masks, or the check found a problem; then no submission is
            written.
    """
    form, sample = decisions.form, decisions.sample
    images = _Images(masks, decisions)
    constant = constant_images(masks.ids, images.image_of) if decisions.how.rules.constant_is_empty else set()
    empty = {*(gated_out or ()), *constant}
    cleaned = PostProcessed(masks, decisions.how, images.shapes, images.image_of, empty)
    ids = _ordered(masks.ids, sample)
    path = timestamped(settings.submission_dir, settings.fn)
    if form.of_instances:
        rows = instance_rows(cleaned, ids, _write_label_maps(cleaned), form.by_row, settings.label_pngs)
        how = _said_of_instances(decisions)
    else:
        rows = mask_rows(cleaned, ids, form.by_row)
        how = f"threshold {decisions.how.threshold:.6g} ({decisions.threshold_from}), "
        how += f"least area {decisions.how.min_area}"
    with whole_file(path) as part:
        _write_rows(part, rows, form.columns)
        verdict = check_submission(part, sample, images.shapes, form if settings.format else None)
        if verdict.problems:
            more = f" (and {len(verdict.problems) - 1} more)" if len(verdict.problems) > 1 else ""
            raise UserError(f"{path}: not written, the check found: {verdict.problems[0]}{more}")
    if empty:
        by_gate = set(masks.ids).intersection(gated_out or ())
        more = f"{len(constant - by_gate)} more of one single colour"
        print(f"empty whatever was predicted: {len(by_gate)} images by the gate, {more}")
    order = f"ids and order as in {sample}" if sample else "ids not compared, there is no sample_submission.csv"
    print(f"{path}: format {form.name}, {how}; {order}\n{verdict.as_text()}")
    return path


def mask_rows(cleaned: PostProcessed, ids: Iterable[str], by_row: bool) -> Rows:
    """Yield a row an image."""
    ids = list(ids)
    for name, mask in zip(ids, cleaned.each_mask(ids), strict=True):
        yield name, encode(mask, by_row)


def instance_rows(
    cleaned: PostProcessed, ids: Iterable[str], maps: np.ndarray, by_row: bool, label_pngs: str | None = None
) -> Rows:
    """Yield a row an instance in the order of their numbers, an empty one for an image that has none.

    Args:
        cleaned: the images.
        ids: in the order of the submission.
        maps: (N, H, W) label maps in the mask file's order.
        by_row: whether pixels are numbered left to right first.
        label_pngs: folder to write each map to, at its image's size; None: none are written.
    """
    row_of = {name: row for row, name in enumerate(cleaned.masks.ids)}
    for name in ids:
        of_source = resize_instances(maps[row_of[name]], cleaned.shape_of(name))
        if label_pngs is not None:
            write_instance_png(Path(label_pngs) / f"{stem_of(name)}.png", of_source)
        for cell in encode_instances(of_source, by_row) or [""]:
            yield name, cell


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


def _write_label_maps(cleaned: PostProcessed) -> np.ndarray:
    """Write the label maps beside the mask file, in its order and at its size: (N, H, W) uint16, memory-mapped."""
    masks, how = cleaned.masks, cleaned.how
    about = {"masks": str(masks.path), "objects": vars(how.instances), "rules": vars(how.rules)}
    path, shape = instances_path(masks.path), masks.array.shape[1:]
    maps = write_instance_maps(path, masks.ids, cleaned.each_instance_map(), shape, about)
    apart = "touching ones kept apart by borders" if masks.border is not None else "connected components"
    print(f"{path}: the objects of {len(maps)} images, {apart}")
    return maps


def _said_of_instances(decisions: MaskDecisions) -> str:
    how = decisions.how.instances
    holes = "holes filled" if how.fill_holes else "holes kept"
    described = f"threshold {how.th:.6g}, seeds {how.seed_th:.6g}, least area {how.min_area}"
    return f"{described}, {holes} ({decisions.instances_from})"


def _ordered(ids: list[str], sample: Path | None) -> list[str]:
    """Return the ids of the mask file, in the order of the sample where that has the same."""
    wanted = read_ids(sample) if sample else []
    return wanted if set(wanted) == set(ids) else list(ids)


class _Images:
    """The packed images of a mask file: the size that each mask should have, and their pixels where a rule needs them.

    Raises:
        UserError: they are not in the packed folder, or do not fit the masks.
    """

    def __init__(self, masks: Masks, decisions: MaskDecisions) -> None:
        self.shapes: Shapes = (masks.array.shape[1], masks.array.shape[2])
        self.image_of: Callable[[str], np.ndarray] | None = None
        rules, folder = decisions.how.rules, decisions.folder
        flag = "--crf" if rules.crf else "--constant_is_empty" if rules.constant_is_empty else None
        if folder is None:
            print(f"{masks.path}: the packed images it was made from are not here; its masks keep their size")
            if flag:
                raise UserError(
                    f"{flag} looks at the images, and they are not here; --data_dir names the packed folder"
                )
            return
        packed = open_packed(folder, masks.info.part or "test")
        if unknown := set(masks.ids).difference(packed.ids):
            raise UserError(
                f"{folder}: {len(unknown)} images of {masks.path} are not packed there (such as {min(unknown)})"
            )
        check_same_images(masks.path, masks.info, packed, folder)
        self.shapes = self._source_shapes(packed, masks, folder)
        if rules.crf and packed.shape != masks.array.shape[1:]:
            raise UserError(f"--crf: the images in {folder} are {packed.shape}, their masks {masks.array.shape[1:]}")
        if flag:
            row_of = {name: row for row, name in enumerate(packed.ids)}
            self.image_of = lambda name: packed.images[row_of[name]]

    def _source_shapes(self, packed: PackedImages, masks: Masks, folder: Path) -> Shapes:
        if packed.sizes:
            return dict(zip(packed.ids, packed.sizes, strict=True))
        if packed.shape != self.shapes:
            part = masks.info.part or "test"
            raise UserError(
                "{}: masks of {}x{}, but the {} images in {} are {}x{}; val_transforms has to lead back to the images' "
                "size".format(masks.path, *self.shapes, part, folder, *packed.shape)
            )
        return self.shapes
