"""What a released folder leaves unsaid about processing, read from its config.json.

Such a folder holds a host's tokenizer and a model configuration; its preprocessor_config.json, if
there is one, is the host's own.
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from vlm_fo1.errors import CheckpointError
from vlm_fo1.families import FAMILIES, find_family
from vlm_fo1.hub import first_line, problem_of
from vlm_fo1.processing.image import FO1ImageProcessor, qwen_primary


def read_released(source: str, hub: Mapping[str, Any]) -> tuple[FO1ImageProcessor, dict[str, Any]]:
    """Make from a released folder what `FO1Processor` needs beside the tokenizer.

    Args:
        source: A folder or a Hub id.
        hub: Keywords for the Hub: ``revision``, ``cache_dir`` and the like.

    Returns:
        The image processor, and the other arguments as the family's ``processor_values`` has them.

    Raises:
        CheckpointError: No config.json, one of another `model_type`, or none of the numbers that
            `region_token_id` comes from.
    """
    config = _read_config(source, hub)
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise CheckpointError(
            f"{source} has no processor_config.json of ours and its model_type is {kind!r}: pass a "
            "folder saved by FO1Processor.save_pretrained, or a released one "
            f"({', '.join(FAMILIES)})"
        )
    images, prompts = find_family(kind).processor_values(config, _read_host(source, hub))
    if prompts["region_token_id"] is None:
        raise CheckpointError(
            f"config.json of {source} has neither region_token_id nor vocab_size: add one"
        )
    images["primary"] = qwen_primary(**images["primary"])
    return FO1ImageProcessor(**images), prompts


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
