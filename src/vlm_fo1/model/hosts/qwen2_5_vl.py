"""Qwen2.5-VL as a host: window attention in the ViT, M-RoPE in the decoder."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from vlm_fo1.model.hosts.qwen import (
    Grid,
    QwenVLHost,
    grid_tables,
    grids_of,
    look,
    merged_sizes,
    patches_to_maps,
    segment_ends,
)
from vlm_fo1.model.packed_attention import ends_device
from vlm_fo1.model.primary import PrimaryFeatures, window_order_to_merge_order


class Qwen25VLHost(QwenVLHost):
    """Regions are cut from the ViT's last full-attention block, unmerged, at the patch stride."""

    def encode_images(
        self,
        host: Any,
        pixel_values: Tensor,
        image_grid_thw: Tensor,
    ) -> PrimaryFeatures:
        """Merged tokens and last full-attention map of each image.

        Args:
            host: A ``Qwen2_5_VLForConditionalGeneration``.
            pixel_values: (P, channels * frames * patch^2) flattened patches in merge-block order.
            image_grid_thw: (I, 3) frames, rows and columns of patches.

        Returns:
            Tokens (n, D) and maps (C, rows, columns) per image, in image order.

        Source: REFERENCE, "Primary vision tower" and the input of the simple feature pyramid.
        """
        visual = host.model.visual
        config = visual.config
        grids, device = grids_of(image_grid_thw), pixel_values.device
        last_full = max(config.fullatt_block_indexes)
        ends_there = last_full == config.depth - 1
        tables = grid_tables(visual, grids, device) | window_tables(visual, grids, device)
        output = look(
            visual, pixel_values, image_grid_thw, tables, output_hidden_states=not ends_there
        )
        hidden_PC = output.last_hidden_state if ends_there else output.hidden_states[last_full + 1]
        merge = config.spatial_merge_size
        ordered_PC = window_order_to_merge_order(hidden_PC, tables["window_index"], merge)
        return PrimaryFeatures(
            list(output.pooler_output.split(merged_sizes(grids, merge))),
            patches_to_maps(ordered_PC, host.config, grids),
        )


def window_tables(vit: Any, grids: Sequence[Grid], device: torch.device) -> dict[str, Any]:
    """The order of windows, and where they end; as `grid_tables`."""
    parts = [
        _windows(grid, vit.spatial_merge_size, vit.window_size, vit.patch_size, device)
        for grid in grids
    ]
    lengths = [length for _, windows in parts for length in windows]
    ends, longest = segment_ends(lengths, ends_device(vit, device))
    first, index = 0, list[Tensor]()
    for part, _ in parts:
        index.append(part + first)
        first += len(part)
    return {
        "window_index": torch.cat(index),
        "cu_window_seqlens": ends,
        "max_window_seqlen": longest,
    }


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # training may use what answering made
def _windows(
    grid: Grid, merge: int, window_size: int, patch_size: int, device: torch.device
) -> tuple[Tensor, tuple[int, ...]]:
    """Merged tokens of an image window after window, (n,), and the patches of each window."""
    index, ends = get_vision_window_index(torch.tensor([grid]), merge, window_size, patch_size)
    return index.to(device), tuple(ends.diff().tolist())
