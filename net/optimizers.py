"""Optimizers by name and learning rate, `<name>_<rate>`: adam_1e-4, adamw_3e-4, sgd_0.01, muon_0.02."""

from collections.abc import Callable, Iterable

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from net.muon import MuonAndAdamW
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
