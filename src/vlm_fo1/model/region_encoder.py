"""The hybrid region encoder: what stands in a box, from both towers, as one vector.

Shapes: N boxes, R width of a region feature.
"""

import math

import torch
from torch import Tensor, nn

from vlm_fo1.model.configuration import RegionConfig
from vlm_fo1.model.primary import FeatureMap
from vlm_fo1.model.pyramid import FeaturePyramid
from vlm_fo1.model.region_pooling import pool_mean


class HybridRegionEncoder(nn.Module):
    """Boxes and maps of one image to region features.

    Args:
        config: Pyramid, pooling and position settings.
        primary_channels: Channels of the primary map.
        primary_stride: Pixels of the primary image per cell of that map.
    """

    def __init__(self, config: RegionConfig, primary_channels: int, primary_stride: float) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(
            primary_channels,
            config.pyramid_channels,
            primary_stride,
            tuple(map(float, config.pyramid_strides)),
        )
        self.bins = config.pooling_size
        self.temperature = config.position_temperature

    def forward(
        self,
        auxiliary: list[FeatureMap],
        primary: FeatureMap,
        boxes_N4: Tensor,
        auxiliary_wh: tuple[int, int],
    ) -> Tensor:
        """Region features of one image.

        Args:
            auxiliary: Stages of the auxiliary tower, finest first.
            primary: The host's map that regions are cut from.
            boxes_N4: (N, 4) xyxy in pixels of the auxiliary image.
            auxiliary_wh: Width and height of the auxiliary image in pixels.

        Returns:
            (N, R) float32: auxiliary stages, then pyramid levels, plus the box's position.

        Source: the paper's hybrid region encoder; REFERENCE, "Region feature".
        """
        width, height = primary.size_wh
        factor = boxes_N4.new_tensor([width / auxiliary_wh[0], height / auxiliary_wh[1]])
        primary_boxes_N4 = boxes_N4 * factor.repeat(2)

        finest = auxiliary[0]
        parts = [
            pool_mean(
                stage.map_CHW,
                boxes_N4,
                1 / finest.stride,
                bins=self.bins,
                resized_hw=(finest.map_CHW.shape[1], finest.map_CHW.shape[2]),
            )
            for stage in auxiliary
        ]
        parts += [
            pool_mean(level.map_CHW, primary_boxes_N4, 1 / level.stride, bins=self.bins)
            for level in self.pyramid(primary)
        ]
        features_NR = torch.cat([part.to(parts[0].device) for part in parts], dim=-1)
        position_NR = box_position(
            primary_boxes_N4, (width, height), features_NR.shape[-1], self.temperature
        )
        return features_NR + position_NR.to(features_NR.device)


def box_position(
    boxes_N4: Tensor, size_wh: tuple[float, float], width: int, temperature: float
) -> Tensor:
    """Sine and cosine of where a box is and how large.

    Args:
        boxes_N4: (N, 4) xyxy in pixels of an image.
        size_wh: That image's width and height.
        width: Length of the result, divisible by eight.
        temperature: Base of the frequencies.

    Returns:
        (N, width) float32: centre y, centre x, box width, box height, a quarter each; sine in even
        places, cosine in odd ones, one frequency a pair.

    Source: REFERENCE, "Box position".
    """
    x1, y1, x2, y2 = boxes_N4.float().unbind(-1)
    image_w, image_h = size_wh
    values_N4 = torch.stack(
        [
            (y1 + y2) / 2 / image_h,
            (x1 + x2) / 2 / image_w,
            (x2 - x1) / image_w,
            (y2 - y1) / image_h,
        ],
        dim=-1,
    )
    quarter = width // 4
    pair = torch.arange(quarter, device=boxes_N4.device) // 2
    frequency = temperature ** (2 * pair / quarter)
    angle_N4Q = values_N4[..., None] * (2 * math.pi) / frequency
    waves = torch.stack([angle_N4Q[..., 0::2].sin(), angle_N4Q[..., 1::2].cos()], dim=-1)
    return waves.flatten(1)
