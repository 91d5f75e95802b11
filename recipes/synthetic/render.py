"""Place things on a background and know exactly what can be seen of each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from recipes.synthetic.backgrounds import (
    lit,
    photographed,
    plain,
    textured,
    varied,
    with_effect,
)
from recipes.synthetic.colours import COLOURS
from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.kinds import COLOURABLE, PRINTED, SIGN, SYNONYMS, coined
from recipes.synthetic.signs import WORDS, draw_sign, invented
from recipes.synthetic.sprites import SpriteSet, levels
from recipes.synthetic.styles import restyled
from vlm_fo1.errors import ConfigError

Rng = np.random.Generator
Pixels = npt.NDArray[np.uint8]

_SOLID = 100  # alpha from here on hides what lies below
_SHOWN = 40  # alpha from here on counts for the box
_TRIES = 40  # places looked at for a thing before it is left out
_LEAST_SIDE = 8  # pixels; a thing that shows less is left out
_ORDER_SEED = 20250701  # fixes the order in which `SyntheticConfig.kinds` counts


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing in a picture and the truth about it."""

    name: str
    box_xyxy: tuple[float, float, float, float]
    """What can be seen of it, tight, in pixels; right and bottom exclusive."""
    colour: str | None = None
    """Its colour, if one word fits and its kind comes in colours."""
    text: str | None = None
    """What is printed on a sign."""
    visible: float = 1.0
    """Share of it that can be seen."""
    area: float = 0.0
    """Pixels that can be seen."""
    style: str = ""

    @property
    def centre_xy(self) -> tuple[float, float]:
        """Middle of the box in pixels."""
        x1, y1, x2, y2 = self.box_xyxy
        return (x1 + x2) / 2, (y1 + y2) / 2


@dataclass(frozen=True, kw_only=True)
class RenderedImage:
    """A picture and the truth about it."""

    image: Image.Image
    objects: tuple[Thing, ...]
    background: str | None
    """Colour of the background when it has one colour."""
    kinds: tuple[str, ...]
    """Every kind that could have appeared; what absent labels are drawn from."""

    @property
    def boxes_xyxy(self) -> npt.NDArray[np.float32]:
        """(N, 4) boxes of the objects in pixels."""
        return np.array([item.box_xyxy for item in self.objects], np.float32).reshape(-1, 4)


@dataclass(eq=False)
class _Layer:
    """A thing on its way into the picture."""

    picture: Pixels
    """(h, w, 4) premultiplied."""
    name: str
    colour: str | None = None
    text: str | None = None
    style: str = ""
    left: int = 0
    top: int = 0
    shadow: tuple[int, int, float] | None = None
    """How far to the right and down it falls in pixels, and how dark."""


def available_kinds(config: SyntheticConfig, sprites: SpriteSet) -> tuple[str, ...]:
    """The kinds that `SyntheticConfig.kinds` lets appear and one of its styles draws.

    Raises:
        ConfigError: Names or styles that the sprites lack, or fewer than two kinds.
    """
    styles = config.styles or sprites.styles
    unknown = sorted(set(styles) - set(sprites.pictures))
    if unknown or not styles:
        raise ConfigError(
            f"styles {unknown or list(styles)} are not there: {', '.join(sprites.pictures)} are; "
            "the vendor held out to the end needs final = true"
        )
    if isinstance(config.kinds, tuple):
        missing = sorted(set(config.kinds) - set(sprites.kinds))
        if missing:
            raise ConfigError(f"kinds {missing} have no picture: see SpriteSet.kinds for names")
        chosen = config.kinds
    else:
        order = np.random.default_rng(_ORDER_SEED).permutation(len(sprites.kinds))
        chosen = tuple(sprites.kinds[index] for index in order[: config.kinds])
    chosen = tuple(kind for kind in chosen if _styles_of(kind, config, sprites))
    if len(chosen) < 2:
        raise ConfigError(f"kinds = {config.kinds}: at least 2 kinds are needed")
    return chosen


def _styles_of(kind: str, config: SyntheticConfig, sprites: SpriteSet) -> tuple[str, ...]:
    styles = config.styles or sprites.styles
    return tuple(style for style in styles if kind in sprites.drawn[style])


