"""The auxiliary tower: a DaViT on high-resolution images, all four stages kept.

Composed from transformers' Florence-2 backbone, which is the same network.

Shapes: I images of one size, C channels, H and W sides of an image.
"""

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.florence2.modeling_florence2 import Florence2VisionBackbone


class AuxiliaryTower(nn.Module):
    """Fine detail for regions, at strides 4, 8, 16 and 32.

    Args:
        config: Sizes (a ``Florence2VisionConfig``).
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        # Channel attention has one "head" as wide as the map has cells: flash kernels refuse it.
        self.tower = Florence2VisionBackbone._from_config(  # noqa: SLF001
            config, attn_implementation="sdpa"
        )

    def forward(self, pixels_I3HW: Tensor) -> list[Tensor]:
        """Run the tower on images of one size.

        Args:
            pixels_I3HW: Normalised RGB, any size from one pixel.

        Returns:
            The images' maps of each stage, finest first, (I, C, ceil(H / stride), ceil(W /
            stride)).

        Source: REFERENCE, "The model", auxiliary tower.
        """
        maps: list[Tensor] = []
        hidden = pixels_I3HW.to(self.tower.dtype)
        for embed, blocks in zip(self.tower.convs, self.tower.blocks, strict=True):
            hidden = embed(hidden)
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                hidden = block(hidden)
            maps.append(hidden)
        return maps
