"""What a released folder leaves unsaid about processing, read from its config.json.

Such a folder holds a host's tokenizer and a model configuration; its preprocessor_config.json, if
there is one, is the host's own.
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from vlm_fo1.errors import CheckpointError
from vlm_fo1.hub import first_line, problem_of
from vlm_fo1.markup import Vocabulary, flat_released, released_region_token_id
from vlm_fo1.processing.image import FO1ImageProcessor, qwen_primary

MODEL_TYPES = ("omchat_qwen2_5_vl",)
"""`model_type` of the folders that can be read."""

_HOST_KEYS = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std")


def read_released(source: str, hub: Mapping[str, Any]) -> tuple[FO1ImageProcessor, dict[str, Any]]:
    """Make from a released folder what `FO1Processor` needs beside the tokenizer.

    Args:
        source: A folder or a Hub id.
        hub: Keywords for the Hub: ``revision``, ``cache_dir`` and the like.

    Returns:
        The image processor, and ``vocabulary``, ``image_token_id`` (None if the file names none)
        and ``region_token_id`` (see `markup.released_region_token_id`).

    Raises:
        CheckpointError: No config.json, one of another `model_type`, or none of the numbers that
            `region_token_id` comes from.
    """
    config = flat_released(_read_config(source, hub))
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise CheckpointError(
            f"{source} has no processor_config.json of ours and its model_type is {kind!r}: pass a "
            f"folder saved by FO1Processor.save_pretrained, or a released one ({MODEL_TYPES[0]})"
        )
    region_token_id = released_region_token_id(config)
    if region_token_id is None:
        raise CheckpointError(
            f"config.json of {source} has neither region_token_id nor vocab_size: add one"
        )
    vocabulary = Vocabulary(
        max_regions=config.get("mm_num_region_tokens") or Vocabulary().max_regions
    )
    values = {
        "vocabulary": vocabulary,
        "image_token_id": config.get("image_token_id"),
        "region_token_id": region_token_id,
    }
    return _image_processor(config, _read_host(source, hub), vocabulary.max_regions), values


def _image_processor(
    config: Mapping[str, Any], host: Mapping[str, Any], max_regions: int
) -> FO1ImageProcessor:
    """Patches and normalisation as the host says, but not its limits on the size.

    Source: REFERENCE, "Preprocessing and prompt": the official code sets limits of its own.
    """
    vision = _part(config, "vision_config")
    primary = {
        "patch_size": vision.get("patch_size", 14),
        "temporal_patch_size": vision.get("temporal_patch_size", 2),
        "merge_size": vision.get("spatial_merge_size", 2),
        **{key: host[key] for key in _HOST_KEYS if host.get(key) is not None},
    }
    return FO1ImageProcessor(
        primary=qwen_primary(**primary),
        aux_image_aspect_ratio=config.get("aux_image_aspect_ratio") or "dynamic",
        aux_image_size=config.get("aux_image_size") or 768,
        max_regions=max_regions,
    )


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return config.get(name) or {}


def _read_config(source: str, hub: Mapping[str, Any]) -> dict[str, Any]:
    try:
        config = PreTrainedConfig.get_config_dict(source, **hub)[0]
    except (OSError, ValueError) as error:
        problem = problem_of(source, error, revision=hub.get("revision"))
        raise CheckpointError(
            problem or f"{source} is not a checkpoint: {first_line(error)}"
        ) from error
    if all(key.startswith("_") for key in config):  # what transformers gives for a missing file
        raise CheckpointError(
            f"{source} is not a checkpoint: it has neither processor_config.json nor config.json"
        )
    return config


def _read_host(source: str, hub: Mapping[str, Any]) -> dict[str, Any]:
    # The host's own preprocessor_config.json; most released folders do without.
    try:
        return FO1ImageProcessor.get_image_processor_dict(source, **hub)[0]
    except OSError:
        return {}
