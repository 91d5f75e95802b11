"""Tiny random detectors of transformers, one of each family, saved and loaded as users would."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tests.helpers_proposers import ProposerCase
from transformers import AutoConfig, AutoModelForObjectDetection
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

from vlm_fo1.proposers.base import Proposer, load_proposer

NAMES = {0: "cat", 1: "dog", 2: "lamp"}
_RT_DETR = {
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


def spread(model: Any, amount: float = 0.3) -> Any:
    """The model with weights so random that boxes and classes differ from query to query."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.add_(
                    torch.randn(value.shape, generator=generator) * amount / value[0].numel() ** 0.5
                )
    return model.eval()


def build_closed_set(
    folder: Path, *, kind: str, config: dict[str, Any], processor: Callable[..., Any], seed: int = 0
) -> Proposer:
    torch.manual_seed(seed)
    model = AutoModelForObjectDetection.from_config(AutoConfig.for_model(kind, **config))
    spread(model).save_pretrained(folder)
    processor().save_pretrained(folder)
    return load_proposer(f"hf:{folder}", device="cpu")


def closed_set(kind: str, config: dict[str, Any], processor: Callable[..., Any]) -> ProposerCase:
    build = partial(build_closed_set, kind=kind, config=config, processor=processor)
    return ProposerCase(f"hf {kind}", build, None, other=partial(build, seed=1))


CASES: list[ProposerCase] = [
    closed_set(
        "rt_detr_v2",
        _RT_DETR,
        partial(RTDetrImageProcessorPil, size={"height": 64, "width": 64}),
    ),
]
