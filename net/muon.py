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
            inner["lr"] = outer["lr"]
        self._adamw.step()
        return loss

    def _step_filters(self, filters: list[Parameter], rate: float) -> None:
        by_shape: dict[tuple[int, int], list[Parameter]] = {}
        for weight in filters:
            by_shape.setdefault((len(weight), weight[0].numel()), []).append(weight)
        for (rows, columns), same in by_shape.items():  # one batched product for all filters of a shape
            momenta = [self.state[weight].setdefault("momentum", torch.zeros_like(weight)) for weight in same]
            gradients = [weight.grad for weight in same]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov
            updates = orthogonalised(torch.stack([one.reshape(rows, columns) for one in ahead]))
            torch._foreach_mul_(same, 1 - rate * WEIGHT_DECAY)
            shaped = [update.view(weight.shape) for update, weight in zip(updates, same, strict=True)]
            torch._foreach_add_(same, shaped, alpha=-rate * max(1.0, rows / columns) ** 0.5)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "adamw"})
        self._adamw.load_state_dict(state_dict["adamw"])


def orthogonalised(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices (B, m, n) close to 1, by Newton-Schulz steps, and keep their directions.

    All steps multiply by polynomials of the Gram matrix x x^T, so they are carried out on small (m, m) matrices in
    float32, and the large one is multiplied once at the end: a third of the operations.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).float()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    gram, product = x @ x.mT, None
    for number in range(NEWTON_SCHULZ_STEPS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if number < NEWTON_SCHULZ_STEPS - 1:
            gram = factor @ gram @ factor
    x = product @ x
    return x.mT if tall else x
