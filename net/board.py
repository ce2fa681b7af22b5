"""TensorBoard: the curves and a few overlays of each epoch."""

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from utils.gallery import grid, outlined
from utils.mask_file import open_masks
from utils.stack import Stack

NO_CURVE = ("epoch", "cycle", "seconds")
N_PICTURES = 4


class Board:
    """A SummaryWriter that knows a row of log.csv; points of epochs that are done again are dropped."""

    def __init__(self, folder: Path, epochs_done: int) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=epochs_done + 1)

    def add(self, row: dict[str, Any]) -> None:
        """The scalars of an epoch."""
        for name in row.keys() - NO_CURVE:
            self.writer.add_scalar(name, row[name], row["epoch"])

    def show(self, epoch: int, stack: Stack, val_rows: np.ndarray, masks_path: Path) -> None:
        """Image | truth | probability | overlay for some validation images."""
        masks = open_masks(masks_path).array
        places = np.linspace(0, len(val_rows) - 1, min(N_PICTURES, len(val_rows))).astype(int)
        rows = []
        for place in places:
            image, truth, mask = stack.images[val_rows[place]], stack.masks[val_rows[place]], masks[place]
            rows.append((image, truth != 0, mask, outlined(image, truth, mask > np.float16(0.5))))
        self.writer.add_image("image, truth, probability, overlay", grid(rows), epoch, dataformats="HWC")

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.writer.close()
