"""Where answers of networks go: mask files for pixels, probability files for labels, written alike."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from net.engine import RowWriter
from net.tasks import Kind
from utils.mask_file import mask_writer
from utils.probability_file import write_probabilities


def answer_writer(
    path: str | Path, ids: Sequence[str], shape: tuple[int, int], kind: Kind, about: dict[str, Any]
) -> AbstractContextManager[RowWriter]:
    """A file for the answers to images `ids` of `shape` (h, w), in order; it appears when all are there."""
    if not kind.of_pixels:
        return _probability_writer(path, ids, kind.outputs, {**about, "exclusive": kind.name == "label"})
    planes = (len(kind.outputs),) if len(kind.outputs) > 1 else ()
    return mask_writer(path, ids, (*planes, *shape), about)


@contextmanager
def _probability_writer(
    path: str | Path, ids: Sequence[str], labels: Sequence[str], about: dict[str, Any]
) -> Iterator[list[np.ndarray]]:
    rows: list[np.ndarray] = []
    yield rows
    write_probabilities(path, ids, np.concatenate(rows), list(labels), about)
