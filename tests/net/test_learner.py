"""Numbers of training steps: accumulation, clipping, warm-up, means of weights, skipped steps."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from net.dataset import EpochBatches, normalised
from net.device import Machine, _speeds, machine
from net.learner import Learner, restore, state_of
from net.loops import fit, measure_statistics
from net.losses import LOSSES
from net.optimizers import optimizer_by_name
from net.schedulers import scheduler_by_name
from net.weight_averaging import Average
from utils.core.errors import UserError
from utils.core.interrupts import StopRequest
from utils.core.progress import EpochBar
from utils.core.training_settings import MachineSettings

N = 21
generator = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (N, 1, 8, 8), generator=generator, dtype=torch.uint8)
TARGETS = (IMAGES > 128).to(torch.uint8)


def build(norm=False, optimizer="sgd_0.1", scheduler="none", steps=100, warmup=0, **options):
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4) if norm else nn.ReLU(), nn.Conv2d(4, 1, 1)]
    network = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    dtype = options.pop("dtype", torch.float32)
    machine, chosen = Machine(torch.device("cpu"), dtype), optimizer_by_name(optimizer)(network.parameters())
    schedule = scheduler_by_name(scheduler)(chosen, 1, steps)
    schedule.warmup = warmup
    ema, swa = options.pop("ema", None), options.pop("swa", None)
    average = Average(network, ema, swa) if ema or swa else None
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16, growth_interval=4)
    loss = options.pop("loss", LOSSES["BCE"])
    return Learner(network, chosen, schedule, scaler, loss, machine, average=average, **options)


def loaded(plan):
    rows = [[row for _, row in microbatch.keys] for microbatch in plan.microbatches()]
    return [(IMAGES[chosen], TARGETS[chosen]) for chosen in rows]


def epoch(learner, batch_size=4, accumulate=1, number=0):
    plan = EpochBatches(np.arange(N), batch_size, 3, accumulate)
    plan.epoch = number
    return fit(learner, loaded(plan), plan, EpochBar("epoch", N, hidden=True), StopRequest(), "")


def weights(network):
    return torch.cat([weight.detach().flatten().clone() for weight in network.parameters()])


class Direct:
    """Stands in for net.cuda_graphs.Graphs where there is no GPU: it runs the work at once."""

    def run(self, _key, work, *inputs):
        return work(*inputs)


@pytest.mark.parametrize("optimizer", ["sgd_0.1", "adam_0.01", "adamw_0.01", "muon_0.02"])
def test_steps_whose_gradients_and_rates_stay_in_place_change_the_weights_alike(optimizer):
    usual, replayed = (build(False, optimizer, "linear", 20, warmup=3, graphs=graphs) for graphs in (None, Direct()))
    for number in range(3):
        epoch(usual, accumulate=2, number=number)
        epoch(replayed, accumulate=2, number=number)
    assert torch.allclose(weights(usual.network), weights(replayed.network), atol=1e-6)
    restored = build(False, optimizer, "linear", 20, warmup=3)
    restore(restored, copy.deepcopy(state_of(replayed)))  # its state holds plain numbers, as that of other runs
    epoch(restored, accumulate=2, number=3)
    epoch(replayed, accumulate=2, number=3)
    assert torch.allclose(weights(restored.network), weights(replayed.network), atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_replays_steps_bit_for_bit():
    device = torch.device("cuda", 0)
    found = []
    for graphs in (None, Machine(device, torch.float32).graphs()):
        learner = build(True, "muon_0.02", "linear", 20, warmup=3, graphs=graphs)
        with Machine(device, torch.float32).tuned():
            learner.machine = Machine(device, torch.float32)
            learner.network.to(device)
            for number in range(3):
                epoch(learner, number=number)
        found.append(weights(learner.network))
    assert torch.equal(*found)


def test_accumulated_microbatches_give_the_step_of_one_large_batch():
    """21 images in batches of 7: the last microbatch of each is smaller than the others."""
    large, small = build(), build()
    before = weights(large.network)
    assert epoch(large, 9, 1)[0] == pytest.approx(epoch(small, 3, 3)[0], rel=1e-6)
    assert (weights(large.network) - before).abs().max() > 0.01
    torch.testing.assert_close(weights(small.network), weights(large.network), rtol=1e-5, atol=1e-7)
    assert small.schedule.steps == large.schedule.steps == 3


def test_a_long_gradient_is_clipped_and_a_short_one_is_kept():
    cut, free = build(grad_clip=0.01), build(grad_clip=1e6)
    plain, before = build(), weights(build().network)
    for learner in (cut, free, plain):
        learner.learn(IMAGES[:4], TARGETS[:4], 4)
        learner.step()
    assert (weights(cut.network) - before).norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert torch.equal(weights(free.network), weights(plain.network))


def test_the_gradient_is_clipped_once_per_batch():
    parts, whole = build(grad_clip=0.05), build(grad_clip=0.05)
    epoch(parts, 3, 3)
    epoch(whole, 9, 1)
    torch.testing.assert_close(weights(parts.network), weights(whole.network), rtol=1e-5, atol=1e-7)


def test_warmup_rises_to_the_learning_rate_of_the_schedule_and_does_not_change_the_schedule():
    taken = {}
    for warmup in (0, 4):
        learner, rates = build(scheduler="cosine", steps=10, warmup=warmup), []
        for _ in range(10):
            rate, before = learner.schedule.rate, weights(learner.network)
            learner.learn(IMAGES[:4], TARGETS[:4], 4)
            learner.step()
            rates.append((rate, (weights(learner.network) - before).norm().item()))
        taken[warmup] = rates
    for step, ((full, far), (warm, near)) in enumerate(zip(taken[0], taken[4], strict=True)):
        assert warm == pytest.approx(full * min(1, (step + 1) / 4))
        if step == 0:  # the step itself is shorter too, not only the logged learning rate
            assert near == pytest.approx(far / 4, rel=1e-4)


def test_ema_is_the_running_mean_of_weights_and_statistics_over_steps():
    learner, seen, statistics = build(norm=True, ema=0.6), [], []
    original = learner.average.after_step

    def after_step(network):
        seen.append(weights(network))
        statistics.append(network[1].running_mean.clone())
        original(network)

    learner.average.after_step = after_step
    epoch(learner)
    assert len(seen) == 6
    mean, statistic = seen[0], statistics[0]
    for number, (value, other) in enumerate(zip(seen[1:], statistics[1:], strict=True), start=1):
        decay = min(0.6, (1 + number) / (10 + number))
        mean, statistic = decay * mean + (1 - decay) * value, decay * statistic + (1 - decay) * other
    torch.testing.assert_close(weights(learner.predicting), mean)
    torch.testing.assert_close(learner.predicting[1].running_mean, statistic)
    assert (weights(learner.predicting) - weights(learner.network)).abs().max() > 1e-4
    assert all((b - a).abs().max() > 0 for a, b in pairwise(seen))  # `seen` has no views of the same tensor


def test_swa_is_the_mean_over_epochs_with_newly_measured_statistics():
    learner, ends = build(norm=True, swa=2), []
    plan = EpochBatches(np.arange(N), 4, 3)
    for number in range(4):
        epoch(learner, number=number)
        if learner.average.after_epoch(learner.network, number + 1):
            plan.epoch = number
            measure_statistics(learner, loaded(plan), "")
        ends.append(weights(learner.network))
        if number == 0:
            assert learner.predicting is learner.network
    torch.testing.assert_close(weights(learner.predicting), torch.stack(ends[1:]).mean(0))
    first = learner.predicting[0]
    with torch.no_grad():
        means = [first(normalised(images)).mean((0, 2, 3)) for images, _ in loaded(plan)]
    torch.testing.assert_close(learner.predicting[1].running_mean, torch.stack(means).mean(0))


def test_a_mean_of_weights_does_not_change_with_the_weights_of_the_network():
    learner = build(ema=0.6)
    epoch(learner)
    before, kept = weights(learner.predicting), copy.deepcopy(learner.predicting.state_dict())
    for weight in learner.network.parameters():
        weight.data.add_(1.0)
    assert torch.equal(weights(learner.predicting), before)
    assert all(torch.equal(value, kept[name]) for name, value in learner.predicting.state_dict().items())


def spoilt(bad_calls, value):
    """Return a BCE loss that is multiplied by `value` in some of its calls."""
    calls = iter(range(1000))

    def loss(output, target):
        losses = LOSSES["BCE"](output, target)
        return losses * value if next(calls) in bad_calls else losses

    return loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_skipped_step_leaves_no_trace(value):
    """Steps 1 and 4 of 6 are bad: weights and BatchNorm's statistics are as after the other four steps."""
    learner = build(norm=True, loss=spoilt({1, 4}, value), skip_non_finite=True, ema=0.6)
    mean, skipped = epoch(learner)
    good = build(norm=True, ema=0.6)
    losses, seen = [], 0
    for number, (images, targets) in enumerate(loaded(EpochBatches(np.arange(N), 4, 3))):
        if number not in (1, 4):
            good.learn(images, targets, len(images))
            losses.append(good.step() * len(images))
            seen += len(images)
    assert skipped == 2
    assert mean == pytest.approx(float(sum(losses)) / seen, rel=1e-6)
    for name, value_there in good.network.state_dict().items():
        assert torch.equal(learner.network.state_dict()[name], value_there), name
    assert torch.equal(weights(learner.predicting), weights(good.predicting))


