"""Colour words with exact truth: tints for things, names for pixels, paper for backgrounds."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Rgb = tuple[int, int, int]

COLOURS: Mapping[str, Rgb] = MappingProxyType(
    {
        "black": (38, 36, 42),
        "white": (240, 240, 244),
        "red": (214, 34, 38),
        "blue": (38, 84, 214),
        "green": (40, 150, 56),
        "yellow": (246, 210, 34),
        "purple": (128, 50, 168),
        "pink": (250, 140, 190),
    }
)
"""Tints by name. Orange is left out: it is a fruit here."""

BACKGROUNDS: Mapping[str, Rgb] = MappingProxyType(
    {
        "grey": (170, 172, 174),
        "blue": (150, 190, 232),
        "green": (164, 208, 150),
        "yellow": (240, 226, 150),
        "pink": (240, 190, 206),
        "purple": (196, 176, 226),
        "brown": (182, 148, 118),
        "white": (232, 232, 230),
    }
)
"""Pale papers by name, so that every tint stands out."""


def tinted(pixels: Pixels, colour: Rgb) -> Pixels:
    """Paint a picture in one colour, keeping its light and shade.

    Args:
        pixels: (H, W, 4) RGBA.
        colour: What a middling bright part becomes; brighter parts come nearer to white.

    Returns:
        A new array of the same shape.
    """
    rgb = pixels[..., :3].astype(np.float32)
    light = rgb @ np.array([0.3, 0.59, 0.11], np.float32)
    solid = light[pixels[..., 3] > 128]
    low, high = np.percentile(solid, [4, 96]) if solid.size else (0.0, 255.0)
    shade = np.clip((light - low) / max(float(high - low), 24.0), 0, 1)[..., None]
    base = np.array(colour, np.float32)
    dark = base * 0.5
    top = base + (255 - base) * (0.22 if base.max() > 60 else 0.06)  # black stays black
    painted = np.where(
        shade < 0.5, dark + (base - dark) * shade * 2, base + (top - base) * (shade - 0.5) * 2
    )
    return np.concatenate([painted.round().astype(np.uint8), pixels[..., 3:]], axis=-1)


def dominant_colour(pixels: Pixels) -> str | None:
    """The one of `COLOURS` that a person would give the picture, or None when none is clear.

    Args:
        pixels: (H, W, 4) RGBA.
    """
    solid = pixels[pixels[..., 3] > 128][:, :3].astype(np.float32) / 255
    if not len(solid):
        return None
    high, low = solid.max(1), solid.min(1)
    chroma = high - low
    saturation = np.divide(chroma, high, out=np.zeros_like(high), where=high > 0)
    red, green, blue = solid.T
    safe = np.maximum(chroma, 1e-6)
    hue = np.select(
        [high == red, high == green],
        [((green - blue) / safe) % 6, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    hue *= 60
    vivid = (saturation > 0.42) & (high > 0.3)
    shares = {
        "black": (high < 0.27).mean(),
        "white": ((saturation < 0.12) & (high > 0.84)).mean(),
        "red": (vivid & ((hue < 14) | (hue > 342)) & (saturation > 0.6)).mean(),
        "yellow": (vivid & (hue > 42) & (hue < 66)).mean(),
        "green": (vivid & (hue > 75) & (hue < 160)).mean(),
        "blue": (vivid & (hue > 195) & (hue < 245)).mean(),
        "purple": (vivid & (hue > 255) & (hue < 295)).mean(),
        "pink": ((saturation > 0.25) & (high > 0.7) & (hue > 300) & (hue < 342)).mean(),
    }
    name, share = max(shares.items(), key=lambda item: item[1])
    return name if share >= 0.6 else None
