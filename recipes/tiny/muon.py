"""Muon for matrices, AdamW for everything else.

Muon: momentum whose matrices are made orthogonal. Source: Keller Jordan's Muon (2024). PyTorch's
own takes no convolutions; here they count as matrices (outputs by all the rest).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vlm_fo1.train.config import StageConfig
from vlm_fo1.train.stages import StagePlan

MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """For matrices and convolutions; ``lr`` is how far one step goes, as a spectral norm."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

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
                average = state["average"].lerp_(parameter.grad, 1 - MOMENTUM)
                ahead = parameter.grad.lerp(average, MOMENTUM)
                update = orthogonal(ahead.flatten(1)).view_as(parameter)
                tall = max(1.0, parameter.shape[0] / parameter[0].numel())
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * tall**0.5)


def orthogonal(matrix_RC: Tensor, steps: int = 5) -> Tensor:
    """About the nearest matrix whose singular values are one, by a quintic Newton-Schulz."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix_RC.shape[0] > matrix_RC.shape[1]
    x = matrix_RC.T if tall else matrix_RC
    x = (x / (x.norm() + 1e-7)).to(torch.float32 if x.device.type == "cpu" else torch.bfloat16)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix_RC.dtype)


def optimizers(
    model: nn.Module, stage: StageConfig, plan: StagePlan
) -> list[torch.optim.Optimizer]:
    """Muon at the mixture's ``matrix_lr`` for matrices, AdamW at the rules' rates for the rest.

    No matrices are words, depthwise convolutions and vectors.
    """
    named = dict(model.named_parameters())
    matrices = [
        name
        for name in plan.names
        if "embed_tokens" not in name and named[name].ndim > 1 and named[name][0].numel() >= 16
    ]
    groups = [
        {"params": [named[name] for name in group.names if name not in matrices], "lr": group.lr}
        for group in plan.groups
    ]
    muon = [named[name] for name in matrices]
    return [
        Muon(muon, stage.mixture["matrix_lr"], stage.weight_decay),
        torch.optim.AdamW([it for it in groups if it["params"]], betas=stage.betas, weight_decay=0),
    ]
