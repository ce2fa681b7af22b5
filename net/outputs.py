"""Outputs of networks: a tensor of logits, or several tensors if the network is deeply supervised."""

from typing import NamedTuple

from torch import Tensor


class DeepOutput(NamedTuple):
    """Logits of a deeply supervised network; all are float and unbounded."""

    fused: Tensor
    """(B, K, S, S): the mask that is used for prediction."""
    image: Tensor
    """(B,): whether the image is not empty."""
    sides: list[Tensor]
    """(B, K, S, S) each: masks from single decoder stages, trained on non-empty images."""


Output = Tensor | DeepOutput


def fused(output: Output) -> Tensor:
    """Return the logits (B, K, S, S) that are used for prediction."""
    return output.fused if isinstance(output, DeepOutput) else output


def to_float32(output: Output) -> Output:
    """Convert an output to float32, so that losses and metrics are never computed in a shorter format."""
    if isinstance(output, DeepOutput):
        return DeepOutput(output.fused.float(), output.image.float(), [side.float() for side in output.sides])
    return output.float()
