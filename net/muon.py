"""Muon for the filters of a network and AdamW for its other weights, as one optimizer."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

MOMENTUM = 0.9
WEIGHT_DECAY = 0.05
ADAMW_SHARE = 0.1
"""Learning rate of AdamW as a share of Muon's."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial a x + b x^3 + c x^5 of a Newton-Schulz step (Jordan et al. 2024)."""
NEWTON_SCHULZ_STEPS = 5


class MuonAndAdamW(Optimizer):
    """Muon (Jordan et al. 2024) for filters and matrices, AdamW (betas .9 and .99) for norms and biases.

    A filter (out, in, h, w) is treated as a matrix (out, in * h * w). Its update is the orthogonalised Nesterov
    momentum of its gradient times sqrt(max(1, rows / columns)) and the learning rate.

    torch.optim.Muon does the same, but takes matrices only, and orthogonalises in bfloat16, which took 11 times as
    long on a processor without bfloat16 (bench/LEDGER.md).

    Args:
        parameters: of the network, without those of `pretrained`.
        rate: learning rate of Muon; that of AdamW is ADAMW_SHARE of it.
        pretrained: weights that only AdamW changes.
        pretrained_rate: their learning rate.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        rate: float,
        pretrained: Sequence[Parameter] = (),
        pretrained_rate: float = 0.0,
    ) -> None:
        parameters = list(parameters)
        filters = [weight for weight in parameters if weight.ndim >= 2]
        others = [weight for weight in parameters if weight.ndim < 2]
        groups = [{"params": filters, "lr": rate}, {"params": others, "lr": ADAMW_SHARE * rate}]
        groups += [{"params": list(pretrained), "lr": pretrained_rate}] if pretrained else []
        super().__init__(groups, {})
        by_adamw = [{"params": group["params"]} for group in groups[1:]]
        self._adamw = AdamW(by_adamw, betas=(0.9, 0.99), weight_decay=0.0, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the weights that have a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        muon, *by_adamw = self.param_groups
        self._step_filters([weight for weight in muon["params"] if weight.grad is not None], muon["lr"])
        for inner, outer in zip(self._adamw.param_groups, by_adamw, strict=True):
            inner["lr"], inner["capturable"] = outer["lr"], isinstance(outer["lr"], Tensor)
        self._adamw.step()
        for inner in self._adamw.param_groups:  # a stored state has no use for a tensor of a CUDA graph
            inner["lr"], inner["capturable"] = 0.0, False
        return loss

    def _step_filters(self, filters: list[Parameter], rate: float | Tensor) -> None:
        if not filters:
            return
        momenta = [self.state[weight].setdefault("momentum", torch.zeros_like(weight)) for weight in filters]
        gradients = [weight.grad for weight in filters]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov
        updates = orthogonalised([one.flatten(1) for one in ahead])
        shares = [-(max(1.0, len(one) / one.shape[1]) ** 0.5) for one in updates]
        torch._foreach_mul_(updates, shares)
        torch._foreach_mul_(updates, rate)
        torch._foreach_mul_(filters, 1 - rate * WEIGHT_DECAY)
        torch._foreach_add_(filters, [one.view(weight.shape) for one, weight in zip(updates, filters, strict=True)])

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "adamw"})
        self._adamw.load_state_dict(state_dict["adamw"])


def orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Bring the singular values of matrices (m, n) close to 1, by Newton-Schulz steps, and keep their directions.

    All steps multiply by polynomials of the Gram matrix x x^T, so they are carried out on small (m, m) matrices in
    float32, those of one size at once, and the large one is multiplied once at the end: a third of the operations.
    """
    wide = [(one.mT if one.shape[0] > one.shape[1] else one).float() for one in matrices]
    norms = torch._foreach_norm(wide)
    wide = torch._foreach_div(wide, torch._foreach_clamp_min(norms, 1e-7))
    by_size: dict[int, list[int]] = {}
    for place, one in enumerate(wide):
        by_size.setdefault(len(one), []).append(place)
    found = list(wide)
    for places in by_size.values():
        products = _newton_schulz(torch.stack([wide[place] @ wide[place].mT for place in places]))
        for place, product in zip(places, products, strict=True):
            one = product @ wide[place]
            found[place] = (one.mT if matrices[place].shape[0] > matrices[place].shape[1] else one).contiguous()
    return found


def _newton_schulz(gram: Tensor) -> Tensor:
    """Return the products (B, m, m) of all steps for Gram matrices (B, m, m)."""
    a, b, c = COEFFICIENTS
    product = None
    for number in range(NEWTON_SCHULZ_STEPS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if number < NEWTON_SCHULZ_STEPS - 1:
            gram = factor @ gram @ factor
    return product
