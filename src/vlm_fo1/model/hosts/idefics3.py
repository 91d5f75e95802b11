"""Idefics3 and SmolVLM as hosts: a SigLIP tower on a square, pixel shuffle, 1-D positions.

The host's own image processor may cut an image into tiles, each a square of its own, with a small
copy of the whole. Regions need one map of the whole image, so here an image is one square
(``do_image_splitting=False``: the processor stretches it to the tower's size). The stretch keeps
box fractions, so boxes scale per axis by map size over auxiliary size, as for any host; fine detail
is the auxiliary tower's part.

A tower of 384 pixels and patches of 14 (the 2.2B SmolVLMs) looks at 27 x 27 patches, the first 378
pixels; boxes are scaled by all 384, so that a cell still stands for the pixels it was made of.

Shapes: B rows, T tokens, I images, P patches and n tokens of an image, D width of the language
model, C channels of the tower, H and W sides of its input.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPast

from vlm_fo1.errors import SpliceError
from vlm_fo1.model.primary import FeatureMap, PrimaryFeatures


class Idefics3Host:
    """Regions are cut from what the connector reads: the tower's normed output, unshuffled."""

    def map_channels(self, config: PreTrainedConfig) -> int:
        """Width of the tower."""
        return config.vision_config.hidden_size

    def map_stride(self, config: PreTrainedConfig) -> float:
        """Side of a patch."""
        return float(config.vision_config.patch_size)

    def image_grid(
        self,
        config: PreTrainedConfig,
        pixel_values: Tensor,
        image_grid_thw: Tensor | None,  # noqa: ARG002 - the pixels tell
    ) -> Tensor:
        """One frame and the patches of a square, for every (3, H, W) in ``pixel_values``.

        Raises:
            SpliceError: Neither squares of the tower's own side nor of whole patches, or not as
                many patches as the pixel shuffle can merge.
        """
        height, width = pixel_values.shape[-2:]
        vision = config.vision_config
        side, rest = divmod(height, vision.patch_size)
        if height != width or side % config.scale_factor or (rest and height != vision.image_size):
            raise SpliceError(
                f"pixel_values of {width} x {height}: this host looks at squares of "
                f"{vision.image_size} pixels, or of a multiple of "
                f"{vision.patch_size * config.scale_factor}; run its image processor with "
                "do_image_splitting=False"
            )
        images = pixel_values.shape[:-3].numel()
        return torch.tensor([[1, side, side]] * images).view(-1, 3)

    def tokens_per_image(self, config: PreTrainedConfig, image_grid_thw: Tensor) -> list[int]:
        """Patches over scale_factor^2."""
        return (image_grid_thw.prod(-1) // config.scale_factor**2).tolist()

    def encode_images(
        self,
        host: Any,
        pixel_values: Tensor,
        image_grid_thw: Tensor,
    ) -> PrimaryFeatures:
        """Shuffled tokens and the map of each image.

        Args:
            host: An ``Idefics3ForConditionalGeneration`` or ``SmolVLMForConditionalGeneration``.
            pixel_values: (I, 3, H, W), or (rows, images, 3, H, W) without padding images.
            image_grid_thw: (I, 3), from `image_grid`.

        Returns:
            Tokens (n, D) and maps (C, rows, columns) per image.
        """
        vision = host.model.vision_model
        pixels_I3HW = pixel_values.reshape(-1, *pixel_values.shape[-3:])
        hidden_IPC = vision(pixels_I3HW.to(vision.dtype)).last_hidden_state
        stride = self.map_stride(host.config)
        height, width = pixels_I3HW.shape[-2:]
        maps = [
            FeatureMap(
                patches_PC.T.unflatten(1, (int(rows), int(columns))),
                stride,
                (float(width), float(height)),
            )
            for patches_PC, (_, rows, columns) in zip(
                hidden_IPC, image_grid_thw.tolist(), strict=True
            )
        ]
        return PrimaryFeatures(list(host.model.connector(hidden_IPC)), maps)

    def position_ids(
        self,
        host: Any,  # noqa: ARG002 - the contract's signature
        input_ids_BT: Tensor,
        attention_mask_BT: Tensor | None,
        image_grid_thw: Tensor | None,  # noqa: ARG002
        image_token_id: int,  # noqa: ARG002
    ) -> Tensor:
        """(B, T) positions in reading order, counted without padding; image tokens are text."""
        mask_BT = torch.ones_like(input_ids_BT) if attention_mask_BT is None else attention_mask_BT
        return (mask_BT.long().cumsum(-1) - 1).clamp(min=0)

    def decode(
        self,
        host: Any,
        inputs_embeds_BTD: Tensor,
        position_ids: Tensor | None,
        **inputs: Any,
    ) -> BaseModelOutputWithPast:
        """The text model, as the host calls it."""
        return host.model.text_model(
            inputs_embeds=inputs_embeds_BTD, position_ids=position_ids, **inputs
        )
