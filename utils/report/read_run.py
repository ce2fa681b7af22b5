"""Read one experiment folder with any content; a file that cannot be read is left out and reported in one line."""

import csv
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from utils.core.errors import UserError
from utils.core.files import read_json
from utils.core.redaction import redacted, without_secrets
from utils.core.settings import translated
from utils.report.facts import RunFacts, RunState
from utils.report.judge import Cache, judge
from utils.report.safe_reading import attempt
from utils.runs.run_folder import RunFolder, SnapshotFile, snapshots_in
from utils.runs.status import STATUS_FILE, read_status
from utils.scoring.mask_metrics import METRICS
from utils.scoring.stored_thresholds import LABELS_FILE, OBJECTS_FILE, THRESHOLD_FILE, read_threshold

T = TypeVar("T")
MEASURES = ("objects", "iout", "auc", "f2", "accuracy")
"""Measures that snapshots are ranked by without --metric; in a log with several of them, the first one counts."""
OF_MASKS = (*METRICS, "objects")
"""Measures of networks that predict masks."""


def read_run(path: Path, name: str, judged_before: Cache | None = None) -> RunFacts:
    """Read everything that a page or a model card shows of one run.

    Never fails because of the content of the folder: files that are missing, truncated, foreign or not files at all are
    left out, with a line in `problems`. A folder that is not a run gets the state "unreadable".

    Args:
        path: the experiment folder.
        name: display name of the run; see `find_runs.short_names`.
        judged_before: results of earlier calls, shared by all runs of a page: packed images are opened once, and masks
            that have not changed are not scored again.
    """
    problems: list[str] = []
    facts = attempt(partial(_read, path, name, judged_before or Cache(), problems), problems, path, "")
    return facts or RunFacts(path, name, "unreadable", problems[-1], problems=problems[:-1])


def _read(path: Path, name: str, cache: Cache, problems: list[str]) -> RunFacts:
    folder = RunFolder(path)
    if not folder.config.exists():
        raise UserError("no config.json: not a run, or a run that never started")
    settings = _object_in(folder.config, path, problems)
    log = attempt(partial(_read_log, folder.log, problems), problems, path, folder.log.name) or {}
    summary = _object_in(folder.summary, path, problems) or {}
    snapshots = attempt(partial(snapshots_in, folder.snapshots), problems, path, "snapshots") or []
    if settings is None and not (log or summary or snapshots):
        raise UserError(problems.pop(0))
    settings = translated(settings or {})
    measure = _measure(log, snapshots, settings.get("metric"))
    state, note = _state(path, folder.summary.is_file(), problems)
    stored, judged = _object_in(path / THRESHOLD_FILE, path, problems), None
    if measure in OF_MASKS:
        found = attempt(partial(read_threshold, path), problems, path, THRESHOLD_FILE) if stored else None
        threshold = (found.threshold, found.min_area) if found else None
        judged = judge(path, stored, threshold, snapshots[0] if snapshots else None, cache, problems)
    best, best_epoch = _best(log, snapshots, measure)
    return RunFacts(
        path=path,
        name=name,
        state=state,
        note=note,
        settings=without_secrets(settings),
        log=log,
        measure=measure,
        best=best,
        best_epoch=best_epoch,
        n_epochs=_whole(settings.get("n_epochs")),
        seconds=math.fsum(log["seconds"]) if "seconds" in log else _number(summary.get("seconds")),
        images_per_s=median(log["images_per_s"]) if log.get("images_per_s") else None,
        machine=redacted(str(summary.get("machine", ""))),
        digest=judged.packed.digest if judged else _digest(settings.get("data_dir"), path, cache),
        stored=stored and without_secrets(stored),
        judged=judged,
        problems=problems,
        stored_rules=_stored_rules(path, measure, problems),
    )


def _digest(data_dir: object, path: Path, cache: Cache) -> str | None:
    """Return the digest of the packed images, or None if they are not available, which is not a problem of the run."""
    packed = attempt(partial(cache.packed_at, data_dir, path), [], path, "data_dir")
    return packed and packed.packed.digest


def _object_in(file: Path, run: Path, problems: list[str]) -> dict[str, Any] | None:
    """Return the JSON object in a file of the run; None if it is missing, or invalid (see `problems`)."""

    def read() -> dict[str, Any] | None:
        if not file.exists():
            return None
        if not file.is_file():
            raise UserError("expected a file, found something else")
        values = read_json(file)
        if not isinstance(values, dict):
            raise UserError(f"expected a JSON object, found {type(values).__name__}")
        return values

    return attempt(read, problems, run, file.name)


def _read_log(file: Path, problems: list[str]) -> dict[str, list[float]]:
    """Return the columns of log.csv without rows that are truncated or contain anything but finite numbers."""
    if not file.exists():
        return {}
    if not file.is_file():
        raise UserError("expected a file, found something else")
    text = file.read_text(encoding="utf-8-sig")
    header, *rows = [*csv.reader(text.splitlines())] or [[]]
    if "epoch" not in header:
        raise UserError('expected a table with a column "epoch", found something else')
    cut = [] if text.endswith("\n") or not rows else [rows.pop()]  # the last number may lack digits
    numbers = [(_numbers(row), len(row)) for row in rows if row]
    good = [values for values, length in numbers if values is not None and length == len(header)]
    if lost := len(cut) + len(numbers) - len(good):
        problems.append(f"{file.name}: ignored {lost} truncated or non-numeric row{'s' if lost > 1 else ''}")
    return {name: [values[place] for values in good] for place, name in enumerate(header)} if good else {}


def _numbers(cells: Sequence[str]) -> list[float] | None:
    """Return cells as finite numbers; None if any cell is something else."""
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def _state(path: Path, finished: bool, problems: list[str]) -> tuple[RunState, str]:
    """Return the state of a run and the reason; without a readable status.json, a summary.json means finished."""
    status = attempt(partial(read_status, path), problems, path, STATUS_FILE)
    if status:
        return status.state, redacted(status.reason)
    return ("finished", "") if finished else ("interrupted", "no summary.json and no valid status.json")


def _measure(log: dict[str, list[float]], snapshots: Sequence[SnapshotFile], metric: object) -> str:
    if snapshots:
        return snapshots[0].measure
    return next((name for name in (metric, *MEASURES) if name in log), "iout")


def _best(
    log: dict[str, list[float]], snapshots: Sequence[SnapshotFile], measure: str
) -> tuple[float | None, int | None]:
    """Return the best value of the measure and its epoch; ties are broken as for snapshots."""
    if log.get(measure):
        epochs = [int(epoch) for epoch in log["epoch"]]
        losses = log.get("val_loss", [0.0] * len(epochs))
        score, _, epoch = max(zip(log[measure], (-loss for loss in losses), epochs, strict=True))
        return score, epoch
    return (snapshots[0].score, snapshots[0].epoch) if snapshots else (None, None)


def _stored_rules(path: Path, measure: str, problems: list[str]) -> dict[str, Any] | None:
    if measure == "iout":
        return None
    name = OBJECTS_FILE if measure == "objects" else THRESHOLD_FILE if measure in METRICS else LABELS_FILE
    stored = _object_in(path / name, path, problems)
    return stored and without_secrets(stored)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
