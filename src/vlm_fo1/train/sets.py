"""Answers whose lists of regions are sets: any order of the tags of a list is right.

A record has its regions in some order and a model in its own. With plain cross entropy a model that
lists the right regions in another order is told that it is wrong, and unlearns what it could.
Shapes: B rows, T tokens, S learnt tokens of all rows, K alternatives, V words.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vlm_fo1.data.collate import IGNORED, Collator

_NEVER = -1e9


class SetCollate:
    """As a collator, with the tags of each list of an answer in another order.

    Args:
        collator: Makes the rest of the batch.
    """

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        """As `Collator`, with ``choices_SK`` as `alternatives` gives them."""
        batch = self.collator(examples)
        tags = self.collator.processor.region_tag_ids()
        for ids, labels in zip(batch["input_ids"].numpy(), batch["labels"].numpy(), strict=True):
            rng = np.random.default_rng(crc32(labels.tobytes()))
            for start, end in runs_of_tags(labels, tags):
                labels[start:end] = ids[start:end] = rng.permutation(labels[start:end])
        return {**batch, "choices_SK": alternatives(batch["labels"], tags)}


def set_answer_loss(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """How unlikely all right tokens of each place are together, summed over learnt places.

    Where a list has one region left it is the cross entropy of `vlm_fo1.train.loss.answer_loss`.
    """
    inputs = dict(inputs)
    choices_SK, targets_BT = inputs.pop("choices_SK"), inputs.pop("labels")[:, 1:]
    learnt_BT = targets_BT != IGNORED
    keep = learnt_BT.any(0).nonzero()[:, 0]
    if not len(keep):
        keep = keep.new_zeros(1)
    logits_BKV = model(**inputs, logits_to_keep=keep, use_cache=False).logits
    return set_loss(logits_BKV[learnt_BT[:, keep]].float(), choices_SK)[0].sum()


def set_loss(logits_SV: Tensor, choices_SK: Tensor) -> tuple[Tensor, Tensor]:
    """How unlikely all right tokens are together, and whether the likeliest token is one of them.

    Args:
        logits_SV: Of each place.
        choices_SK: Right tokens, below 0 where there are fewer than K.
    """
    allowed_SK = logits_SV.gather(1, choices_SK.clamp(min=0)).masked_fill(choices_SK < 0, _NEVER)
    loss_S = logits_SV.logsumexp(-1) - allowed_SK.logsumexp(-1)
    return loss_S, (logits_SV.argmax(-1, keepdim=True) == choices_SK).any(-1)


def alternatives(labels_BT: Tensor, tags: Sequence[int]) -> Tensor:
    """(S, K) ids that are right in each learnt place: of a list of tags, any that is to come."""
    found = [(labels, runs_of_tags(labels, tags)) for labels in labels_BT.numpy()]
    most = max((end - start for _, runs in found for start, end in runs), default=1)
    out = np.full((*labels_BT.shape, max(1, most)), IGNORED, np.int64)
    for row, (labels, runs) in zip(out, found, strict=True):
        row[:, 0] = labels
        for start, end in runs:
            for at in range(start, end):
                row[at, : end - at] = labels[at:end]
    return torch.from_numpy(out)[:, 1:][labels_BT[:, 1:] != IGNORED]


def runs_of_tags(labels: npt.NDArray[np.int64], tags: Sequence[int]) -> list[tuple[int, int]]:
    """Start and end of every list of tags."""
    inside = np.isin(labels, tags)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.view(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
