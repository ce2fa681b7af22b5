"""Losses by name. A pixel loss takes logits (B, K, S, S) float32 and a target alike, 0 or 1, and gives one value an
image, (B,): the loss of a batch is their mean, so that a batch may be cut into parts (over steps that accumulate, or
over processes) and the gradient stays the same.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from net.outputs import DeepOutput, Output
from utils.core.errors import UsageError
from utils.core.names import pick

PixelLoss = Callable[[Tensor, Tensor], Tensor]
Loss = Callable[[Output, Tensor], Tensor]
"""(output, target (B, K, S, S) float32) -> (B,) float32."""
IMAGE_WEIGHT, NON_EMPTY_WEIGHT, FUSED_WEIGHT = 0.05, 0.1, 1.0


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy over the pixels of each image."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1).mean(1)


def focal(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean focal loss (Lin et al. 2017, arXiv 1708.02002) over the pixels of each image, without class weights."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return ((1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy).flatten(1).mean(1)


def soft_jaccard(logits: Tensor, target: Tensor) -> Tensor:
    """1 - intersection over union of probabilities, of each image, in [0, 1]."""
    probabilities, target = torch.sigmoid(logits).flatten(1), target.flatten(1)
    intersection = (probabilities * target).sum(1)
    return 1 - (intersection + 1) / (probabilities.sum(1) + target.sum(1) - intersection + 1)


def soft_dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - Dice coefficient of probabilities, of each image, in [0, 1]."""
    probabilities, target = torch.sigmoid(logits).flatten(1), target.flatten(1)
    return 1 - (2 * (probabilities * target).sum(1) + 1) / (probabilities.sum(1) + target.sum(1) + 1)


def lovasz_hinge(
    logits: Tensor, target: Tensor, positive: Callable[[Tensor], Tensor] = F.relu, symmetric: bool = False
) -> Tensor:
    """The Lovász extension of the Jaccard loss on hinge errors, per image (Berman et al. 2018, arXiv 1705.08790).

    All images of the batch are sorted at once.

    Args:
        logits: (B, K, S, S).
        target: alike, 0 or 1.
        positive: makes the errors positive: the paper's relu, or elu + 1, which still pulls at pixels that are right.
        symmetric: the mean of this loss for the mask and for its complement, so that empty masks teach as well; the
            errors of both are the same, and are sorted once.
    """
    logits, target = logits.flatten(1), target.flatten(1)
    errors, order = (1 - logits * (2 * target - 1)).sort(dim=1, descending=True)
    truth = target.gather(1, order)
    weights = (_growth(truth) + _growth(1 - truth)) / 2 if symmetric else _growth(truth)
    return (positive(errors) * weights).sum(1)


def _growth(truth: Tensor) -> Tensor:
    """By how much the Jaccard loss grows when pixels (B, P), 0 or 1, join the wrong ones one after the other."""
    positives = truth.sum(1, keepdim=True)
    intersection = positives - truth.cumsum(1)
    union = positives + (1 - truth).cumsum(1)
    jaccard = 1 - intersection / union
    return torch.cat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], dim=1)


def _elu_plus_one(errors: Tensor) -> Tensor:
    return F.elu(errors) + 1


def total(*terms: PixelLoss) -> PixelLoss:
    """The sum of several pixel losses, each with weight 1."""
    return lambda logits, target: torch.stack([term(logits, target) for term in terms]).sum(0)


def on_fused(pixel_loss: PixelLoss) -> Loss:
    """A pixel loss on the mask that predicts, whatever else the network gives out."""

    def loss(output: Output, target: Tensor) -> Tensor:
        return pixel_loss(output.fused if isinstance(output, DeepOutput) else output, target)

    return loss


def deeply_supervised(pixel_loss: PixelLoss) -> Loss:
    """Image class (empty or not) .05 + side masks on non-empty images .1 + fused mask 1.0.

    The side term is a mean over all images, of which empty ones count 0.
    """

    def loss(output: Output, target: Tensor) -> Tensor:
        if not isinstance(output, DeepOutput):
            raise UsageError("--loss combined and combined_hyper need side outputs; use --arch ds_resnet_34")
        non_empty = target.flatten(1).amax(1)
        image_term = F.binary_cross_entropy_with_logits(output.image, non_empty, reduction="none")
        side_term = torch.stack([pixel_loss(side, target) for side in output.sides]).mean(0) * non_empty
        fused_term = pixel_loss(output.fused, target)
        return IMAGE_WEIGHT * image_term + NON_EMPTY_WEIGHT * side_term + FUSED_WEIGHT * fused_term

    return loss


LOSSES: dict[str, Loss] = {
    "BCE": on_fused(bce),
    "lovasz": on_fused(lovasz_hinge),
    "lovasz_elu": on_fused(partial(lovasz_hinge, positive=_elu_plus_one)),
    "symmetric_lovasz": on_fused(partial(lovasz_hinge, symmetric=True)),
    "symmetric_lovasz_elu": on_fused(partial(lovasz_hinge, positive=_elu_plus_one, symmetric=True)),
    "focal": on_fused(focal),
    "bce_lovasz": on_fused(total(bce, lovasz_hinge)),
    "BCEJaccard": on_fused(total(bce, soft_jaccard)),
    "BCEDice": on_fused(total(bce, soft_dice)),
    "combined": deeply_supervised(bce),
    "combined_hyper": deeply_supervised(total(bce, lovasz_hinge)),
}


def border_losses(weight: float) -> dict[str, Loss]:
    """Losses of two planes, mask and border, whose border counts `weight` beside the mask."""

    def both(pixel_loss: PixelLoss) -> Loss:
        return on_fused(
            lambda logits, target: (
                pixel_loss(logits[:, :1], target[:, :1]) + weight * pixel_loss(logits[:, 1:], target[:, 1:])
            )
        )

    return {
        "boundary_bce": both(bce),
        "boundary_lovasz": both(lovasz_hinge),
        "boundary_bce_lovasz": both(total(bce, lovasz_hinge)),
        "boundary_bce_dice": both(total(bce, soft_dice)),
    }


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Of logits (B, K) of which one is right."""
    return F.cross_entropy(logits, target, reduction="none")


def focal_cross_entropy(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """The focal loss of logits (B, K) of which one is right."""
    loss = cross_entropy(logits, target)
    return (1 - torch.exp(-loss)) ** gamma * loss


CLASS_LOSSES: dict[str, Loss] = {"BCE": bce, "focal": focal}
"""Of logits (B, K), each label for itself."""
EXCLUSIVE_LOSSES: dict[str, Loss] = {"BCE": cross_entropy, "focal": focal_cross_entropy}
"""Of logits (B, K), one of which is right, under the same names."""


def loss_by_name(name: str, losses: Mapping[str, Loss] = LOSSES) -> Loss:
    """Raises UsageError for an unknown name, with the nearest ones."""
    return pick(losses, name, "--loss")
