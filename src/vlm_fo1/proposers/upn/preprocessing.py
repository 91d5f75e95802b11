"""Images to what UPN takes: resized, normalised, put into one canvas.

Source: the recorded image transform. Pillow's bilinear filter on 8-bit pixels, nothing else.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SHORTER, LONGER_MAX = 800, 1333
"""Sides in pixels that the released weights were trained for."""

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def resized_wh(
    size_wh: tuple[int, int], shorter: int = SHORTER, longer_max: int = LONGER_MAX
) -> tuple[int, int]:
    """Width and height after resizing.

    Args:
        size_wh: Of the image.
        shorter: What the shorter side becomes,
        longer_max: unless the longer one would pass this; it may still end a pixel or so off, as in
            the released code.

    Returns:
        At least 1 pixel each.
    """
    width, height = size_wh
    low, high = min(size_wh), max(size_wh)
    target = shorter
    if high / low * shorter > longer_max:
        target = round(longer_max * low / high)
    if target < 1:  # a line, which the released code cannot resize
        return (1, longer_max) if width < height else (longer_max, 1)
    if low == target:
        return width, height
    if width < height:
        return target, int(target * height / width)
    return int(target * width / height), target


def to_pixels(image: Image.Image, shorter: int = SHORTER, longer_max: int = LONGER_MAX) -> Tensor:
    """One image as normalised pixels.

    Args:
        image: RGB; others are converted.
        shorter: See `resized_wh`.
        longer_max: See `resized_wh`.

    Returns:
        (3, H, W) float32.
    """
    return normalised(image, resized_wh(image.size, shorter, longer_max))


def normalised(image: Image.Image, size_wh: tuple[int, int]) -> Tensor:
    """One image at a given width and height as (3, H, W) float32."""
    resized = image.convert("RGB").resize(size_wh, Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_STD)[:, None, None]


def collate(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Images of different sizes in the top left of one canvas.

    Args:
        images: One or more (3, H, W).

    Returns:
        (B, 3, H, W) with zeros for padding, and (B, H, W) bool, True where image.
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    pixel_values = torch.zeros(len(images), 3, height, width)
    pixel_mask = torch.zeros(len(images), height, width, dtype=torch.bool)
    for index, image in enumerate(images):
        pixel_values[index, :, : image.shape[1], : image.shape[2]] = image
        pixel_mask[index, : image.shape[1], : image.shape[2]] = True
    return pixel_values, pixel_mask
