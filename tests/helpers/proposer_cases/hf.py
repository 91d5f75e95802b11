"""Tiny random detectors of transformers, one of each family, saved and loaded as users would."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForObjectDetection,
    AutoModelForZeroShotObjectDetection,
    PreTrainedTokenizerFast,
)
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
    GroundingDinoImageProcessorPil,
)
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

from tests.helpers.proposer_cases import ProposerCase
from vlm_fo1.proposers.base import Proposer, load_proposer
from vlm_fo1.proposers.cache import CachedProposer

NAMES = {0: "cat", 1: "dog", 2: "lamp"}
QUERIES = ["cat", "red lamp", "dog"]
WORDS = ["a", "photo", "of", "cat", "dog", "lamp", "red", "green"]

RT_DETR = {
    "backbone_config": {
        "model_type": "rt_detr_resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage2", "stage3", "stage4"],
    },
    "encoder_hidden_dim": 16,
    "encoder_in_channels": [8, 16, 16],
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "d_model": 16,
    "num_queries": 12,
    "decoder_in_channels": [16, 16, 16],
    "decoder_ffn_dim": 16,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "id2label": NAMES,
}
D_FINE = {
    **RT_DETR,
    "backbone_config": {
        "model_type": "hgnet_v2",
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 16, 16],
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 8, 16, 16],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [8, 16, 16, 16],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [1, 1, 1, 1],
        "out_features": ["stage2", "stage3", "stage4"],
    },
    "encoder_in_channels": [16, 16, 16],
    "decoder_n_points": [2, 2, 2],
}
DETR = {
    "use_timm_backbone": False,
    "backbone_config": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage4"],
    },
    "use_pretrained_backbone": False,
    "d_model": 16,
    "num_queries": 12,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "id2label": NAMES,
}
_YOLOS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": [64, 64],
    "patch_size": 16,
    "num_detection_tokens": 12,
    "id2label": NAMES,
}
_SWIN = {
    "model_type": "swin",
    "image_size": 64,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 2, 2],
    "window_size": 4,
}
_GROUNDING = {
    "backbone_config": {**_SWIN, "out_features": ["stage2", "stage3", "stage4"]},
    "text_config": {
        "model_type": "bert",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 1100,
    },
    "d_model": 64,
    "num_queries": 12,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "max_text_len": 24,
}
_MM_GROUNDING = {
    **_GROUNDING,
    "backbone_config": {**_SWIN, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
    "num_feature_levels": 5,
}
OWL = {
    "text_config": {
        "vocab_size": 16,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 12,
    },
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
    },
    "projection_dim": 16,
}
_OMDET = {
    "backbone_config": {**_SWIN, "out_features": ["stage1", "stage2", "stage3"]},
    "apply_layernorm_after_vision_backbone": False,  # transformers' Swin has norms of its own
    "text_config": {
        **OWL["text_config"],
        "model_type": "clip_text_model",
        "bos_token_id": 10,
        "eos_token_id": 11,
    },
    "text_projection_in_dim": 16,
    "text_projection_out_dim": 16,
    "class_embed_dim": 16,
    "task_encoder_hidden_dim": 16,
    "encoder_in_channels": [8, 16, 32],
    "encoder_hidden_dim": 32,
    "encoder_attention_heads": 2,
    "encoder_dim_feedforward": 16,
    "vision_features_channels": [32, 32, 32],
    "decoder_hidden_dim": 32,
    "decoder_num_heads": 2,
    "decoder_num_layers": 2,
    "decoder_dim_feedforward": 16,
    "num_queries": 12,
    "image_size": 64,
}


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """A BERT in small; the four tokens that Grounding DINO knows by number stand in their place."""
    table = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
    table |= {word: 1040 + index for index, word in enumerate(WORDS)}
    words = Tokenizer(models.WordPiece(table, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
    )


def clip_tokenizer() -> PreTrainedTokenizerFast:
    """A CLIP in small; the end of a text has the highest number, by which the model finds it."""
    table = {word: index for index, word in enumerate(["!", *WORDS, "<unk>", "<start>", "<end>"])}
    words = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<start>",
        eos_token="<end>",
        pad_token="!",
        unk_token="<unk>",
    )


def make_model(kind: str, config: dict[str, Any], *, names: bool, seed: int = 0) -> Any:
    """A model with weights so random that boxes and classes differ from place to place."""
    torch.manual_seed(seed)
    auto = AutoModelForZeroShotObjectDetection if names else AutoModelForObjectDetection
    model = auto.from_config(AutoConfig.for_model(kind, **config))
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.add_(torch.randn(value.shape) * 0.3 / value[0].numel() ** 0.5)
    return model.eval()


def build(
    folder: Path,
    *,
    kind: str,
    config: dict[str, Any],
    processor: Callable[[], Any],
    tokenizer: Callable[[], Any] | None = None,
    seed: int = 0,
    **options: Any,
) -> Proposer:
    """Save a tiny detector and load it."""
    names = tokenizer is not None
    make_model(kind, config, names=names, seed=seed).save_pretrained(folder)
    processor().save_pretrained(folder)
    if tokenizer is not None:
        tokenizer().save_pretrained(folder)
    return load_proposer(f"hf:{folder}", device="cpu", **options)


SQUARE = {"height": 64, "width": 64}
SHORT = {"shortest_edge": 48, "longest_edge": 320}
PARTS: dict[str, dict[str, Any]] = {
    "rt_detr_v2": {"config": RT_DETR, "processor": partial(RTDetrImageProcessorPil, size=SQUARE)},
    "d_fine": {"config": D_FINE, "processor": partial(RTDetrImageProcessorPil, size=SQUARE)},
    "detr": {"config": DETR, "processor": partial(DetrImageProcessorPil, size=SHORT)},
    "yolos": {"config": _YOLOS, "processor": partial(YolosImageProcessorPil, size=SHORT)},
    "grounding-dino": {
        "config": _GROUNDING,
        "processor": partial(GroundingDinoImageProcessorPil, size=SHORT),
        "tokenizer": bert_tokenizer,
    },
    "mm-grounding-dino": {
        "config": _MM_GROUNDING,
        "processor": partial(GroundingDinoImageProcessorPil, size=SHORT),
        "tokenizer": bert_tokenizer,
    },
    "owlv2": {
        "config": OWL,
        "processor": partial(Owlv2ImageProcessorPil, size=SQUARE),
        "tokenizer": clip_tokenizer,
    },
    "omdet-turbo": {
        "config": _OMDET,
        "processor": partial(DetrImageProcessorPil, size=SQUARE),
        "tokenizer": clip_tokenizer,
    },
}
"""What makes a tiny detector of each family: keywords of `build`."""


def build_cached(folder: Path, **options: Any) -> Proposer:
    """A detector behind a cache: each image is offered twice, once from disk."""
    inner = build(folder / "weights", kind="rt_detr_v2", **PARTS["rt_detr_v2"], **options)
    return CachedProposer(inner, folder / "cache")


CASES: list[ProposerCase] = [
    ProposerCase(
        f"hf {kind}",
        partial(build, kind=kind, **parts),
        QUERIES if "tokenizer" in parts else None,
        other=partial(build, kind=kind, seed=1, **parts),
        needs="scipy" if kind == "owlv2" else None,
    )
    for kind, parts in PARTS.items()
]
CASES.append(
    ProposerCase("hf behind a cache", build_cached, None, other=partial(build_cached, seed=1))
)
