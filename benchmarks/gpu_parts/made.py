"""A model of the released sizes with random weights, made on the device: nothing is downloaded.

The folder that it is made from is laid out as a released one, so that everything reads it as it
would read the real one; only the words of its tokenizer are others.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vlm_fo1 import FO1, FO1Processor
from vlm_fo1.markup import RELEASED
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.weights import read_config
from vlm_fo1.processing.chat import ChatFormat
from vlm_fo1.tasks import TASKS

RELEASED_3B: dict[str, Any] = {
    "model_type": "omchat_qwen2_5_vl",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "mm_vision_tower": "resources/Qwen2.5-VL-3B-Instruct-Vision_Tower",
    "mm_vision_tower_aux": "resources/davit-large.pth",
    "mm_projector_type": "mlp2x_gelu",
    "mm_projector_aux_type": "mlp2x_gelu",
    "mm_region_hidden_size": 5888,
    "aux_image_size": 1024,
    "aux_image_aspect_ratio": "dynamic",
}
"""What is known of the released configuration; sizes that it leaves out follow from tower names."""

_TINY: dict[str, Any] = {
    **RELEASED_3B,
    "vocab_size": 1024,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 2]},
    "vision_config": {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
        "fullatt_block_indexes": [1], "out_hidden_size": 48,
    },
    "davit": {
        "depths": [1, 1, 1, 1], "dim_embed": [8, 16, 24, 32], "num_heads": [1, 2, 2, 2],
        "num_groups": [1, 2, 2, 2], "window_size": 4, "patch_size": [7, 3, 3, 3],
        "patch_stride": [4, 2, 2, 2], "patch_padding": [3, 1, 1, 1],
        "patch_prenorm": [False, True, True, True],
    },
    "simple_fpn": {"out_channels": 16, "strides": [3.5, 7, 14, 28]},
    "mm_region_hidden_size": 144,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large everything is."""

    config: dict[str, Any]
    image_wh: tuple[int, int]
    """Of the image that most figures are for."""
    other_wh: tuple[tuple[int, int], ...]
    """Images that the encoders are tried on besides."""
    boxes: int
    labels: int
    """Asked about one image."""
    list_tokens: int
    """Written for each of them."""
    new_tokens: int
    """Of a long answer."""
    batch: int
    """Images side by side."""
    batch_tokens: int
    """Of an answer in a batch."""
    repeats: int
    """Of what is timed; without warm-up where it is 1."""
    upn_hw: tuple[int, int]
    upn_small: bool
    train_steps: int
    train_turns: int
    """Questions on one image in a record."""


SIZES = {
    "3b": Size(
        config={**RELEASED_3B, "tie_word_embeddings": True},
        image_wh=(1024, 768), other_wh=((640, 480), (2044, 1540)), boxes=100,
        labels=80, list_tokens=16, new_tokens=128, batch=16, batch_tokens=64, repeats=10,
        upn_hw=(800, 1066), upn_small=False, train_steps=20, train_turns=16,
    ),
    "tiny": Size(
        config={**_TINY, "tie_word_embeddings": True},
        image_wh=(84, 56), other_wh=((56, 56),), boxes=5,
        labels=3, list_tokens=2, new_tokens=4, batch=2, batch_tokens=2, repeats=1,
        upn_hw=(32, 40), upn_small=True, train_steps=3, train_turns=2,
    ),
}  # fmt: skip
"""``3b`` is the released model; ``tiny`` has the same parts and shows that everything runs."""

LABELS = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog"),
)
COLOURS = ("red", "green", "blue", "white", "black")


def labels(count: int) -> list[str]:
    """Different labels, as many as wanted up to 85."""
    return [f"{colour} {thing}" for colour in COLOURS for thing in LABELS][:count]


def make_folder(size: Size, folder: Path) -> Path:
    """Write what a released folder holds, but for the weights.

    Args:
        size: The sizes.
        folder: Made if needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    chat = ChatFormat()
    config = {
        **size.config,
        "image_token_id": tokenizer.convert_tokens_to_ids(chat.image_token),
        "region_token_id": tokenizer.convert_tokens_to_ids(RELEASED.region_feature),
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs learnt from the templates: questions are about as long as they would be."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    texts = [*(task.template for task in TASKS.values()), *labels(85), ChatFormat().opening]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(texts * 2, trainer)
    chat = ChatFormat()
    control = ["<|endoftext|>", chat.image_token, *chat.control_tokens()]
    core.add_special_tokens(list(dict.fromkeys([*control, *RELEASED.special_tokens()])))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=chat.stop_token, pad_token="<|endoftext|>"
    )


def make_fo1(folder: Path, device: torch.device, dtype: torch.dtype) -> FO1:
    """A model with random weights whose answers never end before their limit.

    Args:
        folder: What `make_folder` wrote.
        device: Where the weights are drawn.
        dtype: Of the weights.
    """
    processor = FO1Processor.from_pretrained(folder)
    torch.manual_seed(0)
    with torch.inference_mode(mode=False), torch.device(device):
        model = FO1ForConditionalGeneration._from_config(  # noqa: SLF001 - its public form would
            read_config(folder), dtype=dtype  # look up an Auto class
        )  # fmt: skip
    model.eval().requires_grad_(requires_grad=False)
    # Its logit is 0, and that of many another token is above.
    model.get_output_embeddings().weight[processor.stop_token_id] = 0  # pyright: ignore[reportIndexIssue]
    return FO1(model, processor)
