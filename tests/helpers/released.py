"""A released folder as it lies on the Hub, at tiny sizes, in every form that may be the real one.

What is known of the real files is the same in every `Layout` (flat configuration of transformers
4.50.1, the host's tokenizer files, the pad token that is the image placeholder, the generation
configuration); what is not known is a field. Tensors are those of ``tests/data/fo1``, embeddings
made anew for the vocabulary of the tokenizer that is built here.
"""

import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import Qwen2Tokenizer

from vlm_fo1.markup import RELEASED

RECORDED = Path(__file__).parents[1] / "data" / "fo1"

MERGES = [
    *("t h", "th e", "i n", "o r", "a n", "e r"),
    *("Ġ t", "Ġt h", "Ġth e", "an g", "or ang", "orang e"),
]
HOST_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
HOST_PLAIN = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)
NEW = [token for token in RELEASED.special_tokens() if token != RELEASED.region_feature]
"""The 106 tokens that the authors added: regions, ground, objects and think, in order."""
BYTES = sorted(ByteLevel.alphabet())
VOCABULARY = {
    token: index
    for index, token in enumerate([*BYTES, *(merge.replace(" ", "") for merge in MERGES)])
}
ADDED = {
    token: len(VOCABULARY) + index for index, token in enumerate([*HOST_SPECIAL, *HOST_PLAIN, *NEW])
}
TOKENS = len(VOCABULARY) + len(ADDED)
"""What the real tokenizer has 151771 of."""

GENERATION = {
    "bos_token_id": ADDED["<|endoftext|>"],
    "delay_load": True,
    "do_sample": True,
    "eos_token_id": [ADDED["<|im_end|>"], ADDED["<|endoftext|>"]],
    "multi_scale_im": False,
    "pad_token_id": ADDED["<|endoftext|>"],
    "rotary_type": "fused_rotary",
    "temperature": 0.1,
    "top_k": 1,
    "top_p": 0.001,
    "transformers_version": "4.50.1",
}
LEFT_OVER = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": (6,),
    "model.vt_region_mlp.0.weight": (48, 96),
    "model.region_classifier.weight": (2, 48),
    "model.video_tower.blocks.0.norm1.weight": (32,),
}
"""Tensors that training may have left in the file."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One value for each thing that is not known of the real folder."""

    vocabulary: str = "padded"
    """``padded`` (151936), ``cut`` to the tokenizer (151771), or ``one more`` (151772)."""
    head: str = "absent, tied"
    """Also ``stored, tied``, ``stored other, tied`` and ``stored, untied``."""
    tokenizer: str = "slow"
    """``slow``: vocab.json and merges.txt; ``both``: tokenizer.json too; ``fast``: that alone."""
    added_files: bool = True
    """Whether added_tokens.json and special_tokens_map.json are there."""
    weights: str = "shards"
    """Also ``file``, ``bin`` and ``bin shards``."""
    projector: str = "identity"
    """Also ``linear`` and ``mlp2x_gelu``."""
    left_over: bool = False
    """Whether tensors of `LEFT_OVER` are in the file."""
    rope: str = "default"
    """How ``rope_scaling`` names its kind; also ``mrope``."""
    window: int | None = 32768
    """``sliding_window``."""
    dtype_key: str = "torch_dtype"
    """Also ``dtype``."""
    unknown_keys: bool = False
    """Keys that nobody knows."""
    nested: bool = False
    """Whether the text model's values stand in ``text_config``, as transformers 5 writes them."""

    def __str__(self) -> str:
        changed = [
            f"{item.name}={getattr(self, item.name)}"
            for item in fields(self)
            if getattr(self, item.name) != item.default
        ]
        return ", ".join(changed) or "as most likely"


VALUES: dict[str, tuple[Any, ...]] = {
    "vocabulary": ("padded", "cut", "one more"),
    "head": ("absent, tied", "stored, tied", "stored other, tied", "stored, untied"),
    "tokenizer": ("slow", "both", "fast"),
    "added_files": (True, False),
    "weights": ("shards", "file", "bin", "bin shards"),
    "projector": ("identity", "linear", "mlp2x_gelu"),
    "left_over": (False, True),
    "rope": ("default", "mrope"),
    "window": (32768, None),
    "dtype_key": ("torch_dtype", "dtype"),
    "unknown_keys": (False, True),
    "nested": (False, True),
}


