"""The loss of one micro-batch, and what is done to its gradient.

Shapes: B rows, T tokens, K positions that have an answer in some row, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def answer_loss(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """Cross entropy summed over the answer tokens of a batch.

    Logits are made only where some row has an answer. A batch without answers gives 0.

    Source: the paper, training: plain next-token cross entropy on the answer.
    """
    inputs = dict(inputs)
    targets_BT = inputs.pop("labels")[:, 1:]
    keep = (targets_BT != -100).any(0).nonzero()[:, 0]
    if not len(keep):
        keep = keep.new_zeros(1)
    logits_BKV = model(**inputs, logits_to_keep=keep, use_cache=False).logits
    return nn.functional.cross_entropy(
        logits_BKV.float().flatten(0, 1), targets_BT[:, keep].flatten(), reduction="sum"
    )


def clip(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients so that their common norm is at most ``limit`` (0: only measure)."""
    norm = nn.utils.clip_grad_norm_(parameters, limit or float("inf"))
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors in dicts and lists, moved."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_device(item, device) for item in value]
    return value
