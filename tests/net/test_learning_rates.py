"""Optimizers and schedules behave as their names say."""

import copy
from itertools import pairwise

import pytest
import torch

from net.muon import orthogonalised
from net.optimizers import OPTIMIZERS, optimizer_by_name, optimizer_for
from net.schedulers import SCHEDULERS, scheduler_by_name
from utils.core.errors import UsageError


def rates(name, epochs=6, steps=4, optimizer="adam_1e-4", val_losses=None):
    """Return the learning rate of every step."""
    built = optimizer_by_name(optimizer)([torch.nn.Parameter(torch.zeros(1))])
    schedule, seen = scheduler_by_name(name)(built, epochs, steps), []
    for epoch in range(epochs):
        for _ in range(steps):
            seen.append(built.param_groups[0]["lr"])
            built.step()
            schedule.after_step()
        schedule.after_epoch(val_losses[epoch] if val_losses else 1.0)
    return seen


@pytest.mark.parametrize(("name", "kind", "rate"), [("adam_1e-4", "Adam", 1e-4), ("adamw_0.003", "AdamW", 3e-3)])
def test_an_optimizer_has_the_learning_rate_in_its_name(name, kind, rate):
    built = optimizer_by_name(name)([torch.nn.Parameter(torch.zeros(1))])
    assert type(built).__name__ == kind
    assert built.param_groups[0]["lr"] == rate


def test_sgd_has_momentum_point_nine():
    built = optimizer_by_name("sgd_1e-2")([torch.nn.Parameter(torch.zeros(1))])
    assert (built.param_groups[0]["lr"], built.param_groups[0]["momentum"]) == (0.01, 0.9)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_reaches_the_minimum_and_resumes_from_its_state(kind):
    def descend(place, optimizer, times):
        for _ in range(times):
            optimizer.zero_grad()
            ((place - 3) ** 2).sum().backward()
            optimizer.step()

    build = optimizer_by_name(f"{kind}_{1 if kind == 'muon' else 0.1}")  # muon has a tenth of it for vectors
    whole = torch.nn.Parameter(torch.zeros(2))
    descend(whole, build([whole]), 200)
    assert (whole - 3).abs().max() < 0.1
    first = torch.nn.Parameter(torch.zeros(2))
    begun = build([first])
    descend(first, begun, 20)
    second = torch.nn.Parameter(first.detach().clone())
    resumed = build([second])
    resumed.load_state_dict(begun.state_dict())
    descend(second, resumed, 180)
    assert torch.equal(second, whole)


def test_muon_brings_the_singular_values_of_every_update_close_to_one():
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((8, 27), (27, 8), (16, 16)):
        matrices = torch.randn(3, rows, columns, generator=generator) * torch.logspace(0, -2, columns)
        updates = torch.stack(orthogonalised(list(matrices)))
        assert updates.shape == matrices.shape
        values = torch.linalg.svdvals(updates)[:, : min(rows, columns) // 2]
        assert values.min() > 0.6
        assert values.max() < 1.3
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        assert torch.nn.functional.cosine_similarity((u @ v).flatten(1), updates.flatten(1)).min() > 0.8


def test_muon_steps_on_filters_resume_exactly_and_do_not_depend_on_the_memory_format():
    def train(steps, network, optimizer):
        for number in range(steps):
            images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(number))
            optimizer.zero_grad()
            (network(images) - images.mean()).square().mean().backward()
            optimizer.step()

    def build(memory_format=torch.contiguous_format):
        torch.manual_seed(1)
        layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 4, 3), torch.nn.Conv2d(4, 2, 1)]
        network = torch.nn.Sequential(*layers).to(memory_format=memory_format)
        return network, optimizer_by_name("muon_0.02")(network.parameters())

    whole, begun = build(), build()
    start = [weight.clone() for weight in whole[0].parameters()]
    train(6, *whole)
    assert all((weight != old).any() for weight, old in zip(whole[0].parameters(), start, strict=True))
    train(2, *begun)
    resumed = build()
    resumed[0].load_state_dict(begun[0].state_dict())
    resumed[1].load_state_dict(copy.deepcopy(begun[1].state_dict()))
    for number in range(2, 6):
        images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        resumed[1].zero_grad()
        (resumed[0](images) - images.mean()).square().mean().backward()
        resumed[1].step()
    assert all(
        torch.equal(one, again) for one, again in zip(whole[0].parameters(), resumed[0].parameters(), strict=True)
    )
    once, last = build(), build(torch.channels_last)
    train(1, *once)
    train(1, *last)
    for one, other in zip(once[0].parameters(), last[0].parameters(), strict=True):
        assert one.ndim < 2 or torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("name", ["adamw_1e-2", "muon_0.1"])
def test_a_pretrained_encoder_has_a_rate_of_its_own_and_resumes(name):
    """The first step of AdamW changes each weight by the learning rate."""

    def stepped():
        torch.manual_seed(1)
        network = torch.nn.Module()
        network.encoder, network.decoder = torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 2, 3)
        optimizer, before = optimizer_for(network, name, 0.1), [weight.clone() for weight in network.parameters()]
        step(network, optimizer)
        return network, optimizer, before

    def step(network, optimizer):
        optimizer.zero_grad()
        images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        network.decoder(network.encoder(images)).square().mean().backward()
        optimizer.step()

    network, optimizer, before = stepped()
    moved = [(new - old).abs().max().item() for new, old in zip(network.parameters(), before, strict=True)]
    assert moved[:2] == pytest.approx([1e-3, 1e-3], rel=0.05)  # weights and biases of the encoder
    assert min(moved[2:]) > 5e-3
    again, resumed, _ = stepped()
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one in ((network, optimizer), (again, resumed)):
        step(*one)
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), again.parameters(), strict=True))
    with pytest.raises(UsageError, match=r"--encoder_rate 0.1: this network has no encoder"):
        optimizer_for(torch.nn.Linear(2, 2), name, 0.1)


