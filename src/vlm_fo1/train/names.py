"""Region-language alignment by name: the token of a region points where the words of its name do.

An objective for models whose region tokens speak in the host's words, as those of the bundled one
do; it runs no answers: 40 images a second against 14 of `vlm_fo1.train.loss.answer_loss` there.
Shapes: N regions of a batch, M of them named, K names in it, D width of the language model.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlm_fo1.data.collate import Collator
from vlm_fo1.data.example import Example
from vlm_fo1.markup import RELEASED, scan
from vlm_fo1.tasks import Task
from vlm_fo1.train.components import Figures
from vlm_fo1.train.distributed import inner
from vlm_fo1.train.standardise import watched

SHARPNESS = 10.0
"""Of the softmax over names: a token that says a name alone has this logit for it, 0 for others."""
SAID = 0.7
"""How much of a name a token has to say, as a share, to be left as it is."""
STAYS = 12.0
"""How much a token counts that should stay, beside one that learns a name."""


def region_names(example: Example) -> dict[int, str]:
    """What regions of a record are called: in lists of detection, and alone in brief captions."""
    found: dict[int, str] = {}
    for turn in example.turns:
        if turn.task == Task.DETECTION:
            for mention in scan(turn.answer).mentions:
                found |= {index: mention.label for index in mention.numbers if index not in found}
        elif turn.task == Task.BRIEF_CAPTION:
            tags = RELEASED.tag_pattern().findall(turn.question)
            if len(tags) == 1:
                found.setdefault(int(tags[0]), _without_article(turn.answer))
    return {index: name for index, name in found.items() if name}


def _without_article(text: str) -> str:
    first, _, rest = text.partition(" ")
    return rest if rest and first.lower() in ("a", "an") else text


class NameCollate:
    """Records to a batch of regions and their names; of the questions one a record stays.

    Args:
        collator: Makes the rest of the batch.
    """

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """As `Collator`, without ``labels``; with what stands for the names.

        Returns:
            ``named`` (N,) for every region the number of its name, -1 for none and for those of
            a record that is replayed, which are to stay as they are; ``name_ids`` K tensors of
            token ids, names of replayed regions too: others are not to say those.
        """
        batch = self.collator([replace(one, turns=one.turns[:1]) for one in examples])
        del batch["labels"]
        names: dict[str, int] = {}
        named: list[int] = []
        for example in examples:
            called = {
                index: names.setdefault(name, len(names))
                for index, name in region_names(example).items()
            }
            learnt = {} if example.replay else called
            named += [learnt.get(index, -1) for index in range(len(example.regions_xyxy))]
        tokenizer = self.collator.processor.tokenizer
        ids = tokenizer(list(names), add_special_tokens=False)["input_ids"] if names else []
        batch["named"] = torch.tensor(named, dtype=torch.int64)
        batch["name_ids"] = [torch.tensor(some, dtype=torch.int64) for some in ids]
        return batch


class NameLoss:
    """Regions learn to say their names; what a region says rightly already it goes on saying.

    The share of a name in a token is token . word / |word|^2, and its word the mean embedding of
    its tokens. A region that has a name and does not say it costs the cross entropy over the names
    of the batch, and the squared distance of its shares from 1 for its own name and 0 for others. A
    region that says it, or has none, costs the squared distance from the token it had before.
    """

    def __init__(self) -> None:
        self._before: nn.Module | None = None

    def begin(self, model: Any) -> None:
        """Remember what regions say at the start of a stage."""
        self._before = copy.deepcopy(model.region_connector).eval().requires_grad_(False)

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Figures]:
        """The loss of a batch, summed over its records, and how many names were right of them."""
        batch = dict(batch)
        named_N, name_ids = batch.pop("named"), batch.pop("name_ids")
        records = len(batch["input_ids"])
        network: Any = inner(model)
        with watched(network.region_connector) as (entered, left):
            if network is model:
                images = ("pixel_values", "image_grid_thw", "aux_pixel_values", "region_boxes")
                if images[0] in batch:
                    network.get_region_features(*(batch.get(name) for name in images))
            else:  # the whole, as that is where processes meet
                model(**batch, logits_to_keep=1, use_cache=False)
        if self._before is None or not left:  # no record has regions
            return torch.zeros((), requires_grad=True), {"named": 0.0}
        tokens_ND = torch.cat(left).float()
        with torch.no_grad():
            before_ND = self._before.to(tokens_ND.device)(torch.cat(entered)).float()
            words = network.get_input_embeddings()
            words_KD = [words(ids.to(tokens_ND.device)).float().mean(0) for ids in name_ids]
        loss, stays_N, right = named_loss(tokens_ND, before_ND, named_N, words_KD)
        if stays_N.any():
            loss = loss + STAYS * (tokens_ND - before_ND)[stays_N].square().mean()
        return loss * records, {"named": right * records}


def named_loss(
    tokens_ND: Tensor, before_ND: Tensor, named_N: Tensor, words_KD: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The part of the loss that names are learnt by.

    Args:
        tokens_ND: Of all regions.
        before_ND: What they were before training.
        named_N: Number of their name, -1 for none.
        words_KD: K words.

    Returns:
        The loss, which regions are to stay as they are (N,), and the share of right names.
    """
    stays_N = torch.ones_like(named_N, dtype=torch.bool)
    nothing = tokens_ND.new_zeros(())
    has_M = (named_N >= 0).nonzero()[:, 0]
    if not len(has_M):
        return nothing, stays_N, nothing
    weight_DK = torch.stack([word / word.square().sum() for word in words_KD], dim=-1)
    own_M = named_N[has_M]
    before_MK, shares_MK = before_ND[has_M] @ weight_DK, tokens_ND[has_M] @ weight_DK
    said_M = (before_MK.argmax(-1) == own_M) & (before_MK.amax(-1) >= SAID)
    stays_N[has_M] = said_M
    right = (shares_MK.argmax(-1) == own_M).float().mean()
    if said_M.all():
        return nothing, stays_N, right
    shares_LK, own_L = shares_MK[~said_M], own_M[~said_M]
    wanted_LK = functional.one_hot(own_L, len(words_KD)).to(shares_LK.dtype)
    loss = functional.cross_entropy(SHARPNESS * shares_LK, own_L)
    return loss + (shares_LK - wanted_LK).square().sum(-1).mean(), stays_N, right
