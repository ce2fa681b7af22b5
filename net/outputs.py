"""What a network gives out: a tensor of logits, or several of them where it is deeply supervised."""

from typing import NamedTuple

from torch import Tensor


class DeepOutput(NamedTuple):
    """The logits of a deeply supervised network; all float, unbounded."""

    fused: Tensor
    """(B, K, S, S): the mask that predicts."""
    image: Tensor
    """(B,): is there anything in the image?"""
    sides: list[Tensor]
    """(B, K, S, S) each: masks from single decoder stages, learned on non-empty images."""


Output = Tensor | DeepOutput


def fused(output: Output) -> Tensor:
    """The logits (B, K, S, S) that predict."""
    return output.fused if isinstance(output, DeepOutput) else output


def to_float32(output: Output) -> Output:
    """The same in float32, so that losses and metrics never run in a shorter format."""
    if isinstance(output, DeepOutput):
        return DeepOutput(output.fused.float(), output.image.float(), [side.float() for side in output.sides])
    return output.float()
