"""Qwen2.5-VL as a host: window attention in the ViT, M-RoPE in the decoder."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.vision_utils import get_vision_window_index

from vlm_fo1.model.hosts import qwen
from vlm_fo1.model.primary import PrimaryFeatures, window_order_to_merge_order


class Qwen25VLHost:
    """Regions are cut from the ViT's last full-attention block, unmerged, at the patch stride."""

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
        """The grid as given; see `qwen.given_grid`."""
        return qwen.given_grid(image_grid_thw)

    def tokens_per_image(self, config: PreTrainedConfig, image_grid_thw: Tensor) -> list[int]:
        """Patches over merge^2."""
        return qwen.merged_tokens(config, image_grid_thw)

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
            qwen.patches_to_maps(ordered_PC, host.config, image_grid_thw),
        )

    def position_ids(
        self,
        host: Any,
        input_ids_BT: Tensor,
        attention_mask_BT: Tensor | None,
        image_grid_thw: Tensor | None,
        image_token_id: int,
    ) -> Tensor:
        """M-RoPE positions (3, B, T); see `qwen.mrope_positions`."""
        return qwen.mrope_positions(
            host, input_ids_BT, attention_mask_BT, image_grid_thw, image_token_id
        )

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
