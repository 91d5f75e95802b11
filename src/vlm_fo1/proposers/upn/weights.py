"""Weights in and out: the released names by one table, with a report of what differs.

The released state dict lists the shared box head once per layer and twice over, has index tables
that follow from the window's size, and one head that is multiplied by zero; those are not needed.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.models.swin.modeling_swin import SwinRelativePositionBias

from vlm_fo1.config import read_object
from vlm_fo1.errors import CheckpointError
from vlm_fo1.hub import CONFIG_FILE, fetch, is_hub_id
from vlm_fo1.proposers.upn.configuration import UPNConfig
from vlm_fo1.tensors import check_fit, read_tensors

_SWIN = r"backbone\.model\.backbone\."
_SWIN_BLOCK = _SWIN + r"layers\.(\d)\.blocks\.(\d+)\."
_ENCODER = r"transformer\.encoder\.layers\.(\d+)\."
_DECODER = r"transformer\.decoder\.layers\.(\d+)\."

TABLE: tuple[tuple[str, str], ...] = (
    (_SWIN + r"patch_embed\.proj\.(.+)", r"backbone.embeddings.patch_embeddings.projection.\1"),
    (_SWIN + r"patch_embed\.norm\.(.+)", r"backbone.embeddings.norm.\1"),
    (_SWIN_BLOCK + r"norm1\.(.+)", r"backbone.stages.\1.\2.layernorm_before.\3"),
    (_SWIN_BLOCK + r"norm2\.(.+)", r"backbone.stages.\1.\2.layernorm_after.\3"),
    (_SWIN_BLOCK + r"mlp\.(.+)", r"backbone.stages.\1.\2.mlp.\3"),
    (_SWIN_BLOCK + r"attn\.qkv\.(.+)", r"backbone.stages.\1.\2.attention.{q,k,v}_proj.\3"),
    (_SWIN_BLOCK + r"attn\.proj\.(.+)", r"backbone.stages.\1.\2.attention.o_proj.\3"),
    (
        _SWIN_BLOCK + r"attn\.(relative_position_bias)_table",
        r"backbone.stages.\1.\2.attention.\3.\3_table",
    ),
    (_SWIN_BLOCK + r"attn\.relative_position_index", ""),
    (_SWIN + r"layers\.(\d)\.downsample\.(.+)", r"backbone.merges.\1.\2"),
    (_SWIN + r"norm(\d)\.(.+)", r"backbone.norms.\1.\2"),
    (r"input_proj\.(\d)\.0\.(.+)", r"levels.convolutions.\1.\2"),
    (r"input_proj\.(\d)\.1\.(.+)", r"levels.norms.\1.\2"),
    (r"transformer\.level_embed", r"encoder.level_embedding"),
    (_ENCODER + r"(self_attn\..+)", r"encoder.layers.\1.\2"),
    (_ENCODER + r"norm1\.(.+)", r"encoder.layers.\1.self_attn_layer_norm.\2"),
    (_ENCODER + r"norm2\.(.+)", r"encoder.layers.\1.final_layer_norm.\2"),
    (_ENCODER + r"linear([12])\.(.+)", r"encoder.layers.\1.mlp.fc\2.\3"),
    (r"transformer\.enc_output\.(.+)", r"selection.output.\1"),
    (r"transformer\.enc_output_norm\.(.+)", r"selection.norm.\1"),
    (r"transformer\.enc_out_bbox_embed\.(.+)", r"selection.box_head.\1"),
    (r"transformer\.(fine|coarse)_grained_prompt\.weight", r"prompts.\1_grained"),
    (r"transformer\.tgt_embed\.weight", r"decoder.content"),
    (_DECODER + r"self_attn\.in_proj_(.+)", r"decoder.layers.\1.self_attn.{q,k,v}_proj.\2"),
    (_DECODER + r"self_attn\.out_proj\.(.+)", r"decoder.layers.\1.self_attn.o_proj.\2"),
    (_DECODER + r"cross_attn\.(.+)", r"decoder.layers.\1.encoder_attn.\2"),
    # The norms are numbered in another order than they are used in.
    (_DECODER + r"norm2\.(.+)", r"decoder.layers.\1.self_attn_layer_norm.\2"),
    (_DECODER + r"norm1\.(.+)", r"decoder.layers.\1.encoder_attn_layer_norm.\2"),
    (_DECODER + r"norm3\.(.+)", r"decoder.layers.\1.final_layer_norm.\2"),
    (_DECODER + r"linear([12])\.(.+)", r"decoder.layers.\1.mlp.fc\2.\3"),
    (r"transformer\.decoder\.norm\.(.+)", r"decoder.norm.\1"),
    (r"transformer\.decoder\.ref_point_head\.(.+)", r"decoder.reference_head.\1"),
    (r"transformer\.decoder\.ref_point_head_point\.(.+)", ""),
    (r"(?:transformer\.decoder\.)?bbox_embed\.\d+\.(.+)", r"decoder.box_head.\1"),
)
"""Released names to ours, as full-match patterns. ``{q,k,v}`` is three tensors in one; an empty
name is not needed."""

_SPLIT = "{q,k,v}"
_WRAPPED = "module."
"""Stands before every name where the network was saved as it was trained on several GPUs."""


def read_checkpoint(
    path: Path, config: UPNConfig | None, **hub: Any
) -> tuple[UPNConfig, dict[str, Tensor]]:
    """Sizes and tensors of a folder, a file, or a repository of the Hub.

    Args:
        path: A folder with ``config.json`` and ``model.safetensors``, a Hub id of such a one, or a
            file of weights.
        config: Instead of the folder's, or of UPN-large for a file.
        **hub: Keywords for the Hub: ``revision`` and ``token``.

    Returns:
        The sizes, and the tensors under our names.

    Raises:
        CheckpointError: No such file, a broken one, or one with weights of another network.
    """
    if not path.exists():
        if not is_hub_id(str(path)):
            raise CheckpointError(
                f"{path} does not exist: name upn_large.pth, a folder with config.json and "
                "model.safetensors, or a Hub id of one"
            )
        path = fetch(str(path), check=_read_config, **hub)
    if path.is_dir():
        config = config or _read_config(path)
        path /= "model.safetensors"
    return config or UPNConfig(), from_released(_read(path))


def _read_config(folder: Path) -> UPNConfig:
    return UPNConfig.from_dict(read_object(folder / CONFIG_FILE, CheckpointError))


def write_checkpoint(folder: Path, config: UPNConfig, state: Mapping[str, Tensor]) -> None:
    """What `read_checkpoint` reads, made for the CPU."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config.to_dict(), indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def fill(
    model: nn.Module, state: Mapping[str, Tensor], *, window: int, source: str, strict: bool
) -> None:
    """Give a network built without memory its tensors, and the index tables that no file has.

    Args:
        model: Built on the meta device.
        state: Tensors under its names.
        window: Side of its attention windows.
        source: Where they are from, for messages.
        strict: Refuse tensors that have no place; else they are named in a warning.

    Raises:
        CheckpointError: Says what is missing, left over or of another shape.
    """
    check_fit(
        {name: value.shape for name, value in state.items()},
        {name: value.shape for name, value in model.state_dict().items()},
        source=source,
        network="a UPN of these sizes",
        remedy="; if it is a UPN of other sizes, pass them as config=UPNConfig(...) or in "
        "config.json",
        strict=strict,
    )
    model.load_state_dict({name: state[name] for name in model.state_dict()}, assign=True)
    table = SwinRelativePositionBias(1, (window, window)).relative_position_index
    for module in model.modules():
        if isinstance(module, SwinRelativePositionBias):
            module.relative_position_index = nn.Buffer(table.clone(), persistent=False)


