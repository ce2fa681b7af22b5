"""MODEL_CARD.md of a run: what the net is, what it scores and how sure that is, where it fails, how to use it."""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import UserError
from utils.core.files import whole_file, write_text
from utils.core.progress import duration
from utils.data.folds import fold_numbers
from utils.masks.drawing import as_rgb, labelled, outlined
from utils.masks.mask_file import binarize
from utils.report.facts import GalleryRow, Judged, RunFacts
from utils.report.read_run import read_run
from utils.report.safe_reading import attempt
from utils.scoring.bootstrap import mean_interval

NEVER_IN_CODE = set("`|\\")
"""Signs that a code span in a table cannot show as they are."""


def shown(value: Any) -> str:
    """A value as it is, whatever signs are in it: as a code span, or sign by sign where that cannot be.

    A list is joined by blanks, as a flag takes it; None is a dash.
    """
    if value is None or value == []:
        return "–"
    words = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = "".join(sign if sign.isprintable() else " " for sign in words)
    if not text.strip():
        return "` `"
    if NEVER_IN_CODE & set(text):
        return "".join(sign if sign.isalnum() or sign == " " else f"&#{ord(sign)};" for sign in text)
    return f"`{text}`"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; empty without rows."""
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines) if rows else ""


def command(words: Sequence[str]) -> str:
    """A line to type, as a block of code that nothing in it can end."""
    import shlex

    line = shlex.join(" ".join(word.split()) if not word.isprintable() else word for word in words)
    return f"    {line}"


TITLES = ("image", "truth", "probability", "overlay")
LONGEST_SIDE = 240
"""Pixels of a tile; larger images are shrunk to it."""
MOST_BYTES = 1_000_000


def write_failures(judged: Judged, path: Path) -> list[GalleryRow]:
    """Draw the worst images that are not all right, as many as MOST_BYTES have room for.

    Returns:
        those that are in the picture, the worst first; none: there is no picture.

    Raises:
        OSError: it cannot be written.
    """
    rows = [row for row in judged.galleries["Worst"] if row.score < 1]
    drawn = [(f"{row.name}  iout {row.score:.1f}, iou {row.iou:.2f}", _tiles(judged, row)) for row in rows]
    while drawn and len(content := _png(drawn)) > MOST_BYTES:
        drawn.pop()
    if not drawn:
        return []
    with whole_file(path) as part:
        part.write_bytes(content)
    return rows[: len(drawn)]


def _tiles(judged: Judged, row: GalleryRow) -> list[np.ndarray]:
    place = judged.place[row.name]
    image, truth, probability = judged.packed.images[place], judged.packed.masks[place], judged.masks.array[row.row]
    found = binarize(probability, judged.threshold)
    if found.sum() < judged.min_area:
        found[:] = False
    return [_shrunk(tile) for tile in (image, truth != 0, probability, outlined(image, truth, found))]


def _shrunk(picture: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8, at most LONGEST_SIDE pixels a side."""
    from PIL import Image

    rgb = as_rgb(picture)
    share = LONGEST_SIDE / max(rgb.shape[:2])
    if share >= 1:
        return rgb
    size = max(1, round(rgb.shape[1] * share)), max(1, round(rgb.shape[0] * share))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))


def _png(drawn: Sequence[tuple[str, Sequence[np.ndarray]]]) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(labelled(drawn, TITLES)).save(content, format="PNG")
    return content.getvalue()


TASKS = {
    "mask": "mask or not, of each pixel",
    "border": "mask, and the border between or around objects, of each pixel",
    "labels": "labels of an image",
    "gate": "whether there is anything in the mask of an image",
}

LOGGED = ("iout", "iou", "objects", "auc", "accuracy", "f2", "recall", "log_loss", "val_loss")
FEW = 10
"""Of a kind of images that is rarer in the fold than this a score says little."""
Row = tuple[str, ...]


def card_text(facts: RunFacts, failures: Sequence[GalleryRow], picture: str) -> str:
    """MODEL_CARD.md.

    Args:
        facts: of one run.
        failures: the images in the picture, in its order.
        picture: the name of its file, beside the card.
    """
    sections = {
        "What it is": _listed(_what(facts)),
        "Scores": _scores(facts),
        "Threshold": _threshold(facts),
        "Failures": _failures(failures, picture),
        "How to use it": _use(facts),
        "What it was not tested on": _listed(_limits(facts)),
        "Hardware and time": _listed(_hardware(facts)),
        "Settings": table(("flag", "value"), [(shown(name), shown(value)) for name, value in facts.settings.items()]),
        "What could not be read": _listed([shown(line) for line in facts.problems]),
    }
    parts = [f"# {shown(facts.name)}", *(f"## {title}\n\n{text}" for title, text in sections.items() if text)]
    return "\n\n".join(parts) + "\n"


