"""Optimizers by name and learning rate, `<name>_<rate>`: adam_1e-4, adamw_3e-4, sgd_0.01, muon_0.02."""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

from net.muon import ADAMW_SHARE, MuonAndAdamW
from utils.core.errors import UsageError
from utils.core.names import pick

# fused: one kernel per step, on CPUs as well as on GPUs
OPTIMIZERS: dict[str, Callable[[Iterable[Parameter], float], Optimizer]] = {
    "adam": lambda parameters, rate: torch.optim.Adam(parameters, lr=rate, fused=True),
    "adamw": lambda parameters, rate: torch.optim.AdamW(parameters, lr=rate, fused=True),
    "muon": MuonAndAdamW,
    "sgd": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate, momentum=0.9, fused=True),
}


def optimizer_by_name(name: str) -> Callable[[Iterable[Parameter]], Optimizer]:
    """Return the function that builds the named optimizer from the parameters of a network.

    Raises:
        UsageError: the optimizer is unknown, or the learning rate is not a positive number.
    """
    kind, _, rate_text = name.partition("_")
    build = pick(OPTIMIZERS, kind, "--optimizer")
    try:
        rate = float(rate_text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise UsageError(
            f"--optimizer {name}: expected {kind}_<rate> with a positive learning rate, such as {kind}_1e-4"
        )
    return lambda parameters: build(parameters, rate)


def optimizer_for(network: nn.Module, name: str, encoder_rate: float = 1.0) -> Optimizer:
    """Return the named optimizer for a network; the learning rate of its encoder is the share `encoder_rate` of it.

    With Muon and a share below 1, the encoder is trained by AdamW, at this share of AdamW's rate: pretrained filters
    should change little, and every update of Muon is a large one.

    Raises:
        UsageError: as in `optimizer_by_name`; the network has no encoder.
    """
    build = optimizer_by_name(name)
    if encoder_rate == 1:
        return build(network.parameters())
    encoder = [weight for key, weight in network.named_parameters() if key.startswith("encoder.")]
    others = [weight for key, weight in network.named_parameters() if not key.startswith("encoder.")]
    if not encoder:
        raise UsageError(f"--encoder_rate {encoder_rate:g}: this network has no encoder; leave the flag out")
    if name.startswith("muon"):
        rate = float(name.partition("_")[2])
        return MuonAndAdamW(others, rate, encoder, ADAMW_SHARE * rate * encoder_rate)
    optimizer = build([{"params": others}, {"params": encoder}])
    optimizer.param_groups[1]["lr"] *= encoder_rate
    return optimizer
