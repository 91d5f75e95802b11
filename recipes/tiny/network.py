"""The small model untrained: every part of the released model at the recipe's sizes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from recipes.synthetic.kinds import KINDS, SIGN, plural
from recipes.tiny.recipe import MAX_LABELS
from recipes.tiny.words import CATEGORIES, CHAT, PAD, STOP, build_tokenizer, id_of
from vlm_fo1.markup import RELEASED
from vlm_fo1.model.configuration import FO1Config
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.processing import FO1ImageProcessor, FO1Processor, qwen_primary

SIDE = 168
"""About this many pixels a side reach the primary tower."""
LOUD = 12.0
"""Length of words, and so of image and region tokens: next to residual branches that start at
nothing, the language model's first layers then see words only."""
_SHARPNESS = 2.0  # of attention at the start


def build(
    seed: int, network: Mapping[str, Any]
) -> tuple[FO1ForConditionalGeneration, FO1Processor]:
    """An untrained network and its processor.

    Args:
        seed: Of the weights.
        network: `FO1Config` without token ids.
    """
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = FO1ForConditionalGeneration(_config(tokenizer, network))
    with torch.no_grad():
        _start_well(model)
        _set_words(model, tokenizer)
    return model, make_processor(tokenizer)


def make_processor(
    tokenizer: PreTrainedTokenizerFast, max_regions: int = RELEASED.max_regions
) -> FO1Processor:
    """Images at their own size for regions, near 168 x 168 pixels for the whole."""
    primary = qwen_primary(
        size={"shortest_edge": SIDE * SIDE * 3 // 4, "longest_edge": SIDE * SIDE * 5 // 4},
        merge_size=2,
    )
    images = FO1ImageProcessor(primary=primary, max_side=448, max_regions=max_regions)
    vocabulary = replace(RELEASED, max_regions=max_regions, max_labels=MAX_LABELS)
    return FO1Processor(images, tokenizer, vocabulary=vocabulary, chat=CHAT)


def _config(tokenizer: PreTrainedTokenizerFast, network: Mapping[str, Any]) -> FO1Config:
    texts = (STOP, PAD, CHAT.image_token, "<|vision_start|>", "<|vision_end|>")
    ids: dict[str, Any] = {text: tokenizer.convert_tokens_to_ids(text) for text in texts}
    vocabulary = -(-len(tokenizer) // 16) * 16
    ends = {"eos_token_id": ids[STOP], "pad_token_id": ids[PAD]}
    host = dict(network["host_config"])
    host["text_config"] = {
        **host["text_config"], **ends, "vocab_size": vocabulary, "bos_token_id": None,
    }  # fmt: skip
    host |= {
        "image_token_id": ids[CHAT.image_token],
        "video_token_id": vocabulary - 1,
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }
    region: Any = tokenizer.convert_tokens_to_ids(RELEASED.region_feature)
    return FO1Config(
        **{**network, **ends, "host_config": host},
        image_token_id=ids[CHAT.image_token],
        region_token_id=region,
        tie_word_embeddings=True,
    )


def _start_well(model: FO1ForConditionalGeneration) -> None:
    """Linear layers that keep sizes, residual branches that add nothing, sharp attention."""
    for part in model.modules():
        if isinstance(part, nn.Linear) and part is not model.get_output_embeddings():
            nn.init.normal_(part.weight, std=part.in_features**-0.5)
    last: Any = model.region_connector.get_submodule("2")
    last.weight.mul_(0.15)  # tokens as long as the code of a region
    for layer in model.host.model.language_model.layers:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
        nn.init.constant_(layer.self_attn.q_norm.weight, _SHARPNESS)


def _set_words(model: FO1ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Loud words in random directions, a plural near its singular."""
    words: Any = model.get_input_embeddings().weight
    nn.init.normal_(words)
    words.div_(words.norm(dim=-1, keepdim=True))
    for name in (*KINDS, SIGN, *CATEGORIES):
        if plural(name) != name:
            one, several = (id_of(tokenizer, word) for word in (name, plural(name)))
            mixed = 0.8 * words[one] + 0.6 * words[several]
            words[several] = mixed / mixed.norm()
    words.mul_(LOUD)
    model.host.model.language_model.norm.weight.fill_(1 / LOUD)
