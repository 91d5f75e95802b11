"""Pictures of single things: read from a sprite folder, or drawn shapes that need no folder."""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from recipes.synthetic.colours import COLOURS, dominant_colour, tinted
from recipes.synthetic.kinds import COLOURABLE
from vlm_fo1.config import read_object
from vlm_fo1.errors import ConfigError

Pixels = npt.NDArray[np.uint8]

SHAPES = "shapes"
"""Name of the style that Pillow draws."""
SHAPE_KINDS = (
    *("circle", "square", "triangle", "star", "heart", "cross", "moon", "arrow", "diamond"),
    "hexagon",
)
_SIDE = 64


@dataclass(frozen=True, eq=False)
class SpriteSet:
    """Kinds of things, each drawn in one or several styles.

    Args:
        kinds: Names, in the order of the pictures.
        pictures: Style to (K, S, S, 4) uint8 RGBA, not premultiplied; empty where a style has none.
        held_out: Styles that are kept away from training.
        fonts: Files of fonts for signs.
        textures: Photographs for backgrounds, (H, W, 3) uint8.
    """

    kinds: tuple[str, ...]
    pictures: dict[str, Pixels]
    held_out: frozenset[str] = frozenset()
    fonts: tuple[str, ...] = ()
    textures: tuple[Pixels, ...] = field(default=(), repr=False)

    @classmethod
    def load(cls, folder: str | Path, *, final: bool = False) -> "SpriteSet":
        """Read what ``python -m recipes.synthetic.build`` wrote.

        Args:
            folder: The sprite folder.
            final: Read the vendor that is held out to the end, too.

        Raises:
            ConfigError: The folder holds no complete sprite set.
        """
        folder = Path(folder)
        again = f"make it with python -m recipes.synthetic.build --out {folder}"
        if not (folder / "sprites.json").is_file():
            raise ConfigError(f"{folder / 'sprites.json'} does not exist: {again}")
        index = read_object(folder / "sprites.json")
        kinds, side, columns = tuple(index["kinds"]), index["side"], index["columns"]
        pictures: dict[str, Pixels] = {}
        held_out: set[str] = set()
        for style, entry in index["styles"].items():
            if "split" not in entry or not (folder / entry["file"]).is_file():
                raise ConfigError(f"{folder} is not complete, or of an older version: {again}")
            if entry["split"] == "final" and not final:
                continue
            if entry["split"] != "train":
                held_out.add(style)
            atlas = _read(folder / entry["file"], "RGBA")
            cells = atlas.reshape(-1, side, columns, side, 4).swapaxes(1, 2)
            pictures[style] = cells.reshape(-1, side, side, 4)[: len(kinds)].copy()
        fonts = tuple(str(path) for path in sorted((folder / "fonts").glob("*.[ot]tf")))
        textures = tuple(_read(path, "RGB") for path in sorted((folder / "textures").glob("*")))
        return cls(kinds, pictures, frozenset(held_out), fonts, textures)

    @classmethod
    def shapes(cls) -> "SpriteSet":
        """Ten drawn shapes in one style, ``shapes``; for tests and machines without a folder."""
        return cls(SHAPE_KINDS, {SHAPES: np.stack([_draw_shape(kind) for kind in SHAPE_KINDS])})

    @property
    def styles(self) -> tuple[str, ...]:
        """Styles one may train on."""
        return tuple(style for style in self.pictures if style not in self.held_out)

    @cached_property
    def drawn(self) -> dict[str, frozenset[str]]:
        """Style to the kinds that it has a picture of."""
        return {
            style: frozenset(
                kind
                for kind, picture in zip(self.kinds, cells, strict=True)
                if picture[..., 3].any()
            )
            for style, cells in self.pictures.items()
        }

    def natural_colour(self, kind: str, style: str) -> str | None:
        """The colour word that fits the untinted picture, for kinds that come in colours."""
        return _natural_colour(self, kind, style) if kind in COLOURABLE else None

    def picture(self, kind: str, style: str, colour: str | None = None) -> Pixels:
        """The picture cut to its visible part, (H, W, 4) RGBA, perhaps tinted in a colour."""
        return _picture(self, kind, style, colour)

    def sprite(self, kind: str, style: str, colour: str | None = None) -> tuple[Image.Image, ...]:
        """The same for drawing: whole, and at half size for drawing small; mode RGBa."""
        return _sprite(self, kind, style, colour)


