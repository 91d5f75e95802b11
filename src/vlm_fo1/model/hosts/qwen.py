"""What hosts of the Qwen-VL family share: patch grids, merge-block order, M-RoPE positions.

Shapes: B rows, T tokens, P patches of all images, C channels of the ViT, I images.
"""

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from vlm_fo1.errors import SpliceError
from vlm_fo1.model.primary import FeatureMap, merge_order_to_map


def given_grid(image_grid_thw: Tensor | None) -> Tensor:
    """The (I, 3) grid that the image processor gave: flattened patches do not tell it.

    Raises:
        SpliceError: There is none.
    """
    if image_grid_thw is None:
        raise SpliceError("pixel_values need image_grid_thw: the grid of patches of each image")
    return image_grid_thw


def merged_tokens(config: PreTrainedConfig, image_grid_thw: Tensor) -> list[int]:
    """Tokens of each image: patches over merge^2."""
    return (image_grid_thw.prod(-1) // config.vision_config.spatial_merge_size**2).tolist()


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


def mrope_positions(
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
