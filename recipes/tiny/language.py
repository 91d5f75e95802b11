"""What the language model learns: to answer from rows of image and region tokens.

Regions are a set: any order of tags is right, and a tag that was written is not right again.
Shapes: B rows, T tokens, S learnt tokens of all rows, V words, D width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from recipes.tiny.code import Code, word_ids
from recipes.tiny.drawing import Drawn
from recipes.tiny.features import Seen
from recipes.tiny.muon import optimizers
from recipes.tiny.network import make_processor
from recipes.tiny.recipe import Lesson, Recipe
from recipes.tiny.rows import Row, Rows
from recipes.tiny.words import build_tokenizer, id_of
from vlm_fo1.config import build as build_config
from vlm_fo1.data.answers import NOTHING
from vlm_fo1.data.collate import IGNORED, Collator
from vlm_fo1.model.modeling import EncodedImages, FO1ForConditionalGeneration
from vlm_fo1.model.packing import separate
from vlm_fo1.train.components import RunComponents
from vlm_fo1.train.export import save_pretrained
from vlm_fo1.train.sets import alternatives, set_loss

_LEAST = 300  # rows between two rises
_MEMORY = 600  # rows that the running mean of right choices goes back


class LanguageLesson(nn.Module):
    """The network, and how hard imagined images are: that rises as answers get better.

    Args:
        model: The network.
        choices: Ids of the tokens that are a choice: tags, none, and no further one.
    """

    level: Tensor
    """How often it rose, the running mean of right choices, and rows since: checkpoints hold it."""

    def __init__(self, model: FO1ForConditionalGeneration, choices: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("level", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("choices", torch.tensor(choices), persistent=False)

    @property
    def rises(self) -> int:
        """How often images became harder in this stage."""
        return int(self.level[0])

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, summed over learnt tokens, and what of them is right."""
        model, labels = self.model, batch["labels"]
        encoded = EncodedImages(batch["image_tokens"], batch["region_tokens"], batch["grid"])
        prompt = model.embed_prompt(batch["input_ids"], batch["attention_mask"], encoded)
        embeds_BTD = prompt["inputs_embeds"]
        segments = batch.get("segment_ids", batch["attention_mask"] - 1)
        mask, positions = separate(model.host, embeds_BTD, prompt["position_ids"], segments)
        hidden_BTD = model.host_adapter.decode(
            model.host, embeds_BTD, positions, attention_mask=mask, use_cache=False
        ).last_hidden_state
        learnt = labels[:, 1:] != IGNORED
        assert hidden_BTD is not None
        logits_SV = model.get_output_embeddings()(hidden_BTD[:, :-1][learnt]).float()
        loss_S, right_S = set_loss(logits_SV, batch["choices_SK"])
        choice = torch.isin(labels[:, 1:][learnt], cast(Tensor, self.choices))
        share = (right_S & choice).sum() / choice.sum().clamp(min=1)
        if self.training:
            self._rise(share.detach(), len(labels), batch["gate"])
        figures = {"right": right_S.sum(), "choices_right": share * len(loss_S)}
        return loss_S.sum(), {**figures, "rises": self.level[0] * len(loss_S)}

    def _rise(self, share: Tensor, rows: int, gate: float) -> None:
        if torch.distributed.is_initialized():  # processes agree
            torch.distributed.all_reduce(share)
            share = share / torch.distributed.get_world_size()
        rises, recent, since = self.level.tolist()
        weight = rows / _MEMORY
        recent, since = (1 - weight) * recent + weight * share.item(), since + rows
        if recent > gate and since > _LEAST:
            rises, recent, since = rises + 1, recent - 0.02, 0
        self.level.copy_(torch.tensor([rises, recent, since]))


def components(recipe: Recipe, towers: Path, features: Sequence[Seen]) -> RunComponents:
    """What the library's loop needs to train the language model on what its towers saw."""
    processor = make_processor(build_tokenizer())
    tokenizer, collator, tags = processor.tokenizer, Collator(processor), processor.region_tag_ids()
    ids = word_ids(tokenizer)
    aligned = set(torch.cat(list(ids.values())).tolist())
    choices = [*tags, id_of(tokenizer, NOTHING), id_of(tokenizer, "</objects>")]
    taught: list[LanguageLesson] = []  # the one that trains: rows depend on its level

    def load(folder: Path | None) -> LanguageLesson:
        model = FO1ForConditionalGeneration.from_pretrained(
            # Products and a softmax: faster at this size than a fused kernel with its backward.
            folder or towers, dtype=torch.float32, attn_implementation="eager",
        )  # fmt: skip
        taught[:] = [LanguageLesson(model, choices)]
        return taught[0]

    def make_source(mixture: Mapping[str, Any], shard: int, shards: int) -> Drawn:
        lesson = build_config(Lesson, mixture)
        words: Any = taught[0].model.get_input_embeddings().weight
        code = Code(ids, words.cpu())
        rows = Rows(recipe, lesson, processor, code, features, lambda: taught[0].rises)
        return Drawn(rows, lesson.batch, shard, shards)

    def collate(rows: Sequence[Row]) -> dict[str, Any]:
        padded = collator.pad([row.encoded for row in rows])
        return {
            **padded,
            "choices_SK": alternatives(padded["labels"], tags),
            "image_tokens": [row.image_nD for row in rows],
            "region_tokens": [row.regions_ND for row in rows],
            "grid": torch.tensor([[1, *row.grid_hw] for row in rows]),
            "gate": rows[0].lesson.gate,
        }

    def save(lesson: LanguageLesson, state: Mapping[str, Tensor], folder: Path) -> None:
        found = {name[len("model.") :]: v for name, v in state.items() if name.startswith("model.")}
        save_pretrained(lesson.model, found, folder)

    return RunComponents(
        load_model=load,
        make_source=make_source,
        collate=collate,
        loss=lambda lesson, batch: lesson(batch),
        optimizers=optimizers,
        new_token_ids=sorted(set(range(len(tokenizer))) - aligned),
        save_model=save,
    )
