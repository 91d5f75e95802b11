"""SAM 3 at a size that a test can build: random weights in a folder, named as released ones are."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    Sam3Config,
    Sam3Model,
    Sam3TrackerVideoConfig,
    Sam3TrackerVideoModel,
    Sam3VideoConfig,
)

from tests.helpers.tokenizer import char_tokenizer

SIDE = 56
GUESSES = 12
"""Things that the network returns for each query."""
_WIDTH = 128  # the tracker's memories have 64 channels, and its own width must be a multiple


def save_tiny_sam3(folder: Path, *, seed: int = 0) -> Path:
    """A checkpoint with detector and tracker; the folder."""
    tokenizer = char_tokenizer()
    tokenizer.save_pretrained(folder)
    vision = {
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 14,
            "window_size": 2,
            "global_attn_indexes": [1],
            "pretrain_image_size": 28,
        },
        "fpn_hidden_size": _WIDTH,
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    }
    part = {"hidden_size": _WIDTH, "num_attention_heads": 4, "intermediate_size": 24}
    detector = Sam3Config(
        vision_config=vision,
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 24,
            "projection_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
        geometry_encoder_config={**part, "num_layers": 1},
        detr_encoder_config={**part, "num_layers": 1},
        detr_decoder_config={**part, "num_layers": 2, "num_queries": GUESSES},
        mask_decoder_config={"hidden_size": _WIDTH, "num_attention_heads": 4},
        initializer_range=0.1,
    )
    tracker = Sam3TrackerVideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": _WIDTH, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": _WIDTH,
            "mlp_dim": 24,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
        memory_attention_hidden_size=_WIDTH,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=24,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=_WIDTH,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=_WIDTH,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=_WIDTH,
        memory_fuser_intermediate_dim=24,
    )
    config = Sam3VideoConfig(detector_config=detector, tracker_config=tracker)
    config.image_size = SIDE  # of both
    config.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = {
            "detector_model.": Sam3Model(detector),
            "tracker_model.": Sam3TrackerVideoModel(tracker),
        }
        weights = {
            _released_name(prefix + name): _spread(name, tensor.contiguous().clone())
            for prefix, model in parts.items()
            for name, tensor in model.state_dict().items()
            if not (prefix + name).startswith("tracker_model.vision_encoder.backbone.")
        }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _released_name(name: str) -> str:
    """Both networks share the image encoder; the tracker has a neck of its own on it."""
    return name.replace("tracker_model.vision_encoder.neck.", "tracker_neck.")


def _spread(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Make the guesses differ: as initialised, all have one score and one box."""
    if any(part in name for part in ("query_embed", "reference_points", "box_head")):
        return tensor.normal_(0, 0.1)
    return tensor


def photo(seed=0, size_wh=(96, 64)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size_wh[1], size_wh[0], 3), np.uint8)
    return Image.fromarray(pixels)