def pairwise() -> list[Layout]:
    """Layouts in which any two values of two fields meet at least once; the likeliest first."""
    waiting = set(_pairs(VALUES))
    layouts = [Layout()]
    waiting -= set(_met(layouts[0]))
    while waiting:
        layout = replace(Layout(), **dict(min(waiting, key=repr)))
        for name, values in VALUES.items():
            fixed = dict(min(waiting, key=repr))
            if name not in fixed:
                layout = max(
                    (replace(layout, **{name: value}) for value in values),
                    key=lambda tried: len(waiting & set(_met(tried))),
                )
        waiting -= set(_met(layout))
        layouts.append(layout)
    return layouts


Pair = tuple[tuple[str, Any], tuple[str, Any]]


def _pairs(values: dict[str, tuple[Any, ...]]) -> Iterator[Pair]:
    for first, second in itertools.combinations(values, 2):
        for one, other in itertools.product(values[first], values[second]):
            yield (first, one), (second, other)


def _met(layout: Layout) -> Iterator[Pair]:
    return _pairs({name: (getattr(layout, name),) for name in VALUES})


def make_released(folder: Path, layout: Layout | None = None) -> Path:
    """Write a folder in the released layout.

    Args:
        folder: Made if needed.
        layout: Its form, the likeliest if left out.

    Returns:
        The folder.
    """
    layout = layout or Layout()
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"padded": TOKENS + 50, "cut": TOKENS, "one more": TOKENS + 1}[layout.vocabulary]
    _write(folder / "config.json", _config(layout, rows))
    _write(folder / "generation_config.json", GENERATION)
    _write(folder / "preprocessor_config.json", _preprocessor())
    _write_tokenizer(folder, layout)
    _write_weights(folder, layout, _tensors(layout, rows))
    return folder


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")


def _config(layout: Layout, rows: int) -> dict[str, Any]:
    recorded = json.loads((RECORDED / "config.json").read_text())
    vision = {
        key: recorded["vision_config"][key]
        for key in (
            *("depth", "hidden_size", "hidden_act", "intermediate_size", "num_heads"),
            *("in_channels", "patch_size", "spatial_merge_size", "temporal_patch_size"),
            *("tokens_per_second", "window_size", "fullatt_block_indexes", "out_hidden_size"),
            "model_type",
        )
    }
    text = {
        key: recorded[key]
        for key in (
            *("attention_dropout", "hidden_act", "hidden_size", "initializer_range"),
            *("intermediate_size", "max_position_embeddings", "max_window_layers"),
            *("num_attention_heads", "num_hidden_layers", "num_key_value_heads"),
            *("rms_norm_eps", "rope_theta", "use_cache", "use_sliding_window"),
        )
    }
    kinds = {"default": {"rope_type": "default", "type": "default"}, "mrope": {"type": "mrope"}}
    text |= {
        "vocab_size": rows,
        "bos_token_id": ADDED["<|endoftext|>"],
        "eos_token_id": ADDED["<|im_end|>"],
        "sliding_window": layout.window,
        "rope_scaling": {"mrope_section": [2, 2, 2], **kinds[layout.rope]},
    }
    values = {
        "architectures": ["OmChatQwen25VLForCausalLM"],
        "aux_image_aspect_ratio": "dynamic",
        "aux_image_size": 1024,
        "davit": recorded["davit"],
        "delay_load": True,
        "freeze_mm_mlp_adapter": False,
        "image_aspect_ratio": "dynamic",
        "image_token_id": ADDED["<|image_pad|>"],
        "mm_apply_position_embedding": True,
        "mm_apply_region_layer_norm": False,
        "mm_hidden_size": text["hidden_size"],
        "mm_num_region_tokens": 100,
        "mm_pos_embedding_strategy": "bbox_based",
        "mm_projector_aux_type": "mlp2x_gelu",
        "mm_projector_lr": None,
        "mm_projector_type": layout.projector,
        "mm_region_feature_combination": "concat",
        "mm_region_hidden_size": recorded["mm_region_hidden_size"],
        "mm_roi_output_size": 7,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_use_region_index_token": True,
        "mm_use_simpleFPN_for_vt": True,
        "mm_use_vision_tower_region_feature": True,
        "mm_use_vt_region_feature_only": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "resources/Qwen2.5-VL-3B-Instruct-Vision_Tower",
        "mm_vision_tower_aux": "resources/davit-large.pth",
        "model_type": "omchat_qwen2_5_vl",
        "multi_scale_im": False,
        "rotary_type": "fused_rotary",
        "simple_fpn": recorded["simple_fpn"],
        "tie_word_embeddings": layout.head.endswith(" tied"),
        "tokenizer_model_max_length": 8192,
        "tokenizer_padding_side": "right",
        layout.dtype_key: "float32",
        "transformers_version": "4.50.1",
        "tune_mm_mlp_adapter": False,
        "video_token_id": ADDED["<|video_pad|>"],
        "vision_config": {**vision, layout.dtype_key: "float32"},
        "vision_end_token_id": ADDED["<|vision_end|>"],
        "vision_start_token_id": ADDED["<|vision_start|>"],
        "vision_token_id": ADDED["<|vision_pad|>"],
        "vision_tower_aux": None,
    }
    if layout.unknown_keys:
        values |= {"a_key_nobody_knows": 7, "mm_a_key_nobody_knows": "x", "vt_mlp": {"depth": 2}}
    if not layout.nested:
        return {**values, **text}
    scaling, theta = text.pop("rope_scaling"), text.pop("rope_theta")
    text["rope_parameters"] = {**scaling, "rope_theta": theta}
    return {**values, "text_config": {**text, "model_type": "omchat_qwen2_5_vl_text"}}


