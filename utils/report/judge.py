"""Score the validation masks of a run: intervals, confusion, reliability, galleries."""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import UserError
from utils.data.packed_data import MANIFEST, PackedImages, open_packed
from utils.masks.ground_truth import true_masks
from utils.masks.mask_file import Masks, binarize, check_same_images, open_masks
from utils.report.facts import GalleryRow, Judged, Reliability, Share
from utils.report.safe_reading import attempt
from utils.runs.run_folder import SnapshotFile
from utils.scoring.bootstrap import mean_interval
from utils.scoring.cross_fit import CrossFitted, partition
from utils.scoring.mask_metrics import counts
from utils.scoring.stored_thresholds import THRESHOLD_FILE
from utils.scoring.threshold_search import best, best_joint, cross_fit_threshold, steps_of

N_BINS = 10
COVERAGES = (("empty", 0.0), ("thin", 0.1), ("half", 0.75), ("nearly full", 1.0))
"""Coverage classes, each with the largest share of the image that the true mask covers."""


@dataclass(frozen=True)
class Counted:
    """Pixel counts of N images."""

    inside: np.ndarray
    """(N,) int64: pixels in both masks."""
    ours: np.ndarray
    """(N,) int64: pixels in the predicted mask; 0 if it has fewer than the minimum area."""
    theirs: np.ndarray
    """(N,) int64: pixels in the true mask."""
    uncertain: np.ndarray
    """(N,) float64, 0..0.25: mean of p (1 - p) over all pixels, the variance of the prediction for a pixel."""
    n_pixels: np.ndarray
    """(N,) int64: pixels of each image."""
    reliability: list[Reliability]
    """reliability of all pixels in N_BINS bins of the probability; empty bins are left out."""

    @property
    def wrong(self) -> np.ndarray:
        """(N,) int64: pixels that are in only one of the two masks."""
        return self.ours + self.theirs - 2 * self.inside

    @property
    def coverage(self) -> np.ndarray:
        """(N,) float64, 0..1: the share of the image that the true mask covers."""
        return self.theirs / self.n_pixels

    @property
    def ious(self) -> np.ndarray:
        """(N,) float64, 0..1: intersection / union, 1 where both masks are empty."""
        union = self.ours + self.theirs - self.inside
        return np.where(union == 0, 1.0, self.inside / np.maximum(union, 1))

    @property
    def empties(self) -> np.ndarray:
        """(2, 2) int64: images by [truth has a mask][prediction has a mask]."""
        table = np.zeros((2, 2), dtype=np.int64)
        np.add.at(table, ((self.theirs > 0).astype(int), (self.ours > 0).astype(int)), 1)
        return table


def count_images(masks: Iterable[np.ndarray], truths: Iterable[np.ndarray], th: float, min_area: int) -> Counted:
    """Count the pixels of N images, which are read one at a time.

    Args:
        masks: N arrays (H, W) of floats, [0, 1]; N is at least 1.
        truths: N arrays (H, W); values other than 0 are mask.
        th: pixels with a greater probability are mask.
        min_area: predicted masks with fewer pixels count as empty.
    """
    numbers, uncertain, sizes = [], [], []
    tally, total = np.zeros((N_BINS, 2), dtype=np.int64), np.zeros(N_BINS)
    for mask, truth in zip(masks, truths, strict=True):
        true = truth != 0
        inside, ours, theirs = (int(number[0]) for number in counts(binarize(mask, th)[None], true[None]))
        numbers.append((inside, ours, theirs) if ours >= min_area else (0, 0, theirs))
        sizes.append(true.size)
        given = np.asarray(mask, dtype=np.float32).ravel()
        uncertain.append(float((given * (1 - given)).mean(dtype=np.float64)))
        # ten times a float16 is exact in float32
        places = np.minimum((given * N_BINS).astype(np.intp), N_BINS - 1)
        tally += np.bincount(2 * places + true.ravel(), minlength=2 * N_BINS).reshape(N_BINS, 2)
        total += np.bincount(places, weights=given, minlength=N_BINS)
    pixels = tally.sum(axis=1)
    bins = [
        Reliability(
            low=place / N_BINS,
            high=(place + 1) / N_BINS,
            n_pixels=int(pixels[place]),
            probability=float(total[place] / pixels[place]),
            really=float(tally[place, 1] / pixels[place]),
        )
        for place in np.flatnonzero(pixels).tolist()
    ]
    columns = np.array(numbers, dtype=np.int64).T
    return Counted(*columns, np.array(uncertain), np.array(sizes), bins)


def coverage_shares(tenths: np.ndarray, coverage: np.ndarray) -> list[Share]:
    """Return the score of the images in each coverage class.

    Args:
        tenths: (N,) int64, 0..10: scores of the images in tenths.
        coverage: (N,) float64, 0..1: share of each image that the true mask covers.
    """
    shares, above = [], -1.0
    for name, most in COVERAGES:
        scores = tenths[(coverage > above) & (coverage <= most)] / 10
        numbers = (float(scores.mean()), *mean_interval(scores)) if len(scores) else (None, None, None)
        shares.append(Share(name, len(scores), *numbers))
        above = most
    return shares


