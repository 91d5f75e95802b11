"""Plug and play: an untrained VLM-FO1 from any host VLM that `hosts` has an adapter for.

The host keeps its weights and its answers: without regions the graft computes what the host did.
"""

import copy
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

from vlm_fo1.config import read_object
from vlm_fo1.errors import CheckpointError, ConfigError
from vlm_fo1.families.florence2 import davit_sizes
from vlm_fo1.hub import CONFIG_FILE
from vlm_fo1.markup import RELEASED, Vocabulary
from vlm_fo1.model.configuration import FO1Config, pyramid_strides
from vlm_fo1.model.generation import without_penalties
from vlm_fo1.model.hosts import find_host
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.weights import read_florence_tower, resolve_folder
from vlm_fo1.tensors import check_fit


def graft(
    host: PreTrainedModel | str | Path,
    tokenizer: Any,
    *,
    auxiliary: str | Florence2VisionConfig | None = None,
    auxiliary_weights: str | Path | None = None,
    vocabulary: Vocabulary = RELEASED,
    pyramid_channels: int = 512,
    region_connector: str = "mlp2x_gelu",
    **load_options: Any,
) -> FO1ForConditionalGeneration:
    """Add regions to a host VLM.

    Args:
        host: The host, which is taken over and changed, or its folder or Hub id.
        tokenizer: The host's tokenizer; the vocabulary's tokens are added to it in place.
        auxiliary: The auxiliary tower by name (``davit-tiny``, ``davit-base``, ``davit-large``) or
            its sizes; by default ``davit-base``, or what ``auxiliary_weights`` holds.
        auxiliary_weights: Folder or Hub id of a Florence-2 whose vision tower the auxiliary tower
            starts from; at random if left out.
        vocabulary: Spelling of the region markup.
        pyramid_channels: Width of each level of the region pyramid.
        region_connector: See `FO1Config`.
        **load_options: For ``from_pretrained`` of a host given by name: ``dtype`` (default: as
            saved), ``revision``, ``local_files_only``, ...

    Returns:
        The model in evaluation mode, in the host's type and on its device. Embeddings of the added
        tokens are the mean of the old ones, everything else that is new is random.

    Raises:
        CheckpointError: The host or the auxiliary weights cannot be read, or do not fit.
        ConfigError: There is no adapter for the host, or no tower of that name.
    """
    if not isinstance(host, PreTrainedModel):
        host = load_host(host, **load_options)
    elif load_options:
        raise ConfigError(f"{', '.join(load_options)}: options for loading, but the host is loaded")
    adapter = find_host(host.config.model_type)
    tower: dict[str, Tensor] | None = None
    if auxiliary_weights is not None:
        sizes, tower = read_florence_tower(resolve_folder(auxiliary_weights))
        auxiliary = auxiliary or Florence2VisionConfig(**sizes)
    if not isinstance(auxiliary, Florence2VisionConfig):
        auxiliary = Florence2VisionConfig(**davit_sizes(auxiliary or "davit-base"))
    add_tokens(host, tokenizer, vocabulary)
    config = FO1Config(
        host_config=copy.deepcopy(host.config),  # making a composite resets its parts' attention
        attn_implementation=host.config._attn_implementation,  # noqa: SLF001 # pyright: ignore[reportCallIssue]
        auxiliary_config=auxiliary,
        region_config={
            "pyramid_channels": pyramid_channels,
            "pyramid_strides": pyramid_strides(adapter.map_stride(host.config)),
        },
        region_connector=region_connector,
        image_token_id=host.config.image_token_id,
        region_token_id=tokenizer.convert_tokens_to_ids(vocabulary.region_feature),
        dtype=host.dtype,
    )
    for module in host.modules():
        # How transformers marks what needs no random start: only the new parts get one.
        setattr(module, "_is_hf_initialized", True)  # noqa: B010 - a flag nn.Module does not declare
    model = FO1ForConditionalGeneration(config, host)
    for part in (model.auxiliary, model.region_encoder, model.region_connector):
        part.to(device=host.device, dtype=host.dtype)
    if tower is not None:
        _load_tower(model.auxiliary.tower, tower, str(auxiliary_weights))
    if host.generation_config is not None:
        model.generation_config = without_penalties(host.generation_config)
    return model.eval()


def add_tokens(host: PreTrainedModel, tokenizer: Any, vocabulary: Vocabulary) -> None:
    """Teach a tokenizer and a host's embeddings the region markup.

    Tokens that the tokenizer has already keep their rows. A new one starts as the mean of the old
    rows, in the embeddings and in the head, so that it never outbids every old token. Rows that the
    host keeps spare are used before the embeddings grow.

    Args:
        host: Its embeddings and head are changed in place; tied ones stay tied.
        tokenizer: Changed in place.
        vocabulary: Whose special tokens are added.
    """
    known = len(tokenizer)
    present = tokenizer.get_vocab()
    tokenizer.add_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token in vocabulary.special_tokens()
            if token not in present
        ],
        special_tokens=True,
    )
    rows = _weight(host.get_input_embeddings()).shape[0]
    if len(tokenizer) > rows:
        host.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = _weight(host.get_input_embeddings())
    head = _weight(host.get_output_embeddings())
    first_new = min(known, rows)
    with torch.no_grad():
        for weight in (table,) if head is table else (table, head):
            weight[first_new : len(tokenizer)] = weight[:first_new].float().mean(0).to(weight)


def _weight(layer: Any) -> Tensor:
    return layer.weight


def load_host(name: str | Path, **options: Any) -> PreTrainedModel:
    """A host by folder or Hub id, refused before its weights are read if it has no adapter.

    Args:
        name: Its folder or Hub id.
        **options: As for `graft`.

    Returns:
        The host in evaluation mode.

    Raises:
        CheckpointError: The weights cannot be read, or some are missing.
        ConfigError: There is no adapter for it.
    """
    hub = {
        key: options.pop(key)
        for key in ("revision", "cache_dir", "local_files_only", "token")
        if key in options
    }
    folder = resolve_folder(name, check=check_host, **hub)
    try:
        host, report = cast(
            tuple[PreTrainedModel, dict[str, Any]],
            AutoModelForImageTextToText.from_pretrained(
                folder, output_loading_info=True, **options
            ),
        )
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"the host {name} cannot be loaded: {error}") from error
    if report["missing_keys"]:
        lost = ", ".join(sorted(report["missing_keys"])[:8])
        raise CheckpointError(
            f"the host {name} lacks {len(report['missing_keys'])} weights: {lost}; "
            "download it again"
        )
    return host


def check_host(folder: Path) -> None:
    """Refuse a folder whose ``config.json`` is of no host with an adapter.

    Raises:
        CheckpointError: It cannot be read.
        ConfigError: There is no adapter for it.
    """
    find_host(str(read_object(folder / CONFIG_FILE, CheckpointError).get("model_type")))


def _load_tower(tower: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load strictly.

    Raises:
        CheckpointError: Names or shapes differ.
    """
    check_fit(
        {name: value.shape for name, value in state.items()},
        {name: value.shape for name, value in tower.state_dict().items()},
        source=source,
        network="the auxiliary tower",
        strict=True,
    )
    tower.load_state_dict(state)
