"""TODO."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from net.architectures import build_classifier, build_network
from net.outputs import DeepOutput, Output, fused
from utils.core.names import pick
from utils.masks.mask_file import mask_writer
from utils.masks.probability_file import write_probabilities


class RowWriter(Protocol):
    """Takes answers (B, ...) in order."""

    def append(self, rows: np.ndarray) -> None: ...


@dataclass(frozen=True)
class Kind:
    """What a network answers."""

    name: str
    """mask, border, labels (any number of them), label (one of them)."""
    outputs: tuple[str, ...]
    """A name for each logit: of a pixel, or of an image."""

    @property
    def of_pixels(self) -> bool:
        return self.name in ("mask", "border")

    def build(self, arch: str, channels_in: int, encoder_weights: str = "none") -> nn.Module:
        """A network that gives these outputs; raises as `build_network` does."""
        build = build_network if self.of_pixels else build_classifier
        return build(arch, channels_in, len(self.outputs), encoder_weights)

    def probabilities(self, output: Output) -> Tensor:
        """Output of the network -> (B, K, S, S) or (B, K) float32, [0, 1]."""
        if self.name == "labels" and isinstance(output, DeepOutput):  # its own class: is there anything?
            return torch.sigmoid(output.image[:, None])
        logits = fused(output).float()
        return torch.softmax(logits, 1) if self.name == "label" else torch.sigmoid(logits)


KINDS = ("mask", "border", "labels", "label")


def kind_of(about: dict[str, Any]) -> Kind:
    """The kind of network that a snapshot's description tells of."""
    pick(dict.fromkeys(KINDS), about["task"], "task")
    return Kind(about["task"], tuple(about.get("outputs", ("mask",))))


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
