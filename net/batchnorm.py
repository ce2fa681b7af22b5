"""BatchNorm with statistics over the shares of all processes, on CPUs as well as on GPUs."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from net.distributed import together
from utils.core.errors import UsageError


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that computes its training statistics over all processes.

    torch's SyncBatchNorm does the same but runs on GPUs with NCCL only. Weights and statistics have the names that they
    have in BatchNorm2d, so snapshots of both are interchangeable.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images (B, C, h, w), keeping shape and dtype."""
        if not self.training:
            return super().forward(images)
        values = images.to(torch.promote_types(images.dtype, torch.float32))
        count = values.new_full((1,), values.numel() / values.shape[1])
        sums = _Sum.apply(torch.cat([values.sum((0, 2, 3)), count]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean[:, None, None]  # mean(x^2) - mean(x)^2 would round a small variance away
        variance = _Sum.apply((centred**2).sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, rate)
            self.running_var.lerp_(variance * count / (count - 1), rate)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(images.dtype)


class _Sum(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of the gradients over processes."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        if dist.is_initialized():
            with together():
                dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(None, gradient.contiguous())


def share_statistics(network: nn.Module, own_gpus: bool) -> nn.Module:
    """Return the network with every BatchNorm2d synchronised over the processes.

    With `own_gpus`, where NCCL connects one GPU per process, torch's own version is used, which is faster.

    Raises:
        UsageError: the network has another kind of BatchNorm, which has no synchronised version.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and type(module) is not nn.BatchNorm2d:
            raise UsageError(
                f"--sync_batchnorm: expected BatchNorm2d, but {name} is a {type(module).__name__}; leave the flag out"
            )
    return nn.SyncBatchNorm.convert_sync_batchnorm(network) if own_gpus else _converted(network)


def _converted(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.BatchNorm2d):
        shared = SharedBatchNorm2d(module.num_features, module.eps, module.momentum)
        shared.load_state_dict(module.state_dict())
        return shared
    for name, child in module.named_children():
        module.add_module(name, _converted(child))
    return module