def size_shares(ious: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[Share]:
    """Return the mean IoU of the images of each size (height, width), commonest first; [] if there is only one size."""
    rows_of: dict[tuple[int, int], list[int]] = {}
    for row, shape in enumerate(shapes):
        rows_of.setdefault(shape, []).append(row)
    if len(rows_of) == 1:
        return []
    commonest = sorted(rows_of.items(), key=lambda one: -len(one[1]))
    return [
        Share(f"{height}x{width}", len(rows), float(ious[rows].mean()), *mean_interval(ious[rows]))
        for (height, width), rows in commonest
    ]


N_ROWS = 6
TITLES = ("Worst", "Median", "Best", "Most uncertain", "Wrongly empty", "Wrongly non-empty")


def galleries(ids: Sequence[str], tenths: np.ndarray, counted: Counted) -> dict[str, list[GalleryRow]]:
    """Return at most N_ROWS images for each of TITLES; the list of a title may be empty.

    Worst, median and best images are chosen among those whose true or predicted mask is not empty, ordered by score,
    then IoU, then wrong pixels. The most uncertain images have the greatest `Counted.uncertain`. Wrongly empty and
    wrongly non-empty images are ordered by the size of the true or the predicted mask, largest first.

    Args:
        ids: the ids of N images.
        tenths: (N,) int64, 0..10: scores at the threshold in tenths.
        counted: counts of the same images at the same threshold.
    """
    ours, theirs, ious, wrong = counted.ours, counted.theirs, counted.ious, counted.wrong
    order = np.lexsort((-wrong, ious, tenths))  # from worst to best; ties keep the order of the file
    order = order[(ours + theirs)[order] > 0]
    middle = max(0, (len(order) - N_ROWS + 1) // 2)
    missed = np.flatnonzero((theirs > 0) & (ours == 0))
    invented = np.flatnonzero((theirs == 0) & (ours > 0))
    chosen = {
        "Worst": order,
        "Median": order[middle:],
        "Best": order[::-1],
        "Most uncertain": np.argsort(-counted.uncertain, kind="stable"),
        "Wrongly empty": missed[np.argsort(-theirs[missed], kind="stable")],
        "Wrongly non-empty": invented[np.argsort(-ours[invented], kind="stable")],
    }

    def row_of(row: int, title: str) -> GalleryRow:
        return GalleryRow(row, ids[row], int(tenths[row]) / 10, float(ious[row]), _note(row, title, counted))

    return {title: [row_of(row, title) for row in chosen[title][:N_ROWS].tolist()] for title in TITLES}


def _note(row: int, title: str, counted: Counted) -> str:
    """Return a short note about the coverage of the true mask and the errors of the prediction."""
    covered, found = counted.coverage[row], counted.ours[row] / counted.n_pixels[row]
    truth = f"truth covers {covered:.1%}" if covered else "truth is empty"
    if title == "Most uncertain":
        return f"{truth}, mean p(1 - p) is {counted.uncertain[row]:.3f}"
    prediction = f"prediction covers {found:.1%}" if found else "prediction is empty"
    return f"{truth}, {prediction}, {counted.wrong[row]:,} pixels wrong"


FITTED_HERE = "fitted on the same images"
Mark = tuple[tuple[str, int, int], ...]
"""Paths of files, each with modification time (ns) and size, both 0 if the file is missing. While a mark is unchanged,
what was read from its files is still valid."""


@dataclass(frozen=True)
class PackedFolder:
    """A packed folder, opened once for all runs that use it."""

    folder: Path
    packed: PackedImages
    place: dict[str, int]
    """id -> row of the packed images."""
    mark: Mark


@dataclass(frozen=True)
class Cache:
    """Cache of results and opened packed folders, shared by all runs, so that only changed files are read again."""

    judged: dict[Path, tuple[Mark, Judged]] = field(default_factory=dict)
    """Folder of a run -> (mark of the files that were read, result)."""
    opened: dict[Path, PackedFolder] = field(default_factory=dict)
    """Path of a packed folder -> the opened folder."""

    def packed_at(self, name: object, run: Path, ids: Collection[str] = ()) -> PackedFolder:
        """Return the packed folder that a run refers to as `name`.

        `name` is resolved against the working directory and against the parent of the folder that contains the run. If
        both folders exist, the first one with images for all of `ids` is used, otherwise the first.

        Raises:
            UserError: `name` is not a path, or no packed folder is found.
        """
        if not isinstance(name, str) or not name:
            raise UserError("expected the path of a packed folder in data_dir, found none")
        folders = [Path(name), run.resolve().parent.parent / name]
        found = [self._opened(folder) for folder in folders if (folder / MANIFEST).is_file()]
        if not found:
            raise UserError(f"the packed images in {name} are missing, so there are no true masks to compare with")
        return next((opened for opened in found if opened.place.keys() >= set(ids)), found[0])

    def _opened(self, folder: Path) -> PackedFolder:
        key = folder.resolve()
        mark = mark_of(key / MANIFEST)
        if key not in self.opened or self.opened[key].mark != mark:
            packed = open_packed(folder)
            self.opened[key] = PackedFolder(folder, packed, {name: row for row, name in enumerate(packed.ids)}, mark)
        return self.opened[key]


def mark_of(*paths: str | Path) -> Mark:
    """Return the mark of some files in their current state."""
    states = [(path, os.stat(path) if os.path.isfile(path) else None) for path in paths]
    return tuple(
        (str(path), state.st_mtime_ns, state.st_size) if state else (str(path), 0, 0) for path, state in states
    )


def judge(
    run: Path,
    stored: dict[str, Any] | None,
    threshold: tuple[float, int] | None,
    snapshot: SnapshotFile | None,
    cache: Cache,
    problems: list[str],
) -> Judged | None:
    """Score the masks that the run's threshold was fitted on, or else the masks of its best snapshot.

    Args:
        run: the experiment folder of a network that predicts masks.
        stored: content of its threshold.json.
        threshold: (threshold, minimum area) from threshold.json; None to fit both on the masks.
        snapshot: the best snapshot.
        cache: earlier results, which are reused if no file has changed.
        problems: receives a line for each file that cannot be scored.

    Returns:
        None if there are no masks that can be scored.
    """
    for path in _mask_files(run, stored, snapshot):
        judged = attempt(partial(_cached, run, path, threshold, cache), problems, run, str(path.relative_to(run)))
        if judged is not None:
            return judged
    return None


def _mask_files(run: Path, stored: dict[str, Any] | None, snapshot: SnapshotFile | None) -> Iterator[Path]:
    """Yield the mask files to try: the files in the run that threshold.json names, then that of the best snapshot."""
    named = (stored or {}).get("masks")
    for name in named if isinstance(named, list) else []:
        if isinstance(name, str) and (path := _within(run, Path(name))):
            yield path
    if snapshot:
        yield snapshot.val_masks


def _within(run: Path, name: Path) -> Path | None:
    """Return the current path of a mask file, which may have moved with the run; None if it is not in the run."""
    here = run.resolve()
    after = [name.parts[place + 1 :] for place, part in enumerate(name.parts) if part == here.name]
    for tried in (name, *(run.joinpath(*parts) for parts in after)):
        if os.path.isfile(tried) and tried.resolve().is_relative_to(here):
            return run / tried.resolve().relative_to(here)
    return None


def _cached(run: Path, path: Path, threshold: tuple[float, int] | None, cache: Cache) -> Judged:
    key, mark = run.resolve(), mark_of(path, path.with_suffix(".json"), run / THRESHOLD_FILE)
    before, judged = cache.judged.get(key, ((), None))
    if judged is not None and before[: len(mark)] == mark and mark_of(*(name for name, *_ in before)) == before:
        return judged
    masks = open_masks(path)
    opened = cache.packed_at(masks.info.data_dir, run, masks.ids)
    judged = _judged(run, masks, opened, threshold)
    cache.judged[key] = mark + opened.mark, judged
    return judged


def _judged(run: Path, masks: Masks, opened: PackedFolder, threshold: tuple[float, int] | None) -> Judged:
    if (masks.info.part or "train") != "train":
        raise UserError(
            f"expected masks of training images, found masks of {masks.info.part} images, which have no true masks"
        )
    if len(set(masks.ids)) < len(masks.ids):
        raise UserError("an image is listed twice; predict again")
    check_same_images(masks.path, masks.info, opened.packed, opened.folder)
    folder = str(opened.folder)
    by_area = steps_of(masks.array, true_masks(masks, folder), sorted({0, *(threshold[1:] if threshold else ())}))
    fitted = best_joint(by_area)
    th, min_area = threshold or (fitted.threshold, fitted.min_area)
    steps = by_area[min_area]
    tenths = steps.tenths_at(th)
    counted = count_images(masks.array, true_masks(masks, folder), th, min_area)
    parts = partition([len(masks.ids)])
    by_part = cross_fit_threshold(by_area, parts)
    cross_scores = tenths.copy()  # a single image leaves nothing to fit the threshold on
    for images, scores in zip(parts, by_part, strict=False):
        cross_scores[images] = scores
    return Judged(
        masks=masks,
        packed=opened.packed,
        place=opened.place,
        origin=str(masks.path.relative_to(run)),
        threshold=th,
        min_area=min_area,
        threshold_from=THRESHOLD_FILE if threshold else FITTED_HERE,
        steps=steps,
        best=best(steps, min_area),
        tenths=tenths,
        cross_scores=cross_scores / 10,
        cross=CrossFitted.of(by_part, unit=10),
        shares=coverage_shares(tenths, counted.coverage),
        empties=counted.empties,
        reliability=counted.reliability,
        galleries=galleries(masks.ids, tenths, counted),
        ious=counted.ious,
        sizes=size_shares(counted.ious, masks.shapes),
        by_area=by_area,
    )
