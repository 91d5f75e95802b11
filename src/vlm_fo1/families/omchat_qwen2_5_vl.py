"""VLM-FO1 on Qwen2.5-VL, as its authors released it (``omlab/VLM-FO1_Qwen2.5-VL-3B-v01``).

Source: REFERENCE, "The model" and "Preprocessing and prompt"; the names recorded from the official
code.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from vlm_fo1.errors import ConfigError
from vlm_fo1.families.florence2 import davit_sizes, davit_table, read_davit_sizes

logger = logging.getLogger(__name__)

TENSOR_PREFIX = "model.vision_tower."

CHAT = {
    "opening": ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"),
    "system_opening": "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n",
    "before_image": "<|vision_start|>",
    "after_image": "<|vision_end|>\n",
    "after_regions": "\n",
    "closing": "<|im_end|>\n<|im_start|>assistant\n",
    "image_token": "<|image_pad|>",
    "stop_token": "<|im_end|>",
}
"""Its prompt, a ``ChatFormat``."""

VOCABULARY: dict[str, Any] = {"max_regions": 100}
"""Its markup, where that is not the canonical one; ``mm_num_region_tokens`` wins."""

IMAGE_TOKEN_ID = 151655
VIDEO_TOKEN_ID = 151656
"""Of Qwen's tokenizer, for a file that leaves them out."""

AUXILIARY_IMAGE = {"aux_image_aspect_ratio": "dynamic", "aux_image_size": 768}
"""How the auxiliary image is sized where the file leaves it open."""

VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
"""The ViT of Qwen2.5-VL, for a file that only names its tower."""

_FIXED_OPTIONS = {
    "mm_region_feature_combination": "concat",
    "mm_pos_embedding_strategy": "bbox_based",
    "mm_use_vision_tower_region_feature": True,
    "mm_use_region_index_token": True,
    "mm_apply_position_embedding": True,
    "mm_use_simpleFPN_for_vt": True,
}
"""Options of the official configuration that the released checkpoints use one value of."""

_READ_OPTIONS = {
    "mm_vision_tower",
    "mm_vision_tower_aux",
    "mm_projector_type",
    "mm_projector_aux_type",
    "mm_hidden_size",
    "mm_region_hidden_size",
    "mm_roi_output_size",
    "mm_num_region_tokens",
}

_VISION_KEYS = (*VISION, "hidden_act", "in_channels", "temporal_patch_size", "out_hidden_size")
_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_TEXT_KEYS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "hidden_act"),
    *("num_attention_heads", "num_key_value_heads", "attention_dropout", "rms_norm_eps"),
    *("use_sliding_window", "sliding_window", "max_window_layers", "max_position_embeddings"),
    *("rope_theta", "rope_scaling", "rope_parameters", "initializer_range", "use_cache"),
    *_SPECIAL_IDS,
)
_TOKEN_KEYS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
_PRIMARY_KEYS = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std")


