"""The auxiliary tower: a DaViT on a high-resolution image, all four stages kept.

Composed from transformers' Florence-2 backbone, which is the same network.
"""

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.florence2.modeling_florence2 import Florence2VisionBackbone

from vlm_fo1.model.primary import FeatureMap


class AuxiliaryTower(nn.Module):
    """Fine detail for regions, at strides 4, 8, 16 and 32.

    Args:
        config: Sizes (a ``Florence2VisionConfig``).
        strides: Stride of each stage in pixels of the auxiliary image.
    """

    def __init__(self, config: PreTrainedConfig, strides: tuple[float, ...]) -> None:
        super().__init__()
        # Channel attention has one "head" as wide as the map has cells: flash kernels refuse it.
        self.tower = Florence2VisionBackbone._from_config(  # noqa: SLF001
            config, attn_implementation="sdpa"
        )
        self.strides = strides

    def forward(self, pixels_3HW: Tensor) -> list[FeatureMap]:
        """Run the tower on one image.

        Args:
            pixels_3HW: Normalised RGB, any size from one pixel.

        Returns:
            One map per stage, finest first, (C, ceil(H / stride), ceil(W / stride)).

        Source: REFERENCE, "The model", auxiliary tower.
        """
        maps: list[FeatureMap] = []
        hidden = pixels_3HW[None].to(self.tower.dtype)
        stages = zip(self.tower.convs, self.tower.blocks, self.strides, strict=True)
        for embed, blocks, stride in stages:
            hidden = embed(hidden)
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                hidden = block(hidden)
            maps.append(FeatureMap(hidden[0], stride))
        return maps
