"""Which images snapshots were not trained on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.errors import UsageError, UserError
from utils.stack import Stack, fold_rows, ids_digest


def held_out_rows(data_dir: str, stack: Stack, abouts: Sequence[dict[str, Any]], flag: str) -> np.ndarray:
    """Rows that none of the snapshots was trained on: their common validation fold.

    Args:
        data_dir: the packed folder.
        stack: its training images.
        abouts: what the snapshots say of themselves.
        flag: what asked for it, for messages.

    Raises:
        UsageError: the snapshots hold out different folds.
        UserError: other images than they were trained on, or other folds.
    """
    folds = {about["fold"] for about in abouts}
    if len(folds) > 1:
        raise UsageError(f"{flag}: the snapshots hold out different folds ({sorted(folds)}); predict a fold at a time")
    if any(about["data_digest"] != stack.digest for about in abouts):
        raise UserError(f"{flag}: {data_dir} holds other images than the snapshots were trained on")
    rows = fold_rows(data_dir, stack.ids, fold := folds.pop())[1]
    if any(about["val_ids_digest"] != ids_digest(stack.ids[row] for row in rows) for about in abouts):
        raise UserError(
            f"{flag}: fold {fold} in {data_dir} holds other images than the snapshots held out: they have learned "
            "from some of them; put back the train_with_folds.csv that they were trained with"
        )
    return rows