def model_values(config: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """Arguments of ``FO1Config``, and the width of a region feature where the file states it.

    Args:
        config: A ``config.json``. Paths in it (``mm_vision_tower``) are names, never opened. The
            values of the language model may stand in ``text_config``, as newer versions of
            transformers write them.

    Raises:
        ConfigError: An option that no released checkpoint uses, or no sizes.
    """
    values = _flat(config)
    if "hidden_size" not in values:
        raise ConfigError("config.json lacks hidden_size, the width of the language model")
    for name, needed in _FIXED_OPTIONS.items():
        if values.get(name, needed) != needed:
            raise ConfigError(
                f"{name} = {values[name]!r} is not supported, only {needed!r}: no released "
                "checkpoint uses it, so there is nothing to check an implementation against"
            )
    for name in values:
        if name.startswith("mm_") and name not in _FIXED_OPTIONS and name not in _READ_OPTIONS:
            logger.info("released configuration: %s = %r is not used here", name, values[name])
    region = {"pooling_size": values.get("mm_roi_output_size", 7)}
    if "simple_fpn" in values:
        region["pyramid_channels"] = values["simple_fpn"]["out_channels"]
        region["pyramid_strides"] = values["simple_fpn"]["strides"]
    tied = bool(values.get("tie_word_embeddings", False))
    arguments = {
        "host_config": _host(values, tied),
        "auxiliary_config": _davit(values),
        "region_config": region,
        "image_connector": values.get("mm_projector_type", "linear"),
        "region_connector": values.get("mm_projector_aux_type", "linear"),
        "image_token_id": values.get("image_token_id", IMAGE_TOKEN_ID),
        "region_token_id": region_token_id(values),
        "tie_word_embeddings": tied,
        "dtype": values.get("dtype") or values.get("torch_dtype"),
        **{key: values[key] for key in _SPECIAL_IDS if key in values},
    }
    return arguments, values.get("mm_region_hidden_size")


def processor_values(
    config: Mapping[str, Any], host: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of images and of prompts.

    Patches and normalisation are as the host says, but not its limits on the size: the official
    code sets limits of its own.

    Args:
        config: As for `model_values`.
        host: The host's ``preprocessor_config.json``; empty where the folder has none.

    Returns:
        Arguments of ``FO1ImageProcessor``, of whose ``primary`` what differs from `qwen_primary`,
        and of ``FO1Processor`` but for its two parts; ``image_token_id`` is None where
        the file names none, ``region_token_id`` as in `region_token_id`.
    """
    values = _flat(config)
    vision = values.get("vision_config") or {}
    regions = values.get("mm_num_region_tokens") or VOCABULARY["max_regions"]
    images = {
        "primary": {
            "patch_size": vision.get("patch_size", VISION["patch_size"]),
            "temporal_patch_size": vision.get("temporal_patch_size", 2),
            "merge_size": vision.get("spatial_merge_size", VISION["spatial_merge_size"]),
            **{key: host[key] for key in _PRIMARY_KEYS if host.get(key) is not None},
        },
        "max_regions": regions,
        **{key: values.get(key) or default for key, default in AUXILIARY_IMAGE.items()},
    }
    prompts = {
        "vocabulary": {**VOCABULARY, "max_regions": regions},
        "chat": CHAT,
        "image_token_id": values.get("image_token_id"),
        "region_token_id": region_token_id(values),
    }
    return images, prompts


def region_token_id(config: Mapping[str, Any]) -> int | None:
    """The id that stands for a region's feature in the prompts of a released checkpoint.

    Its tokenizer has no token for it, and no row of its embeddings need be free. The placeholder of
    videos is what no prompt of an image holds: it is a control token, which no text of a user
    becomes. Features replace it before the language model sees anything.

    Args:
        config: As for `model_values`; ``region_token_id`` wins where it is stated.

    Returns:
        The id; the last of the vocabulary where that has no videos, None for no vocabulary.
    """
    values = _flat(config)
    stated, rows = values.get("region_token_id"), values.get("vocab_size")
    if stated is not None or rows is None:
        return stated
    video = values.get("video_token_id", VIDEO_TOKEN_ID)
    return video if video is not None and video < rows else rows - 1


def tensor_table(patch_size: int, strides: Sequence[float]) -> list[tuple[str, str]]:
    """Released tensor names to ours, as full-match patterns and replacements; first match wins.

    Args:
        patch_size: Side of a patch of the primary image.
        strides: Of the levels of the region pyramid.
    """
    table = [
        *davit_table(r"model\.vision_tower_aux\.image_tower\.", "auxiliary.tower."),
        (r"model\.vision_tower\.image_tower\.(.+)", r"host.model.visual.\1"),
        (r"model\.mm_projector\.(.+)", r"image_connector.\1"),
        (r"model\.mm_projector_aux\.(.+)", r"region_connector.\1"),
        (r"model\.((?:embed_tokens|layers|norm)\..+)", r"host.model.language_model.\1"),
        (r"lm_head\.(.+)", r"host.lm_head.\1"),
    ]
    for number, level_stride in enumerate(strides):
        # Layers before the 1x1 convolution, numbered as in the official sequence: a max pool, or
        # transposed convolutions with norm and GELU between.
        layers = {0.5: 1, 1.0: 0, 2.0: 1, 4.0: 4, 8.0: 7}[patch_size / level_stride]
        old = rf"model\.object_vp_extractor\.simple_fpn\.simfp_{number + 1}\."
        new = f"region_encoder.pyramid.levels.{number}."
        for position, name in ((layers, "project"), (layers + 1, "smooth")):
            table.append((rf"{old}{position}\.norm\.(.+)", rf"{new}{name}_norm.\1"))
            table.append((rf"{old}{position}\.(.+)", rf"{new}{name}.\1"))
        table.append((rf"{old}(\d+\..+)", rf"{new}resample.\1"))
    return table


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """All values on one level, as the authors wrote them; what stands outside counts most."""
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        return dict(config)
    return {**text, **{key: value for key, value in config.items() if key != "text_config"}}


def _davit(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of the auxiliary tower: spelt out, or known by the tower's name."""
    if "davit" in values:
        return read_davit_sizes(values["davit"])
    return davit_sizes(
        PurePosixPath(str(values.get("mm_vision_tower_aux", ""))).name.removesuffix(".pth")
    )


def _host(values: Mapping[str, Any], tied: bool) -> dict[str, Any]:
    """The host's own configuration."""
    given = values.get("vision_config") or {}
    vision = {**VISION, "out_hidden_size": values["hidden_size"]}
    return {
        "model_type": "qwen2_5_vl",
        "vision_config": vision | {key: given[key] for key in _VISION_KEYS if key in given},
        "text_config": copy.deepcopy({key: values[key] for key in _TEXT_KEYS if key in values}),
        "tie_word_embeddings": tied,
        **{key: values[key] for key in _TOKEN_KEYS if key in values},
    }
