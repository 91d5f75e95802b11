"""Drawing styles made of others: flat colours, warped outlines, shifted hues.

Two styles train; variants of them stand in for the styles of the world.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from recipes.synthetic.sprites import SpriteSet, load_sprites

Pixels = npt.NDArray[np.uint8]


@lru_cache(maxsize=2)
def varied_sprites(folder: str | None, seed: int = 7) -> SpriteSet:
    """A sprite folder, or the drawn shapes, with variants of every style that is not held out."""
    sprites = load_sprites(folder)
    rng = np.random.default_rng(seed)
    pictures = dict(sprites.pictures)
    for style in sprites.styles:
        for number in range(4):
            pictures[f"{style}-{number}"] = np.stack(
                [_variant(picture, number, rng) for picture in sprites.pictures[style]]
            )
    return replace(sprites, pictures=pictures)


def training_styles(sprites: SpriteSet) -> tuple[str, ...]:
    """Names to draw a style from: originals three times as often as all their variants."""
    originals = sprites.styles
    variants = tuple(name for name in sprites.pictures if "-" in name)
    plain = tuple(name for name in originals if "-" not in name)
    return plain * (3 * len(variants) // max(len(plain), 1)) + variants


def _variant(picture: Pixels, number: int, rng: np.random.Generator) -> Pixels:
    """Even numbers are flat-coloured, numbers from 1 are warped and shifted in hue."""
    image = Image.fromarray(picture)
    if number >= 1:
        image = _warped(image, rng)
        image = _shifted(image, rng)
    if number % 2 == 0:
        alpha = np.asarray(image.getchannel("A"))
        rgb = Image.new("RGB", image.size, (128, 128, 128))
        rgb.paste(image.convert("RGB"), mask=image.getchannel("A"))
        flat = rgb.quantize(int(rng.integers(4, 8)), method=Image.Quantize.MEDIANCUT)
        result = np.dstack([np.asarray(flat.convert("RGB")), alpha])
    else:
        result = np.asarray(image)
    return np.ascontiguousarray(result.astype(np.uint8))


def _warped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Stretch, shear and bend by a coarse grid of displacements."""
    side = image.width
    cells = 4
    grid = np.linspace(0, side, cells + 1)
    stretch = rng.uniform(0.85, 1.0, 2)
    points = np.stack(np.meshgrid(grid, grid), axis=-1)
    source = (points - side / 2) / stretch + side / 2
    source = source + rng.normal(0, side * 0.025, source.shape)
    source[..., 0] += (points[..., 1] - side / 2) * rng.uniform(-0.12, 0.12)
    mesh = []
    for row in range(cells):
        for column in range(cells):
            box = tuple(int(v) for v in (grid[column], grid[row], grid[column + 1], grid[row + 1]))
            corners = (
                *source[row, column], *source[row + 1, column],
                *source[row + 1, column + 1], *source[row, column + 1],
            )  # fmt: skip
            mesh.append((box, tuple(float(v) for v in corners)))
    premultiplied = image.convert("RGBa")
    return premultiplied.transform(
        image.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR
    ).convert("RGBA")


def _shifted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    alpha = image.getchannel("A")
    hsv = np.asarray(image.convert("RGB").convert("HSV")).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-12, 12)) % 256
    hsv[..., 1] = (hsv[..., 1] * rng.uniform(0.7, 1.3)).clip(0, 255)
    hsv[..., 2] = (hsv[..., 2] * rng.uniform(0.85, 1.12)).clip(0, 255)
    rgb = Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")
    rgb.putalpha(alpha)
    return rgb
