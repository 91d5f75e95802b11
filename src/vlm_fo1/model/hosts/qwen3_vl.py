"""Qwen3-VL as a host: no windows in the ViT, deepstack and interleaved M-RoPE in the decoder.

Shapes: B rows, T tokens, D width of the language model, L decoder layers that see the image again.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast

from vlm_fo1.model.hosts.qwen import QwenVLHost, patches_to_maps
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
        output = visual(pixel_values.to(visual.dtype), grid_thw=image_grid_thw)
        sizes = self.tokens_per_image(host.config, image_grid_thw)
        deep = output.deepstack_features
        return PrimaryFeatures(
            list(output.pooler_output.split(sizes)),
            patches_to_maps(output.last_hidden_state, host.config, image_grid_thw),
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
