"""Find the images that snapshots were not trained on: their held-out fold, checked by digests."""

from collections.abc import Sequence

import numpy as np

from net.snapshot import SnapshotInfo
from utils.core.errors import UsageError, UserError
from utils.data.folds import fold_rows
from utils.data.packed_data import PackedImages, ids_digest


def held_out_rows(data_dir: str, packed: PackedImages, infos: Sequence[SnapshotInfo], flag: str) -> np.ndarray:
    """Return the rows that none of the snapshots was trained on: their common held-out fold.

    Args:
        data_dir: the packed folder.
        packed: its training images.
        infos: records of the snapshots.
        flag: start of error messages: the flag or the run folder that needs the rows.

    Raises:
        UsageError: the snapshots hold out different folds.
        UserError: the images or the folds differ from those that the snapshots were trained with.
    """
    folds = {info.fold for info in infos}
    if len(folds) > 1:
        raise UsageError(
            f"{flag}: the snapshots hold out different folds ({sorted(folds)}); predict one fold at a time"
        )
    if any(info.data_digest != packed.digest for info in infos):
        raise UserError(
            f"{flag}: {data_dir} holds other images than the snapshots were trained on; use the data of their training"
        )
    rows = fold_rows(data_dir, packed.ids, fold := folds.pop())[1]
    if any(info.val_ids_digest != ids_digest(packed.ids[row] for row in rows) for info in infos):
        raise UserError(
            f"{flag}: fold {fold} in {data_dir} holds other images than the snapshots held out, so they were "
            "trained on some of them; put back the train_with_folds.csv that they were trained with"
        )
    return rows
