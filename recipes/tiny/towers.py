"""Both towers and the region encoder on many pictures of one size at once.

The same numbers as `FO1ForConditionalGeneration.encode_images`, in far fewer operations. Shapes: B
pictures, M regions of all of them, R width of a region feature, n image tokens of a picture, D
width of the language model, H and W sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.models.qwen3_vl.modeling_qwen3_vl import rotate_half

from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.region_encoder import box_position
from vlm_fo1.model.region_pooling import pool_mean
from vlm_fo1.processing import FO1Processor

Tower = Literal["auxiliary", "primary"]
BOTH: tuple[Tower, ...] = ("auxiliary", "primary")


@dataclass(frozen=True)
class TowerFeatures:
    """What the connectors take."""

    regions_MR: Tensor
    """Features of all boxes, picture after picture."""
    image_BnD: Tensor
    """Merged tokens of the primary tower before their connector."""
    grid_hw: tuple[int, int]
    """Patches of the primary picture."""


def encode(
    model: FO1ForConditionalGeneration,
    processor: FO1Processor,
    pixels_B3HW: Tensor,
    boxes: Sequence[Tensor],
    towers: Sequence[Tower] = BOTH,
) -> TowerFeatures:
    """Encode pictures of one size.

    Args:
        model: The network.
        processor: Gives sizes and normalisation.
        pixels_B3HW: RGB in [0, 1].
        boxes: Per picture (n, 4) xyxy in its pixels.
        towers: Whose maps regions are cut from; the other's part of a feature is zero.
    """
    primary_B3HW = primary_pictures(processor, pixels_B3HW)
    patches, grid = patchify(primary_B3HW, merge=model.host.config.vision_config.spatial_merge_size)
    primary = model.host_adapter.encode_images(model.host, patches, grid)
    maps_BCHW = torch.stack([found.map_CHW for found in primary.maps])
    rows, columns = maps_BCHW.shape[2:]
    stride = primary.maps[0].stride
    flat_M4 = torch.cat(list(boxes))
    owner = [len(part) for part in boxes]
    height, width = pixels_B3HW.shape[2:]
    parts: list[Tensor] = []
    if "auxiliary" in towers:
        parts += _pool_auxiliary(model, processor, pixels_B3HW, flat_M4, owner)
    else:
        parts.append(flat_M4.new_zeros(len(flat_M4), sum(model.config.auxiliary.embed_dim)))
    factor = flat_M4.new_tensor([columns * stride / width, rows * stride / height]).repeat(2)
    primary_M4 = flat_M4 * factor
    bins = model.region_encoder.bins
    pyramid = model.region_encoder.pyramid
    for level, level_stride in zip(pyramid.levels, pyramid.strides, strict=True):
        if "primary" in towers:
            parts.append(_pool(level(maps_BCHW), primary_M4 / level_stride, owner, bins, None))
        else:
            parts.append(flat_M4.new_zeros(len(flat_M4), model.config.regions.pyramid_channels))
    features_MR = torch.cat(parts, dim=-1)
    size_4 = flat_M4.new_tensor([columns * stride, rows * stride]).repeat(2)
    position_MR = box_position(
        primary_M4 / size_4, features_MR.shape[-1], model.region_encoder.temperature
    )
    return TowerFeatures(features_MR + position_MR, torch.stack(primary.tokens), (rows, columns))


def encode_primary(
    model: FO1ForConditionalGeneration, processor: FO1Processor, pixels_B3HW: Tensor
) -> tuple[Tensor, tuple[int, int]]:
    """The primary tower alone: merged tokens (B, n, D) before their connector, and its patches."""
    primary_B3HW = primary_pictures(processor, pixels_B3HW)
    patches, grid = patchify(primary_B3HW, merge=model.host.config.vision_config.spatial_merge_size)
    tokens = model.host.model.visual(patches, grid_thw=grid).pooler_output
    _, rows, columns = grid[0].tolist()
    return tokens.view(len(pixels_B3HW), -1, tokens.shape[-1]), (rows, columns)


def _pool_auxiliary(
    model: FO1ForConditionalGeneration,
    processor: FO1Processor,
    pixels_B3HW: Tensor,
    boxes_M4: Tensor,
    owner: list[int],
) -> list[Tensor]:
    images = processor.image_processor
    mean = pixels_B3HW.new_tensor(images.aux_image_mean)[:, None, None]
    std = pixels_B3HW.new_tensor(images.aux_image_std)[:, None, None]
    hidden = (pixels_B3HW - mean) / std
    stages = model.auxiliary(hidden)
    finest = (stages[0].shape[2], stages[0].shape[3])
    scaled_M4 = boxes_M4 / model.region_encoder.auxiliary_stride
    return [_pool(stage, scaled_M4, owner, model.region_encoder.bins, finest) for stage in stages]


def _pool(
    map_BCHW: Tensor,
    cells_M4: Tensor,
    owner: list[int],
    bins: int,
    resized_hw: tuple[int, int] | None,
) -> Tensor:
    """`region_pooling.pool_mean` for the boxes of many pictures; (M, C)."""
    boxes_BN4 = pad_sequence(list(cells_M4.split(owner)), batch_first=True)
    pooled_BNC = pool_mean([map_BCHW], boxes_BN4, [1.0], bins=bins, resized_hw=resized_hw)
    return torch.cat([rows[:count] for rows, count in zip(pooled_BNC, owner, strict=True)])


def primary_pictures(processor: FO1Processor, pixels_B3HW: Tensor) -> Tensor:
    """Resized and normalised as the processor does."""
    settings: Any = processor.image_processor._primary  # noqa: SLF001
    height, width = smart_resize(
        pixels_B3HW.shape[2],
        pixels_B3HW.shape[3],
        factor=settings.patch_size * settings.merge_size,
        min_pixels=settings.size["shortest_edge"],
        max_pixels=settings.size["longest_edge"],
    )
    resized = functional.interpolate(
        pixels_B3HW, (height, width), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)
    mean = resized.new_tensor(settings.image_mean)[:, None, None]
    std = resized.new_tensor(settings.image_std)[:, None, None]
    return (resized - mean) / std


def patchify(pixels_B3HW: Tensor, *, patch: int = 14, merge: int = 2) -> tuple[Tensor, Tensor]:
    """Qwen2-VL's flattened patches (twice the same frame) and their grid."""
    count, channels, height, width = pixels_B3HW.shape
    rows, columns = height // patch, width // patch
    frames = pixels_B3HW[:, None].expand(-1, 2, -1, -1, -1)
    blocks = frames.reshape(
        count, 1, 2, channels, rows // merge, merge, patch, columns // merge, merge, patch
    )
    flat = blocks.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(count * rows * columns, -1)
    return flat, torch.tensor([[1, rows, columns]] * count)


