"""Muon, and the schedule of its and AdamW's rates.

Muon: momentum whose matrices are made orthogonal; everything that is no matrix goes to AdamW.
Source: Keller Jordan's Muon (2024). Convolutions count as matrices (outputs by all the rest).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """For weights of at least two dimensions.

    Args:
        parameters: Matrices and convolutions.
        lr: How far one step goes, as a spectral norm.
        momentum: Of the gradient's average.
        weight_decay: Decoupled.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every matrix that has a gradient."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["average"] = torch.zeros_like(parameter)
                average = state["average"]
                average.lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(average, group["momentum"])
                update = orthogonal(ahead.flatten(1)).view_as(parameter)
                rows, columns = parameter.shape[0], parameter[0].numel()
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrix_RC: Tensor, steps: int = 5) -> Tensor:
    """About the nearest matrix whose singular values are one, by a quintic Newton-Schulz."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix_RC.shape[0] > matrix_RC.shape[1]
    x = matrix_RC.T if tall else matrix_RC
    x = (x / (x.norm() + 1e-7)).bfloat16()
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix_RC.dtype)


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon takes a parameter: no embeddings, no depthwise convolutions, no vectors."""
    if parameter.ndim < 2 or "embed_tokens" in name or "lm_head" in name:
        return False
    return parameter[0].numel() >= 16


def rate_share(step: int, steps: int, warmup: int, decay: float) -> float:
    """Share of the peak rate: up, level, then down in a straight line over the last ``decay``."""
    if step < warmup:
        return (step + 1) / warmup
    left = (steps - step) / max(1.0, decay * steps)
    return max(0.02, min(1.0, left))
