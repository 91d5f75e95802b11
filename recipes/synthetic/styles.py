"""The same things in another manner: colours, lines and pixels of drawings nobody has made.

All is cheap: a picture is 64 pixels wide. What the colour of the result is called is measured.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from recipes.synthetic.colours import dominant_colour
from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.kinds import COLOURABLE

Pixels = npt.NDArray[np.uint8]
Rng = np.random.Generator
_GREY = np.array([0.3, 0.59, 0.11], np.float32)


def restyled(
    picture: Pixels, kind: str, colour: str | None, config: SyntheticConfig, rng: Rng
) -> tuple[Pixels, str | None] | None:
    """A picture in the manners that `SyntheticConfig.variety` lets happen.

    Args:
        picture: (H, W, 4) RGBA.
        kind: What it shows.
        colour: What it was tinted in.
        config: With how often each manner happens.
        rng: Decides.

    Returns:
        The new picture and the colour that it now has; None if nothing happens to it, or if it
        would lose the colour it was tinted in.
    """
    result = picture
    if colour is None and config.chance("recoloured", rng):
        result = _recoloured(result, rng)
    if config.chance("posterised", rng):
        step = 256 / int(rng.integers(2, 5))
        rgb = (result[..., :3] // step + 0.5) * step
        result = np.dstack([rgb.clip(0, 255).astype(np.uint8), result[..., 3]])
    if colour is None and config.chance("lines", rng):
        result = _lines(result, rng)
    if config.chance("coarse", rng):
        side = int(rng.integers(16, 40))
        height, width = result.shape[:2]
        scale = side / max(height, width)
        size = (max(6, round(width * scale)), max(6, round(height * scale)))
        small = Image.fromarray(result).convert("RGBa").resize(size, Image.Resampling.BOX)
        result = np.asarray(small.convert("RGBA"))
    if result is picture:
        return None
    seen = dominant_colour(result[::2, ::2]) if kind in COLOURABLE else None
    return None if colour is not None and seen != colour else (result, seen)


def _recoloured(picture: Pixels, rng: Rng) -> Pixels:
    """Turned in hue about the grey axis, with other saturation, contrast and brightness."""
    angle = rng.normal(0, 0.5) if rng.random() < 0.7 else rng.uniform(-np.pi, np.pi)
    saturation = rng.uniform(0, 0.15) if rng.random() < 0.2 else rng.uniform(0.5, 1.5)
    cos, sin = np.cos(angle), np.sin(angle) / np.sqrt(3)
    third = (1 - cos) / 3
    turn = np.full((3, 3), third) + np.eye(3) * cos
    turn += sin * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    grey = np.tile(_GREY, (3, 1))
    matrix = (saturation * turn + (1 - saturation) * grey).astype(np.float32)
    contrast, light = rng.uniform(0.65, 1.3), rng.uniform(-30, 30)
    rgb = (picture[..., :3].astype(np.float32) @ matrix.T - 128) * contrast + 128 + light
    return np.dstack([rgb.clip(0, 255).astype(np.uint8), picture[..., 3]])


def _lines(picture: Pixels, rng: Rng) -> Pixels:
    """Where light changes there are lines; between them is one colour, white as often as not."""
    alpha = picture[..., 3].astype(np.float32) / 255
    light = np.pad((picture[..., :3] @ _GREY) * alpha + 255 * (1 - alpha), 1, mode="edge")
    down, across = light[2:, 1:-1] - light[:-2, 1:-1], light[1:-1, 2:] - light[1:-1, :-2]
    strength = ((np.abs(down) + np.abs(across)) / rng.uniform(60, 140)).clip(0, 1)[..., None]
    fill = np.array([250.0] * 3) if rng.random() < 0.5 else rng.uniform(30, 255, 3)
    ink = np.full(3, rng.uniform(0, 60) if fill @ _GREY > 110 else rng.uniform(200, 255))
    rgb = fill * (1 - strength) + ink * strength
    return np.dstack([rgb.astype(np.uint8), picture[..., 3]])
