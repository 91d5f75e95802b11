"""A simple feature pyramid (ViTDet) over maps of the primary tower.

Shapes: I images of one size, C channels of the map, K channels of a level, H and W sides.
"""

import math
from itertools import pairwise

from torch import Tensor, nn

from vlm_fo1.errors import ConfigError

NORM_EPS = 1e-6


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (I, C, H, W) maps."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each cell over its channels."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Level(nn.Module):
    """One level: resample to its stride, then a 1x1 and a 3x3 convolution, each with a norm.

    Args:
        in_channels: C of the primary map.
        out_channels: K of the level.
        scale: Size of the level over the size of the map: 0.5, 1, 2, 4 or 8. Each doubling is a
            transposed convolution that halves the channels, with norm and GELU between two.
    """

    def __init__(self, in_channels: int, out_channels: int, scale: float) -> None:
        super().__init__()
        doublings = round(math.log2(scale))
        if scale != 2.0**doublings or doublings < -1:
            raise ConfigError(
                f"a pyramid level of scale {scale:g} is not possible: the primary stride over the "
                "level's stride must be 0.5, 1, 2, 4, ..."
            )
        widths = [in_channels // 2**step for step in range(max(doublings, 0) + 1)]
        self.resample = nn.Sequential()
        if doublings < 0:
            self.resample.append(nn.MaxPool2d(2, 2, ceil_mode=True))  # an odd map's last cells too
        for step, (wide, narrow) in enumerate(pairwise(widths)):
            if step:
                self.resample.extend([ChannelNorm(wide, NORM_EPS), nn.GELU()])
            self.resample.append(nn.ConvTranspose2d(wide, narrow, 2, 2))
        self.project = nn.Conv2d(widths[-1], out_channels, 1, bias=False)
        self.project_norm = ChannelNorm(out_channels, NORM_EPS)
        self.smooth = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.smooth_norm = ChannelNorm(out_channels, NORM_EPS)

    def forward(self, map_ICHW: Tensor) -> Tensor:
        """(I, C, H, W) to (I, K, H * scale, W * scale), rounded up."""
        hidden = self.project_norm(self.project(self.resample(map_ICHW)))
        return self.smooth_norm(self.smooth(hidden))


class FeaturePyramid(nn.Module):
    """Levels of several strides from one map each.

    Args:
        in_channels: C of the primary map.
        out_channels: K of every level.
        in_stride: Stride of the primary map in pixels.
        strides: Strides of the levels in pixels, finest first.
    """

    def __init__(
        self, in_channels: int, out_channels: int, in_stride: float, strides: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.strides = strides
        self.levels = nn.ModuleList(
            Level(in_channels, out_channels, in_stride / stride) for stride in strides
        )

    def forward(self, map_ICHW: Tensor) -> list[Tensor]:
        """One (I, K, H, W) a stride, of images of one size.

        Source: REFERENCE, "Region encoder (HFRE)"; ViTDet's simple feature pyramid.
        """
        return [level(map_ICHW) for level in self.levels]