def released_names(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Which of our tensors each released one makes.

    Args:
        names: Released names; ours map to themselves, like all that the table does not know.

    Returns:
        Name to ours: one, three, or none where the tensor is not needed.
    """
    compiled = [(re.compile(pattern), new) for pattern, new in TABLE]
    table: dict[str, tuple[str, ...]] = {}
    for name in names:
        table[name] = (name,)
        for pattern, new in compiled:
            match = pattern.fullmatch(name)
            if match is not None:
                ours = match.expand(new)
                parts = tuple(ours.replace(_SPLIT, part) for part in "qkv")
                table[name] = parts if _SPLIT in ours else (ours,) if ours else ()
                break
    return table


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released tensors as ours; what is ours already stays.

    Raises:
        CheckpointError: Copies of the shared box head that differ.
    """
    ours: dict[str, Tensor] = {}
    for name, new in released_names(state).items():
        tensor = state[name]
        parts = [part.clone() for part in tensor.chunk(3)] if len(new) == 3 else [tensor] * len(new)
        for target, part in zip(new, parts, strict=True):
            if target not in ours:
                ours[target] = part
            elif not torch.equal(ours[target], part):
                raise CheckpointError(
                    f"{name} differs from another copy of {target}: one box head is shared by all "
                    "layers of a UPN, so these are weights of another network"
                )
    return ours


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors by name; the released file has them under ``model``.

    Raises:
        CheckpointError: It cannot be read, or holds none.
    """
    values = read_tensors(path)
    values = values.get("model", values)
    if not isinstance(values, dict) or not all(isinstance(v, Tensor) for v in values.values()):
        raise CheckpointError(f"{path} holds no tensors by name, bare or under 'model'")
    if all(name.startswith(_WRAPPED) for name in values):
        values = {name.removeprefix(_WRAPPED): value for name, value in values.items()}
    return values
