"""Greedy decoding of several prompts side by side; each row ends by itself.

Shapes: B rows, P tokens of the prefixes, Q tokens after them, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlm_fo1.engine.lists import ListRecorder, ListSteps, ListTokens, chances_of
from vlm_fo1.engine.prefix import Prefix, join_caches
from vlm_fo1.model.generation import CACHE
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.splice import EmbeddedPrompt, cut_prompt

REPEATED_TOKENS = 256
"""An answer whose last tokens, this many, are one thing again and again, comes to no end."""
LONGEST_REPEAT = REPEATED_TOKENS // 4
"""Longest thing in tokens that counts as repeated: it stands there four times."""
_LOOKED_EVERY = 32

OnId = Callable[[int, int | None], None]
"""Gets the number of a row and each token id, as it is written; None when the row is over."""


@dataclass(frozen=True)
class Prompt:
    """One row to be continued."""

    prefix: Prefix
    ids: tuple[int, ...]
    """Token ids after the prefix."""
    max_new_tokens: int
    regions: int = 0
    """How many of the tags may be named."""
    start: tuple[int, ...] = ()
    """How the answer shall begin; part of what is written."""

    def __len__(self) -> int:
        return len(self.prefix.ids) + len(self.ids)


@dataclass(frozen=True)
class Generation:
    """What one row wrote."""

    ids: tuple[int, ...]
    """New token ids, without the one that ends the answer."""
    tag_probabilities: tuple[float, ...]
    """Probability of each region tag among `ids`, in order."""
    ended: bool
    """Whether the model ended it; else it came to its limit or repeated itself."""
    lists: tuple[ListSteps, ...] = field(default=(), compare=False)
    """What each step of each list of regions thought, in the order of the lists."""


@dataclass
class _Row:
    number: int
    prompt: Prompt
    lists: ListRecorder
    ids: list[int] = field(default_factory=list[int])
    tag_probabilities: list[float] = field(default_factory=list[float])
    ended: bool = False

    @property
    def over(self) -> bool:
        limit = self.prompt.max_new_tokens
        return self.ended or len(self.ids) >= limit or repeats_itself(self.ids)

    @property
    def forced(self) -> int | None:
        """What has to come next, if anything has to."""
        start = self.prompt.start
        return start[len(self.ids)] if len(self.ids) < len(start) else None

    def done(self) -> Generation:
        return Generation(
            tuple(self.ids), tuple(self.tag_probabilities), self.ended, self.lists.done()
        )


def generate(
    model: FO1ForConditionalGeneration,
    prompts: Sequence[Prompt],
    *,
    tokens: ListTokens,
    stop_id: int,
    on_id: OnId | None = None,
) -> list[Generation]:
    """Continue prompts, the likeliest token each time.

    Args:
        model: The network.
        prompts: One a row.
        tokens: How lists of regions are spelt; the probability of each tag that is written, and
            of all that could have been, is kept.
        stop_id: Ends a row.
        on_id: See `OnId`.

    Returns:
        One generation a row, in order. A row ends by itself and leaves the batch.
    """
    embedded = [prompt.prefix.embed(prompt.ids) for prompt in prompts]
    cache, mask_BP = join_caches(
        [prompt.prefix.cache(row) for prompt, row in zip(prompts, embedded, strict=True)]
    )
    rests = [
        cut_prompt(row, len(prompt.prefix.ids), None)
        for prompt, row in zip(prompts, embedded, strict=True)
    ]
    inputs, mask_BQ = _side_by_side(rests)
    mask_BT = torch.cat([mask_BP, mask_BQ], dim=1)
    last = inputs["position_ids"][..., -1:]
    rows = [
        _Row(number, prompt, ListRecorder(tokens, prompt.regions))
        for number, prompt in enumerate(prompts)
    ]
    alive = list(rows)
    while True:
        output = model(
            **inputs, **{CACHE: cache}, attention_mask=mask_BT, use_cache=True, logits_to_keep=1
        )
        cache = output[CACHE]
        ids_B = _choose(output.logits[:, -1].float(), alive, tokens, stop_id, on_id)
        kept = [place for place, row in enumerate(alive) if not row.over]
        if on_id is not None:
            for row in alive:
                if row.over:
                    on_id(row.number, None)
        if not kept:
            return [row.done() for row in rows]
        if len(kept) < len(alive):
            chosen = torch.tensor(kept, device=mask_BT.device)
            cache.batch_select_indices(chosen)
            mask_BT, ids_B = mask_BT[chosen], ids_B[chosen]
            last = last.index_select(-2, chosen)
            alive = [alive[place] for place in kept]
        mask_BT = pad(mask_BT, (0, 1), value=1)
        last = last + 1
        inputs = {"input_ids": ids_B[:, None], "position_ids": last}


def repeats_itself(ids: Sequence[int]) -> bool:
    """Whether the last `REPEATED_TOKENS` ids have a period of at most `LONGEST_REPEAT`."""
    if len(ids) < REPEATED_TOKENS or len(ids) % _LOOKED_EVERY:
        return False
    tail = ids[-REPEATED_TOKENS:]
    return any(tail[n:] == tail[:-n] for n in range(1, LONGEST_REPEAT + 1))


def _choose(
    logits_BV: Tensor,
    rows: Sequence[_Row],
    tokens: ListTokens,
    stop_id: int,
    on_id: OnId | None,
) -> Tensor:
    """The next id of each row, (B,), noted in the rows: the likeliest, unless it is forced."""
    best_B = logits_BV.argmax(-1)
    for place, row in enumerate(rows):
        if row.forced is not None:
            best_B[place] = row.forced
    log_total_B = logits_BV.logsumexp(-1)
    probability_B = (logits_BV.gather(-1, best_B[:, None])[:, 0] - log_total_B).exp()
    listing = [place for place, row in enumerate(rows) if row.lists.wants_step]
    chances = dict(zip(listing, chances_of(logits_BV, listing, tokens), strict=True))
    chosen = zip(rows, best_B.tolist(), probability_B.tolist(), strict=True)
    for place, (row, id_, probability) in enumerate(chosen):
        row.lists.put(id_, len(row.ids), chances.get(place))
        if id_ == stop_id:
            row.ended = True
            continue
        row.ids.append(id_)
        if id_ in tokens.tags:
            row.tag_probabilities.append(probability)
        if on_id is not None:
            on_id(row.number, id_)
    return best_B


def _side_by_side(rests: Sequence[EmbeddedPrompt]) -> tuple[dict[str, Any], Tensor]:
    """Rows of several lengths as one batch, padded on the left, and (B, Q) 1 where a token is."""
    lengths = [row["inputs_embeds"].shape[1] for row in rests]
    longest = max(lengths)
    device = rests[0]["inputs_embeds"].device
    mask = torch.zeros(len(rests), longest, dtype=torch.long, device=device)
    for number, length in enumerate(lengths):
        mask[number, longest - length :] = 1
    blanks = [longest - length for length in lengths]
    inputs: dict[str, Any] = {
        "inputs_embeds": torch.cat(
            [pad(row["inputs_embeds"], (0, 0, n, 0)) for row, n in zip(rests, blanks, strict=True)]
        ),
        "position_ids": torch.cat(
            [pad(row["position_ids"], (n, 0)) for row, n in zip(rests, blanks, strict=True)], dim=-2
        ),
    }
    deep = [row.get("deepstack_embeds") for row in rests]
    known = next((part for part in deep if part is not None), None)
    if known is not None:
        filled = [
            known.new_zeros(1, length, *known.shape[2:]) if part is None else part
            for part, length in zip(deep, lengths, strict=True)
        ]
        inputs["deepstack_embeds"] = torch.cat(
            [pad(part, (0, 0, 0, 0, n, 0)) for part, n in zip(filled, blanks, strict=True)]
        )
    return inputs, mask
