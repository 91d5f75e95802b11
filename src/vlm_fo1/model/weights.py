"""Checkpoints to models: released folders, our own folders, Hub ids.

Released tensors are renamed by the table of their family. Every place must find its tensor, or
the error says which are missing or of another shape; a tensor without a place is named in a
warning.
"""

import logging
import re
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from vlm_fo1.config import read_object
from vlm_fo1.errors import CheckpointError, ConfigError
from vlm_fo1.families import FAMILIES, family_of_tensors
from vlm_fo1.families.florence2 import davit_table, read_davit_sizes
from vlm_fo1.hub import CONFIG_FILE, fetch, first_line, is_hub_id
from vlm_fo1.model.configuration import FO1Config, from_released
from vlm_fo1.model.generation import without_penalties
from vlm_fo1.model.hosts import HOSTS
from vlm_fo1.model.load_options import load_options
from vlm_fo1.tensors import check_fit, read_weights

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=PreTrainedModel)

BUNDLED = "tiny"
"""Name of the small model that comes with the package; a folder of that name is ``./tiny``."""

GENERATION_FILE = "generation_config.json"

_HEAD, _EMBEDDINGS = "host.lm_head.weight", ".embed_tokens.weight"


def resolve_folder(
    name: str | Path,
    *,
    check: Callable[[Path], object] | None = None,
    weights: bool = True,
    **hub: Any,
) -> Path:
    """A checkpoint folder on this machine.

    Args:
        name: ``"tiny"`` for the bundled model, a folder, or a Hub id ``owner/name``, downloaded
            once into the Hub cache.
        check: Called with the folder once its ``config.json`` is there, before weights are fetched.
        weights: Whether a download brings the weights too.
        **hub: For a Hub id: ``revision`` (branch, tag or commit), ``cache_dir`` (the Hub's default
            if left out), ``local_files_only`` (never ask the Hub; ``HF_HUB_OFFLINE=1`` does the
            same) and ``token`` (for gated and private repositories).

    Raises:
        CheckpointError: Not a checkpoint folder, or the Hub could not give it.
    """
    if str(name) == BUNDLED:
        return Path(str(resources.files("vlm_fo1") / "assets" / BUNDLED))
    folder = Path(name)
    if folder.is_dir():
        _check_folder(folder)
        if check is not None:
            check(folder)
        return folder
    if folder.is_file():
        raise CheckpointError(f"{name} is a file: name the folder that holds it and config.json")
    if not is_hub_id(str(name)):
        raise CheckpointError(f"{name} is neither a folder nor a Hub id of the form owner/name")
    return fetch(str(name), check=check, weights=weights, **hub)


def _check_folder(folder: Path) -> None:
    """Refuse a folder without a configuration.

    Raises:
        CheckpointError: It has none.
    """
    if (folder / CONFIG_FILE).is_file():
        return
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} holds a LoRA adapter without its model: merge the two, with peft's "
            "merge_and_unload() and save_pretrained(), and name the folder of that"
        )
    raise CheckpointError(
        f"{folder} is not a checkpoint: it has no config.json; "
        "name the folder that holds config.json and the weights"
    )


