"""TensorBoard logs: curves and a few overlays of each epoch, and finally flags and metrics for the HPARAMS tab."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch.utils.tensorboard import FileWriter, SummaryWriter
from torch.utils.tensorboard.summary import hparams

from utils.data.packed_data import PackedImages
from utils.masks.drawing import grid, outlined
from utils.masks.mask_file import open_masks
from utils.runs.tracked_values import final_metrics, shown_flags

NO_CURVE = ("epoch", "cycle", "seconds")
N_PICTURES = 4
FLAGS_FILE = ".flags"
"""Suffix of the event file that holds the flags."""


class Board:
    """A SummaryWriter for rows of log.csv; points of epochs that are trained again are dropped."""

    def __init__(self, folder: Path, epochs_done: int) -> None:
        self.folder, self.epoch = folder, epochs_done
        self.writer = SummaryWriter(str(folder), purge_step=epochs_done + 1)

    def add(self, row: dict[str, Any]) -> None:
        """Add the scalars of an epoch, a row of log.csv."""
        for name in row.keys() - NO_CURVE:
            self.writer.add_scalar(name, row[name], row["epoch"])
        self.epoch = row["epoch"]

    def show(self, epoch: int, packed: PackedImages, val_rows: np.ndarray, masks_path: Path) -> None:
        """Add a picture with image | truth | probability | overlay for some validation images."""
        masks = open_masks(masks_path).array
        places = np.linspace(0, len(val_rows) - 1, min(N_PICTURES, len(val_rows))).astype(int)
        rows = []
        for place in places:
            image, truth, mask = packed.images[val_rows[place]], packed.masks[val_rows[place]], masks[place]
            rows.append((image, truth != 0, mask, outlined(image, truth, mask > np.float16(0.5))))
        self.writer.add_image("image, truth, probability, overlay", grid(rows), epoch, dataformats="HWC")

    def finish(self, flags: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """Add the flags and the final metrics (`best/...`, `total/seconds`) for the list of runs.

        TensorBoard uses only the first list of flags in a folder. They are therefore written to a separate file, which
        replaces the one of an earlier finish. The list of columns that torch would write is left out: TensorBoard would
        use the list of one run for all runs, whereas without it, it collects the columns of all runs.
        """
        metrics = final_metrics(summary)
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, self.epoch)
        self.writer.flush()  # TensorBoard does not return to this file once the next one exists
        before = list(self.folder.glob(f"*{FLAGS_FILE}"))
        _, start, end = hparams(shown_flags(flags), metrics)
        writer = FileWriter(str(self.folder), filename_suffix=FLAGS_FILE)
        writer.add_summary(start)
        writer.add_summary(end)
        writer.close()
        for path in before:
            path.unlink()

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.writer.close()
