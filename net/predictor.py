"""A trained network with the way in and the way out: what validation and every predict script use."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from net.augmentations import VAL_AUGS
from net.dataset import fitted, normalised
from net.machine import Machine
from net.outputs import Output, to_float32
from net.snapshot import load_snapshot, rebuild
from net.tasks import Task, task_by_name
from net.tta import View
from utils.errors import UsageError, UserError
from utils.stack import Stack


@dataclass(frozen=True)
class Predictor:
    """A network in evaluation mode and how its masks come back to the image's own size."""

    network: nn.Module
    task: Task
    val_augs: str
    machine: Machine

    def output(self, images: Tensor) -> Output:
        """(B, C, S, S) uint8 -> the network's output, float32."""
        images = images.to(self.machine.device, non_blocking=True)
        with self.machine.autocast():
            output = self.network(normalised(images))
        return to_float32(output)

    def masks(self, output: Output, shape: tuple[int, int]) -> Tensor:
        """Output -> probabilities (B, h, w) float32 at the image's own size."""
        return VAL_AUGS[self.val_augs](shape).invert(self.task.mask(output))

    def predict(self, images: np.ndarray, views: Sequence[View]) -> Tensor:
        """Images (B, h, w, C) uint8 -> the mean of probabilities over views, (B, h, w) float32."""
        shape = images.shape[1:3]
        fit = VAL_AUGS[self.val_augs](shape)
        seen = fitted(images, fit)
        output = self.output(torch.cat([view.see(seen) for view in views]))
        by_view = self.task.mask(output).chunk(len(views))
        mean = torch.stack([view.undo(masks) for view, masks in zip(views, by_view, strict=True)]).mean(0)
        return fit.invert(mean)


def batches_of(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Rows in their order, `batch_size` at a time."""
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


def load_predictors(
    paths: Sequence[Path], machine: Machine, stack: Stack, arch: str | None = None
) -> tuple[list[Predictor], list[dict[str, Any]]]:
    """Predictors for snapshot files, and what each says about itself.

    Raises:
        UsageError: `arch` is given and is not the snapshot's.
        UserError: a file that is no snapshot, or was trained on images of another number of channels.
    """
    predictors, abouts = [], []
    for path in paths:
        snapshot = load_snapshot(path)
        about = snapshot.about
        if arch is not None and arch != about["arch"]:
            raise UsageError(f"--arch {arch}: {path} is a {about['arch']}; leave --arch out, the snapshot knows it")
        if about["channels_in"] != stack.channels:
            raise UserError(
                f"{path}: was trained on images of {about['channels_in']} channels, these have {stack.channels}"
            )
        network = rebuild(snapshot, path).to(machine.device, memory_format=torch.channels_last)
        if machine.compiles:
            network.compile()
        predictors.append(Predictor(network, task_by_name(about["task"]), about["val_augs"], machine))
        abouts.append(about)
    return predictors, abouts