@lru_cache(maxsize=8)
def load_sprites(folder: str | None, final: bool = False) -> SpriteSet:
    """A sprite folder, or the drawn shapes for None; read once per process."""
    return SpriteSet.shapes() if folder is None else SpriteSet.load(folder, final=final)


def levels(picture: Pixels) -> tuple[Image.Image, ...]:
    """A picture for drawing, whole and at half size; mode RGBa."""
    whole = Image.fromarray(picture).convert("RGBa")
    return whole, whole.reduce(2)


def _read(path: Path, mode: str) -> Pixels:
    with Image.open(path) as file:
        return np.asarray(file.convert(mode))


@lru_cache(maxsize=8192)
def _natural_colour(sprites: SpriteSet, kind: str, style: str) -> str | None:
    return dominant_colour(sprites.pictures[style][sprites.kinds.index(kind)])


@lru_cache(maxsize=16384)
def _picture(sprites: SpriteSet, kind: str, style: str, colour: str | None) -> Pixels:
    pixels = sprites.pictures[style][sprites.kinds.index(kind)]
    if colour is not None:
        pixels = tinted(pixels, COLOURS[colour])
    ys, xs = np.nonzero(pixels[..., 3] > 0)
    return np.ascontiguousarray(pixels[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1])


@lru_cache(maxsize=16384)
def _sprite(
    sprites: SpriteSet, kind: str, style: str, colour: str | None
) -> tuple[Image.Image, ...]:
    return levels(_picture(sprites, kind, style, colour))


def _draw_shape(kind: str) -> Pixels:
    """A shape in a dull brown with a dark outline, at four times the size, then scaled down."""
    size = _SIDE * 4
    mask = Image.new("L", (size, size))
    pen = ImageDraw.Draw(mask)
    middle, reach = size / 2, size * 0.47

    def points(turns: list[float], radii: list[float]) -> list[tuple[float, float]]:
        return [
            (middle + reach * r * np.sin(2 * np.pi * t), middle - reach * r * np.cos(2 * np.pi * t))
            for t, r in zip(turns, radii, strict=True)
        ]

    unit = [
        (middle - reach, middle - reach),
        (middle + reach, middle + reach),
    ]
    if kind == "circle":
        pen.ellipse(unit, fill=255)
    elif kind == "square":
        pen.rectangle(unit, fill=255)
    elif kind == "moon":
        pen.ellipse(unit, fill=255)
        pen.ellipse([(middle - reach * 0.3, 0), (size * 1.15, size * 0.9)], fill=0)
    elif kind == "cross":
        pen.rectangle([(size * 0.36, unit[0][1]), (size * 0.64, unit[1][1])], fill=255)
        pen.rectangle([(unit[0][0], size * 0.36), (unit[1][0], size * 0.64)], fill=255)
    elif kind == "heart":
        pen.ellipse([(size * 0.04, size * 0.08), (size * 0.53, size * 0.55)], fill=255)
        pen.ellipse([(size * 0.47, size * 0.08), (size * 0.96, size * 0.55)], fill=255)
        low = [(size * 0.085, size * 0.44), (size * 0.5, size * 0.95), (size * 0.915, size * 0.44)]
        pen.polygon([*low, (size * 0.5, size * 0.3)], fill=255)
    else:
        pen.polygon(points(*_POLYGONS[kind]), fill=255)
    fill = mask.filter(ImageFilter.MinFilter(15))
    picture = Image.new("RGBA", (size, size), (70, 55, 45, 0))
    picture.putalpha(mask)
    picture.paste((170, 140, 105, 255), mask=fill)
    return np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))


def _even(count: int) -> list[float]:
    return [index / count for index in range(count)]


_POLYGONS: dict[str, tuple[list[float], list[float]]] = {
    "triangle": (_even(3), [1.0] * 3),
    "hexagon": (_even(6), [1.0] * 6),
    "diamond": (_even(4), [1.0, 0.6, 1.0, 0.6]),
    "star": (_even(10), [1.0, 0.42] * 5),
    "arrow": (
        [0.0, 0.18, 0.21, 0.44, 0.56, 0.79, 0.82],
        [1.0, 0.85, 0.3, 0.9, 0.9, 0.3, 0.85],
    ),
}
