"""What is predicted, what is learned from, and what of the output is the mask."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from net.outputs import Output, fused
from utils.names import pick
from utils.stack import Stack


@dataclass(frozen=True)
class Task:
    """One door of training: the target planes drawn from a stack, and the way from logits to mask probabilities."""

    name: str
    channels: int
    """Logits a pixel."""
    target: Callable[[Stack, int], np.ndarray]
    """(stack, row) -> (h, w, channels) uint8, 0 or 1, at the image's own size."""
    mask: Callable[[Output], Tensor]
    """Output of the network -> probabilities (B, S, S) float32, [0, 1]."""


def _mask_target(stack: Stack, row: int) -> np.ndarray:
    if stack.masks is None:
        raise ValueError("a stack without masks has no target")
    return stack.masks[row][..., None]


def _mask_probabilities(output: Output) -> Tensor:
    return torch.sigmoid(fused(output)[:, 0].float())


MASK = Task("mask", 1, _mask_target, _mask_probabilities)

TASKS: dict[str, Task] = {task.name: task for task in (MASK,)}


def task_by_name(name: str) -> Task:
    """Raises UsageError for an unknown task, with the nearest names."""
    return pick(TASKS, name, "task")
