"""Compare the Lovász hinge of net/losses.py with the one of segmentation-models-pytorch: value, gradient and speed.

python bench/lovasz.py

Measures forward and backward passes, by default for a batch of 32 images of 101x101. The losses take turns, and the
median time of each is printed.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from utils.core.cli import run
from utils.core.errors import UserError


@dataclass(frozen=True)
class Settings:
    batch_size: int = 32
    """images in the batch."""
    size: int = 101
    """height and width of the images in pixels."""
    repeats: int = 50
    """number of measurements of each loss."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Time all losses, check that ours equals smp's, and print the table."""
    import torch
    from segmentation_models_pytorch.losses import LovaszLoss

    from net.losses import LOSSES

    torch.manual_seed(0)
    shape = (settings.batch_size, 1, settings.size, settings.size)
    target = (torch.rand(shape) > 0.7).float()
    target[::3] = 0  # a third of the masks are empty, as in the salt data
    smp_loss = LovaszLoss("binary", per_image=True)
    losses: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "smp, per image": lambda logits: smp_loss(logits, target),
        **{
            name: lambda logits, name=name: LOSSES[name](logits, target).mean()
            for name in ("lovasz", "lovasz_elu", "symmetric_lovasz", "symmetric_lovasz_elu")
        },
    }
    results, seconds = {}, {name: [] for name in losses}
    for _ in range(settings.repeats):
        for name, loss in losses.items():
            logits = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
            started = time.perf_counter()
            value = loss(logits)
            value.backward()
            seconds[name].append(time.perf_counter() - started)
            results[name] = (value.detach(), logits.grad)
    for ours, expected in zip(results["lovasz"], results["smp, per image"], strict=True):
        if not torch.allclose(ours, expected, rtol=1e-4, atol=1e-7):
            difference = (ours - expected).abs().max()
            raise UserError(f"lovasz: expected smp's value and gradient, found a difference of {difference}")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        ratio = medians["smp, per image"] / medians[name]
        spread = f"{1000 * min(values):.2f}..{1000 * max(values):.2f}"
        print(f"{name:<22} {1000 * medians[name]:7.2f} ms ({spread})  {ratio:.2f} times as fast as smp's")


if __name__ == "__main__":
    run(main, Settings)
