"""Checkpoints to models: released folders, our own folders, Hub ids. Strict, with a report.

Released tensors are renamed by one table (`released_table`); every tensor must find its place and
every place its tensor, or the error says which are missing, left over or of another shape.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping, Set
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from vlm_fo1.errors import CheckpointError
from vlm_fo1.model.configuration import (
    RELEASED_MODEL_TYPE,
    FO1Config,
    from_released,
    read_davit_sizes,
)
from vlm_fo1.model.generation import without_penalties
from vlm_fo1.settings import read_object

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=PreTrainedModel)

BUNDLED = "tiny"
"""Name of the small model that comes with the package; a folder of that name is ``./tiny``."""

DOWNLOADED_FILES = ["*.json", "*.safetensors", "*.bin", "*.txt", "*.model", "*.jinja"]
"""What of a Hub repository a checkpoint needs."""

_SAFETENSORS, _PICKLED = "model.safetensors", "pytorch_model.bin"
_UNREADABLE = (SafetensorError, UnpicklingError, RuntimeError, OSError, ValueError, EOFError)


def resolve_folder(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """A checkpoint folder on this machine.

    Args:
        name: ``"tiny"`` for the bundled model, a folder, or a Hub id ``owner/name``, downloaded
            once into the Hub cache.
        revision: Branch, tag or commit of a Hub id.
        cache_dir: Where downloads are kept; the Hub's default if left out.
        local_files_only: Never ask the Hub; ``HF_HUB_OFFLINE=1`` does the same.
        token: Access token for gated repositories.

    Raises:
        CheckpointError: Not a checkpoint folder, or the Hub could not give it.
    """
    if str(name) == BUNDLED:
        return Path(str(resources.files("vlm_fo1") / "assets" / BUNDLED))
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{folder} is not a checkpoint: it has no config.json; "
                "name the folder that holds config.json and the weights"
            )
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise CheckpointError(f"{name} is neither a folder nor a Hub id of the form owner/name")
    try:
        return Path(
            snapshot_download(
                str(name),
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=DOWNLOADED_FILES,
            )
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{name} is no folder here and could not be had from the Hub "
            f"(revision {revision or 'main'}): {error}"
        ) from error


def read_config(folder: Path) -> FO1Config:
    """The configuration of a released folder or one of ours.

    Raises:
        CheckpointError: ``config.json`` is broken or of another model.
        ConfigError: A released option that is not supported.
    """
    path = folder / "config.json"
    values = read_object(path, CheckpointError)
    kind = values.get("model_type")
    if kind == RELEASED_MODEL_TYPE:
        return from_released(values)
    if kind == FO1Config.model_type:
        return FO1Config.from_dict(values)
    raise CheckpointError(
        f"{path} has model_type {kind!r}: a VLM-FO1 checkpoint has {FO1Config.model_type!r} or "
        f"{RELEASED_MODEL_TYPE!r}"
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, memory-mapped where the format allows.

    Reads one file or shards, safetensors before pickled ones (``weights_only``).

    Raises:
        CheckpointError: No weights, a missing shard (named), or a broken file (named).
    """
    for single in (_SAFETENSORS, _PICKLED):
        index = folder / f"{single}.index.json"
        if index.is_file():
            return _read_shards(folder, index)
        if (folder / single).is_file():
            return _read_file(folder / single)
    raise CheckpointError(
        f"{folder} holds no weights: {_SAFETENSORS}, {_PICKLED} or their .index.json is needed"
    )


def _read_shards(folder: Path, index: Path) -> dict[str, Tensor]:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{index} cannot be read: {error!r}") from error
    files = sorted(set(weight_map.values()))
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(files)} shards: {', '.join(missing)}; "
            "download them again"
        )
    state: dict[str, Tensor] = {}
    for name in files:
        state |= _read_file(folder / name)
    return state


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(  # noqa: TID251 - the one place for it
            path, map_location="cpu", weights_only=True, mmap=True
        )
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path} is broken or cut short ({error}): download it again"
        ) from error


def released_table(config: FO1Config) -> list[tuple[str, str]]:
    """Released tensor names to ours, as full-match patterns and replacements; first match wins.

    Source: REFERENCE, "The model"; the names recorded from the official code.
    """
    table = [
        *davit_table(r"model\.vision_tower_aux\.image_tower\.", "auxiliary.tower."),
        (r"model\.vision_tower\.image_tower\.(.+)", r"host.model.visual.\1"),
        (r"model\.mm_projector\.(.+)", r"image_connector.\1"),
        (r"model\.mm_projector_aux\.(.+)", r"region_connector.\1"),
        (r"model\.((?:embed_tokens|layers|norm)\..+)", r"host.model.language_model.\1"),
        (r"lm_head\.(.+)", r"host.lm_head.\1"),
    ]
    stride = config.host.vision_config.patch_size
    for number, level_stride in enumerate(config.regions.pyramid_strides):
        # Layers before the 1x1 convolution, numbered as in the official sequence: a max pool, or
        # transposed convolutions with norm and GELU between.
        layers = {0.5: 1, 1.0: 0, 2.0: 1, 4.0: 4, 8.0: 7}[stride / level_stride]
        old = rf"model\.object_vp_extractor\.simple_fpn\.simfp_{number + 1}\."
        new = f"region_encoder.pyramid.levels.{number}."
        for position, name in ((layers, "project"), (layers + 1, "smooth")):
            table.append((rf"{old}{position}\.norm\.(.+)", rf"{new}{name}_norm.\1"))
            table.append((rf"{old}{position}\.(.+)", rf"{new}{name}.\1"))
        table.append((rf"{old}(\d+\..+)", rf"{new}resample.\1"))
    return table


