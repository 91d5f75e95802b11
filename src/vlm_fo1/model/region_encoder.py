"""The hybrid region encoder: what stands in a box, from both towers, as one vector.

Images of one size go through towers, pyramid and pooling together. Shapes: I images, N boxes of the
image that has most, R width of a region feature, C channels, H and W sides.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vlm_fo1.model.configuration import RegionConfig
from vlm_fo1.model.primary import FeatureMap
from vlm_fo1.model.pyramid import FeaturePyramid
from vlm_fo1.model.region_pooling import pool_mean

PIXELS_AT_ONCE = 2048 * 2048
"""The largest image that the released preprocessing makes: no batch takes more memory than that."""


class HybridRegionEncoder(nn.Module):
    """Boxes and images to region features.

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
        self.auxiliary_stride = float(config.auxiliary_strides[0])
        self.bins = config.pooling_size
        self.temperature = config.position_temperature

    def forward(
        self,
        auxiliary: Callable[[Tensor], list[Tensor]],
        pixels: Sequence[Tensor],
        primary: Sequence[FeatureMap],
        boxes: Sequence[Tensor],
    ) -> list[Tensor]:
        """Region features of images with at least one box each.

        Args:
            auxiliary: The call of the tower that looks at ``pixels``; not the tower, which hooks
                that move a module's arguments to its device would move.
            pixels: Per image (3, H, W), what the auxiliary tower takes.
            primary: Per image the host's map that regions are cut from.
            boxes: Per image (N, 4) xyxy in pixels of its auxiliary image.

        Returns:
            Per image (N, R) float32: auxiliary stages, then pyramid levels, plus the box's
            position.

        Source: the paper's hybrid region encoder; REFERENCE, "Region feature".
        """
        device = primary[0].map_CHW.device
        boxes_IN4 = pad_sequence([some.float() for some in boxes], batch_first=True)
        boxes_IN4 = boxes_IN4.to(device, non_blocking=True)
        shown_I4 = torch.tensor([[image.shape[2], image.shape[1]] * 2 for image in pixels])
        size_I4 = torch.tensor([image.size_wh * 2 for image in primary])
        factor_I4 = (size_I4 / shown_I4).to(device, non_blocking=True)
        primary_boxes_IN4 = boxes_IN4 * factor_I4[:, None]

        def pool_auxiliary(pixels_I3HW: Tensor, boxes_IN4: Tensor) -> Tensor:
            stages = auxiliary(pixels_I3HW)
            scales = [1 / self.auxiliary_stride] * len(stages)
            finest_hw = (stages[0].shape[2], stages[0].shape[3])
            return pool_mean(stages, boxes_IN4, scales, bins=self.bins, resized_hw=finest_hw)

        def pool_primary(map_ICHW: Tensor, boxes_IN4: Tensor) -> Tensor:
            scales = [1 / stride for stride in self.pyramid.strides]
            return pool_mean(self.pyramid(map_ICHW), boxes_IN4, scales, bins=self.bins)

        maps = [image.map_CHW for image in primary]
        cells = int(PIXELS_AT_ONCE / primary[0].stride ** 2)  # a host's maps have one stride
        fine_INR = together(pool_auxiliary, pixels, boxes_IN4, PIXELS_AT_ONCE)
        coarse_INR = together(pool_primary, maps, primary_boxes_IN4, cells)
        features_INR = torch.cat([fine_INR, coarse_INR.to(fine_INR.device)], dim=-1)
        within_IN4 = primary_boxes_IN4 / size_I4.to(device, non_blocking=True)[:, None]
        position_INR = box_position(within_IN4, features_INR.shape[-1], self.temperature)
        features_INR = features_INR + position_INR.to(fine_INR.device)
        return [
            features_NR[: len(some)] for features_NR, some in zip(features_INR, boxes, strict=True)
        ]


def together(
    pool: Callable[[Tensor, Tensor], Tensor],
    images: Sequence[Tensor],
    boxes_IN4: Tensor,
    most: int,
) -> Tensor:
    """Pool images of one size in one call.

    Args:
        pool: (i, C, H, W) and (i, N, 4) to (i, N, R).
        images: (C, H, W) each.
        boxes_IN4: Boxes of each.
        most: H x W that a call may hold, unless a single image is larger.

    Returns:
        (I, N, R) on the device of the first.
    """
    by_size: dict[torch.Size, list[int]] = {}
    for index, image in enumerate(images):
        by_size.setdefault(image.shape, []).append(index)
    pooled: dict[int, Tensor] = {}
    for (_, height, width), members in by_size.items():
        step = max(1, most // (height * width))
        for first in range(0, len(members), step):
            some = members[first : first + step]
            boxes_iN4 = torch.stack([boxes_IN4[index] for index in some])
            found_iNR = pool(torch.stack([images[index] for index in some]), boxes_iN4)
            pooled.update(zip(some, found_iNR, strict=True))
    device = pooled[0].device
    return torch.stack([pooled[index].to(device) for index in range(len(images))])


def box_position(boxes_IN4: Tensor, width: int, temperature: float) -> Tensor:
    """Sine and cosine of where a box is and how large.

    Args:
        boxes_IN4: (..., 4) xyxy as fractions of their image.
        width: Length of the result, divisible by eight.
        temperature: Base of the frequencies.

    Returns:
        (..., width) float32: centre y, centre x, box width, box height, a quarter each; sine in
        even places, cosine in odd ones, one frequency a pair.

    Source: REFERENCE, "Box position".
    """
    x1, y1, x2, y2 = boxes_IN4.float().unbind(-1)
    values_IN4 = torch.stack([(y1 + y2) / 2, (x1 + x2) / 2, x2 - x1, y2 - y1], dim=-1)
    quarter = width // 4
    pair = torch.arange(quarter, device=boxes_IN4.device) // 2
    frequency = temperature ** (2 * pair / quarter)
    angle_IN4Q = values_IN4[..., None] * (2 * math.pi) / frequency
    waves = torch.stack([angle_IN4Q[..., 0::2].sin(), angle_IN4Q[..., 1::2].cos()], dim=-1)
    return waves.flatten(-3)
