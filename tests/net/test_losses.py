"""Each loss equals its definition, and each of its terms contributes."""

import math

import pytest
import torch
from torch.nn import functional as F

from net.losses import (
    CLASS_LOSSES,
    EXCLUSIVE_LOSSES,
    LOSSES,
    bce,
    border_losses,
    focal,
    loss_by_name,
    lovasz_hinge,
    phases_by_name,
    soft_dice,
    soft_jaccard,
)
from net.outputs import DeepOutput
from utils.core.errors import UsageError

PIXEL = [name for name in LOSSES if not name.startswith("combined")]


def batch(seed=0, shape=(4, 1, 9, 7)):
    generator = torch.Generator().manual_seed(seed)
    target = (torch.rand(shape, generator=generator) > 0.6).float()
    target[1] = 0  # one image is empty
    return torch.randn(shape, generator=generator, requires_grad=True), target


def deep(seed=0, shape=(4, 1, 8, 8)):
    logits, target = batch(seed, shape)
    sides = [batch(seed + k, shape)[0] for k in (1, 2)]
    image = torch.randn(4, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    return DeepOutput(logits, image, sides), target


def classes(exclusive):
    """Return logits (4, 3) and the classes of the images, (4, 3)."""
    generator = torch.Generator().manual_seed(3)
    target = F.one_hot(torch.tensor([2, 0, 1, 1]), 3) if exclusive else torch.tensor([[1, 0, 1], [0, 0, 0]] * 2)
    return torch.randn(4, 3, generator=generator, requires_grad=True), target.float()


TABLES = {
    "pixels": (LOSSES, deep),
    "borders": (border_losses(0.3), lambda: batch(shape=(4, 2, 9, 7))),
    "classes": (CLASS_LOSSES, lambda: classes(exclusive=False)),
    "exclusive": (EXCLUSIVE_LOSSES, lambda: classes(exclusive=True)),
}
"""Every table of losses, with a function that creates an output and a target for the losses in it."""


@pytest.mark.parametrize(("table", "name"), [(table, name) for table, (losses, _) in TABLES.items() for name in losses])
def test_every_loss_is_finite_and_has_a_gradient_for_every_plane(table, name):
    losses, sample = TABLES[table]
    output, target = sample()
    loss = loss_by_name(name, losses)(output, target)
    assert loss.shape == (4,)
    assert torch.isfinite(loss).all()
    loss.mean().backward()
    logits = output.fused if isinstance(output, DeepOutput) else output
    assert torch.isfinite(logits.grad).all()
    for plane in range(logits.shape[1]):
        assert logits.grad[:, plane].abs().max() > 0


def lovasz_by_definition(logits, target):
    """Return the sum over sorted errors of error x growth of the Jaccard loss when that pixel is misclassified."""
    losses = []
    for image, truth in zip(logits.flatten(1), target.flatten(1), strict=True):
        errors = F.relu(1 - image * (2 * truth - 1))
        order = sorted(range(len(errors)), key=lambda place: -float(1 - image[place].detach() * (2 * truth[place] - 1)))
        loss, wrong, before, positives = 0.0, [], 0.0, float(truth.sum())
        for place in order:
            wrong.append(place)
            missed = sum(float(truth[one]) for one in wrong)
            jaccard = 1 - (positives - missed) / (positives + len(wrong) - missed)
            loss, before = loss + errors[place] * (jaccard - before), jaccard
        losses.append(loss)
    return torch.stack(losses)


def test_lovasz_equals_its_definition_in_value_and_gradient():
    logits, target = batch()
    value = lovasz_hinge(logits, target)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    expected = lovasz_by_definition(logits, target)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_pixel_losses_by_hand():
    logits, target = torch.tensor([[[[0.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    assert float(bce(logits, target)) == pytest.approx(0.693147, abs=1e-5)
    assert float(focal(logits, target)) == pytest.approx(0.25 * 0.693147, abs=1e-5)
    assert float(soft_jaccard(logits, target)) == pytest.approx(1 - 1.5 / 2.5)
    assert float(soft_dice(logits, target)) == pytest.approx(1 - 2 / 3)
    assert float(lovasz_hinge(logits, target)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "terms"),
    [("bce_lovasz", (bce, lovasz_hinge)), ("BCEJaccard", (bce, soft_jaccard)), ("BCEDice", (bce, soft_dice))],
)
def test_both_terms_of_a_sum_contribute(name, terms):
    logits, target = batch()
    parts = [term(logits, target) for term in terms]
    torch.testing.assert_close(LOSSES[name](logits, target), parts[0] + parts[1])
    assert all(part.min() > 0.05 for part in parts)


@pytest.mark.parametrize("name", PIXEL)
def test_every_pixel_loss_falls_when_the_mask_gets_better(name):
    _, target = batch()
    right = (2 * target - 1) * 5
    losses = [LOSSES[name](right * sign, target) for sign in (1.0, 0.1, -1.0)]
    assert (losses[0] < losses[1]).all()
    assert (losses[1] < losses[2]).all()
    output, target = deep()  # a deeply supervised network has the loss of its fused mask
    torch.testing.assert_close(LOSSES[name](output, target), LOSSES[name](output.fused, target))


@pytest.mark.parametrize(("name", "pixel_loss"), [("combined", bce), ("combined_hyper", None)])
def test_deep_supervision_weighs_image_sides_and_fused(name, pixel_loss):
    output, target = deep()
    pixel_loss = pixel_loss or (lambda logits, truth: bce(logits, truth) + lovasz_hinge(logits, truth))
    present = torch.tensor([1.0, 0.0, 1.0, 1.0])  # image 1 is empty
    expected = (
        0.05 * F.binary_cross_entropy_with_logits(output.image, present, reduction="none")
        + 0.1 * present * sum(pixel_loss(side, target) for side in output.sides) / 2
        + 1.0 * pixel_loss(output.fused, target)
    )
    torch.testing.assert_close(LOSSES[name](output, target), expected)
    LOSSES[name](output, target).sum().backward()
    assert output.image.grad.abs().min() > 0
    assert output.sides[0].grad[1].abs().max() == 0
    assert output.sides[0].grad[0].abs().max() > 0


def test_deep_supervision_survives_a_batch_of_empty_images_and_refuses_a_plain_network():
    output, target = deep()
    assert torch.isfinite(LOSSES["combined"](output, torch.zeros_like(target))).all()
    with pytest.raises(UsageError, match="use --arch ds_resnet_34"):
        LOSSES["combined"](output.fused, target)
    with pytest.raises(UsageError, match="did you mean BCEDice"):
        loss_by_name("BCEDise")


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_may_be_cut_into_microbatches(name):
    """The loss of an image does not depend on the other images of its batch."""
    output, target = deep()
    whole = LOSSES[name](output, target)
    assert whole.shape == (4,)
    for start in (0, 2):
        cut = slice(start, start + 2)
        part = DeepOutput(output.fused[cut], output.image[cut], [side[cut] for side in output.sides])
        torch.testing.assert_close(LOSSES[name](part, target[cut]), whole[cut])


def test_symmetric_lovasz_is_the_mean_over_the_mask_and_its_complement():
    logits, target = batch()
    both = (lovasz_by_definition(logits, target) + lovasz_by_definition(-logits, 1 - target)) / 2
    torch.testing.assert_close(LOSSES["symmetric_lovasz"](logits, target), both)


def test_lovasz_with_elu_has_a_gradient_at_correct_pixels():
    logits, target = torch.tensor([[[[3.0, -3.0]]]], requires_grad=True), torch.tensor([[[[1.0, 0.0]]]])
    (none,) = torch.autograd.grad(LOSSES["lovasz"](logits, target).sum(), logits)
    assert none.abs().max() == 0
    loss = LOSSES["lovasz_elu"](logits, target)
    # both errors are -2, elu + 1 of them is exp(-2), and the weights add up to 1
    assert loss.item() == pytest.approx(math.exp(-2))
    (pull,) = torch.autograd.grad(loss.sum(), logits)
    assert pull[0, 0, 0, 0] < 0


def test_a_training_may_have_several_losses_one_after_another():
    bce, lovasz = phases_by_name(("BCE", "lovasz:.55"))
    assert (bce.start, lovasz.start) == (0, 0.55)
    assert (bce.loss, lovasz.loss) == (LOSSES["BCE"], LOSSES["lovasz"])
    for names in (
        ("BCE", "lovasz"),
        ("BCE", "lovasz:1"),
        ("BCE", "lovasz:.5", "focal:.4"),
        ("BCE", "lovasz:0"),
        ("BCE", ":.5"),
    ):
        with pytest.raises(UsageError, match=r"expected a loss, then <loss>:<share of the training>"):
            phases_by_name(names)
    with pytest.raises(UsageError, match="did you mean lovasz"):
        phases_by_name(("BCE", "lovas:.5"))
    with pytest.raises(UsageError, match="expected the name of a loss"):
        phases_by_name(())
