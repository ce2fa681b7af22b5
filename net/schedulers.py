"""Schedules of the learning rate by name: none, linear, rex, cosine, onecycle, plateau,
step_<epochs>_<gamma in tenths>.

A schedule covers one cycle and ends with it.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from utils.core.errors import UsageError
from utils.core.names import pick


@dataclass
class Schedule:
    """A torch scheduler, the event that steps it, and a linear warm-up of the learning rate."""

    scheduler: Any
    moves: str
    """Event that steps the scheduler: step, epoch, or metric (every epoch, with the validation loss)."""
    warmup: int = 0
    """Number of warm-up steps; the first step has 1/warmup of the full learning rate."""
    steps: int = 0
    """Number of steps taken."""

    @property
    def optimizer(self) -> Optimizer:
        return self.scheduler.optimizer

    @property
    def factor(self) -> float:
        """Factor that the warm-up applies to the learning rate of the next step, (0, 1]."""
        return min(1.0, (self.steps + 1) / self.warmup) if self.warmup else 1.0

    @property
    def rate(self) -> float:
        """Learning rate of the next step, including the warm-up."""
        return self.optimizer.param_groups[0]["lr"] * self.factor

    @contextmanager
    def warm(self) -> Iterator[None]:
        """Apply the warm-up to the optimizer's learning rates within the block, which takes a step.

        The full learning rates are restored afterwards, because torch's scheduler computes the next ones from them.
        """
        full = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] *= self.factor
        yield
        for group, rate in zip(self.optimizer.param_groups, full, strict=True):
            group["lr"] = rate

    def after_step(self) -> None:
        self.steps += 1
        if self.moves == "step":
            self.scheduler.step()

    def after_epoch(self, val_loss: float) -> None:
        if self.moves == "epoch":
            self.scheduler.step()
        elif self.moves == "metric":
            self.scheduler.step(val_loss)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self.scheduler.load_state_dict(state["scheduler"])


Build = Callable[[Optimizer, int, int], Schedule]
"""Function (optimizer, epochs in the cycle, steps per epoch) -> Schedule."""


def _none(optimizer: Optimizer, _epochs: int, _steps: int) -> Schedule:
    return Schedule(lr_scheduler.ConstantLR(optimizer, factor=1.0), "epoch")


def _cosine(optimizer: Optimizer, epochs: int, steps: int) -> Schedule:
    """Fall to zero, because a fixed minimum could be greater than the first learning rate."""
    return Schedule(lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * steps), "step")


def _linear(optimizer: Optimizer, epochs: int, steps: int) -> Schedule:
    """Fall linearly to zero, which suits short trainings best (Li et al. 2019, arXiv 1905.04753)."""
    return _falling(optimizer, epochs * steps, lambda left: left)


def _rex(optimizer: Optimizer, epochs: int, steps: int) -> Schedule:
    """Fall slowly at first and fast at the end (Chen et al. 2021, arXiv 2107.04197)."""
    return _falling(optimizer, epochs * steps, lambda left: left / (0.5 + 0.5 * left))


def _falling(optimizer: Optimizer, steps: int, factor: Callable[[float], float]) -> Schedule:
    """Multiply the learning rate by a factor of the share of steps that are left, 1 to 0."""
    return Schedule(lr_scheduler.LambdaLR(optimizer, lambda step: factor(max(0.0, 1 - step / steps))), "step")


def _onecycle(optimizer: Optimizer, epochs: int, steps: int) -> Schedule:
    """Rise to the given learning rate in the first 30 % of the cycle, then fall (Smith 2018, arXiv 1803.09820)."""
    rate, steps_in_all = [group["lr"] for group in optimizer.param_groups], epochs * steps + 1
    # one step more than is taken: torch counts the first learning rate as a step, and fails beyond total_steps
    # the momentum stays as it is: Muon has none to change, and a CUDA graph would replay the first one
    cycle = lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps_in_all, cycle_momentum=False)
    return Schedule(cycle, "step")


def _plateau(optimizer: Optimizer, _epochs: int, _steps: int) -> Schedule:
    """Halve the learning rate after more than 5 epochs without a better validation loss."""
    return Schedule(lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=5), "metric")


SCHEDULERS: dict[str, Build] = {
    "none": _none,
    "linear": _linear,
    "rex": _rex,
    "cosine": _cosine,
    "onecycle": _onecycle,
    "plateau": _plateau,
}
# These depend on the number of epochs, which must not change on a resume.
PLANNED = {"linear", "rex", "cosine", "onecycle"}
# The leading zero is required, because 015 could mean 0.15 or 1.5, and 1 could mean 0.1 or 1 (which would never lower
# the learning rate).
STEP = re.compile(r"step_(0*[1-9][0-9]*)_0([1-9])")


def scheduler_by_name(name: str) -> Build:
    """Return the function that builds the named schedule.

    Raises:
        UsageError: the name is unknown, or the numbers of a step_ name do not have the documented form.
    """
    if not name.startswith("step"):
        return pick({**SCHEDULERS, "step_<epochs>_<tenths>": _none}, name, "--scheduler")
    numbers = STEP.fullmatch(name)
    if numbers is None:
        raise UsageError(
            f"--scheduler {name}: expected step_<epochs>_<gamma in tenths>, with a gamma of 01 (0.1) to 09 (0.9); "
            "step_30_01 multiplies the learning rate by 0.1 every 30 epochs"
        )
    every, gamma = int(numbers[1]), int(numbers[2]) / 10
    return lambda optimizer, _epochs, _steps: Schedule(lr_scheduler.StepLR(optimizer, every, gamma), "epoch")
