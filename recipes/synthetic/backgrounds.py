"""What lies behind the things, and the light over the whole picture."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from recipes.synthetic.colours import BACKGROUNDS

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
