"""Losses by name.

A pixel loss takes logits (B, K, S, S) float32 and a target of the same shape, 0 or 1, and returns one value per image,
(B,). The loss of a batch is the mean of these values, so a batch can be cut into microbatches or divided among
processes without changing the gradient.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

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
    """Return the mean binary cross-entropy over the pixels of each image."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1).mean(1)


def focal(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Return the focal loss (Lin et al. 2017, arXiv 1708.02002), a mean over each image, without class weights."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return ((1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy).flatten(1).mean(1)


def soft_jaccard(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 - intersection over union of the probabilities of each image, in [0, 1]."""
    probabilities, target = torch.sigmoid(logits).flatten(1), target.flatten(1)
    intersection = (probabilities * target).sum(1)
    return 1 - (intersection + 1) / (probabilities.sum(1) + target.sum(1) - intersection + 1)


def soft_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 - Dice coefficient of the probabilities of each image, in [0, 1]."""
    probabilities, target = torch.sigmoid(logits).flatten(1), target.flatten(1)
    return 1 - (2 * (probabilities * target).sum(1) + 1) / (probabilities.sum(1) + target.sum(1) + 1)


def lovasz_hinge(
    logits: Tensor, target: Tensor, positive: Callable[[Tensor], Tensor] = F.relu, symmetric: bool = False
) -> Tensor:
    """Return the Lovász extension of the Jaccard loss on hinge errors per image (Berman et al. 2018, arXiv 1705.08790).

    All images of the batch are sorted at once.

    Args:
        logits: (B, K, S, S).
        target: same shape, 0 or 1.
        positive: function that makes the errors positive: the paper's relu, or elu + 1, whose gradient is not zero at
            correct pixels.
        symmetric: return the mean of the losses of the mask and of its complement, so that empty masks contribute as
            well; both have the same errors, which are sorted once.
    """
    logits, target = logits.flatten(1), target.flatten(1)
    errors, order = (1 - logits * (2 * target - 1)).sort(dim=1, descending=True)
    truth = target.gather(1, order)
    weights = (_growth(truth) + _growth(1 - truth)) / 2 if symmetric else _growth(truth)
    return (positive(errors) * weights).sum(1)


def _growth(truth: Tensor) -> Tensor:
    """Return the growth (B, P) of the Jaccard loss as pixels (B, P), 0 or 1, are misclassified one after another."""
    positives = truth.sum(1, keepdim=True)
    intersection = positives - truth.cumsum(1)
    union = positives + (1 - truth).cumsum(1)
    jaccard = 1 - intersection / union
    return torch.cat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], dim=1)


def _elu_plus_one(errors: Tensor) -> Tensor:
    return F.elu(errors) + 1


def total(*terms: PixelLoss) -> PixelLoss:
    """Return the sum of several pixel losses, each with weight 1."""
    return lambda logits, target: torch.stack([term(logits, target) for term in terms]).sum(0)


_symmetric_elu = partial(lovasz_hinge, positive=_elu_plus_one, symmetric=True)


def symmetric_lovasz_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Return the symmetric Lovász loss (elu + 1) plus .1 x BCE, which keeps the probabilities calibrated."""
    return _symmetric_elu(logits, target) + 0.1 * bce(logits, target)


def on_fused(pixel_loss: PixelLoss) -> Loss:
    """Return a loss that applies a pixel loss to the mask that predicts, regardless of the network's other outputs."""

    def loss(output: Output, target: Tensor) -> Tensor:
        return pixel_loss(output.fused if isinstance(output, DeepOutput) else output, target)

    return loss


def deeply_supervised(pixel_loss: PixelLoss) -> Loss:
    """Return the loss .05 x image class (empty or not) + .1 x side masks on non-empty images + 1.0 x fused mask.

    The side term is a mean over all images; it is 0 for empty images.
    """

    def loss(output: Output, target: Tensor) -> Tensor:
        if not isinstance(output, DeepOutput):
            raise UsageError(
                "--loss combined, combined_hyper: the network has no side outputs; use --arch ds_resnet_34"
            )
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
    "symmetric_lovasz_elu": on_fused(_symmetric_elu),
    "symmetric_lovasz_bce": on_fused(symmetric_lovasz_bce),
    "focal": on_fused(focal),
    "bce_lovasz": on_fused(total(bce, lovasz_hinge)),
    "BCEJaccard": on_fused(total(bce, soft_jaccard)),
    "BCEDice": on_fused(total(bce, soft_dice)),
    "combined": deeply_supervised(bce),
    "combined_hyper": deeply_supervised(total(bce, lovasz_hinge)),
}


def border_losses(weight: float) -> dict[str, Loss]:
    """Return the losses of two planes, mask and border, by name: mask loss + `weight` x border loss."""

    def both(pixel_loss: PixelLoss) -> Loss:
        return on_fused(
            lambda logits, target: (
                pixel_loss(logits[:, :1], target[:, :1]) + weight * pixel_loss(logits[:, 1:], target[:, 1:])
            )
        )

    return {
        "boundary_bce": both(bce),
        "boundary_lovasz": both(lovasz_hinge),
        "boundary_symmetric_lovasz_bce": both(symmetric_lovasz_bce),
        "boundary_bce_lovasz": both(total(bce, lovasz_hinge)),
        "boundary_bce_dice": both(total(bce, soft_dice)),
    }


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of each image for logits (B, K) and a one-hot target."""
    return F.cross_entropy(logits, target, reduction="none")


def focal_cross_entropy(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Return the focal loss of each image for logits (B, K) and a one-hot target."""
    loss = cross_entropy(logits, target)
    return (1 - torch.exp(-loss)) ** gamma * loss


CLASS_LOSSES: dict[str, Loss] = {"BCE": bce, "focal": focal}
"""Losses of logits (B, K) if an image may have any number of the K classes."""
EXCLUSIVE_LOSSES: dict[str, Loss] = {"BCE": cross_entropy, "focal": focal_cross_entropy}
"""Losses of logits (B, K) if an image has exactly one of the K classes, under the same names."""


def loss_by_name(name: str, losses: Mapping[str, Loss] = LOSSES) -> Loss:
    """Return the loss with this name.

    Raises:
        UsageError: the name is unknown; the message suggests the nearest names.
    """
    return pick(losses, name, "--loss")


class Phase(NamedTuple):
    """A loss, and the share of the training at which it takes over from the loss before it."""

    start: float
    loss: Loss


def phases_by_name(names: Sequence[str], losses: Mapping[str, Loss] = LOSSES) -> list[Phase]:
    """Return the phases of a training from names such as ("BCE", "lovasz:.55"): BCE first, Lovász from 55 % on.

    Raises:
        UsageError: a loss is unknown, or the shares are missing, not between 0 and 1, or not in ascending order.
    """
    phases = [Phase(0.0, loss_by_name(names[0], losses))] if names else []
    for text in names[1:]:
        name, _, share = text.rpartition(":")
        try:
            start = float(share)
        except ValueError:
            start = 0.0
        if not name or not phases[-1].start < start < 1:
            raise UsageError(
                f"--loss {' '.join(names)}: expected a loss, then <loss>:<share of the training> in ascending order, "
                "such as BCE lovasz:.55"
            )
        phases.append(Phase(start, loss_by_name(name, losses)))
    if not phases:
        raise UsageError("--loss: expected the name of a loss, such as BCE")
    return phases