def rename_released(names: Iterable[str], config: FO1Config) -> dict[str, str]:
    """Released name to ours for every name that the table knows; the others map to themselves."""
    return rename(names, released_table(config))


def davit_table(old: str, new: str) -> list[tuple[str, str]]:
    """Names of a DaViT as Florence-2's own code writes them, to ours.

    Args:
        old: Pattern of the prefix in the checkpoint.
        new: Prefix of ours.

    Returns:
        Rows as in `released_table`.
    """
    block = rf"{old}blocks\.(\d+\.\d+)\.(spatial|channel)_block\."
    to_block = rf"{new}blocks.\1.\2_block."
    return [
        (rf"{old}convs\.(\d+)\.proj\.(.+)", rf"{new}convs.\1.conv.\2"),
        (rf"{old}convs\.(\d+)\.norm\.(.+)", rf"{new}convs.\1.norm.\2"),
        (rf"{block}(conv[12])\.fn\.dw\.(.+)", rf"{to_block}\3.\4"),
        (rf"{block}(?:window|channel)_attn\.norm\.(.+)", rf"{to_block}norm1.\3"),
        (rf"{block}(window|channel)_attn\.fn\.(.+)", rf"{to_block}\3_attn.\4"),
        (rf"{block}ffn\.norm\.(.+)", rf"{to_block}norm2.\3"),
        (rf"{block}ffn\.fn\.net\.(fc[12])\.(.+)", rf"{to_block}ffn.\3.\4"),
    ]


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


def check_fit(
    found: Mapping[str, torch.Size], model_class: type[PreTrainedModel], config: FO1Config
) -> None:
    """Compare tensors with the network a configuration describes (built without memory).

    Args:
        found: Our tensor names to shapes.
        model_class: The network.
        config: Its configuration.

    Raises:
        CheckpointError: Lists what is missing, left over, or of another shape.
    """
    with torch.device("meta"):
        expected = {name: value.shape for name, value in model_class(config).state_dict().items()}
    optional = {"host.lm_head.weight"} if config.tie_word_embeddings else set[str]()
    problems = compare_shapes(found, expected, optional)
    if problems:
        raise CheckpointError(f"the weights do not fit config.json; {problems}")


def compare_shapes(
    found: Mapping[str, torch.Size],
    expected: Mapping[str, torch.Size],
    optional: Set[str] = frozenset(),
) -> str:
    """Say where two sets of tensors differ.

    Args:
        found: Tensor names to shapes, as a checkpoint has them.
        expected: The same, as the network has them.
        optional: Names that the checkpoint may leave out.

    Returns:
        What is missing, left over, or of another shape; empty if nothing.
    """
    missing = sorted(set(expected) - set(found) - optional)
    unexpected = sorted(set(found) - set(expected))
    shapes = [
        f"{name} is {tuple(found[name])}, {tuple(expected[name])} expected"
        for name in sorted(set(found) & set(expected))
        if found[name] != expected[name]
    ]
    return "; ".join(
        f"{len(items)} {what}: {', '.join(items[:8])}{', ...' if len(items) > 8 else ''}"
        for what, items in (
            ("missing", missing),
            ("left over", unexpected),
            ("of another shape", shapes),
        )
        if items
    )


def read_florence_tower(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The DaViT of a Florence-2 checkpoint, in the original's names or transformers'.

    Args:
        folder: A checkpoint folder with Florence-2's ``config.json``.

    Returns:
        Sizes for a ``Florence2VisionConfig`` and the tensors of a ``Florence2VisionBackbone``.

    Raises:
        CheckpointError: Not a Florence-2.
    """
    values = read_object(folder / "config.json", CheckpointError)
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
        **options: As in transformers: ``dtype`` (default: as saved), ``device_map``,
            ``attn_implementation`` (default SDPA), ``quantization_config`` (8 and 4 bit).

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: The folder, a shard, or the weights do not fit.
    """
    folder = resolve_folder(
        name,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
    )
    config = read_config(folder) if config is None else config
    state = read_weights(folder)
    if any(key.startswith("model.vision_tower.") for key in state):
        renamed = rename_released(state, config)
        state = {renamed[key]: value for key, value in state.items()}
    check_fit({key: value.shape for key, value in state.items()}, model_class, config)
    load = PreTrainedModel.from_pretrained.__func__
    model: ModelT = load(model_class, None, config=config, state_dict=state, **options)
    if (folder / "generation_config.json").is_file():
        model.generation_config = without_penalties(GenerationConfig.from_pretrained(folder))
    model.name_or_path = str(name)
    return model