def _what(facts: RunFacts) -> list[str]:
    flags, n_epochs, n_folds = facts.settings, len(facts.log.get("epoch", ())), _n_folds(facts)
    start = flags.get("snapshot") or flags.get("encoder_weights")
    best = "" if facts.best_epoch is None else f", the best one {facts.best_epoch}"
    lines = [
        f"network: {shown(flags.get('arch'))}, which began with the weights {shown(start)}",
        f"task: {TASKS[_kind(facts)]}",
        f"images: {shown(flags.get('data_dir'))}, whose digest is {shown(facts.digest)}",
        f"fold held out: {_or_unknown(facts.fold)}{f' of {n_folds}' if n_folds else ''}",
        f"epochs: {n_epochs} of {_or_unknown(facts.n_epochs)}{best}",
    ]
    return lines if _finished(facts) else [*lines, f"state: {facts.state} {shown(facts.note) if facts.note else ''}"]


def _n_folds(facts: RunFacts) -> int | None:
    data_dir = str(facts.settings.get("data_dir"))
    for folder in (Path(data_dir), facts.path.resolve().parent.parent / data_dir):
        if folds := attempt(partial(fold_numbers, folder), [], facts.path, ""):
            return len(folds)
    return None


def _scores(facts: RunFacts) -> str:
    judged = facts.judged
    rows = [*(_of_masks(facts, judged) if judged else []), *_of_rules(facts), *_as_logged(facts)]
    parts = [table(("score", "how", "value", "95 % interval"), rows)]
    if judged:
        (right, filled), (emptied, found) = [map(str, row) for row in judged.empties.tolist()]
        confused = [("truth is empty", right, filled), ("truth has a mask", emptied, found)]
        parts += [
            f"Of the {len(judged.tenths)} images of the fold, by the masks in {shown(judged.origin)}; intervals are "
            "bootstraps over images. `iout` is the salt competition's metric: the share of the thresholds .50, .55, "
            "..., .95 that an image's IoU is greater than. Coverage is the share of the image that the true mask "
            "covers: thin up to a tenth, half up to three quarters.",
            table(("coverage", "images", "iout", "95 % interval"), _by_coverage(judged)),
            table(("images", "found empty", "found a mask"), confused),
        ]
    return "\n\n".join(part for part in parts if part)


def _of_masks(facts: RunFacts, judged: Judged) -> list[Row]:
    at, rows = f"at threshold {judged.threshold:.6g} ({judged.threshold_from})", []
    if cross := judged.cross:
        how = f"cross-fitted: each of {cross.n_parts} parts of the fold at the threshold of the others"
        rows.append(("`iout`", how, *_interval(cross.score, cross.low, cross.high)))
    files = (facts.stored or {}).get("masks")
    if isinstance(files, list) and len(files) > 1:
        how = f"cross-fitted over {len(files)} mask files, each at the threshold of the others"
        rows += _stored_row("`iout`", how, facts.stored)
    return [*rows, ("`iout`", at, *_mean(judged.tenths / 10)), ("`iou`", at, *_mean(judged.ious))]


def _of_rules(facts: RunFacts) -> list[Row]:
    rules = facts.stored_rules or {}
    score = "objects" if facts.measure == "objects" else rules.get("rule")
    return _stored_row(shown(score), "cross-fitted, with the rules below", rules)


def _as_logged(facts: RunFacts) -> list[Row]:
    if facts.best_epoch not in facts.log.get("epoch", ()):
        return []
    epoch, how = facts.log["epoch"].index(facts.best_epoch), f"epoch {facts.best_epoch}, as training logged it"
    half = {name: f"{how}, at threshold .5" for name in ("iout", "iou", "objects")}
    names = [name for name in LOGGED if name in facts.log]
    return [(f"`{name}`", half.get(name, how), f"{facts.log[name][epoch]:.4f}", "") for name in names]


def _stored_row(score: str, how: str, stored: Any) -> list[Row]:
    """A row of what optimize_threshold.py has stored; none if it is not what it stores."""
    cross = stored.get("cross_fitted") if isinstance(stored, dict) else None
    numbers = [cross.get(name) for name in ("score", "low", "high")] if isinstance(cross, dict) else [None]
    return [(score, how, *_interval(*numbers))] if all(isinstance(one, int | float) for one in numbers) else []


def _by_coverage(judged: Judged) -> list[Row]:
    return [(one.name, str(one.n_images), *_interval(one.score, one.low, one.high)) for one in judged.shares]


