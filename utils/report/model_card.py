"""The model card of a run (MODEL_CARD.md): model, scores with intervals, failures, usage and limitations."""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import UserError
from utils.core.files import atomic_file, write_text
from utils.core.progress import duration
from utils.data.folds import fold_numbers
from utils.masks.drawing import as_rgb, labelled
from utils.report.facts import GalleryRow, Judged, RunFacts, Share
from utils.report.pictures import panels
from utils.report.read_run import OF_MASKS, read_run
from utils.report.safe_reading import attempt
from utils.scoring.bootstrap import mean_interval
from utils.scoring.mask_metrics import METRICS

NEVER_IN_CODE = set("`|\\")
"""Characters that a code span in a Markdown table cannot show literally."""


def shown(value: Any) -> str:
    """Return Markdown that shows a value literally: a code span, or escaped text if a code span cannot show it.

    Lists are joined by spaces, as their flags take them; None and empty lists become a dash.
    """
    if value is None or value == []:
        return "–"
    words = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = "".join(letter if letter.isprintable() else " " for letter in words)
    if not text.strip():
        return "` `"
    if NEVER_IN_CODE & set(text):
        return "".join(letter if letter.isalnum() or letter == " " else f"&#{ord(letter)};" for letter in text)
    return f"`{text}`"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of cells that are already Markdown; an empty string if there are no rows."""
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines) if rows else ""


def command(words: Sequence[str]) -> str:
    """Return a shell command as an indented Markdown code block that no word in it can end."""
    import shlex

    line = shlex.join(" ".join(word.split()) if not word.isprintable() else word for word in words)
    return f"    {line}"


TITLES = ("image", "truth", "probability", "overlay")
LONGEST_SIDE = 240
"""Longest side of a tile in pixels; larger images are shrunk to it."""
MOST_BYTES = 1_000_000


def write_failures(judged: Judged, path: Path) -> list[GalleryRow]:
    """Draw the worst images with a score below 1, as many as fit into MOST_BYTES.

    Returns:
        the images in the picture, worst first; empty if no picture was written.

    Raises:
        OSError: the picture cannot be written.
    """
    rows = [row for row in judged.galleries["Worst"] if row.score < 1]
    drawn = [(f"{row.name}  iout {row.score:.1f}, iou {row.iou:.2f}", _tiles(judged, row)) for row in rows]
    while drawn and len(content := _png(drawn)) > MOST_BYTES:
        drawn.pop()
    if not drawn:
        return []
    with atomic_file(path) as part:
        part.write_bytes(content)
    return rows[: len(drawn)]


def _tiles(judged: Judged, row: GalleryRow) -> list[np.ndarray]:
    return [_shrunk(tile) for tile in panels(judged, row)]


def _shrunk(picture: np.ndarray) -> np.ndarray:
    """Return the picture as (h, w, 3) uint8, at most LONGEST_SIDE pixels per side."""
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
    "mask": "segmentation (mask or background, for each pixel)",
    "border": "segmentation (mask, and the border between or around objects, for each pixel)",
    "labels": "classification (labels of an image)",
    "gate": "gate (whether the mask of an image is empty)",
}

LOGGED = (*METRICS, "objects", "auc", "accuracy", "f2", "recall", "log_loss", "val_loss")
FEW = 10
"""Coverage classes with fewer images than this are listed as too small for a reliable score."""
Row = tuple[str, ...]


def card_text(facts: RunFacts, failures: Sequence[GalleryRow], picture: str) -> str:
    """Return the text of MODEL_CARD.md.

    Args:
        facts: the run.
        failures: the images in the picture, in its order.
        picture: file name of the picture, in the same folder as the card.
    """
    sections = {
        "Model": _listed(_what(facts)),
        "Scores": _scores(facts),
        "Threshold": _threshold(facts),
        "Failures": _failures(failures, picture),
        "Usage": _use(facts),
        "Limitations": _listed(_limits(facts)),
        "Hardware and time": _listed(_hardware(facts)),
        "Settings": table(("flag", "value"), [(shown(name), shown(value)) for name, value in facts.settings.items()]),
        "Problems": _listed([shown(line) for line in facts.problems]),
    }
    parts = [f"# {shown(facts.name)}", *(f"## {title}\n\n{text}" for title, text in sections.items() if text)]
    return "\n\n".join(parts) + "\n"


def _what(facts: RunFacts) -> list[str]:
    flags, n_epochs, n_folds = facts.settings, len(facts.log.get("epoch", ())), _n_folds(facts)
    start = flags.get("snapshot") or flags.get("encoder_weights")
    best = "" if facts.best_epoch is None else f", best epoch {facts.best_epoch}"
    lines = [
        f"network: {shown(flags.get('arch'))}, initial weights {shown(start)}",
        f"task: {TASKS[_kind(facts)]}",
        f"images: {shown(flags.get('data_dir'))}, digest {shown(facts.digest)}",
        f"held-out fold: {_or_unknown(facts.fold)}{f' ({n_folds} folds)' if n_folds else ''}",
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
    parts = [table(("metric", "evaluation", "value", "95 % interval"), rows)]
    if judged:
        (right, filled), (emptied, found) = [map(str, row) for row in judged.empties.tolist()]
        confused = [("true mask empty", right, filled), ("true mask non-empty", emptied, found)]
        parts += [
            f"Unless stated otherwise, scores are of the {len(judged.tenths)} images of the fold, from the masks in "
            f"{shown(judged.origin)}. Intervals are bootstrap intervals over images. `iout` is the metric of the "
            "TGS salt competition: the share of the IoU thresholds 0.50, 0.55, ..., 0.95 that an image exceeds, "
            "averaged over images. Coverage is the share of the image that the true mask covers: thin is up to 10 %, "
            "half up to 75 %.",
            table(("coverage", "images", "iout", "95 % interval"), _rows_of(judged.shares)),
            table(("number of images", "predicted empty", "predicted non-empty"), confused),
            table(("image size", "images", "iou", "95 % interval"), _rows_of(judged.sizes)) if judged.sizes else "",
        ]
    return "\n\n".join(part for part in parts if part)


def _of_masks(facts: RunFacts, judged: Judged) -> list[Row]:
    at, rows = f"at threshold {judged.threshold:.6g} ({judged.threshold_from})", []
    if cross := judged.cross:
        how = f"cross-fitted: each of {cross.n_parts} parts of the fold at the threshold fitted on the others"
        rows.append(("`iout`", how, *_interval(cross.score, cross.low, cross.high)))
    files = (facts.stored or {}).get("masks")
    if isinstance(files, list) and len(files) > 1:
        how = f"cross-fitted over {len(files)} mask files, each at the threshold fitted on the others"
        rows += _stored_row(shown((facts.stored or {}).get("metric", "iout")), how, facts.stored)
    return [*rows, ("`iout`", at, *_mean(judged.tenths / 10)), ("`iou`", at, *_mean(judged.ious))]


def _of_rules(facts: RunFacts) -> list[Row]:
    rules = facts.stored_rules or {}
    score = facts.measure if facts.measure in OF_MASKS else rules.get("rule")
    if facts.measure in METRICS and rules.get("metric") != facts.measure:
        return []
    how = "each part at the threshold of the others" if facts.measure in METRICS else "with the parameters below"
    return _stored_row(shown(score), f"cross-fitted, {how}", rules)


def _as_logged(facts: RunFacts) -> list[Row]:
    if facts.best_epoch not in facts.log.get("epoch", ()):
        return []
    epoch, how = facts.log["epoch"].index(facts.best_epoch), f"epoch {facts.best_epoch}, logged during training"
    half = {name: f"{how}, at threshold 0.5" for name in OF_MASKS}
    names = [name for name in LOGGED if name in facts.log]
    return [(f"`{name}`", half.get(name, how), f"{facts.log[name][epoch]:.4f}", "") for name in names]


def _stored_row(score: str, how: str, stored: Any) -> list[Row]:
    """Return a row with the score that optimize_threshold.py stored; no row if `stored` has none or is malformed."""
    cross = stored.get("cross_fitted") if isinstance(stored, dict) else None
    numbers = [cross.get(name) for name in ("score", "low", "high")] if isinstance(cross, dict) else [None]
    return [(score, how, *_interval(*numbers))] if all(isinstance(one, int | float) for one in numbers) else []


def _rows_of(shares: Sequence[Share]) -> list[Row]:
    return [(one.name, str(one.n_images), *_interval(one.score, one.low, one.high)) for one in shares]


def _threshold(facts: RunFacts) -> str:
    parts = []
    if judged := facts.judged:
        area, best = judged.min_area, judged.best
        lines = [
            f"Pixels with a probability greater than {judged.threshold:.6g} ({judged.threshold_from}) are mask.",
            *([f"Masks with fewer than {area} pixels are emptied."] if area else []),
            f"The optimum on this fold alone is {best.low:.6g} to {best.high:.6g}, with an `iout` of {best.score:.4f}.",
        ]
        parts.append(_listed(lines))
    if (rules := facts.stored_rules) and facts.measure not in METRICS:
        names = ["th", "seed_th", "min_area", "fill_holes"] if facts.measure == "objects" else ["rule", "thresholds"]
        names += ["gate_threshold"] if "gate_threshold" in rules else []
        parts.append(table(("parameter", "value"), [(name, shown(rules.get(name))) for name in names]))
    return "\n\n".join(parts)


def _failures(rows: Sequence[GalleryRow], picture: str) -> str:
    if not rows:
        return ""
    cells = [(shown(row.name), f"{row.score:.1f}", f"{row.iou:.2f}", row.note) for row in rows]
    drawn = f"![image, truth, probability and overlay of the worst images of the fold]({picture})"
    colours = "In the overlay, the true mask is green, the predicted mask is red, and their overlap is yellow."
    return f"{drawn}\n\n{colours}\n\n{table(('worst images', '`iout`', '`iou`', 'note'), cells)}"


def _use(facts: RunFacts) -> str:
    data, kind = str(facts.settings.get("data_dir") or "data"), _kind(facts)
    run = str(facts.path if facts.path.name else facts.path.resolve())  # "." would not tell a reader which run it is
    if kind == "gate":
        words = ["predict_tta.py", "--data_dir", data, "--snapshot", "SEGMENTATION_RUN", "--gate", run]
        return f"Use this run as the gate of a segmentation network:\n\n{command(['python', *words])}"
    script = "predict.py" if kind == "labels" else "predict_tta.py"
    words = [script, "--data_dir", data, "--snapshot", run, *(["--objects"] if facts.measure == "objects" else [])]
    return (
        f"Predict the test images of a packed folder with the thresholds of this run:\n\n{command(['python', *words])}"
    )


def _limits(facts: RunFacts) -> list[str]:
    lines = [
        f"The scores are from fold {_or_unknown(facts.fold)} of one dataset; images from other instruments or places, "
        "or of other sizes, were not tested.",
        "No image of the fold was used for training, but the best epoch was chosen on it, so scores are slightly "
        "optimistic.",
        f"This is a single run with seed {shown(facts.settings.get('seed'))}; the variation between seeds is unknown.",
    ]
    if facts.judged:
        few = [f"{one.name} ({one.n_images})" for one in facts.judged.shares if one.n_images < FEW]
        lines += [f"Coverage classes with fewer than {FEW} images in the fold: {', '.join(few)}."] if few else []
    elif _kind(facts) in ("mask", "border"):
        lines.append("The predictions could not be compared with the true masks when this card was written.")
    return lines if _finished(facts) else [*lines, "Training had not finished when this card was written."]


def _hardware(facts: RunFacts) -> list[str]:
    lines = [f"machine: {shown(facts.machine or None)}"]
    if facts.seconds is not None:
        lines.append(f"time for training and validation: {duration(facts.seconds)}")
    if facts.images_per_s is not None:
        lines.append(f"training speed: {facts.images_per_s:.1f} images/s (median over epochs)")
    return lines


def _kind(facts: RunFacts) -> str:
    """Return the key of TASKS that the run was trained for."""
    if "at_precision" in facts.settings or facts.measure in ("auc", "accuracy", "f2"):
        return "gate" if facts.settings.get("target") is None else "labels"
    return "border" if "border" in facts.settings else "mask"


def _finished(facts: RunFacts) -> bool:
    """Return whether training is complete: the card is written while status.json still says that it is running."""
    return facts.state == "finished" or (facts.path / "summary.json").is_file()


def _mean(scores: np.ndarray) -> Row:
    return _interval(float(scores.mean()), *mean_interval(scores))


def _interval(score: float | None, low: float | None, high: float | None) -> Row:
    """Return two cells, the score and its interval; a dash and an empty cell if there is no score."""
    return ("–", "") if score is None else (f"{score:.4f}", f"{low:.4f} to {high:.4f}")


def _or_unknown(number: int | None) -> str:
    return "unknown" if number is None else str(number)


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


CARD, PICTURE = "MODEL_CARD.md", "failures.png"


def write_model_card(folder: Path) -> Path:
    """Write MODEL_CARD.md of a run, and failures.png if its masks and images are available.

    Files that cannot be read are left out, and the card lists them. It can therefore be written at any time, and again
    once there is a threshold.

    Returns:
        path of the card.

    Raises:
        UserError: the folder does not exist.
        OSError: a file cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {CARD} is written to the folder of a run")
    facts = read_run(folder, folder.resolve().name)
    failures = write_failures(facts.judged, folder / PICTURE) if facts.judged else []
    write_text(folder / CARD, card_text(facts, failures, PICTURE))
    return folder / CARD
