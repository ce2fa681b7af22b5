"""Take training steps: the gradients of a batch, summed over microbatches and processes, then one update."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from net.dataset import normalised
from net.device import Machine
from net.distributed import Processes
from net.losses import Loss
from net.optimizers import optimizer_by_name
from net.outputs import to_float32
from net.schedulers import Schedule, scheduler_by_name
from net.weight_averaging import Average, share_buffers
from utils.core.training_settings import TrainSettings


@dataclass
class Learner:
    """Everything that a training step changes, and how far it may go."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    """Does nothing but in float16."""
    loss: Loss
    machine: Machine
    processes: Processes = field(default_factory=Processes)
    average: Average | None = None
    """A mean of weights that predicts instead of the network."""
    grad_clip: float | None = None
    """The longest gradient (Euclidean norm over all weights); longer ones are scaled down."""
    skip_bad: bool = False
    """Leave out a step whose loss or gradient is not finite."""
    _loss: Tensor | None = None
    _statistics: list[Tensor] = field(default_factory=list)

    @property
    def predicting(self) -> nn.Module:
        """The network that is validated and kept: the mean of weights, where there is one."""
        return (self.average and self.average.network) or self.network

    def learn(self, images: Tensor, targets: Tensor, batch_size: int) -> None:
        """Add the gradient of a microbatch of a batch of `batch_size` images.

        Args:
            images: (B, C, S, S) uint8, [0, 255].
            targets: (B, K, S, S) uint8, 0 or 1; (B, K) for classes of images.
            batch_size: images in the whole batch, over all its microbatches and all processes.
        """
        device = self.machine.device
        images, targets = images.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        if self.skip_bad and self._loss is None:
            self._statistics = [buffer.clone() for buffer in self.network.buffers()]
        with self.machine.autocast():
            output = self.network(normalised(images))
        loss = self.loss(to_float32(output), targets.float()).sum() / batch_size
        self.scaler.scale(loss).backward()
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def step(self) -> Tensor | None:
        """Update the weights with the gradients since the last step.

        Returns:
            the mean loss of the batch, a scalar; None if the step was skipped.
        """
        loss, self._loss = self._loss, None
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        self.processes.sum_over([loss, *gradients])
        self.scaler.unscale_(self.optimizer)
        skipped = self.skip_bad and not self._is_finite(loss, gradients)
        if skipped:  # what the images did to BatchNorm is taken back too
            for buffer, before in zip(self.network.buffers(), self._statistics, strict=True):
                buffer.copy_(before)
        else:
            if self.grad_clip is not None:
                clip_grad_norm_(self.network.parameters(), self.grad_clip)
            with self.schedule.warm():
                self.scaler.step(self.optimizer)
            if self.average:
                self.average.after_step(self.network)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.after_step()
        return None if skipped else loss

    def _is_finite(self, loss: Tensor, gradients: list[Tensor]) -> bool:
        """In float16 long gradients are the scaler's affair: it skips them by itself and takes a smaller scale."""
        finite = torch.isfinite(loss)
        if not self.scaler.is_enabled():
            finite &= torch.isfinite(get_total_norm(gradients))
        return bool(finite)

    def share(self) -> None:
        """Make BatchNorm's statistics the same in all processes."""
        if self.processes.size > 1:
            share_buffers(self.network, self.processes)
            if self.average and self.average.network:
                share_buffers(self.average.network, self.processes)


def state_of(learner: Learner) -> dict[str, Any]:
    """What must survive a kill, as tensors and plain values."""
    return {
        "network": learner.network.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "schedule": learner.schedule.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "average": learner.average.model.state_dict() if learner.average else {},
    }


def restore(learner: Learner, state: dict[str, Any]) -> None:
    """Put a state written by `state_of` back."""
    learner.network.load_state_dict(state["network"])
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.schedule.load_state_dict(state["schedule"])
    learner.scaler.load_state_dict(state["scaler"])
    if learner.average:
        learner.average.model.load_state_dict(state["average"])


def new_learner(
    settings: TrainSettings,
    network: nn.Module,
    loss: Loss,
    machine: Machine,
    processes: Processes,
    epochs: int,
    steps: int,
) -> Learner:
    """Make optimizer, schedule and mean of weights as at the start of a cycle of `epochs` with `steps` each."""
    step = settings.step
    optimizer = optimizer_by_name(settings.learn.optimizer)(network.parameters())
    schedule = scheduler_by_name(settings.learn.scheduler)(optimizer, epochs, steps)
    schedule.warmup = step.warmup
    averaged = step.ema is not None or step.swa is not None
    return Learner(
        network=network,
        optimizer=optimizer,
        schedule=schedule,
        scaler=torch.amp.GradScaler(machine.device.type, enabled=machine.dtype == torch.float16),
        loss=loss,
        machine=machine,
        processes=processes,
        average=Average(network, step.ema, step.swa) if averaged else None,
        grad_clip=step.grad_clip,
        skip_bad=step.on_nan == "skip",
    )