def test_a_bad_loss_stops_the_run_unless_it_is_skipped_and_an_epoch_without_a_good_loss_stops_it():
    with pytest.raises(UserError, match="the loss is nan; try a lower learning rate, --grad_clip 1, --on_nan skip"):
        epoch(build(loss=spoilt({2}, float("nan"))))
    with pytest.raises(UserError, match="no step had a finite loss"):
        epoch(build(loss=spoilt(set(range(1000)), float("nan")), skip_non_finite=True))


def test_a_restored_state_continues_in_float16_with_its_loss_scale():
    """The scale grows every 4 steps here and falls after a step that overflows, so it affects the result."""
    whole, half = (build(dtype=torch.float16, optimizer="adam_1e-3", norm=True, ema=0.6, warmup=9) for _ in range(2))
    for number in range(4):
        epoch(whole, number=number)
    for number in range(2):
        epoch(half, number=number)
    state = copy.deepcopy(state_of(half))
    resumed = build(dtype=torch.float16, optimizer="adam_1e-3", norm=True, ema=0.6, warmup=9)
    restore(resumed, state)
    for number in range(2, 4):
        epoch(resumed, number=number)
    assert resumed.scaler.get_scale() == whole.scaler.get_scale() != build(dtype=torch.float16).scaler.get_scale()
    assert torch.equal(weights(resumed.network), weights(whole.network))
    assert torch.equal(weights(resumed.predicting), weights(whole.predicting))


