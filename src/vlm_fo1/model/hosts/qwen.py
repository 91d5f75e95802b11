"""What hosts of the Qwen-VL family share: patch grids, merge-block order, M-RoPE positions.

Shapes: B rows, T tokens, P patches of all images, C channels of the ViT, I images, D width of the
language model.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.vision_utils import get_vision_position_ids

from vlm_fo1.errors import SpliceError
from vlm_fo1.model.packed_attention import attend_packed, ends_device
from vlm_fo1.model.primary import FeatureMap, merge_order_to_map

Grid = tuple[int, int, int]
"""Frames, rows and columns of patches of an image."""


class QwenVLHost:
    """All of an adapter but the pass through the ViT; maps are unmerged, at the patch stride."""

    def map_channels(self, config: PreTrainedConfig) -> int:
        """Width of the ViT."""
        return config.vision_config.hidden_size

    def map_stride(self, config: PreTrainedConfig) -> float:
        """Side of a patch."""
        return float(config.vision_config.patch_size)

    def image_grid(
        self,
        config: PreTrainedConfig,  # noqa: ARG002 - the contract's signature
        pixel_values: Tensor,  # noqa: ARG002
        image_grid_thw: Tensor | None,
    ) -> Tensor:
        """The (I, 3) grid that the image processor gave: flattened patches do not tell it.

        Raises:
            SpliceError: There is none.
        """
        if image_grid_thw is None:
            raise SpliceError("pixel_values need image_grid_thw: the grid of patches of each image")
        return image_grid_thw

    def tokens_per_image(self, config: PreTrainedConfig, image_grid_thw: Tensor) -> list[int]:
        """Patches over merge^2."""
        return merged_sizes(grids_of(image_grid_thw), config.vision_config.spatial_merge_size)

    def position_ids(
        self,
        host: Any,
        input_ids_BT: Tensor,
        attention_mask_BT: Tensor | None,
        image_grid_thw: Tensor | None,
        image_token_id: int,
    ) -> Tensor:
        """M-RoPE positions (3, B, T): time, row, column; region tokens count as text."""
        positions_3BT, _ = host.model.get_rope_index(
            input_ids_BT,
            mm_token_type_ids=(input_ids_BT == image_token_id).int(),
            image_grid_thw=image_grid_thw,
            attention_mask=attention_mask_BT,
        )
        return positions_3BT

    def decode(
        self,
        host: Any,
        inputs_embeds_BTD: Tensor,
        position_ids: Tensor | None,
        **inputs: Any,
    ) -> BaseModelOutputWithPast:
        """The text model alone; the host's own forward keeps position offsets on the module."""
        return host.model.language_model(
            inputs_embeds=inputs_embeds_BTD, position_ids=position_ids, **inputs
        )


def look(
    vit: Any,
    pixel_values: Tensor,
    image_grid_thw: Tensor,
    tables: dict[str, Any],
    **options: Any,
) -> Any:
    """One pass of a Qwen ViT over all images, without a loop over windows and without a host sync.

    Args:
        vit: The host's ``visual``.
        pixel_values: (P, patch values).
        image_grid_thw: (I, 3).
        tables: What the ViT would work out from the grid on its own, by its own keywords.
        **options: For the ViT.

    Returns:
        Its output.
    """
    attend_packed(vit)
    return vit(pixel_values.to(vit.dtype), grid_thw=image_grid_thw, **tables, **options)


def grid_tables(vit: Any, grids: Sequence[Grid], device: torch.device) -> dict[str, Any]:
    """Places of patches, and where images end, as every Qwen ViT takes them.

    Args:
        vit: The host's ``visual``.
        grids: One an image.
        device: That of the patches.

    Returns:
        Keywords of the ViT.
    """
    frames = [rows * columns for times, rows, columns in grids for _ in range(times)]
    ends, longest = segment_ends(frames, ends_device(vit, device))
    merge = vit.spatial_merge_size
    places = [_patch_places(grid, merge, device) for grid in grids]
    return {"position_ids": torch.cat(places), "cu_seqlens": ends, "max_seqlen": longest}


def grids_of(image_grid_thw: Tensor) -> list[Grid]:
    """The grids as numbers; pass them on the CPU, where reading them waits for nothing."""
    return [
        (int(times), int(rows), int(columns)) for times, rows, columns in image_grid_thw.tolist()
    ]


def segment_ends(lengths: Sequence[int], device: torch.device) -> tuple[Tensor, int]:
    """Ends of segments that lie in a row, (S + 1,) int32 from 0, and the longest of them."""
    ends = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
    return ends.to(device, non_blocking=True), max(lengths)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # training may use what answering made
def _patch_places(grid: Grid, merge: int, device: torch.device) -> Tensor:
    """(patches, 2) row and column of each patch of an image, in merge-block order."""
    return get_vision_position_ids(torch.tensor([grid]), merge).to(device)


def patches_to_maps(
    patches_PC: Tensor, config: PreTrainedConfig, grids: Sequence[Grid]
) -> list[FeatureMap]:
    """Patches of all images in merge-block order to a (C, rows, columns) map per image."""
    vision = config.vision_config
    sizes = [times * rows * columns for times, rows, columns in grids]
    return [
        FeatureMap(
            merge_order_to_map(patches, (rows, columns), vision.spatial_merge_size),
            float(vision.patch_size),
        )
        for patches, (_, rows, columns) in zip(patches_PC.split(sizes), grids, strict=True)
    ]


def merged_sizes(grids: Sequence[Grid], merge: int) -> list[int]:
    """Tokens of each image: patches over merge^2."""
    return [times * rows * columns // merge**2 for times, rows, columns in grids]
