"""Find the images that snapshots have not learned from: the fold that they held out, checked by their digests."""

from collections.abc import Sequence

import numpy as np

from net.snapshot import SnapshotInfo
from utils.core.errors import UsageError, UserError
from utils.data.folds import fold_rows
from utils.data.packed_data import PackedImages, ids_digest


def held_out_rows(data_dir: str, packed: PackedImages, infos: Sequence[SnapshotInfo], flag: str) -> np.ndarray:
    """Return the rows that none of the snapshots was trained on: their common validation fold.

    Args:
        data_dir: the packed folder.
        packed: its training images.
        infos: what the snapshots say of themselves.
        flag: what asked for it, for messages.

    Raises:
        UsageError: the snapshots hold out different folds.
        UserError: other images than they were trained on, or other folds.
    """
    folds = {info.fold for info in infos}
    if len(folds) > 1:
        raise UsageError(f"{flag}: the snapshots hold out different folds ({sorted(folds)}); predict a fold at a time")
    if any(info.data_digest != packed.digest for info in infos):
        raise UserError(f"{flag}: {data_dir} holds other images than the snapshots were trained on")
    rows = fold_rows(data_dir, packed.ids, fold := folds.pop())[1]
    if any(info.val_ids_digest != ids_digest(packed.ids[row] for row in rows) for info in infos):
        raise UserError(
            f"{flag}: fold {fold} in {data_dir} holds other images than the snapshots held out: they have learned "
            "from some of them; put back the train_with_folds.csv that they were trained with"
        )
    return rows