def test_linear_and_rex_fall_to_zero():
    linear, rex = rates("linear", 5, 4), rates("rex", 5, 4)
    assert linear == pytest.approx([1e-4 * (1 - step / 20) for step in range(20)])
    assert rex[0] == 1e-4
    assert rex[10] == pytest.approx(1e-4 * 0.5 / 0.75)
    assert all(slow >= fast for slow, fast in zip(rex, linear, strict=True))


@pytest.mark.parametrize("name", [*SCHEDULERS, "step_2_05"])
def test_every_schedule_resumes_from_its_state(name):
    """The validation loss does not fall, so that plateau changes the learning rate too."""
    losses, optimizer, steps, cut = [1.0] * 10, "adam_1e-2", 3, 3

    def epochs_of(built, schedule, epochs):
        for epoch in epochs:
            for _ in range(steps):
                yield schedule.rate
                built.step()
                schedule.after_step()
            schedule.after_epoch(losses[epoch])

    def start():
        built = optimizer_by_name(optimizer)([torch.nn.Parameter(torch.zeros(1))])
        return built, scheduler_by_name(name)(built, len(losses), steps)

    whole = list(epochs_of(*start(), range(len(losses))))
    begun, resumed = start(), start()
    before = list(epochs_of(*begun, range(cut)))
    resumed[0].load_state_dict(begun[0].state_dict())
    resumed[1].load_state_dict(begun[1].state_dict())
    assert before + list(epochs_of(*resumed, range(cut, len(losses)))) == whole
    assert (len(set(whole)) == 1) == (name == "none")


@pytest.mark.parametrize("name", ["adam", "adam_", "adam_fast", "adam_-1", "adam_nan", "adam_inf", "adem_1e-3"])
def test_an_unknown_optimizer_or_invalid_learning_rate_is_refused(name):
    with pytest.raises(UsageError, match=f"--optimizer {name}|adam"):
        optimizer_by_name(name)


def test_none_is_constant():
    assert set(rates("none")) == {1e-4}


def test_step_multiplies_the_learning_rate_by_tenths_every_n_epochs():
    assert rates("step_2_05")[::4] == pytest.approx([1e-4, 1e-4, 5e-5, 5e-5, 2.5e-5, 2.5e-5])
    assert rates("step_3_01")[::4] == pytest.approx([1e-4] * 3 + [1e-5] * 3)


def test_cosine_falls_from_the_learning_rate_to_zero_and_never_rises():
    seen = rates("cosine")
    assert seen[0] == 1e-4
    assert all(after < before for before, after in pairwise(seen))
    assert seen[-1] < 1e-6


def test_onecycle_rises_to_the_learning_rate_and_falls_to_almost_zero():
    seen = rates("onecycle", epochs=10)
    assert max(seen) == pytest.approx(1e-4, rel=0.02)
    assert 0.2 < seen.index(max(seen)) / len(seen) < 0.4
    assert seen[-1] < 1e-6


def test_plateau_waits_for_the_validation_loss():
    assert rates("plateau", epochs=9, val_losses=[1.0] * 9)[::4] == pytest.approx([1e-4] * 7 + [5e-5] * 2)
    assert set(rates("plateau", epochs=9, val_losses=[1 / (k + 1) for k in range(9)])) == {1e-4}


@pytest.mark.parametrize("tenths", range(1, 10))
def test_step_takes_every_gamma_from_one_to_nine_tenths(tenths):
    assert rates(f"step_1_0{tenths}", epochs=2)[::4] == pytest.approx([1e-4, tenths * 1e-5])


def test_an_unknown_schedule_is_refused():
    with pytest.raises(UsageError, match=r"--scheduler cosin: no such name; did you mean cosine\?"):
        scheduler_by_name("cosin")


INCOMPLETE = (
    "step",
    "step_2",
    "step_0_01",
    "step_x_01",
    "step_30_x",
    "step_30_",
    "step_30_01_2",
    "steps_30_01",
    "step_30_²",
)
AMBIGUOUS = ("step_30_015", "step_30_001", "step_30_1", "step_30_0.1")
NOT_LOWER = ("step_30_0", "step_30_00", "step_30_10", "step_30_11")
"""With a gamma of 0 nothing more is learned, and a gamma of 1 or more never lowers the learning rate."""


@pytest.mark.parametrize("name", [*INCOMPLETE, *AMBIGUOUS, *NOT_LOWER])
def test_an_invalid_step_name_is_refused_with_the_expected_form(name):
    with pytest.raises(UsageError) as refused:
        scheduler_by_name(name)
    assert str(refused.value) == (
        f"--scheduler {name}: expected step_<epochs>_<gamma in tenths>, with a gamma of 01 (0.1) to 09 (0.9); "
        "step_30_01 multiplies the learning rate by 0.1 every 30 epochs"
    )
