"""Take training steps: sum the gradients of a batch over microbatches and processes, then update the weights once."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from net.cuda_graphs import Graphs
from net.dataset import normalised
from net.device import Machine
from net.distributed import Processes
from net.losses import Loss, Phase
from net.optimizers import optimizer_for
from net.outputs import to_float32
from net.schedulers import Schedule, scheduler_by_name
from net.weight_averaging import Average, check_average, share_buffers
from utils.core.training_settings import TrainSettings


@dataclass
class Learner:
    """Network, optimizer and everything else that a training step changes, with the options of the step."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    """Scaler of the loss; active in float16 only."""
    loss: Loss
    machine: Machine
    processes: Processes = field(default_factory=Processes)
    later_losses: list[tuple[int, Loss]] = field(default_factory=list)
    """(step, loss) in ascending order: losses that replace `loss` from these steps of the cycle on."""
    average: Average | None = None
    """Mean of weights that predicts instead of the network."""
    grad_clip: float | None = None
    """Maximum Euclidean norm of the gradient over all weights; a longer gradient is scaled down to it."""
    skip_non_finite: bool = False
    """Skip a step if its loss or gradient is not finite."""
    graphs: Graphs | None = None
    """Replays gradients and updates on a GPU."""
    _loss: Tensor | None = None
    _statistics: list[Tensor] = field(default_factory=list)

    @property
    def predicting(self) -> nn.Module:
        """Network that is validated and saved: the mean of weights if it exists, else the network itself."""
        return (self.average and self.average.network) or self.network

    @property
    def current_loss(self) -> Loss:
        """Loss of the next step."""
        return next((loss for step, loss in reversed(self.later_losses) if self.schedule.steps >= step), self.loss)

    def learn(self, images: Tensor, targets: Tensor, batch_size: int) -> None:
        """Add the gradient of a microbatch to that of its batch.

        Args:
            images: (B, C, S, S) uint8 or float32, [0, 255].
            targets: (B, K, S, S) uint8, 0 or 1; (B, K) for image classes.
            batch_size: images in the batch, over all its microbatches and all processes.
        """
        device = self.machine.device
        images, targets = images.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        if self.skip_non_finite and self._loss is None:
            self._statistics = [buffer.clone() for buffer in self.network.buffers()]
        current_loss = self.current_loss

        def add_gradient(images: Tensor, targets: Tensor) -> Tensor:
            with self.machine.autocast():
                output = self.network(normalised(images))
            loss = current_loss(to_float32(output), targets.float()).sum() / batch_size
            self.scaler.scale(loss).backward()
            return loss.detach()

        key = (current_loss, batch_size, images.dtype, images.shape, targets.dtype, targets.shape)
        loss = self.graphs.run(key, add_gradient, images, targets) if self.graphs else add_gradient(images, targets)
        self._loss = loss if self._loss is None else self._loss + loss

    def step(self) -> Tensor | None:
        """Update the weights with the gradients since the last step.

        Returns:
            the mean loss of the batch, a scalar; None if the step was skipped.
        """
        loss, self._loss = self._loss, None
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        self.processes.sum_over([loss, *gradients])
        self.scaler.unscale_(self.optimizer)
        skipped = self.skip_non_finite and not self._is_finite(loss, gradients)
        if skipped:  # undo the update of BatchNorm's statistics as well
            for buffer, before in zip(self.network.buffers(), self._statistics, strict=True):
                buffer.copy_(before)
        else:
            if self.grad_clip is not None:
                clip_grad_norm_(self.network.parameters(), self.grad_clip)
            with self.schedule.warm():
                self._update()
            if self.average:
                self.average.after_step(self.network)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=self.graphs is None)  # a graph writes to the same gradients every time
        self.schedule.after_step()
        return None if skipped else loss

    def _update(self) -> None:
        """Let the optimizer update the weights; a graph reads the learning rates from tensors."""
        if not self.graphs:
            self.scaler.step(self.optimizer)
            return
        groups = self.optimizer.param_groups

        def update(*rates: Tensor) -> None:
            for group, rate in zip(groups, rates, strict=True):
                group.update(lr=rate, capturable=True)  # torch's optimizers ask for it while they are recorded
            self.optimizer.step()
            for group in groups:
                group["capturable"] = False

        rates = [torch.full((), group["lr"], device=self.machine.device) for group in groups]
        self.graphs.run("update", update, *rates)

    def _is_finite(self, loss: Tensor, gradients: list[Tensor]) -> bool:
        """Return True if loss and gradient are finite.

        In float16 the gradient is not checked: the scaler itself skips infinite gradients and lowers its scale.
        """
        finite = torch.isfinite(loss)
        if not self.scaler.is_enabled():
            finite &= torch.isfinite(get_total_norm(gradients))
        return bool(finite)

    def share(self) -> None:
        """Give every process the mean of all processes' BatchNorm statistics."""
        if self.processes.size > 1:
            share_buffers(self.network, self.processes)
            if self.average and self.average.network:
                share_buffers(self.average.network, self.processes)


def state_of(learner: Learner) -> dict[str, Any]:
    """Return the state that has to survive a kill, as tensors and plain values."""
    return {
        "network": learner.network.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "schedule": learner.schedule.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "average": learner.average.model.state_dict() if learner.average else {},
    }


def restore(learner: Learner, state: dict[str, Any]) -> None:
    """Restore a state that `state_of` has returned."""
    learner.network.load_state_dict(state["network"])
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.schedule.load_state_dict(state["schedule"])
    learner.scaler.load_state_dict(state["scaler"])
    if learner.average:
        learner.average.model.load_state_dict(state["average"])


def new_learner(
    settings: TrainSettings,
    network: nn.Module,
    phases: list[Phase],
    machine: Machine,
    processes: Processes,
    epochs: int,
    steps: int,
) -> Learner:
    """Create optimizer, schedule and mean of weights for a new cycle of `epochs` epochs with `steps` steps each."""
    step = settings.step
    optimizer = optimizer_for(network, settings.learn.optimizer, step.encoder_rate)
    schedule = scheduler_by_name(settings.learn.scheduler)(optimizer, epochs, steps)
    schedule.warmup = step.warmup
    decay, from_epoch = check_average(step.average, epochs)
    return Learner(
        network=network,
        optimizer=optimizer,
        schedule=schedule,
        scaler=torch.amp.GradScaler(machine.device.type, enabled=machine.dtype == torch.float16),
        loss=phases[0].loss,
        later_losses=[(round(phase.start * epochs * steps), phase.loss) for phase in phases[1:]],
        machine=machine,
        processes=processes,
        average=Average(network, decay, from_epoch) if step.average else None,
        grad_clip=step.grad_clip,
        skip_non_finite=step.on_nan == "skip",
        graphs=machine.graphs() if processes.size == 1 else None,
    )
