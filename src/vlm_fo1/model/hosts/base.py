"""The contract of a host adapter. Adapters are stateless; the host is passed in.

Shapes: B rows, T tokens, D width of the language model, I images, L decoder layers.
"""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from vlm_fo1.model.primary import PrimaryFeatures


@runtime_checkable
class HostAdapter(Protocol):
    """What VLM-FO1 needs to know about a host VLM."""

    def map_channels(self, config: PreTrainedConfig) -> int:
        """Channels of the map that regions are cut from."""
        ...

    def map_stride(self, config: PreTrainedConfig) -> float:
        """Pixels of the primary image per cell of that map."""
        ...

    def image_grid(
        self, config: PreTrainedConfig, pixel_values: Tensor, image_grid_thw: Tensor | None
    ) -> Tensor:
        """Frames, rows and columns of patches, (I, 3): as given, or as the pixels tell.

        Raises:
            SpliceError: The grid cannot be known, or the host cannot look at such an image.
        """
        ...

    def tokens_per_image(self, config: PreTrainedConfig, image_grid_thw: Tensor) -> list[int]:
        """Merged tokens of each image; (I, 3) patch grid in."""
        ...

    def encode_images(
        self, host: PreTrainedModel, pixel_values: Tensor, image_grid_thw: Tensor
    ) -> PrimaryFeatures:
        """One pass of the host's ViT: tokens for the language model and maps for regions."""
        ...

    def position_ids(
        self,
        host: PreTrainedModel,
        input_ids_BT: Tensor,
        attention_mask_BT: Tensor | None,
        image_grid_thw: Tensor | None,
        image_token_id: int,
    ) -> Tensor:
        """Positions of a whole prompt, in the shape the host's decoder takes."""
        ...

    def decode(
        self,
        host: PreTrainedModel,
        inputs_embeds_BTD: Tensor,
        position_ids: Tensor | None,
        **inputs: Any,
    ) -> BaseModelOutputWithPast:
        """The host's decoder on embedded tokens: last hidden states and the cache.

        A host whose ViT gave ``deep_tokens`` gets them back among the inputs of a prompt, as
        ``deepstack_embeds`` (B, T, L, D), zero where no image token stands; others never do.
        """
        ...
