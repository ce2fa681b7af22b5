"""Schedules of the learning rate by name: none, step_<epochs>_<gamma in tenths>, cosine, onecycle, plateau.

A schedule is planned over one cycle: it ends when the cycle ends.
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
    """A scheduler of torch, when it moves, and a linear warm-up before its rates are the full ones."""

    scheduler: Any
    moves: str
    """step, epoch or metric: after every step, after every epoch, or with the validation loss."""
    warmup: int = 0
    """Steps until the rate is the full one; the first step has 1/warmup of it."""
    steps: int = 0
    """Steps taken."""

    @property
    def optimizer(self) -> Optimizer:
        return self.scheduler.optimizer

    @property
    def factor(self) -> float:
        """What the warm-up leaves of the rate of the next step."""
        return min(1.0, (self.steps + 1) / self.warmup) if self.warmup else 1.0

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.param_groups[0]["lr"] * self.factor

    @contextmanager
    def warm(self) -> Iterator[None]:
        """Around a step of the optimizer; torch's scheduler goes on from its own rates, so they are put back."""
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
"""(optimizer, epochs in the cycle, steps an epoch) -> Schedule."""


def _none(optimizer: Optimizer, _epochs: int, _steps: int) -> Schedule:
    return Schedule(lr_scheduler.ConstantLR(optimizer, factor=1.0), "epoch")


def _cosine(optimizer: Optimizer, epochs: int, steps: int) -> Schedule:
    """Down to zero, whatever the first rate is (a fixed floor may lie above it)."""
    return Schedule(lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * steps), "step")


def _onecycle(optimizer: Optimizer, epochs: int, steps: int) -> Schedule:
    """Up to the given rate in the first 30 % of the cycle, then down (Smith 2018, arXiv 1803.09820)."""
    rate = optimizer.param_groups[0]["lr"]
    # one step more than are taken: torch counts the first rate as a step, and asks no further than total_steps
    return Schedule(lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=epochs * steps + 1), "step")


def _plateau(optimizer: Optimizer, _epochs: int, _steps: int) -> Schedule:
    """Halved after 5 epochs without a better validation loss."""
    return Schedule(lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=5), "metric")


SCHEDULERS: dict[str, Build] = {"none": _none, "cosine": _cosine, "onecycle": _onecycle, "plateau": _plateau}
PLANNED = {"cosine", "onecycle"}  # these change when the number of epochs does
# The zero is part of the form: 015 could mean 0.15 or 1.5, and 1 could mean 0.1 or 1, which would never lower the rate.
STEP = re.compile(r"step_(0*[1-9][0-9]*)_0([1-9])")


def scheduler_by_name(name: str) -> Build:
    """Return the function that builds a schedule.

    Raises:
        UsageError: an unknown name, or a step_ whose numbers are not of the documented form.
    """
    if not name.startswith("step"):
        return pick({**SCHEDULERS, "step_<epochs>_<tenths>": _none}, name, "--scheduler")
    numbers = STEP.fullmatch(name)
    if numbers is None:
        raise UsageError(
            f"--scheduler {name}: expected step_<epochs>_<gamma in tenths>, with a gamma of 01 (0.1) to 09 (0.9); "
            "step_30_01 multiplies the rate by 0.1 every 30 epochs"
        )
    every, gamma = int(numbers[1]), int(numbers[2]) / 10
    return lambda optimizer, _epochs, _steps: Schedule(lr_scheduler.StepLR(optimizer, every, gamma), "epoch")
