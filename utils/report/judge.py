"""What the validation masks of a run amount to: scores, intervals, confusion, reliability, images to look at."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.fit_threshold import cross_fit
from utils.mask_file import Masks, open_masks
from utils.report.attempts import attempt
from utils.report.counted import count_images, coverage_shares
from utils.report.facts import Judged
from utils.report.galleries import galleries
from utils.run_folder import SnapshotFile
from utils.stack import MANIFEST, Stack, open_stack
from utils.stored_threshold import FILE
from utils.threshold import best, best_joint, steps_of
from utils.truth import truths_of

FITTED_HERE = "fitted here on the same images"
Mark = tuple[tuple[str, int, int], ...]
"""Files, each with its time of change (ns) and its size, 0 and 0 for one that is not there: as long as that does not
change, what was read of them is good."""


@dataclass(frozen=True)
class Packed:
    """A packed folder, opened once for all runs on it."""

    folder: Path
    stack: Stack
    place: dict[str, int]
    """id -> row of the stack."""
    mark: Mark


@dataclass(frozen=True)
class Cache:
    """What was read so far, so that the next round reads only what has changed. One for all rounds and runs."""

    judged: dict[Path, tuple[Mark, Judged]] = field(default_factory=dict)
    """By run folder."""
    packed: dict[Path, Packed] = field(default_factory=dict)
    """By packed folder."""

    def packed_at(self, name: object, run: Path, ids: Collection[str] = ()) -> Packed:
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
        return next((packed for packed in found if packed.place.keys() >= set(ids)), found[0])

    def _opened(self, folder: Path) -> Packed:
        key = folder.resolve()
        mark = mark_of(key / MANIFEST)
        if key not in self.packed or self.packed[key].mark != mark:
            stack = open_stack(folder)
            self.packed[key] = Packed(folder, stack, {name: row for row, name in enumerate(stack.ids)}, mark)
        return self.packed[key]


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
    key, mark = run.resolve(), mark_of(path, path.with_suffix(".json"), run / FILE)
    before, judged = cache.judged.get(key, ((), None))
    if judged is not None and before[: len(mark)] == mark and mark_of(*(name for name, *_ in before)) == before:
        return judged
    masks = open_masks(path)
    packed = cache.packed_at(masks.about.get("data_dir"), run, masks.ids)
    judged = _judged(run, masks, packed, threshold)
    cache.judged[key] = mark + packed.mark, judged
    return judged


def _judged(run: Path, masks: Masks, packed: Packed, threshold: tuple[float, int] | None) -> Judged:
    if masks.about.get("part", "train") != "train":
        raise UserError(f"is of the {masks.about['part']} images, whose truth is not known")
    if len(set(masks.ids)) < len(masks.ids):
        raise UserError("lists an image twice; predict again")
    truths = list(truths_of(masks, str(packed.folder)))  # memory-mapped, as the masks are
    by_area = steps_of(masks.array, truths, sorted({0, *(threshold[1:] if threshold else ())}))
    fitted = best_joint(by_area)
    th, min_area = threshold or (fitted.threshold, fitted.min_area)
    steps = by_area[min_area]
    tenths = steps.tenths_at(th)
    counted = count_images(masks.array, truths, th, min_area)
    honest, cross = cross_fit([by_area])
    return Judged(
        masks=masks,
        stack=packed.stack,
        place=packed.place,
        origin=str(masks.path.relative_to(run)),
        threshold=th,
        min_area=min_area,
        threshold_from=FILE if threshold else FITTED_HERE,
        steps=steps,
        best=best(steps, min_area),
        tenths=tenths,
        honest=(tenths if honest is None else honest) / 10,
        cross=cross,
        shares=coverage_shares(tenths, counted.coverage),
        empties=counted.empties,
        reliability=counted.reliability,
        galleries=galleries(masks.ids, tenths, counted),
        ious=counted.ious,
        by_area=by_area,
    )
