"""The likeliest id at each place that is asked, chosen where the logits are.

Shapes: R places of all rows, V vocabulary, W bytes of masks.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vlm_fo1.engine.lists import ListTokens, chances_of
from vlm_fo1.engine.rows import Ahead, Row


def choose(
    logits_RV: Tensor,
    asked: Sequence[tuple[Row, Ahead]],
    tokens: ListTokens,
    chosen_R: Tensor | None = None,
) -> tuple[list[int], list[float], Tensor]:
    """What follows at each place.

    Args:
        logits_RV: Float32, place by place, row by row.
        asked: The rows and what they were fed.
        tokens: How lists are spelt.
        chosen_R: What the device has gone on with already, where nothing is imposed or forbidden.

    Returns:
        What is imposed or else the likeliest id that may come, its probability among all, and
        `lists.chances_of`.
    """
    allowed = logits_RV
    if any(ahead.masks is not None for _, ahead in asked):
        allowed = logits_RV.masked_fill(~_bits(asked, logits_RV), -torch.inf)
    best_R = allowed.argmax(-1) if chosen_R is None else chosen_R
    imposed = [
        ahead.imposed[place] if place < len(ahead.imposed) else -1
        for _, ahead in asked
        for place in ahead.asked
    ]
    if any(id_ >= 0 for id_ in imposed):
        imposed_R = torch.tensor(imposed, device=best_R.device)
        best_R = torch.where(imposed_R >= 0, imposed_R, best_R)
    log_total_R = logits_RV.logsumexp(-1)
    sure_R = (logits_RV.gather(-1, best_R[:, None])[:, 0] - log_total_R).exp()
    ids, sure = torch.stack([best_R.double(), sure_R.double()]).tolist()  # the one transfer
    return [int(id_) for id_ in ids], sure, chances_of(log_total_R, logits_RV, tokens)


def _bits(asked: Sequence[tuple[Row, Ahead]], logits_RV: Tensor) -> Tensor:
    """(R, V) whether an id may come."""
    size = logits_RV.shape[-1]
    everything = np.full(-(-size // 32), -1, np.int32)
    masks = [
        mask for _, ahead in asked for mask in (ahead.masks or [everything] * len(ahead.asked))
    ]
    bytes_RW = torch.from_numpy(np.stack(masks).view(np.uint8)).to(logits_RV.device)
    places = torch.arange(8, dtype=torch.uint8, device=logits_RV.device)
    return (bytes_RW[:, :, None] >> places & 1).bool().flatten(1)[:, :size]