def attend_at_once(model: FO1ForConditionalGeneration) -> None:
    """Let the towers attend in all windows of equal pictures at once, by plain products.

    For training only: every following call must hold pictures of one size. Plain products are
    several times faster at this size than fused kernels with their backward pass.
    """
    tower: Any = model.auxiliary.tower
    tower.config._attn_implementation = "eager"  # noqa: SLF001 - transformers has no public name
    for block in model.host.model.visual.blocks:
        block.attn.forward = partial(_attention, block.attn)


def _attention(
    attention: Any,
    hidden_states: Tensor,
    cu_seqlens: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    **_: Any,
) -> Tensor:
    """Qwen3-VL's attention for pictures of one size, which ``cu_seqlens`` counts."""
    total, pictures = hidden_states.shape[0], len(cu_seqlens) - 1
    length = total // pictures
    shape = (pictures, length, 3, attention.num_heads, -1)
    qkv = attention.qkv(hidden_states).reshape(shape).permute(2, 0, 3, 1, 4)
    cos, sin = (part[:length].to(hidden_states.dtype) for part in position_embeddings)
    query, key, value = qkv.unbind(0)
    query, key = ((part * cos + rotate_half(part) * sin) for part in (query, key))
    weights = (query @ key.transpose(-1, -2) * attention.scaling).softmax(-1)
    out = weights.to(value.dtype) @ value
    return attention.proj(out.transpose(1, 2).reshape(total, -1))