def _preprocessor() -> dict[str, Any]:
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "max_pixels": 12845056,
        "merge_size": 2,
        "min_pixels": 3136,
        "patch_size": 14,
        "processor_class": "Qwen2_5_VLProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"longest_edge": 12845056, "shortest_edge": 3136},
        "temporal_patch_size": 2,
    }


def _write_tokenizer(folder: Path, layout: Layout) -> None:
    kind = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(index): {"content": token, **kind, "special": token not in HOST_PLAIN}
            for token, index in ADDED.items()
        },
        "additional_special_tokens": NEW,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 8192,
        "pad_token": "<|image_pad|>",
        "padding_side": "right",
        "processor_class": "Qwen2_5_VLProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    _write(folder / "tokenizer_config.json", settings)
    _write(folder / "vocab.json", VOCABULARY)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")
    if layout.tokenizer != "slow":
        Qwen2Tokenizer.from_pretrained(folder).backend_tokenizer.save(
            str(folder / "tokenizer.json")
        )
    if layout.tokenizer == "fast":
        (folder / "vocab.json").unlink()
        (folder / "merges.txt").unlink()
    if layout.added_files:
        _write(folder / "added_tokens.json", ADDED)
        special = {"content": "<|im_end|>", **kind}
        _write(
            folder / "special_tokens_map.json",
            {
                "additional_special_tokens": NEW,
                "eos_token": special,
                "pad_token": {**special, "content": "<|image_pad|>"},
            },
        )


def _tensors(layout: Layout, rows: int) -> dict[str, Tensor]:
    state = load_file(RECORDED / "model.safetensors")
    draw = torch.Generator().manual_seed(0)
    width = state["model.embed_tokens.weight"].shape[1]
    words = torch.randn(TOKENS, width, generator=draw) * 0.2
    head = torch.randn(TOKENS, width, generator=draw) * 0.2
    spare = torch.zeros(rows - TOKENS, width)
    state["model.embed_tokens.weight"] = torch.cat([words, spare])
    del state["lm_head.weight"]
    if layout.head == "stored, tied":
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    elif layout.head != "absent, tied":
        state["lm_head.weight"] = torch.cat([head, spare])
    kept = {name: state.pop(name) for name in list(state) if name.startswith("model.mm_projector.")}
    if layout.projector == "mlp2x_gelu":
        state |= kept
    elif layout.projector == "linear":
        for part in ("weight", "bias"):
            state[f"model.mm_projector.{part}"] = kept[f"model.mm_projector.0.{part}"]
    if layout.left_over:
        state |= {name: torch.ones(shape) for name, shape in LEFT_OVER.items()}
    return state


def _write_weights(folder: Path, layout: Layout, state: dict[str, Tensor]) -> None:
    pickled = layout.weights.startswith("bin")
    stem, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    if layout.weights in {"bin", "file"}:
        _save(state, folder / f"{stem}.{suffix}")
        return
    names = sorted(state)
    weight_map: dict[str, str] = {}
    for number in range(2):
        shard = f"{stem}-{number + 1:05}-of-00002.{suffix}"
        part = {name: state[name] for name in names[number::2]}
        weight_map |= dict.fromkeys(part, shard)
        _save(part, folder / shard)
    size = sum(value.numel() * value.element_size() for value in state.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    _write(folder / f"{stem}.{suffix}.index.json", index)


def _save(state: dict[str, Tensor], path: Path) -> None:
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        save_file(state, path, metadata={"format": "pt"})


def copy_of(folder: Path, to: Path) -> Path:
    """A folder to be damaged by a test."""
    return Path(shutil.copytree(folder, to))