def render(config: SyntheticConfig, sprites: SpriteSet, rng: Rng) -> RenderedImage:
    """Draw one image.

    Args:
        config: What it may look like.
        sprites: Pictures of things.
        rng: Decides everything; the same state gives the same image.

    Returns:
        The picture with at least one object, unless the config asks for none.

    Raises:
        ConfigError: Kinds or styles that the sprites lack.
    """
    kinds = available_kinds(config, sprites)
    size_wh = (_within(rng, config.width), _within(rng, config.height))
    layers = _things(config, sprites, kinds, size_wh, rng)
    layers += _signs(config, sprites, rng)
    placed = _placed(layers, size_wh, config, rng)
    shown = _hidden_removed(placed, size_wh, config)
    background = None
    if rng.random() < config.plain_background:
        canvas, background = plain(size_wh, rng)
    elif config.chance("textured", rng):
        canvas = textured(size_wh, sprites.textures, rng)
    else:
        canvas = varied(size_wh, rng)
    for layer, _ in shown:
        _paint(canvas, layer)
    canvas = lit(canvas, rng)
    if rng.random() < config.effects:
        canvas = with_effect(canvas, rng)
    objects = [truth for _, truth in shown]
    if config.chance("grey", rng):
        canvas = np.asarray(Image.fromarray(canvas).convert("L").convert("RGB"))
        background, objects = None, [replace(truth, colour=None) for truth in objects]
    canvas = photographed(canvas, config, rng)
    called = _called(kinds, config, rng)
    return RenderedImage(
        image=Image.fromarray(canvas),
        objects=tuple(replace(one, name=called.get(one.name, one.name)) for one in objects),
        background=background,
        kinds=tuple(called[kind] for kind in kinds),
    )


def _called(kinds: Sequence[str], config: SyntheticConfig, rng: Rng) -> dict[str, str]:
    """What this image calls each kind."""
    called = {kind: coined(kind) if kind in config.coined else kind for kind in kinds}
    if config.synonyms:
        for word, kind in SYNONYMS.items():
            if called.get(kind) == kind and rng.random() < config.synonyms:
                called[kind] = word
    return called


def _within(rng: Rng, limits: tuple[int, int]) -> int:
    return int(rng.integers(limits[0], limits[1] + 1))


def _things(
    config: SyntheticConfig,
    sprites: SpriteSet,
    kinds: tuple[str, ...],
    size_wh: tuple[int, int],
    rng: Rng,
) -> list[_Layer]:
    styles = config.styles or sprites.styles
    count = _within(rng, config.objects)
    if not count:
        return []
    distinct = int(np.clip(round(count * rng.uniform(0.3, 0.8)), 1, len(kinds)))
    names: list[str] = [
        kinds[index] for index in rng.choice(len(kinds), distinct, replace=False).tolist()
    ]
    names += [names[int(rng.integers(distinct))] for _ in range(count - distinct)]
    painted = {
        n for n in dict.fromkeys(names) if n in COLOURABLE and rng.random() < config.coloured
    }
    # A few colours an image, so that "the one that is not black" happens.
    palette = rng.choice(list(COLOURS), int(rng.integers(2, 5)), replace=False)
    one_style = styles[int(rng.integers(len(styles)))] if rng.random() < 0.5 else None
    low, high = config.object_size
    crowded = 1.6 * np.sqrt(size_wh[0] * size_wh[1] / max(count, 1))
    high = int(max(low, min(high, crowded, 0.6 * min(size_wh))))
    layers: list[_Layer] = []
    for name in names:
        style = one_style or styles[int(rng.integers(len(styles)))]
        if name not in sprites.drawn[style]:
            fitting = _styles_of(name, config, sprites)
            style = fitting[int(rng.integers(len(fitting)))]
        colour = str(rng.choice(palette)) if name in painted else None
        side = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        angle = rng.uniform(-config.rotation_deg, config.rotation_deg)
        sources, truth = sprites.sprite(name, style, colour), colour
        truth = colour or sprites.natural_colour(name, style)
        if config.variety:
            picture = sprites.picture(name, style, colour)
            other = restyled(picture, name, colour, config, rng)
            if other is not None:
                sources, truth = levels(other[0]), other[1]
        flip = bool(rng.random() < 0.5) and name not in PRINTED
        picture = _turned(sources, side, angle, flip=flip, tilt=_tilt(config, rng))
        shadow = None
        if config.chance("shadow", rng):
            reach = max(2, round(0.08 * side))
            right, down = (int(step) for step in rng.integers(-reach, reach + 1, 2))
            shadow = (right, abs(down), float(rng.uniform(0.15, 0.5)))
        layers.append(_Layer(picture, name, truth, style=style, shadow=shadow))
    return layers


