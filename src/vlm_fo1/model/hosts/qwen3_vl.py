"""Qwen3-VL as a host: no windows in the ViT, deepstack and interleaved M-RoPE in the decoder.

Shapes: B rows, T tokens, D width of the language model, L decoder layers that see the image again.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from vlm_fo1.model.hosts.qwen import (
    Grid,
    QwenVLHost,
    grid_tables,
    grids_of,
    look,
    merged_sizes,
    patches_to_maps,
)
from vlm_fo1.model.primary import PrimaryFeatures


class Qwen3VLHost(QwenVLHost):
    """Regions are cut from the ViT's last block, unmerged, at the patch stride."""

    def encode_images(
        self,
        host: Any,
        pixel_values: Tensor,
        image_grid_thw: Tensor,
    ) -> PrimaryFeatures:
        """Merged tokens, what the first decoder layers add, and the last block's map of each image.

        Args:
            host: A ``Qwen3VLForConditionalGeneration``.
            pixel_values: (P, channels * frames * patch^2) flattened patches in merge-block order.
            image_grid_thw: (I, 3) frames, rows and columns of patches.

        Returns:
            Tokens (n, D), deep tokens (n, L, D) and maps (C, rows, columns) per image.
        """
        visual = host.model.visual
        grids, device = grids_of(image_grid_thw), pixel_values.device
        tables = grid_tables(visual, grids, device) | position_tables(visual, grids, device)
        output = look(visual, pixel_values, image_grid_thw, tables)
        sizes = merged_sizes(grids, visual.spatial_merge_size)
        deep = output.deepstack_features
        return PrimaryFeatures(
            list(output.pooler_output.split(sizes)),
            patches_to_maps(output.last_hidden_state, host.config, grids),
            list(torch.stack(deep, dim=1).split(sizes)) if deep else [],
        )

    def decode(
        self,
        host: Any,
        inputs_embeds_BTD: Tensor,
        position_ids: Tensor | None,
        deepstack_embeds: Tensor | None = None,
        **inputs: Any,
    ) -> BaseModelOutputWithPast:
        """The text model alone, which sees the image again in its first layers.

        Args:
            host: A ``Qwen3VLForConditionalGeneration``.
            inputs_embeds_BTD: Embedded tokens.
            position_ids: M-RoPE positions (3, B, T).
            deepstack_embeds: (B, T, L, D) added after the first L layers, zero at text.
            **inputs: Cache, mask and the like.

        Returns:
            Last hidden states and the cache.
        """
        if deepstack_embeds is not None:
            # The text model wants rows at marked places; every place is marked, text adds zero.
            inputs["visual_pos_masks"] = deepstack_embeds.new_ones(
                deepstack_embeds.shape[:2], dtype=torch.bool
            )
            inputs["deepstack_visual_embeds"] = [
                layer_BTD.flatten(0, 1) for layer_BTD in deepstack_embeds.unbind(2)
            ]
        return super().decode(host, inputs_embeds_BTD, position_ids, **inputs)


def position_tables(vit: Any, grids: Sequence[Grid], device: torch.device) -> dict[str, Any]:
    """Which learned positions each patch lies between, and how near; as `grid_tables`."""
    parts = [
        _neighbours(
            grid,
            vit.spatial_merge_size,
            vit.num_grid_per_side,
            vit.interpolation_mode,
            vit.interpolation_align_corners,
            device,
        )
        for grid in grids
    ]
    indices, weights = (torch.cat(table) for table in zip(*parts, strict=True))
    return {"interp_indices": indices, "interp_weights": weights}


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # training may use what answering made
def _neighbours(
    grid: Grid, merge: int, side: int, mode: str, align_corners: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(patches, taps) places in the learned table, and their weights, of one image."""
    indices, weights = get_vision_interpolation_indices_and_weights(
        torch.tensor([grid]), side, mode, align_corners, merge
    )
    return indices.to(device), weights.to(device)
