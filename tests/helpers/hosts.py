"""Tiny random hosts of every kind, a tokenizer for them, and images cut up as each wants them.

Shapes: C channels, H and W sides of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

from vlm_fo1.markup import Vocabulary
from vlm_fo1.model.graft import graft
from vlm_fo1.model.modeling import FO1ForConditionalGeneration

WIDTH = 32
COLOURS = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "white": (1.0, 1.0, 1.0),
}
WORDS = ["<pad>", "<image>", "<end>", "<unk>", "what", "colour", "is", "in", "this", ":", *COLOURS]
VOCABULARY = Vocabulary(max_regions=4)

_TEXT = {
    "vocab_size": len(WORDS),
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
_QWEN_VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_heads": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": WIDTH,
    "initializer_range": 0.2,
}
_SIGLIP = {
    "vision_config": {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
        "initializer_range": 0.2,
    },
    "text_config": {"model_type": "llama", **_TEXT},
    "scale_factor": 2,
    "pad_token_id": 0,
}
_SIGLIP_384 = {
    **_SIGLIP,
    "vision_config": {**_SIGLIP["vision_config"], "image_size": 384, "patch_size": 14},
    "scale_factor": 3,
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "vision_config": {
            **_QWEN_VISION,
            "depth": 3,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        "text_config": {**_TEXT, "rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2]}},
    },
    "qwen3_vl": {
        "vision_config": {
            **_QWEN_VISION,
            "depth": 3,
            "patch_size": 16,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        "text_config": {
            **_TEXT,
            "rope_parameters": {**_ROPE, "mrope_section": [2, 1, 1], "mrope_interleaved": True},
        },
    },
    "idefics3": _SIGLIP,
    "smolvlm": _SIGLIP,
    # SmolVLM-Instruct and SmolVLM2-2.2B: 27 x 27 patches of 14 pixels in a square of 384
    "idefics3 of 384": _SIGLIP_384,
    "smolvlm of 384": _SIGLIP_384,
}
"""A tiny configuration per kind of host: its ``model_type``, and what is odd about it."""

AUXILIARY = {
    "depths": [1, 1, 1, 1],
    "embed_dim": [8, 16, 24, 32],
    "num_heads": [1, 2, 3, 4],
    "num_groups": [1, 2, 3, 4],
    "window_size": 4,
    "patch_size": [7, 3, 3, 3],
    "patch_stride": [4, 2, 2, 2],
    "patch_padding": [3, 1, 1, 1],
    "patch_prenorm": [False, True, True, True],
    "drop_path_rate": 0.0,
}


def type_of(kind: str) -> str:
    """The ``model_type`` of a key of `CONFIGS`."""
    return kind.split()[0]


def make_tokenizer(
    control: Sequence[str] = (), bos_token: str | None = None
) -> PreTrainedTokenizerFast:
    """Words, and control tokens of a chat; every other word is unknown."""
    words = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        bos_token=bos_token,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", *control]})
    return tokenizer


def make_host(kind: str, *, tied: bool = False, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        type_of(kind), **CONFIGS[kind], image_token_id=1, tie_word_embeddings=tied
    )
    return AutoModelForImageTextToText.from_config(config).eval()


def make_graft(host: PreTrainedModel, tokenizer: Any, seed: int = 1) -> FO1ForConditionalGeneration:
    torch.manual_seed(seed)
    return graft(
        host,
        tokenizer,
        auxiliary=Florence2VisionConfig(**AUXILIARY),
        vocabulary=VOCABULARY,
        pyramid_channels=8,
    )


@dataclass(frozen=True)
class Prompter:
    """Prompts for one grafted model."""

    model: FO1ForConditionalGeneration
    tokenizer: PreTrainedTokenizerFast

    def pixels(self, images: list[Tensor]) -> dict[str, Tensor]:
        """What the host's image processor would make of (C, H, W) images."""
        config: Any = self.model.config.host
        if config.model_type.startswith("qwen"):
            return _flat_patches(images, config.vision_config.patch_size)
        square = (config.vision_config.image_size,) * 2
        return {"pixel_values": torch.stack([_resize(image, square) for image in images])}

    def ids(self, question: str, *, image_tokens: int = 0, regions: int = 0) -> list[int]:
        tags = (VOCABULARY.tag(index) + VOCABULARY.region_feature for index in range(regions))
        line = "".join(tags).replace("><", "> <")
        text = " ".join(["what", *["<image>"] * image_tokens, line, question, ":"])
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def batch(
        self, questions: list[str], images: list[Tensor | None], boxes: list[Tensor] | None = None
    ) -> dict[str, Any]:
        """Left-padded rows, at most one image a row; boxes (N, 4) in pixels of the image."""
        shown = [image for image in images if image is not None]
        inputs: dict[str, Any] = self.pixels(shown) if shown else {}
        counts: list[int] = []
        if shown:
            adapter, host = self.model.host_adapter, self.model.config.host
            grid = adapter.image_grid(host, inputs["pixel_values"], inputs.get("image_grid_thw"))
            counts = adapter.tokens_per_image(host, grid)
            inputs["aux_pixel_values"] = shown
            inputs["region_boxes"] = boxes or [torch.zeros(0, 4)] * len(shown)
        rows: list[list[int]] = []
        for question, image in zip(questions, images, strict=True):
            place = sum(p is not None for p in images[: len(rows)])
            tokens = counts[place] if image is not None else 0
            regions = len(inputs["region_boxes"][place]) if image is not None else 0
            rows.append(self.ids(question, image_tokens=tokens, regions=regions))
        longest = max(map(len, rows))
        pad = [longest - len(row) for row in rows]
        return inputs | {
            "input_ids": torch.tensor([[0] * n + row for n, row in zip(pad, rows, strict=True)]),
            "attention_mask": torch.tensor([[0] * n + [1] * (longest - n) for n in pad]),
        }


def _resize(image_CHW: Tensor, size_hw: tuple[int, int]) -> Tensor:
    return torch.nn.functional.interpolate(image_CHW[None], size=size_hw, mode="bilinear")[0]


def _flat_patches(images: list[Tensor], patch: int) -> dict[str, Tensor]:
    """As Qwen2-VL's image processor: 2 x 2 blocks of patches, two equal frames."""
    flat: list[Tensor] = []
    grid: list[list[int]] = []
    for image in images:
        rows, columns = (max(2, round(side / patch / 2) * 2) for side in image.shape[1:])
        pixels = _resize(image, (rows * patch, columns * patch))
        blocks = pixels.view(3, rows // 2, 2, patch, columns // 2, 2, patch)
        patches = blocks.permute(1, 4, 2, 5, 0, 3, 6).reshape(rows * columns, 3, 1, patch, patch)
        flat.append(patches.expand(-1, -1, 2, -1, -1).flatten(1))
        grid.append([1, rows, columns])
    return {"pixel_values": torch.cat(flat), "image_grid_thw": torch.tensor(grid)}
