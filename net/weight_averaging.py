"""Means of weights that predict in the place of the network itself: over steps (EMA) or over epochs (SWA)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn, update_bn

from net.distributed import Processes


class Average:
    """A mean of a network's weights; it shares no memory with the network.

    Args:
        network: whose weights are averaged.
        decay: of an exponential mean over steps, statistics of BatchNorm included; it begins small
            (at most (1 + n) / (10 + n) after n steps), so that the random first weights are soon forgotten.
        from_epoch: the first epoch of an equal mean over the ends of epochs (Izmailov et al. 2018, arXiv 1803.05407),
            counted from 1 in each cycle; then BatchNorm's statistics are measured anew for the mean.
    """

    def __init__(self, network: nn.Module, decay: float | None = None, from_epoch: int | None = None) -> None:
        self.by_step, self.from_epoch = decay is not None, from_epoch
        self.decay = decay
        mean = get_swa_multi_avg_fn() if decay is None else self._exponential
        self.model = AveragedModel(network, multi_avg_fn=mean, use_buffers=self.by_step)

    @property
    def network(self) -> nn.Module | None:
        """What predicts; None before anything was averaged."""
        return self.model.module if int(self.model.n_averaged) else None

    def after_step(self, network: nn.Module) -> None:
        if self.by_step:
            self.model.update_parameters(network)

    def after_epoch(self, network: nn.Module, epoch: int) -> bool:
        """Take in an epoch, counted from 1 in its cycle; whether statistics have to be measured anew."""
        begun = self.from_epoch is not None and epoch >= self.from_epoch
        if begun:
            self.model.update_parameters(network)
        return begun

    @torch.no_grad()
    def measure_statistics(self, images: Iterable[Tensor], processes: Processes) -> None:
        """BatchNorm's mean and variance for the averaged weights: the equal mean over batches (B, C, S, S) float32."""
        update_bn(images, self.model.module)
        share_buffers(self.model.module, processes)

    @torch.no_grad()
    def _exponential(self, means: list[Tensor], values: list[Tensor], _number: Tensor) -> None:
        done = int(self.model.n_averaged)  # `_number` is the same on the device: to read it there is to wait for it
        if means[0].is_floating_point():
            torch._foreach_lerp_(means, values, 1 - min(self.decay, (1 + done) / (10 + done)))
        else:  # counts of batches
            torch._foreach_copy_(means, values)


def share_buffers(network: nn.Module, processes: Processes) -> None:
    """Give every process the mean of all processes' statistics, so that they go on with the same network."""
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    processes.sum_over(buffers)
    for buffer in buffers:
        buffer /= processes.size
