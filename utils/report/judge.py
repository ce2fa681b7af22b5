"""Score the validation masks of a run: intervals, confusion, reliability, images worth a look."""

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
from utils.masks.mask_file import Masks, binarize, open_masks
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
"""Class -> the largest share of the image that its true mask covers: nothing, up to a tenth, up to three quarters."""


@dataclass(frozen=True)
class Counted:
    """What is counted of N images."""

    inside: np.ndarray
    """(N,) int64: pixels in both masks ..."""
    ours: np.ndarray
    """... in the predicted one; 0 where it has fewer than the least area ..."""
    theirs: np.ndarray
    """... and in the true one."""
    uncertain: np.ndarray
    """(N,) float64, 0..0.25: the mean of p (1 - p) over all pixels, which is the variance of a pixel's answer."""
    n_pixels: int
    """of an image."""
    reliability: list[Reliability]
    """of all pixels; tenths of the probability that no pixel has are left out."""

    @property
    def wrong(self) -> np.ndarray:
        """(N,) int64: pixels that are mask in one of both only."""
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
    """Count N images, read one at a time.

    Args:
        masks: N times (H, W) floats, [0, 1]; N at least 1.
        truths: N times (H, W), what is not 0 is mask.
        th: a pixel is mask where its probability is greater.
        min_area: a predicted mask of fewer pixels counts as empty.
    """
    numbers, uncertain = [], []
    tally, total = np.zeros((N_BINS, 2), dtype=np.int64), np.zeros(N_BINS)
    for mask, truth in zip(masks, truths, strict=True):
        true = truth != 0
        inside, ours, theirs = (int(number[0]) for number in counts(binarize(mask, th)[None], true[None]))
        numbers.append((inside, ours, theirs) if ours >= min_area else (0, 0, theirs))
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
    return Counted(*columns, np.array(uncertain), mask.size, bins)


def coverage_shares(tenths: np.ndarray, coverage: np.ndarray) -> list[Share]:
    """The score of images by how much of them the true mask covers.

    Args:
        tenths: (N,) int64, 0..10.
        coverage: (N,) float64, 0..1.
    """
    shares, above = [], -1.0
    for name, most in COVERAGES:
        scores = tenths[(coverage > above) & (coverage <= most)] / 10
        numbers = (float(scores.mean()), *mean_interval(scores)) if len(scores) else (None, None, None)
        shares.append(Share(name, len(scores), *numbers))
        above = most
    return shares


N_ROWS = 6
TITLES = ("Worst", "Median", "Best", "Most uncertain", "Wrongly empty", "Wrongly filled")


def galleries(ids: Sequence[str], tenths: np.ndarray, counted: Counted) -> dict[str, list[GalleryRow]]:
    """At most N_ROWS images for each of TITLES; of some titles there may be none.

    Worst, median and best are among the images with anything in truth or prediction, by score, then IoU, then wrong
    pixels. The unsure ones have the greatest `Counted.uncertain`; wrongly empty and wrongly filled ones the largest
    mask where there should be another answer.

    Args:
        ids: N names.
        tenths: (N,) int64, 0..10: scores at the threshold.
        counted: of the same images at the same threshold.
    """
    ours, theirs, ious, wrong = counted.ours, counted.theirs, counted.ious, counted.wrong
    order = np.lexsort((-wrong, ious, tenths))  # from the worst to the best, equal ones as in the file
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
        "Wrongly filled": invented[np.argsort(-ours[invented], kind="stable")],
    }

    def row_of(row: int, title: str) -> GalleryRow:
        return GalleryRow(row, ids[row], int(tenths[row]) / 10, float(ious[row]), _note(row, title, counted))

    return {title: [row_of(row, title) for row in chosen[title][:N_ROWS].tolist()] for title in TITLES}


def _note(row: int, title: str, counted: Counted) -> str:
    """A few words: what the truth covers, and what is wrong with the answer."""
    covered, found = counted.coverage[row], counted.ours[row] / counted.n_pixels
    truth = f"truth covers {covered:.1%}" if covered else "truth is empty"
    if title == "Most uncertain":
        return f"{truth}, p(1 - p) is {counted.uncertain[row]:.3f} on average"
    prediction = f"prediction {found:.1%}" if found else "prediction is empty"
    return f"{truth}, {prediction}, {counted.wrong[row]:,} pixels wrong"


