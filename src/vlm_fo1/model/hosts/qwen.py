"""What hosts of the Qwen-VL family share: patch grids, merge-block order, M-RoPE positions.

Shapes: B rows, T tokens, P patches of all images, C channels of the ViT, I images, D width of the
language model.
"""

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPast

from vlm_fo1.errors import SpliceError
from vlm_fo1.model.primary import FeatureMap, merge_order_to_map


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
        return (image_grid_thw.prod(-1) // config.vision_config.spatial_merge_size**2).tolist()

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


def patches_to_maps(
    patches_PC: Tensor, config: PreTrainedConfig, image_grid_thw: Tensor
) -> list[FeatureMap]:
    """Patches of all images in merge-block order to a (C, rows, columns) map per image."""
    vision = config.vision_config
    merge = vision.spatial_merge_size
    sizes = image_grid_thw.prod(-1).tolist()
    return [
        FeatureMap(
            merge_order_to_map(patches, (int(rows), int(columns)), merge), float(vision.patch_size)
        )
        for patches, (_, rows, columns) in zip(
            patches_PC.split(sizes), image_grid_thw.tolist(), strict=True
        )
    ]
