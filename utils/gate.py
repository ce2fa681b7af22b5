"""The empty-image gate: a classifier's probability that there is anything in an image, and what it silences.

An image is let through iff its probability is strictly GREATER than the gate's threshold, as a pixel is mask; the mask
of one that is silenced is empty.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UsageError, UserError
from utils.files import read_json
from utils.labels import NOT_EMPTY
from utils.metrics import binarize
from utils.probability_file import Probabilities
from utils.stored_threshold import GATE_FILE, first_stored

OPEN = -1.0
"""The threshold of a gate that lets every image through; no probability is lower. In gate.json it is null."""


def gate_probability(files: Sequence[Probabilities], ids: Sequence[str]) -> np.ndarray:
    """The probability that there is anything in each image.

    Files of different images are joined (what each fold held out); of an image in several files (test images, by the
    net of each fold) the probability is the mean.

    Args:
        files: at least one.
        ids: N images.

    Returns:
        (N,) float64, [0, 1].

    Raises:
        UserError: a file of other labels, or images of which no file knows.
    """
    sums: dict[str, float] = {}
    numbers: dict[str, int] = {}
    for file in files:
        if file.labels != [NOT_EMPTY]:
            shown = ", ".join(file.labels[:5]) + (", ..." if len(file.labels) > 5 else "")
            raise UserError(
                f"{file.path}: expected probabilities of {NOT_EMPTY}, found {shown}; a gate is made by "
                "train_classifier.py without --target"
            )
        for name, value in zip(file.ids, file.array[:, 0].tolist(), strict=True):
            sums[name] = sums.get(name, 0.0) + value
            numbers[name] = numbers.get(name, 0) + 1
    if missing := [name for name in ids if name not in sums]:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        raise UserError(
            f"{files[0].path}{more}: no gate probability for {len(missing)} of {len(ids)} images (such as "
            f"{missing[0]}); this is a gate of other images or other folds"
        )
    return np.array([sums[name] / numbers[name] for name in ids], dtype=np.float64)


def silenced(probabilities: np.ndarray, gate_th: float) -> np.ndarray:
    """(N,) bool: which images the gate does not let through (probabilities as `gate_probability` returns them)."""
    return ~binarize(probabilities, gate_th)


def silenced_ids(
    gate_th: float | None, folders: Iterable[str | Path | None], ids: Sequence[str], files: Sequence[Probabilities]
) -> set[str] | None:
    """Ids that a gate silences, and a line about them; None without a gate.

    Args:
        gate_th: what --gate_th says.
        folders: run folders to look for gate.json.
        ids: the images.
        files: the gate's probabilities; none: there is no gate.

    Raises:
        UserError, UsageError: as `gate_probability` and `choose_gate_th`.
    """
    check_gate_th(gate_th, bool(files))
    if not files:
        return None
    th, origin = choose_gate_th(gate_th, folders)
    which = silenced(gate_probability(files, ids), th)
    print(f"gate: silences {np.count_nonzero(which)} of {len(which)} images at {th:.6g} ({origin})")
    return {name for name, hush in zip(ids, which, strict=True) if hush}


def check_gate_th(gate_th: float | None, there_is_one: bool) -> None:
    """Raise a UsageError for a threshold outside [0, 1], or without a gate that it is for."""
    if gate_th is None:
        return
    if not 0 <= gate_th <= 1:
        raise UsageError(f"--gate_th {gate_th}: a threshold of probabilities is in [0, 1]")
    if not there_is_one:
        raise UsageError(f"--gate_th {gate_th}: there is no gate that it is for; name one, or leave it out")


def stored_gate(folder: str | Path) -> float | None:
    """The gate's threshold from the gate.json in a folder, OPEN where no gate was best; None if there is no file.

    Raises:
        UserError: it is not what optimize_threshold.py writes.
    """
    stored = _read(folder)
    return None if stored is None else stored["gate_threshold"]


def choose_gate_th(flag: float | None, folders: Iterable[str | Path | None]) -> tuple[float, str]:
    """What --gate_th says, else the first gate.json in `folders` (None is skipped), else .5.

    Returns:
        (threshold, where it is from: a few words for the user).

    Raises:
        UsageError: the flag is outside [0, 1].
        UserError: as `stored_gate`.
    """
    if flag is not None:
        check_gate_th(flag, there_is_one=True)
        return flag, "--gate_th"
    folder, stored = first_stored(_read, folders)
    if stored is None:
        return 0.5, f"no {GATE_FILE} found"
    th, path = stored["gate_threshold"], Path(folder) / GATE_FILE
    if th == OPEN:
        return th, f"{path}, which lets every image through"
    return th, str(path) if stored.get("helps") else f"{path}, by which the gate is not sure to help"


def _read(folder: str | Path) -> dict[str, Any] | None:
    path = Path(folder) / GATE_FILE
    if not path.is_file():
        return None
    stored = read_json(path)
    th = stored.get("gate_threshold", "none") if isinstance(stored, dict) else "none"
    if th is None:
        return {**stored, "gate_threshold": OPEN}
    if isinstance(th, bool) or not isinstance(th, int | float) or not 0 <= th <= 1:
        raise UserError(f"{path}: expected a gate_threshold in [0, 1] or null, found {th}; write it again")
    return {**stored, "gate_threshold": float(th)}