FITTED_HERE = "fitted here on the same images"
Mark = tuple[tuple[str, int, int], ...]
"""Files, each with its time of change (ns) and its size, 0 and 0 for one that is not there: as long as that does not
change, what was read of them is good."""


@dataclass(frozen=True)
class PackedFolder:
    """A packed folder, opened once for all runs on it."""

    folder: Path
    packed: PackedImages
    place: dict[str, int]
    """id -> row of the packed images."""
    mark: Mark


@dataclass(frozen=True)
class Cache:
    """What was read so far, so that the next round reads only what has changed. One for all rounds and runs."""

    judged: dict[Path, tuple[Mark, Judged]] = field(default_factory=dict)
    """By run folder."""
    opened: dict[Path, PackedFolder] = field(default_factory=dict)
    """By packed folder."""

    def packed_at(self, name: object, run: Path, ids: Collection[str] = ()) -> PackedFolder:
        """The packed folder that a run calls `name`: that path, or the same from where the run's folder of runs lies.

        Of two such folders it is the first that has images of these `ids`.

        Raises:
            UserError: it is not here, or not packed.
        """
        if not isinstance(name, str) or not name:
            raise UserError("does not say of which packed images it is")
        folders = [Path(name), run.resolve().parent.parent / name]
        found = [self._opened(folder) for folder in folders if (folder / MANIFEST).is_file()]
        if not found:
            raise UserError(f"the packed images in {name} are not here, so that there is no truth to judge it by")
        return next((opened for opened in found if opened.place.keys() >= set(ids)), found[0])

    def _opened(self, folder: Path) -> PackedFolder:
        key = folder.resolve()
        mark = mark_of(key / MANIFEST)
        if key not in self.opened or self.opened[key].mark != mark:
            packed = open_packed(folder)
            self.opened[key] = PackedFolder(folder, packed, {name: row for row, name in enumerate(packed.ids)}, mark)
        return self.opened[key]


def mark_of(*paths: str | Path) -> Mark:
    """Which state some files are in."""
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
    """Judge the masks that the run's threshold was fitted on, else those of its best snapshot.

    Args:
        run: the experiment folder of a net that predicts masks.
        stored: its threshold.json.
        threshold: threshold and least area in it; None: they are fitted here.
        snapshot: the best one.
        cache: what was judged before is taken from there.
        problems: gets a line for each file that cannot be judged.

    Returns:
        None if there are no masks, or none that can be judged.
    """
    for path in _mask_files(run, stored, snapshot):
        judged = attempt(partial(_cached, run, path, threshold, cache), problems, run, str(path.relative_to(run)))
        if judged is not None:
            return judged
    return None


def _mask_files(run: Path, stored: dict[str, Any] | None, snapshot: SnapshotFile | None) -> Iterator[Path]:
    """The files of masks to try: those within the run that threshold.json names, then those of the best snapshot."""
    named = (stored or {}).get("masks")
    for name in named if isinstance(named, list) else []:
        if isinstance(name, str) and (path := _within(run, Path(name))):
            yield path
    if snapshot:
        yield snapshot.val_masks


def _within(run: Path, name: Path) -> Path | None:
    """A file of the run by the path it had where the threshold was fitted, which may have been another folder."""
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
        raise UserError(f"is of the {masks.info.part} images, whose truth is not known")
    if len(set(masks.ids)) < len(masks.ids):
        raise UserError("lists an image twice; predict again")
    truths = list(true_masks(masks, str(opened.folder)))  # memory-mapped, as the masks are
    by_area = steps_of(masks.array, truths, sorted({0, *(threshold[1:] if threshold else ())}))
    fitted = best_joint(by_area)
    th, min_area = threshold or (fitted.threshold, fitted.min_area)
    steps = by_area[min_area]
    tenths = steps.tenths_at(th)
    counted = count_images(masks.array, truths, th, min_area)
    parts = partition([len(masks.ids)])
    by_part = cross_fit_threshold(by_area, parts)
    cross_scores = tenths.copy()  # of one image there is nothing else to fit on
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
        by_area=by_area,
    )
