"""Put image and region tokens where the text holds their placeholders.

Shapes: B rows, T tokens, D width of the language model, I images of all rows, n tokens of an image,
L decoder layers.
"""

from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from vlm_fo1.errors import SpliceError


class EmbeddedPrompt(TypedDict):
    """A batch of prompts as the decoder takes them; its keys are keywords of the model."""

    inputs_embeds: Tensor
    """(B, T, D)."""
    position_ids: Tensor
    """In the host's shape, T last."""
    deepstack_embeds: NotRequired[Tensor]
    """(B, T, L, D), zero where no image token stands; absent for most hosts."""


def cut_prompt(prompt: EmbeddedPrompt, start: int, end: int | None) -> EmbeddedPrompt:
    """Some of a prompt's tokens.

    Run through `forward`, the first ones fill a cache that all prompts with this start go on from.
    """
    some = slice(start, end)
    part = EmbeddedPrompt(
        inputs_embeds=prompt["inputs_embeds"][:, some],
        position_ids=prompt["position_ids"][..., some],
    )
    if "deepstack_embeds" in prompt:
        part["deepstack_embeds"] = prompt["deepstack_embeds"][:, some]
    return part


def splice(embeds_BTD: Tensor, placeholder_BT: Tensor, features: list[Tensor]) -> Tensor:
    """Replace placeholders by features, in reading order.

    Args:
        embeds_BTD: Embedded text.
        placeholder_BT: True where a feature goes.
        features: (n, D) each; all of them together as many as placeholders.

    Returns:
        (B, T, D), with gradients to both inputs.
    """
    if not features:
        return embeds_BTD
    flat = torch.cat([part.to(embeds_BTD.device, embeds_BTD.dtype) for part in features])
    return embeds_BTD.masked_scatter(placeholder_BT[..., None], flat)


def splice_deep(embeds_BTD: Tensor, placeholder_BT: Tensor, features: list[Tensor]) -> Tensor:
    """What the first decoder layers add at placeholders, zero elsewhere.

    Args:
        embeds_BTD: Embedded text, for shape and type.
        placeholder_BT: True where a feature goes.
        features: (n, L, D) each; all of them together as many as placeholders.

    Returns:
        (B, T, L, D), row by row, so that it can be repeated for beams and cut like the embeddings.
    """
    layers, width = features[0].shape[1:]
    zeros = embeds_BTD.new_zeros(*embeds_BTD.shape[:2], layers * width)
    flat = [part.flatten(1) for part in features]
    return splice(zeros, placeholder_BT, flat).unflatten(-1, (layers, width))


def check_counts(
    image_slots_B: list[int],
    region_slots_B: list[int],
    image_sizes_I: list[int],
    region_counts_I: list[int],
) -> None:
    """Refuse a batch whose placeholders and features differ in number.

    Args:
        image_slots_B: Image placeholders of each row.
        region_slots_B: Region placeholders of each row.
        image_sizes_I: Merged tokens of each image, images in reading order.
        region_counts_I: Regions of each image.

    Raises:
        SpliceError: With the row and both counts.
    """
    image = 0
    for row, (image_slots, region_slots) in enumerate(
        zip(image_slots_B, region_slots_B, strict=True)
    ):
        first, filled = image, 0
        while filled < image_slots and image < len(image_sizes_I):
            filled += image_sizes_I[image]
            image += 1
        if filled != image_slots:
            raise SpliceError(
                f"row {row}: {image_slots} image placeholders but its images give {filled} tokens: "
                "repeat the image token once per merged token (grid height x width / merge^2)"
            )
        regions = sum(region_counts_I[first:image])
        if regions != region_slots:
            raise SpliceError(
                f"row {row}: {region_slots} region placeholders but {regions} boxes: "
                "pass one box per region placeholder"
            )
    if image != len(image_sizes_I):
        raise SpliceError(
            f"{len(image_sizes_I)} images but the text has room for {image}: "
            "every image needs its placeholders in input_ids"
        )
