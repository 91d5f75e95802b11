"""Plug and play for people: a host VLM by name to a model with regions and its processor."""

from pathlib import Path
from typing import Any

import torch

from vlm_fo1.config import read_object
from vlm_fo1.errors import CheckpointError
from vlm_fo1.markup import RELEASED, Vocabulary
from vlm_fo1.model import graft as network
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.weights import resolve_folder
from vlm_fo1.processing.hosts import processor_for_host
from vlm_fo1.processing.processor import FO1Processor
from vlm_fo1.processing.tokenizer import load_tokenizer


def graft_host(
    host: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    dtype: str | torch.dtype = "auto",
    vocabulary: Vocabulary = RELEASED,
    **options: Any,
) -> tuple[FO1ForConditionalGeneration, FO1Processor]:
    """Add regions to a host VLM, and to what prepares its input.

    Args:
        host: Its folder or Hub id.
        revision: Branch, tag or commit of the host.
        token: Access token of the Hub.
        dtype: Of the weights; "auto" is the host's own.
        vocabulary: Spelling of the region markup.
        **options: For `vlm_fo1.model.graft.graft`: ``auxiliary``, ``auxiliary_weights``, ...

    Returns:
        The model, whose new weights are random by torch's seed, and its processor; both have
        ``save_pretrained``.

    Raises:
        CheckpointError: The host or the auxiliary weights cannot be read, or do not fit.
        ConfigError: There is no adapter for the host, or no tower of that name.
    """
    folder = resolve_folder(host, check=network.check_host, revision=revision, token=token)
    tokenizer = load_tokenizer(folder)
    model = network.graft(
        network.load_host(folder, dtype=dtype), tokenizer, vocabulary=vocabulary, **options
    )
    preprocessor = folder / "preprocessor_config.json"
    processor = processor_for_host(
        model.config.host.to_dict(),
        tokenizer,
        vocabulary=vocabulary,
        preprocessor=read_object(preprocessor, CheckpointError) if preprocessor.is_file() else None,
    )
    return model, processor
