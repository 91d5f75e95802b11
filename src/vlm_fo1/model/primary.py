"""The primary tower: the host's own ViT, run once for both the language model and the regions.

Shapes: P patches of all images, n merged tokens of one image, C channels, H and W map sides,
D width of the language model, L decoder layers.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureMap:
    """A map and how many image pixels one of its cells spans; they travel together."""

    map_CHW: Tensor
    stride: float
    image_wh: tuple[float, float] | None = None
    """Width and height of the image in pixels, where the cells do not cover all of it."""

    @property
    def size_wh(self) -> tuple[float, float]:
        """Width and height of the image in pixels."""
        if self.image_wh is not None:
            return self.image_wh
        height, width = self.map_CHW.shape[1:]
        return width * self.stride, height * self.stride


@dataclass(frozen=True)
class PrimaryFeatures:
    """What the host's ViT gives for one batch of images."""

    tokens: list[Tensor]
    """Per image (n, D): merged tokens in raster order, as the host's language model takes them."""
    maps: list[FeatureMap]
    """Per image: the map that regions are cut from."""
    deep_tokens: list[Tensor] = field(default_factory=list[Tensor])
    """Per image (n, L, D): what the decoder adds to its tokens after each of its first L layers
    (deepstack); an empty list for hosts without."""


def merge_order_to_map(hidden_PC: Tensor, grid_hw: tuple[int, int], merge: int) -> Tensor:
    """Patches of one image in merge-block order to a map in image order.

    Qwen ViTs keep the ``merge x merge`` patches that become one token next to each other.

    Args:
        hidden_PC: (H * W, C) patches of one image, block after block.
        grid_hw: Rows and columns of patches.
        merge: Side of a block.

    Returns:
        (C, H, W).
    """
    height, width = grid_hw
    blocks = hidden_PC.view(height // merge, width // merge, merge, merge, -1)
    return blocks.permute(4, 0, 2, 1, 3).reshape(-1, height, width)


def window_order_to_merge_order(hidden_PC: Tensor, window_index: Tensor, merge: int) -> Tensor:
    """Undo the window order of Qwen2.5-VL's ViT.

    Args:
        hidden_PC: (P, C) patches of all images, window after window.
        window_index: (P / merge^2,) where each block of the window order came from.
        merge: Side of a block.

    Returns:
        (P, C) patches, image after image in merge-block order.
    """
    blocks = hidden_PC.view(len(window_index), merge * merge, -1)
    return blocks[torch.argsort(window_index)].flatten(0, 1)
