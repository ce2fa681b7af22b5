"""Optimizers and schedules behave as their names say."""

from itertools import pairwise

import pytest
import torch

from net.optimizers import OPTIMIZERS, optimizer_by_name
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

    build = optimizer_by_name(f"{kind}_1e-1")
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