def _tilt(config: SyntheticConfig, rng: Rng) -> tuple[float, float]:
    """How much nearer the right and the lower edge are, as a share."""
    if not config.chance("tilted", rng):
        return 0.0, 0.0
    across, down = rng.uniform(-0.35, 0.35, 2).tolist()
    return across, down


def _signs(config: SyntheticConfig, sprites: SpriteSet, rng: Rng) -> list[_Layer]:
    words = config.words or WORDS
    count = min(_within(rng, config.signs), len(words))
    layers: list[_Layer] = []
    for index in rng.choice(len(words), count, replace=False).tolist():
        word, font = words[index], None
        if config.held_out_words or config.chance("invented", rng):
            word = invented(rng, held_out=config.held_out_words)
        if sprites.fonts and config.chance("font", rng):
            font = sprites.fonts[int(rng.integers(len(sprites.fonts)))]
        plate = draw_sign(word, _within(rng, config.letter_height), rng, font)
        angle = rng.uniform(-6, 6) * config.rotation_deg / 25
        tilt = _tilt(config, rng)
        picture = _turned((plate.convert("RGBa"),), float(max(plate.size)), angle, tilt=tilt)
        layers.append(_Layer(picture, SIGN, text=word, style="sign"))
    return layers


def _turned(
    sources: Sequence[Image.Image],
    side: float,
    angle_deg: float,
    *,
    flip: bool = False,
    tilt: tuple[float, float] = (0.0, 0.0),
) -> Pixels:
    """A sprite scaled to a long side, turned, perhaps mirrored or seen aslant.

    Returns:
        (h, w, 4) premultiplied.
    """
    source = sources[0]
    if len(sources) > 1 and side < max(sources[0].size) * 0.6:
        source = sources[1]
    width, height = source.size
    scale = side / max(width, height)
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    slant = 1 + sum(map(abs, tilt)) / 2
    out_w = int(np.ceil(slant * scale * (width * abs(cos) + height * abs(sin)))) + 1
    out_h = int(np.ceil(slant * scale * (width * abs(sin) + height * abs(cos)))) + 1
    mirror = -1.0 if flip else 1.0
    # Pillow wants the way back: from a pixel of the result to one of the source.
    a, b = mirror * cos / scale, mirror * sin / scale
    d, e = -sin / scale, cos / scale
    g, h = tilt[0] / out_w, tilt[1] / out_h
    one = 1 - (g * out_w + h * out_h) / 2
    a, b, d, e = a + width / 2 * g, b + width / 2 * h, d + height / 2 * g, e + height / 2 * h
    c = width / 2 - a * out_w / 2 - b * out_h / 2
    f = height / 2 - d * out_w / 2 - e * out_h / 2
    if any(tilt):
        method, data = Image.Transform.PERSPECTIVE, (a, b, c, d, e, f, g, h)
        data = tuple(value / one for value in data)
    else:
        method, data = Image.Transform.AFFINE, (a, b, c, d, e, f)
    resampling = Image.Resampling.BICUBIC if scale > 0.9 else Image.Resampling.BILINEAR
    pixels = np.asarray(source.transform((out_w, out_h), method, data, resampling))
    # Bicubic may overshoot: no channel of a premultiplied pixel exceeds its alpha.
    return np.minimum(pixels, pixels[..., 3:])


def _placed(
    layers: Sequence[_Layer], size_wh: tuple[int, int], config: SyntheticConfig, rng: Rng
) -> list[_Layer]:
    """Find a place for each, signs in front; what finds none is left out."""
    allowed = rng.uniform(0.2, 0.55) if rng.random() < config.overlap else 0.03
    taken = np.zeros((0, 4), np.int64)
    placed: list[_Layer] = []
    # The greatest first: they are the hardest to place.
    order = sorted(range(len(layers)), key=lambda i: -layers[i].picture.size)
    for index in order:
        layer = layers[index]
        height, width = layer.picture.shape[:2]
        over = 0 if layer.text or rng.random() < 0.85 else 0.25
        limit = 0.03 if layer.text else allowed
        reach = np.array([size_wh[0] - (1 - over) * width, size_wh[1] - (1 - over) * height])
        least = np.array([-over * width, -over * height])
        corners = rng.uniform(least, np.maximum(reach, least + 1), (_TRIES, 2)).astype(np.int64)
        tried = np.concatenate([corners, corners + np.array([width, height])], axis=1)
        free = np.flatnonzero(_shared(tried, taken) <= limit)
        if free.size:
            layer.left, layer.top = corners[free[0]].tolist()
            taken = np.concatenate([taken, tried[free[:1]]])
            placed.append(layer)
    rng.shuffle(placed)  # a list is shuffled in place
    return sorted(placed, key=lambda layer: layer.text is not None)