def _threshold(facts: RunFacts) -> str:
    parts = []
    if judged := facts.judged:
        area, best = judged.min_area, judged.best
        lines = [
            f"A pixel is mask where its probability is greater than {judged.threshold:.6g} ({judged.threshold_from}).",
            *([f"Masks of fewer than {area} pixels count as empty."] if area else []),
            f"Best for the images of this fold alone is {best.low:.6g} to {best.high:.6g}: `iout` {best.score:.4f}.",
        ]
        parts.append(_listed(lines))
    if rules := facts.stored_rules:
        names = ["th", "seed_th", "min_area", "fill_holes"] if facts.measure == "objects" else ["rule", "thresholds"]
        names += ["gate_threshold"] if "gate_threshold" in rules else []
        parts.append(table(("rule", "value"), [(name, shown(rules.get(name))) for name in names]))
    return "\n\n".join(parts)


def _failures(rows: Sequence[GalleryRow], picture: str) -> str:
    if not rows:
        return ""
    cells = [(shown(row.name), f"{row.score:.1f}", f"{row.iou:.2f}", row.note) for row in rows]
    drawn = f"![image, truth, probability and overlay of the worst images of the fold]({picture})"
    colours = "In the overlay the truth is green, what was found red, and both together yellow."
    return f"{drawn}\n\n{colours}\n\n{table(('the worst images', '`iout`', '`iou`', ''), cells)}"


def _use(facts: RunFacts) -> str:
    data, kind = str(facts.settings.get("data_dir") or "data"), _kind(facts)
    run = str(facts.path if facts.path.name else facts.path.resolve())  # a single dot means nothing to a reader
    if kind == "gate":
        words = ["predict_tta.py", "--data_dir", data, "--snapshot", "RUN_OF_MASKS", "--gate", run]
        return f"As a gate before a net of masks:\n\n{command(['python', *words])}"
    script = "predict.py" if kind == "labels" else "predict_tta.py"
    words = [script, "--data_dir", data, "--snapshot", run, *(["--objects"] if facts.measure == "objects" else [])]
    return f"The test images of a packed folder, with the thresholds of this run:\n\n{command(['python', *words])}"


def _limits(facts: RunFacts) -> list[str]:
    lines = [
        f"The scores are of fold {_or_unknown(facts.fold)} of one set of images: other instruments, places and sizes "
        "were not seen.",
        "No image of the fold was learned from, but the best epoch was chosen on it, which flatters a little.",
        f"It is one run with seed {shown(facts.settings.get('seed'))}; what another seed would change is not known.",
    ]
    if facts.judged:
        few = [f"{one.name} ({one.n_images})" for one in facts.judged.shares if one.n_images < FEW]
        lines += [f"Images of which the fold has fewer than {FEW}: {', '.join(few)}."] if few else []
    elif _kind(facts) in ("mask", "border"):
        lines.append("Its answers could not be compared with the truth when this was written.")
    return lines if _finished(facts) else [*lines, "Training had not come to its end when this was written."]


def _hardware(facts: RunFacts) -> list[str]:
    lines = [f"machine: {shown(facts.machine or None)}"]
    if facts.seconds is not None:
        lines.append(f"training and validation: {duration(facts.seconds)}")
    if facts.images_per_s is not None:
        lines.append(f"training: {facts.images_per_s:.1f} images/s, the median over epochs")
    return lines


def _kind(facts: RunFacts) -> str:
    """Which of TASKS the run has learned."""
    if "at_precision" in facts.settings or facts.measure in ("auc", "accuracy", "f2"):
        return "gate" if facts.settings.get("target") is None else "labels"
    return "border" if "border" in facts.settings else "mask"


def _finished(facts: RunFacts) -> bool:
    """Whether training came to its end; until its last line is said, status.json has it that it goes on."""
    return facts.state == "finished" or (facts.path / "summary.json").is_file()


def _mean(scores: np.ndarray) -> Row:
    return _interval(float(scores.mean()), *mean_interval(scores))


def _interval(score: float | None, low: float | None, high: float | None) -> Row:
    """Two cells: the score, and its interval; of a score that there is not a dash and nothing."""
    return ("–", "") if score is None else (f"{score:.4f}", f"{low:.4f} to {high:.4f}")


def _or_unknown(number: int | None) -> str:
    return "unknown" if number is None else str(number)


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


CARD, PICTURE = "MODEL_CARD.md", "failures.png"


def write_model_card(folder: Path) -> Path:
    """Write MODEL_CARD.md of a run, and failures.png where its masks and images are at hand.

    What cannot be read is left out, and said; so it can be written at any time, and again once there is a threshold.

    Returns:
        the card.

    Raises:
        UserError: no such folder.
        OSError: it cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, so there is no run to write {CARD} of")
    facts = read_run(folder, folder.resolve().name)
    failures = write_failures(facts.judged, folder / PICTURE) if facts.judged else []
    write_text(folder / CARD, card_text(facts, failures, PICTURE))
    return folder / CARD
