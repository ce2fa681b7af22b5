"""Average weights over steps (EMA) or over epochs (SWA); the averaged network is validated, stored and predicts."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn, update_bn

from net.distributed import Processes
from utils.core.errors import UsageError


class Average:
    """Average of a network's weights; it shares no memory with the network.

    Args:
        network: the network whose weights are averaged.
        decay: for an exponential moving average over steps, BatchNorm's statistics included. After n steps it is at
            most (1 + n) / (10 + n), so that the random initial weights are soon forgotten.
        from_epoch: for an equal average of the weights after each epoch (Izmailov et al. 2018, arXiv 1803.05407): the
            first epoch that counts, from 1 in each cycle. BatchNorm's statistics are then measured for the average.
    """

    def __init__(self, network: nn.Module, decay: float | None = None, from_epoch: int | None = None) -> None:
        self.by_step, self.from_epoch = decay is not None, from_epoch
        self.decay = decay
        mean = get_swa_multi_avg_fn() if decay is None else self._exponential
        self.model = AveragedModel(network, multi_avg_fn=mean, use_buffers=self.by_step)

    @property
    def network(self) -> nn.Module | None:
        """The network with averaged weights; None before anything was averaged."""
        return self.model.module if int(self.model.n_averaged) else None

    def after_step(self, network: nn.Module) -> None:
        if self.by_step:
            self.model.update_parameters(network)

    def after_epoch(self, network: nn.Module, epoch: int) -> bool:
        """Add the weights after an epoch (from 1 in each cycle); return True if BatchNorm's statistics are outdated."""
        counts = self.from_epoch is not None and epoch >= self.from_epoch
        if counts:
            self.model.update_parameters(network)
        return counts

    @torch.no_grad()
    def measure_statistics(self, images: Iterable[Tensor], processes: Processes) -> None:
        """Measure BatchNorm's mean and variance for the averaged weights, on batches (B, C, S, S) float32."""
        update_bn(images, self.model.module)
        share_buffers(self.model.module, processes)

    @torch.no_grad()
    def _exponential(self, means: list[Tensor], values: list[Tensor], _number: Tensor) -> None:
        # `_number` is this value on the device; reading it there would wait for the device
        done = int(self.model.n_averaged)
        if means[0].is_floating_point():
            torch._foreach_lerp_(means, values, 1 - min(self.decay, (1 + done) / (10 + done)))
        else:  # counts of batches
            torch._foreach_copy_(means, values)


def share_buffers(network: nn.Module, processes: Processes) -> None:
    """Give every process the mean of all processes' BatchNorm statistics, so that they continue with equal networks."""
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    processes.sum_over(buffers)
    for buffer in buffers:
        buffer /= processes.size


def check_average(name: str | None, epochs: int) -> tuple[float | None, int | None]:
    """Return (decay, None) for ema_<decay>, (None, epoch) for swa_<epoch>, and (None, None) for None.

    Args:
        name: the value of --average.
        epochs: epochs in a cycle.

    Raises:
        UsageError: neither of these, a decay that is not between 0 and 1, or an epoch that the cycle does not have.
    """
    if name is None:
        return None, None
    kind, _, text = name.partition("_")
    try:
        value = {"ema": float, "swa": int}[kind](text)
    except (KeyError, ValueError):
        raise UsageError(
            f"--average {name}: expected ema_<decay> such as ema_.999, or swa_<epoch> such as swa_10"
        ) from None
    if kind == "ema":
        if not 0 < value < 1:
            raise UsageError(f"--average {name}: expected a decay between 0 and 1, such as ema_.999")
        return value, None
    if not 1 <= value <= epochs:
        raise UsageError(f"--average {name}: expected an epoch of the cycle, 1 to {epochs}")
    return None, value