def read_config(folder: Path) -> FO1Config:
    """The configuration of a released folder or one of ours.

    Raises:
        CheckpointError: ``config.json`` is broken or of another model.
        ConfigError: A released option that is not supported, or a value that cannot be.
    """
    path = folder / CONFIG_FILE
    values = read_object(path, CheckpointError)
    kind = values.get("model_type")
    readers = {
        FO1Config.model_type: FO1Config.from_dict,
        **dict.fromkeys(FAMILIES, from_released),
    }
    if kind in readers:
        try:
            return readers[kind](values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        except Exception as error:  # transformers and its configurations raise all kinds
            raise ConfigError(
                f"{path} cannot be used: {type(error).__name__}: {first_line(error)}"
            ) from error
    hint = ""
    if kind in HOSTS:
        hint = f"; this is a host without regions: `fo1 graft {folder} --out FOLDER` adds them"
    raise CheckpointError(
        f"{path} has model_type {kind!r}: a VLM-FO1 checkpoint has "
        f"{' or '.join(map(repr, readers))}{hint}"
    )


def rename_released(names: Iterable[str], config: FO1Config) -> dict[str, str]:
    """Released name to ours for every name that its family knows; others map to themselves."""
    known = list(names)
    family = family_of_tensors(known)
    if family is None:
        return {name: name for name in known}
    strides = config.regions.pyramid_strides
    return rename(known, family.tensor_table(config.host.vision_config.patch_size, strides))


def rename(names: Iterable[str], table: list[tuple[str, str]]) -> dict[str, str]:
    """Old name to new for every name that a table knows; the others map to themselves."""
    compiled = [(re.compile(pattern), new) for pattern, new in table]
    renamed: dict[str, str] = {}
    for name in names:
        renamed[name] = name
        for pattern, new in compiled:
            match = pattern.fullmatch(name)
            if match is not None:
                renamed[name] = match.expand(new)
                break
    return renamed


def read_florence_tower(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The DaViT of a Florence-2 checkpoint, in the original's names or transformers'.

    Args:
        folder: A checkpoint folder with Florence-2's ``config.json``.

    Returns:
        Sizes for a ``Florence2VisionConfig`` and the tensors of a ``Florence2VisionBackbone``.

    Raises:
        CheckpointError: Not a Florence-2.
    """
    values = read_object(folder / CONFIG_FILE, CheckpointError)
    vision = values.get("vision_config")
    if values.get("model_type") != "florence2" or not isinstance(vision, dict):
        raise CheckpointError(
            f"{folder} has model_type {values.get('model_type')!r}: the auxiliary tower is read "
            "from a Florence-2, e.g. microsoft/Florence-2-base"
        )
    prefix = re.compile(r"(?:model\.)?vision_tower\.")
    tower = {
        prefix.sub("", name, count=1): value
        for name, value in read_weights(folder).items()
        if prefix.match(name)
    }
    names = rename(tower, davit_table("", ""))
    return read_davit_sizes(vision), {names[name]: value for name, value in tower.items()}


def load_pretrained(
    model_class: type[ModelT],
    name: str | Path,
    *,
    config: FO1Config | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    strict: bool = False,
    **options: Any,
) -> ModelT:
    """Load a checkpoint into a model; what `FO1ForConditionalGeneration.from_pretrained` does.

    Args:
        model_class: The network.
        name: A folder or a Hub id.
        config: Instead of the folder's own.
        revision: See `resolve_folder`.
        cache_dir: See `resolve_folder`.
        local_files_only: See `resolve_folder`.
        token: See `resolve_folder`.
        strict: Refuse weights with tensors that have no place in the model; else they are named in
            a warning. A missing tensor is refused in any case.
        **options: As in transformers: ``dtype`` (default: as saved; also ``torch_dtype``),
            ``device_map``, ``attn_implementation`` (default SDPA), ``quantization_config`` or
            ``load_in_8bit`` and ``load_in_4bit``; see `load_options`.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: The folder, a shard, or the weights do not fit.
        ConfigError: An option that there is not, or a configuration that is not supported.
        MissingExtraError: A package for these options is not installed.
    """
    options = load_options(options, also=("revision", "cache_dir", "token", "strict"))
    folder = resolve_folder(
        name,
        check=None if config is not None else read_config,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
    )
    config = read_config(folder) if config is None else config
    if (folder / GENERATION_FILE).is_file():
        read_object(folder / GENERATION_FILE, CheckpointError)  # before the weights are
    state = _fitting(read_weights(folder), model_class, config, source=str(folder), strict=strict)
    load = PreTrainedModel.from_pretrained.__func__
    model: ModelT = load(model_class, None, config=config, state_dict=state, **options)
    if (folder / GENERATION_FILE).is_file():
        model.generation_config = without_penalties(GenerationConfig.from_pretrained(folder))
    model.name_or_path = str(name)
    return model


def _fitting(
    state: dict[str, Tensor],
    model_class: type[PreTrainedModel],
    config: FO1Config,
    *,
    source: str,
    strict: bool,
) -> dict[str, Tensor]:
    """The tensors that the network of a configuration has, under its names.

    Raises:
        CheckpointError: Some are missing, of another shape, or for ``strict`` left over.
    """
    names = rename_released(state, config)
    state = {names[name]: value for name, value in state.items()}
    with torch.device("meta"):  # takes no memory
        expected = {name: value.shape for name, value in model_class(config).state_dict().items()}
    left_over = check_fit(
        {name: value.shape for name, value in state.items()},
        expected,
        source=source,
        network="the model of config.json",
        optional={_HEAD} if config.tie_word_embeddings else frozenset(),
        spelt={new: old for old, new in names.items()},
        strict=strict,
    )
    for name in left_over:
        del state[name]
    if config.tie_word_embeddings and _HEAD in state:
        head = state.pop(_HEAD)
        words = next(value for name, value in state.items() if name.endswith(_EMBEDDINGS))
        if not torch.equal(head, words):
            logger.warning(
                "%s: the stored lm_head differs from the embeddings and is not used, since "
                "config.json says that they are tied (tie_word_embeddings)", source
            )  # fmt: skip
    return state
