"""Qwen3-VL as a host: no windows in the ViT, deepstack and interleaved M-RoPE in the decoder.

Shapes: B rows, T tokens, D width of the language model, L decoder layers that see the image again.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPast

from vlm_fo1.model.hosts import qwen
from vlm_fo1.model.primary import PrimaryFeatures


class Qwen3VLHost:
    """Regions are cut from the ViT's last block, unmerged, at the patch stride."""

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
        """Merged tokens, what the first decoder layers add, and the last block's map of each image.

        Args:
            host: A ``Qwen3VLForConditionalGeneration``.
            pixel_values: (P, channels * frames * patch^2) flattened patches in merge-block order.
            image_grid_thw: (I, 3) frames, rows and columns of patches.

        Returns:
            Tokens (n, D), deep tokens (n, L, D) and maps (C, rows, columns) per image.
        """
        visual = host.model.visual
        output = visual(pixel_values.to(visual.dtype), grid_thw=image_grid_thw)
        sizes = self.tokens_per_image(host.config, image_grid_thw)
        deep = output.deepstack_features
        return PrimaryFeatures(
            list(output.pooler_output.split(sizes)),
            qwen.patches_to_maps(output.last_hidden_state, host.config, image_grid_thw),
            list(torch.stack(deep, dim=1).split(sizes)) if deep else [],
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
        deepstack_embeds: Tensor | None = None,
        **inputs: Any,
    ) -> BaseModelOutputWithPast:
        """The text model alone; the host's own forward keeps position offsets on the module.

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
        return host.model.language_model(
            inputs_embeds=inputs_embeds_BTD, position_ids=position_ids, **inputs
        )
