"""What lies behind the things, and the light and the camera over the whole image."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from recipes.synthetic.colours import BACKGROUNDS
from recipes.synthetic.config import SyntheticConfig

Pixels = npt.NDArray[np.uint8]
Rng = np.random.Generator


def plain(size_wh: tuple[int, int], rng: Rng) -> tuple[Pixels, str]:
    """One colour all over.

    Returns:
        (H, W, 3) and the name of the colour.
    """
    name = str(rng.choice(list(BACKGROUNDS)))
    colour = np.array(BACKGROUNDS[name]) + rng.integers(-6, 7, 3)
    canvas = np.empty((size_wh[1], size_wh[0], 3), np.uint8)
    canvas[:] = colour.clip(0, 255)
    return canvas, name


def varied(size_wh: tuple[int, int], rng: Rng) -> Pixels:
    """A gradient, coarse noise, stripes, or soft blobs, in two or more pale colours."""
    kind = rng.integers(4)
    if kind == 0:
        return _stretched(np.array([[_pale(rng), _pale(rng)], [_pale(rng), _pale(rng)]]), size_wh)
    if kind == 1:
        cells = int(rng.integers(12, 60))
        spread = rng.normal(0, rng.uniform(6, 22), (cells, cells, 1))
        return _stretched(_pale(rng) + spread, size_wh)
    if kind == 2:
        return _stripes(size_wh, rng)
    cells = int(rng.integers(3, 8))
    return _stretched(np.array([[_pale(rng) for _ in range(cells)] for _ in range(cells)]), size_wh)


def textured(size_wh: tuple[int, int], textures: Sequence[Pixels], rng: Rng) -> Pixels:
    """A part of a photograph, or noise of all sizes as photographs have it; often made paler."""
    which = int(rng.integers(len(textures) + 3))
    if which < len(textures):
        photo = Image.fromarray(textures[which])
        side = rng.uniform(0.3, 1.0) * min(photo.size)
        left, top = rng.uniform(0, photo.width - side), rng.uniform(0, photo.height - side)
        box = (left, top, left + side, top + side)
        canvas = np.asarray(photo.resize(size_wh, Image.Resampling.BILINEAR, box))
        canvas = canvas[:, :: -1 if rng.random() < 0.5 else 1]
    else:
        rough = np.full((64, 64, 3), rng.uniform(60, 200, 3))
        for cells in (3, 6, 12, 24, 64):
            grid = rng.normal(128, 60, (cells, cells, 3 if cells < 20 else 1))
            grid = np.broadcast_to(grid, (cells, cells, 3))
            rough += (_stretched(grid, (64, 64)) - 128.0) * cells**-0.4 * 1.5
        canvas = _stretched(rough, size_wh)
    pale = rng.uniform(0, 0.7)
    paper = Image.new("RGB", size_wh, tuple(_pale(rng).astype(int).tolist()))
    return np.array(Image.blend(Image.fromarray(np.ascontiguousarray(canvas)), paper, pale))


def lit(canvas: Pixels, rng: Rng) -> Pixels:
    """The same picture under another light: brightness, contrast, a slight cast, all over."""
    contrast, brightness = rng.uniform(0.82, 1.12), rng.uniform(-18, 18)
    cast = rng.uniform(0.95, 1.05, 3)
    levels = np.arange(256)[:, None]
    table = ((levels - 128) * contrast + 128 + brightness) * cast
    table = table.clip(0, 255).astype(np.uint8)
    return np.stack([table[:, channel][canvas[..., channel]] for channel in range(3)], axis=-1)


def with_effect(canvas: Pixels, rng: Rng) -> Pixels:
    """Uneven light, sensor noise, or a slight blur."""
    kind = rng.integers(3)
    height, width = canvas.shape[:2]
    if kind == 0:
        shade = Image.fromarray(rng.uniform(0.78, 1.12, (2, 2)).astype(np.float32))
        plane = np.asarray(shade.resize((width, height), Image.Resampling.BILINEAR))
        return (canvas * plane[..., None]).clip(0, 255).astype(np.uint8)
    if kind == 1:
        reach = int(rng.integers(3, 12))
        noise = rng.integers(-reach, reach + 1, canvas.shape, dtype=np.int16)
        return (canvas + noise).clip(0, 255).astype(np.uint8)
    small = Image.fromarray(canvas).resize(
        (int(width * 0.8), int(height * 0.8)), Image.Resampling.BILINEAR
    )
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


def photographed(canvas: Pixels, config: SyntheticConfig, rng: Rng) -> Pixels:
    """The image after what `SyntheticConfig.variety` lets a camera do, its colours kept."""
    if config.chance("blur", rng):
        soft = ImageFilter.BoxBlur(rng.uniform(0.4, 1.1))
        canvas = np.asarray(Image.fromarray(canvas).filter(soft))
    if config.chance("noise", rng):
        reach = int(rng.integers(10, 34))
        noise = rng.integers(-reach, reach + 1, (*canvas.shape[:2], 1), dtype=np.int16)
        canvas = (canvas + noise).clip(0, 255).astype(np.uint8)
    if config.chance("jpeg", rng):
        file = io.BytesIO()
        Image.fromarray(canvas).save(file, "JPEG", quality=int(rng.integers(25, 80)))
        canvas = np.array(Image.open(file))
    return canvas


def _pale(rng: Rng) -> npt.NDArray[np.float64]:
    grey = rng.uniform(140, 232)
    return (grey + rng.uniform(-34, 34, 3)).clip(105, 240)


def _stretched(cells: npt.NDArray[np.float64], size_wh: tuple[int, int]) -> Pixels:
    image = Image.fromarray(cells.clip(0, 255).astype(np.uint8))
    return np.array(image.resize(size_wh, Image.Resampling.BICUBIC))


def _stripes(size_wh: tuple[int, int], rng: Rng) -> Pixels:
    angle, period = rng.uniform(0, np.pi), rng.uniform(14, 60)
    xs = np.arange(size_wh[0], dtype=np.float32) * np.cos(angle)
    ys = np.arange(size_wh[1], dtype=np.float32) * np.sin(angle)
    wave = ((ys[:, None] + xs[None]) / period) % 1 < rng.uniform(0.25, 0.75)
    first = _pale(rng)
    second = (first + rng.uniform(-30, 30, 3)).clip(105, 240)
    return np.array([first, second]).astype(np.uint8)[wave.astype(np.intp)]
