"""The small model at the recipe's sizes: the untrained network and its processor."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig

from recipes.tiny.recipe import MAX_LABELS, NetworkSizes
from recipes.tiny.words import CHAT, PAD, STOP, build_tokenizer
from vlm_fo1.markup import RELEASED
from vlm_fo1.model.configuration import FO1Config
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.processing import FO1ImageProcessor, FO1Processor, qwen_primary

SIDE = 168
"""About this many pixels a side reach the primary tower."""
LOUD = 12.0
"""How much longer than one the words are inside the language model, and with them image and region
tokens: next to residual branches that start at nothing, its first layers then see words only."""
LANGUAGE_MODEL = ("host.model.language_model.", "host.lm_head.")
"""Beginnings of the names of its parameters."""
_HEAD_WIDTH = 32


def build(
    seed: int, sizes: NetworkSizes | None = None
) -> tuple[FO1ForConditionalGeneration, FO1Processor]:
    """An untrained network, whose words have length one, and its processor.

    Args:
        seed: Of the weights.
        sizes: Defaults to those of the bundled model.
    """
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = FO1ForConditionalGeneration(tiny_config(tokenizer, sizes or NetworkSizes()))
    _start_well(model)
    return model, tiny_processor(tokenizer)


def tiny_config(tokenizer: PreTrainedTokenizerFast, sizes: NetworkSizes) -> FO1Config:
    """Sizes as a configuration; every part is the released model's, narrower."""
    ids: dict[str, Any] = {
        text: tokenizer.convert_tokens_to_ids(text)
        for text in (STOP, PAD, CHAT.image_token, "<|vision_start|>", "<|vision_end|>")
    }
    vocabulary = -(-len(tokenizer) // 16) * 16
    host = Qwen3VLConfig(
        vision_config=_vision_config(sizes),
        text_config={
            **_text_config(sizes),
            "vocab_size": vocabulary,
            "bos_token_id": None,
            "eos_token_id": ids[STOP],
            "pad_token_id": ids[PAD],
        },
        tie_word_embeddings=True,
        image_token_id=ids[CHAT.image_token],
        video_token_id=vocabulary - 1,
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    tokens: dict[str, Any] = {"eos_token_id": ids[STOP], "pad_token_id": ids[PAD]}
    tokens["region_token_id"] = tokenizer.convert_tokens_to_ids(RELEASED.region_feature)
    return FO1Config(
        host_config=host,
        auxiliary_config=_auxiliary_config(sizes),
        region_config={
            "pyramid_channels": sizes.pyramid,
            "pyramid_strides": [7.0, 14.0],
            "auxiliary_strides": [sizes.stem[1] * factor for factor in (1, 2, 4, 8)],
        },
        image_connector="mlp2x_gelu",
        region_connector="mlp2x_gelu",
        image_token_id=ids[CHAT.image_token],
        tie_word_embeddings=True,
        **tokens,
    )


def _vision_config(sizes: NetworkSizes) -> dict[str, Any]:
    return {
        "depth": sizes.vision_layers,
        "hidden_size": sizes.vision,
        "intermediate_size": int(sizes.vision * 2.5) // 8 * 8,
        "num_heads": sizes.vision // _HEAD_WIDTH,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "deepstack_visual_indexes": [],
        "num_position_embeddings": 144,
        "out_hidden_size": sizes.hidden,
    }


def _text_config(sizes: NetworkSizes) -> dict[str, Any]:
    return {
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.heads,
        "max_position_embeddings": 4096,
        "head_dim": _HEAD_WIDTH,
        "hidden_act": "relu2",
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [6, 5, 5],
        },
        "tie_word_embeddings": True,
    }


def _auxiliary_config(sizes: NetworkSizes) -> dict[str, Any]:
    heads = [width // _HEAD_WIDTH for width in sizes.davit]
    side, stride, padding = sizes.stem
    return {
        "embed_dim": list(sizes.davit),
        "depths": list(sizes.davit_depths),
        "num_heads": heads,
        "num_groups": heads,
        "window_size": 8,
        "patch_size": [side, 3, 3, 3],
        "patch_stride": [stride, 2, 2, 2],
        "patch_padding": [padding, 1, 1, 1],
        "patch_prenorm": [False, True, True, True],
        "drop_path_rate": 0.0,
    }


def tiny_processor(
    tokenizer: PreTrainedTokenizerFast, max_regions: int = RELEASED.max_regions
) -> FO1Processor:
    """Pictures at their own size for regions, near 168 x 168 pixels for the whole."""
    primary = qwen_primary(
        size={"shortest_edge": SIDE * SIDE * 3 // 4, "longest_edge": SIDE * SIDE * 5 // 4},
        merge_size=2,
    )
    images = FO1ImageProcessor(primary=primary, max_side=448, max_regions=max_regions)
    vocabulary = replace(RELEASED, max_regions=max_regions, max_labels=MAX_LABELS)
    return FO1Processor(images, tokenizer, vocabulary=vocabulary, chat=CHAT)


def _start_well(model: FO1ForConditionalGeneration) -> None:
    """Words of length one, linear layers that keep sizes, residual branches that add nothing."""
    language_model = model.host.model.language_model
    with torch.no_grad():
        words: Any = model.get_input_embeddings().weight
        nn.init.normal_(words)
        words.div_(words.norm(dim=-1, keepdim=True))
        for module in (
            model.host.model,
            model.auxiliary,
            model.region_encoder,
            model.region_connector,
            model.image_connector,
        ):
            for part in module.modules():
                if isinstance(part, nn.Linear):
                    nn.init.normal_(part.weight, std=part.in_features**-0.5)
        last: Any = model.region_connector.get_submodule("2")
        last.weight.mul_(0.15)  # tokens as long as words
        for layer in language_model.layers:
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)
