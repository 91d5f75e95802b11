"""The loss of the language model on rows of imagined and seen images.

Shapes: B rows, T tokens, S learnt tokens of all rows, K alternatives, V words, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recipes.synthetic.kinds import KINDS, SIGN, plural
from recipes.tiny.code import Code, truth_of
from recipes.tiny.network import LOUD
from recipes.tiny.packing import (
    IGNORED,
    Packed,
    Packer,
    Positions,
    Row,
    alternatives,
    collate,
)
from recipes.tiny.rows import Drawn
from recipes.tiny.words import CATEGORIES, id_of
from vlm_fo1.data.answers import NOTHING
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.splice import splice
from vlm_fo1.processing import FO1Processor

_NOISE = 0.5  # length of the noise on the code of a region, in words
_NEVER = -1e9


@dataclass(frozen=True)
class Spoken:
    """What came out for every learnt token of a batch."""

    loss_S: Tensor
    right_S: Tensor
    """Whether the likeliest token is right."""
    target_S: Tensor
    """A right token."""
    question_S: Tensor
    """Number of the question in its row."""
    row_S: Tensor


class Speaker:
    """Rows to what the language model says.

    Args:
        model: The network, prepared by `prepare`.
        processor: Its processor.
        stretch: Of the places that regions say.
        connector: Makes tokens of what rows hold of seen regions; None where they hold tokens.
    """

    def __init__(
        self,
        model: FO1ForConditionalGeneration,
        processor: FO1Processor,
        stretch: float = 1.0,
        connector: nn.Module | None = None,
    ) -> None:
        self.model, self.connector = model, connector
        self.packer = Packer(processor)
        self.positions = Positions(model)
        width = int(model.config.hidden_size)
        self.code = Code(processor.tokenizer, width, length=LOUD, stretch=stretch)
        tokenizer = processor.tokenizer
        self._choices = (id_of(tokenizer, NOTHING), id_of(tokenizer, "</objects>"))

    def __call__(self, drawn: Sequence[Drawn], rng: np.random.Generator) -> Spoken:
        """Losses of a batch; ``rng`` gives the noise on imagined regions."""
        rows = [item.row for item in drawn]
        config = self.model.config
        packed = collate(rows, self.positions, int(config.pad_token_id or 0))
        words: Any = self.model.get_input_embeddings().weight
        regions = [self._regions(item, words.detach().float(), rng) for item in drawn]
        images = [_image(item, words.shape[1]) for item in drawn]
        embeds = words[packed.ids_BT]
        embeds = splice(embeds, packed.ids_BT == config.image_token_id, [torch.cat(images)])
        embeds = splice(embeds, packed.ids_BT == config.region_token_id, [torch.cat(regions)])
        return self._speak(packed, embeds, rows)

    def choice_right(self, spoken: Spoken) -> float | None:
        """Share of right choices: which tag, none, or no further one; None without any."""
        tags, target = self.packer.tag_ids, spoken.target_S
        choice = (target >= int(tags[0])) & (target <= int(tags[-1]))
        for number in self._choices:
            choice |= target == number
        return spoken.right_S[choice].float().mean().item() if choice.any() else None

    def _regions(self, item: Drawn, words_VD: Tensor, rng: np.random.Generator) -> Tensor:
        if item.regions_ND is not None:
            seen = item.regions_ND.float()
            if self.connector is not None and len(seen):
                seen = self.connector(seen).float()
            return LOUD * self.code.stretched(seen)
        exact = self.code.tokens(words_VD, truth_of([item.view]))
        noise = rng.normal(0, LOUD * _NOISE / exact.shape[1] ** 0.5, tuple(exact.shape))
        return exact + torch.from_numpy(noise.astype(np.float32))

    def _speak(self, packed: Packed, embeds_BTD: Tensor, rows: Sequence[Row]) -> Spoken:
        hidden_BTD = self.model.host.model.language_model(
            inputs_embeds=embeds_BTD,
            position_ids=packed.positions_3BT,
            attention_mask=torch.where(packed.mask_B1TT, 0.0, _NEVER),
            use_cache=False,
        ).last_hidden_state
        learnt = packed.labels_BT[:, 1:] != IGNORED
        words: Any = self.model.get_input_embeddings().weight
        logits_SV = (hidden_BTD[:, :-1][learnt] @ words.to(hidden_BTD.dtype).T).float()
        tags = self.packer.tag_ids
        choices_SK = alternatives(rows, tags, packed.ids_BT.shape[1])[:, 1:][learnt]
        loss_S, right_S = set_loss(logits_SV, choices_SK)
        return Spoken(
            loss_S=loss_S,
            right_S=right_S,
            target_S=packed.labels_BT[:, 1:][learnt],
            question_S=packed.part_BT[:, 1:][learnt],
            row_S=torch.arange(len(rows))[:, None].expand_as(learnt)[learnt],
        )


def set_loss(logits_SV: Tensor, choices_SK: Tensor) -> tuple[Tensor, Tensor]:
    """How unlikely all right tokens are together, and whether the likeliest token is one of them.

    Args:
        logits_SV: Of each place.
        choices_SK: Right tokens, below 0 where there are fewer than K.
    """
    allowed_SK = logits_SV.gather(1, choices_SK.clamp(min=0)).masked_fill(choices_SK < 0, _NEVER)
    loss_S = logits_SV.logsumexp(-1) - allowed_SK.logsumexp(-1)
    return loss_S, (logits_SV.argmax(-1, keepdim=True) == choices_SK).any(-1)


def right_by_task(rows: Sequence[Row], spoken: Spoken) -> dict[str, tuple[int, int]]:
    """Task to how many answers are right in every token, and how many there are."""
    most = max((len(row.tasks) for row in rows), default=0) + 1
    wrong = torch.zeros(len(rows) * most, dtype=torch.long)
    wrong.index_add_(0, spoken.row_S * most + spoken.question_S, (~spoken.right_S).long())
    found: dict[str, tuple[int, int]] = {}
    for index, row in enumerate(rows):
        for number, task in enumerate(row.tasks, start=1):
            right, count = found.get(task, (0, 0))
            found[task] = (right + int(wrong[index * most + number] == 0), count + 1)
    return found


def prepare(model: FO1ForConditionalGeneration, processor: FO1Processor) -> None:
    """Make an untrained language model ready: related plurals, loud words, plain attention."""
    language_model = model.host.model.language_model
    words: Any = model.get_input_embeddings().weight
    with torch.no_grad():
        for name in (*KINDS, SIGN, *CATEGORIES):
            many = plural(name)
            if many != name:
                one, several = (id_of(processor.tokenizer, word) for word in (name, many))
                mixed = 0.8 * words[one] + 0.6 * words[several]
                words[several] = mixed / mixed.norm()
        words.mul_(LOUD)
        language_model.norm.weight.fill_(1 / LOUD)
    # Products and a softmax: three times faster at this size than a fused kernel's backward.
    language_model.config._attn_implementation = "eager"  # noqa: SLF001 - it has no public name


def sharpen(model: FO1ForConditionalGeneration, sharpness: float) -> None:
    """Set the norms of all queries."""
    for layer in model.host.model.language_model.layers:
        nn.init.constant_(layer.self_attn.q_norm.weight, sharpness)


def _image(item: Drawn, width: int) -> Tensor:
    """(n, D) image tokens of a row."""
    if item.image_nD is not None:
        return LOUD * item.image_nD.float()
    rows, columns = item.row.grid_hw
    return torch.zeros(rows * columns // 4, width)
