"""Qwen2.5-VL as a host: window attention in the ViT, M-RoPE in the decoder."""

from typing import Any

from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from vlm_fo1.model.hosts.qwen import QwenVLHost, patches_to_maps
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
        last_full = max(config.fullatt_block_indexes)
        ends_there = last_full == config.depth - 1
        output = visual(
            pixel_values.to(visual.dtype),
            grid_thw=image_grid_thw,
            output_hidden_states=not ends_there,
        )
        hidden_PC = output.last_hidden_state if ends_there else output.hidden_states[last_full + 1]
        merge = config.spatial_merge_size
        window_index, _ = get_vision_window_index(
            image_grid_thw.cpu(), merge, config.window_size, config.patch_size
        )
        ordered_PC = window_order_to_merge_order(
            hidden_PC, window_index.to(hidden_PC.device), merge
        )
        return PrimaryFeatures(
            list(output.pooler_output.split(self.tokens_per_image(host.config, image_grid_thw))),
            patches_to_maps(ordered_PC, host.config, image_grid_thw),
        )
