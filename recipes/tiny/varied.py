"""Pictures and boxes changed a little while the towers learn.

Shapes: B pictures, N boxes, H and W sides.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def varied_light(pixels_B3HW: Tensor, rng: np.random.Generator) -> Tensor:
    """Other saturation, gamma, gains and sharpness for each picture; values in [0, 1]."""
    count = len(pixels_B3HW)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, *shape, 1, 1)).astype(np.float32))

    grey = pixels_B3HW.mean(1, keepdim=True)
    mixed = grey + (pixels_B3HW - grey) * draw(0.7, 1.25, 1)
    mixed = (mixed - 0.5) * draw(0.85, 1.15, 1) + 0.5 + draw(-0.06, 0.06, 1)
    mixed = mixed * draw(0.94, 1.06, 3)
    if rng.random() < 0.25:
        mixed = functional.avg_pool2d(functional.pad(mixed, (0, 1, 0, 1), mode="replicate"), 2, 1)
    if rng.random() < 0.25:
        noise = rng.normal(0, 0.02, tuple(mixed.shape)).astype(np.float32)
        mixed = mixed + torch.from_numpy(noise)
    return mixed.clamp(0, 1)


def varied_boxes(boxes_N4: Tensor, size_wh: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Boxes (xyxy in pixels) with edges moved by up to 3 % of their sides, inside the picture."""
    side = (boxes_N4[:, 2:] - boxes_N4[:, :2]).repeat(1, 2)
    shift = torch.from_numpy(rng.uniform(-0.03, 0.03, tuple(boxes_N4.shape)).astype(np.float32))
    moved = boxes_N4 + shift * side
    limit = torch.tensor([size_wh[0], size_wh[1]] * 2, dtype=torch.float32)
    return torch.minimum(moved.clamp(min=0), limit)