def _shared(boxes: npt.NDArray[np.int64], others: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(N,) greatest share of the smaller of two boxes that lies in both, over all others."""
    if not len(others):
        return np.zeros(len(boxes))
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(
        boxes[:, None, :2], others[:, :2]
    )
    np.maximum(sides, 0, out=sides)
    shared = sides[..., 0] * sides[..., 1]
    own = (boxes[0, 2] - boxes[0, 0]) * (boxes[0, 3] - boxes[0, 1])  # tries of one thing
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    return (shared / np.minimum(areas, own)).max(axis=1)


def _hidden_removed(
    layers: Sequence[_Layer], size_wh: tuple[int, int], config: SyntheticConfig
) -> list[tuple[_Layer, Thing]]:
    """What can be seen well enough, with its truth, back to front."""
    while True:
        looked = _look(layers, size_wh)
        kept = [
            (layer, truth)
            for layer, truth in zip(layers, looked, strict=True)
            if truth.visible >= (0.98 if truth.text else config.min_visible)
            and min(np.subtract(truth.box_xyxy[2:], truth.box_xyxy[:2])) >= _LEAST_SIDE
        ]
        if len(kept) == len(layers):
            return kept
        layers = [layer for layer, _ in kept]


def _look(layers: Sequence[_Layer], size_wh: tuple[int, int]) -> list[Thing]:
    """The truth about each of the layers if these and no others are drawn."""
    owner = np.full((size_wh[1], size_wh[0]), -1, np.int16)
    for index, layer in enumerate(layers):
        window, inside = _window(layer, size_wh)
        owner[window][layer.picture[(*inside, 3)] >= _SOLID] = index
    result: list[Thing] = []
    for index, layer in enumerate(layers):
        window, inside = _window(layer, size_wh)
        alpha = layer.picture[..., 3]
        owners = owner[window]
        # Pixels it owns, and its soft edge where nothing in front of it is solid.
        seen = (alpha[inside] >= _SHOWN) & (owners <= index)
        area = int((owners == index).sum())
        whole = max(int((alpha >= _SOLID).sum()), 1)
        columns, rows = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
        box = (0.0, 0.0, 0.0, 0.0)
        if columns.size:
            left, top = window[1].start, window[0].start
            box = (
                float(left + columns[0]),
                float(top + rows[0]),
                float(left + columns[-1] + 1),
                float(top + rows[-1] + 1),
            )
        result.append(
            Thing(
                name=layer.name,
                box_xyxy=box,
                colour=layer.colour,
                text=layer.text,
                visible=round(area / whole, 4),
                area=float(area),
                style=layer.style,
            )
        )
    return result


def _window(
    layer: _Layer, size_wh: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a layer lies in the picture, and which part of it lies there."""
    height, width = layer.picture.shape[:2]
    x1, y1 = max(layer.left, 0), max(layer.top, 0)
    x2, y2 = min(layer.left + width, size_wh[0]), min(layer.top + height, size_wh[1])
    inside = (
        slice(y1 - layer.top, y2 - layer.top),
        slice(x1 - layer.left, x2 - layer.left),
    )
    return (slice(y1, y2), slice(x1, x2)), inside


def _paint(canvas: Pixels, layer: _Layer) -> None:
    size_wh = (canvas.shape[1], canvas.shape[0])
    if layer.shadow:
        right, down, dark = layer.shadow
        fallen = replace(layer, left=layer.left + right, top=layer.top + down)
        window, inside = _window(fallen, size_wh)
        light = 1 - dark * layer.picture[inside][..., 3:].astype(np.float32) / 255
        canvas[window] = (canvas[window] * light).astype(np.uint8)
    window, inside = _window(layer, size_wh)
    picture = layer.picture[inside]
    through = 255 - picture[..., 3:].astype(np.uint16)
    below = canvas[window].astype(np.uint16)
    canvas[window] = (below * through + 127) // 255 + picture[..., :3]