def test_a_later_loss_takes_over_at_its_step():
    """Six steps with a loss of zero leave the weights as they are; the loss that follows changes them."""

    def nothing(output, _target):
        return 0 * output.flatten(1).sum(1)

    learner = build(loss=nothing, later_losses=[(6, LOSSES["BCE"])])
    before = weights(learner.network)
    epoch(learner)  # 21 images in batches of 4: 6 steps
    assert torch.equal(weights(learner.network), before)
    epoch(learner, number=1)
    assert not torch.equal(weights(learner.network), before)


@pytest.mark.parametrize(
    ("float32", "bfloat16", "chosen"), [(40, 90, "bfloat16"), (90, 30, "float32"), (40, 38, "bfloat16")]
)
def test_bfloat16_is_used_where_it_is_not_clearly_slower(monkeypatch, float32, bfloat16, chosen):
    monkeypatch.setattr("net.device._speeds", lambda: (float32, bfloat16))
    for native in (True, False):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda native=native: native)
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
        found = machine(MachineSettings(device="cpu"))
        assert found.dtype == (getattr(torch, chosen) if native else torch.float32)
    assert machine(MachineSettings(device="cpu", precision="float32")).dtype == torch.float32


def test_timing_convolutions_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    assert min(_speeds.__wrapped__()) > 0
    assert torch.equal(torch.random.get_rng_state(), before)
