"""Badges: the small signs that name regions on an image, written, placed and painted.

A badge stays inside the image and off other badges. Knows nothing of answers: `vlm_fo1.draw`
says what stands on each.
"""

import bisect
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from vlm_fo1.errors import ConfigError

Colour = tuple[int, int, int]
Rect = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the image; right and bottom exclusive."""

DIM_ALPHA = 150
"""Opacity of what is shown dimly, of 255."""
_BLACK: Colour = (0, 0, 0)
_WHITE: Colour = (255, 255, 255)
_BADGE_EMS = 16
"""A line of a badge may be this many text heights long, or as long as its box if that is more."""
_CROWDED = 0.05
"""A badge that would cover more of other badges than this share of itself is cut to its number."""
_HIDDEN = 0.15
"""A number that would cover more of other badges than this share of itself is left out."""
_COVERED = 0.4
"""Once badges cover this share of the image, further ones are cut to their numbers."""
_FALLBACK_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf"),
    *("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "msyh.ttc", "PingFang.ttc"),
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One region as it will be drawn."""

    rect: Rect
    colour: Colour
    number: str
    label: str = ""
    score: str = ""
    mask: npt.NDArray[np.bool_] | None = None
    """(H, W) at the image's size, blended in."""
    depth: int = 0
    """How many outlines this region has already: one more goes inside them."""
    dim: bool = False


@dataclass(frozen=True, kw_only=True)
class Badge:
    """The text of an item and where it goes; a placed badge has a ``rect``."""

    item: Item
    lines: tuple[str, ...]
    font: ImageFont.FreeTypeFont
    pad: int
    rect: Rect = (0, 0, 0, 0)

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height that the text needs, in pixels."""
        width = max(self.font.getlength(line) for line in self.lines)
        height = sum(self.font.getmetrics()) * len(self.lines)
        return math.ceil(width) + 2 * self.pad, height + 2 * (self.pad // 2)


def write_badges(items: list[Item], font_px: int, image_wh: tuple[int, int]) -> list[Badge]:
    """The badge of every item that has something to say, without a place."""
    labels = [_printable(item.label) for item in items]
    fonts = _fonts(font_px, set("".join(labels)))
    badges: list[Badge] = []
    for item, label in zip(items, labels, strict=True):
        font, words = _best_font(label, fonts)
        pad = max(2, round(font_px / 4))
        limit = max(_BADGE_EMS * font_px, item.rect[2] - item.rect[0])
        limit = max(1, min(limit, image_wh[0]) - 2 * pad)
        two_fit = 2 * sum(font.getmetrics()) + pad <= image_wh[1] / 2
        words = f"{item.number} {words}".strip()
        lines = _wrap(words, item.score, font, limit, 2 if two_fit else 1)
        if lines:
            badges.append(Badge(item=item, lines=lines, font=font, pad=pad))
    return badges


def place_badges(badges: list[Badge], items: list[Item], image_wh: tuple[int, int]) -> list[Badge]:
    """Give every badge a place, small regions first because they have the fewest; drop the rest."""
    boxes = [item.rect for item in items if not item.dim]
    room = _COVERED * image_wh[0] * image_wh[1]
    placed: list[Badge] = []
    for badge in sorted(badges, key=lambda badge: (badge.item.dim, area(badge.item.rect))):
        taken = [other.rect for other in placed]
        full = bool(placed) and sum(map(area, taken)) + math.prod(badge.size_wh) > room
        versions = [] if full else [(badge, _CROWDED)]
        if badge.item.number:
            short = replace(badge, lines=(badge.item.number,))
            versions.append((short, 0.0 if badge.item.dim else _HIDDEN))
        for version, allowed in versions:
            rect, covered = _spot(version, taken, boxes, image_wh)
            if covered <= allowed:
                placed.append(replace(version, rect=rect))
                break
    return placed


def _spot(
    badge: Badge, taken: list[Rect], boxes: list[Rect], image_wh: tuple[int, int]
) -> tuple[Rect, float]:
    """The best place for a badge, and the share of it that lies on other badges there.

    Above, below, inside, beside, then further away; what counts most is not to cover other badges,
    then not to hide regions, then to be near.
    """
    (width, height), (x1, y1, x2, y2) = badge.size_wh, badge.item.rect
    near = [(x, y) for x in (x1, x2 - width) for y in (y1 - height, y2, y1, y2 - height)]
    near += [(x2, y1), (x1 - width, y1), (x2, y2 - height), (x1 - width, y2 - height)]
    steps = [(i, j) for j in range(-5, 6) for i in range(-3, 4)]
    steps.sort(key=lambda step: abs(step[0]) + abs(step[1]))
    spots = near + [(x1 + i * width // 2, y1 + j * height) for i, j in steps]
    size = np.array(badge.size_wh)
    corners = np.array(spots, np.float64).clip(0, np.maximum(image_wh - size, 0))
    spots_K4 = np.concatenate([corners, corners + size], axis=1)
    covered_K = _shared(spots_K4, taken).sum(axis=1) / (width * height)
    hidden_K = (_shared(spots_K4, boxes) / [max(1, area(box)) for box in boxes]).sum(axis=1)
    cost_K = 20 * covered_K + hidden_K + 0.02 * np.arange(len(spots))
    best = int(np.argmin(cost_K))
    left, top = corners[best].astype(int).tolist()
    return (left, top, left + width, top + height), float(covered_K[best])


def _shared(spots_K4: npt.NDArray[np.float64], rects: list[Rect]) -> npt.NDArray[np.float64]:
    """Pixels that each spot shares with each rectangle: (K, len(rects))."""
    rects_M4 = np.array(rects, np.float64).reshape(-1, 4)
    low = np.maximum(spots_K4[:, None, :2], rects_M4[None, :, :2])
    high = np.minimum(spots_K4[:, None, 2:], rects_M4[None, :, 2:])
    return np.maximum(high - low, 0).prod(axis=2)


def paint_leader(brush: ImageDraw.ImageDraw, badge: Badge, line_px: int) -> None:
    """A line from a badge to its region where the two do not touch."""
    (a1, b1, a2, b2), (x1, y1, x2, y2) = badge.rect, badge.item.rect
    if max(x1 - a2, a1 - x2, y1 - b2, b1 - y2) <= line_px:
        return
    start = (min(max((x1 + x2) // 2, a1), a2), min(max((y1 + y2) // 2, b1), b2))
    end = (min(max(start[0], x1), x2 - 1), min(max(start[1], y1), y2 - 1))
    width = max(1, line_px // 2)
    if width > 1:
        brush.line((start, end), fill=contrast(badge.item.colour), width=width + 2)
    brush.line((start, end), fill=badge.item.colour, width=width)


def paint_badge(brush: ImageDraw.ImageDraw, badge: Badge) -> None:
    """The text on a plate of its label's colour."""
    left, top, right, bottom = badge.rect
    ink = contrast(badge.item.colour)
    alpha = DIM_ALPHA if badge.item.dim else 255
    brush.rectangle((left, top, right - 1, bottom - 1), fill=(*badge.item.colour, alpha))
    brush.rectangle((left, top, right - 1, bottom - 1), outline=(*ink, 90))
    line_height = sum(badge.font.getmetrics())
    for row, line in enumerate(badge.lines):
        where = (left + badge.pad, top + badge.pad // 2 + row * line_height)
        brush.text(where, line, font=badge.font, fill=ink)


def contrast(colour: Colour) -> Colour:
    """Black or white, whichever reads better on a colour (contrast ratio of WCAG 2)."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in colour)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _BLACK if (luminance + 0.05) ** 2 > 0.05 * 1.05 else _WHITE


def area(rect: Rect) -> int:
    """Pixels in a rectangle."""
    return (rect[2] - rect[0]) * (rect[3] - rect[1])


def _printable(text: str) -> str:
    kept = (char if char.isprintable() else " " for char in unicodedata.normalize("NFC", text))
    return " ".join("".join(kept).split())


@dataclass(frozen=True, kw_only=True)
class _Font:
    font: ImageFont.FreeTypeFont
    lacks: frozenset[str]
    """Characters of this image's labels that it cannot write."""


def _fonts(size_px: int, chars: set[str]) -> list[_Font]:
    """Pillow's own font, and fonts of the system if it cannot write all characters.

    Raises:
        ConfigError: Pillow cannot scale text.
    """
    default = ImageFont.load_default(size_px)
    if not isinstance(default, ImageFont.FreeTypeFont):
        raise ConfigError("this Pillow was built without FreeType: install a wheel of Pillow")
    fonts = [_Font(font=default, lacks=_missing(default, chars))]
    if fonts[0].lacks:
        for name in _FALLBACK_FONTS:
            try:
                font = ImageFont.truetype(name, size_px)
            except OSError:
                continue  # not on this system
            fonts.append(_Font(font=font, lacks=_missing(font, chars)))
    return fonts


def _missing(font: ImageFont.FreeTypeFont, chars: set[str]) -> frozenset[str]:
    """Characters that the font draws as its sign for an unknown one."""
    canvas_wh = (2 * math.ceil(font.size), 2 * math.ceil(font.size))

    def drawn(char: str) -> tuple[object, bytes]:
        glyph = Image.new("L", canvas_wh)
        ImageDraw.Draw(glyph).text((0, 0), char, font=font, fill=255)
        return font.getbbox(char), glyph.tobytes()

    unknown = drawn("\U0010fffe")
    return frozenset(char for char in chars if not char.isspace() and drawn(char) == unknown)


def _best_font(text: str, fonts: Sequence[_Font]) -> tuple[ImageFont.FreeTypeFont, str]:
    """The first font that lacks the fewest characters; accents it lacks are taken off."""
    best = min(fonts, key=lambda font: len(font.lacks.intersection(text)))
    plain = "".join(_base(char) if char in best.lacks else char for char in text)
    return best.font, plain


def _base(char: str) -> str:
    """A Latin letter without its accent; any other character as it is."""
    base = unicodedata.normalize("NFKD", char)[0]
    return base if base.isascii() else char


def _wrap(
    words: str, ending: str, font: ImageFont.FreeTypeFont, limit_px: int, max_lines: int
) -> tuple[str, ...]:
    """Break text into lines of at most ``limit_px``; the ending goes before the text is cut."""

    def fits(text: str) -> bool:
        return font.getlength(text) <= limit_px

    tail = f" {ending}" if ending else ""
    if not fits(f"…{tail}"):
        tail = ""
    lines: list[str] = []
    rest = words
    while rest:
        if fits(rest + tail):
            return (*lines, (rest + tail).strip())
        if len(lines) == max_lines - 1:
            if fits(rest):
                return (*lines, rest)
            kept = _longest(rest, lambda text: fits(f"{text.rstrip()}…{tail}")).rstrip()
            return (*lines, f"{kept}…{tail}")
        line = _longest(rest, fits)
        space = line.rfind(" ") if len(line) < len(rest) and rest[len(line)] != " " else -1
        line = line[:space] if space > 0 else line
        lines.append(line)
        rest = rest[len(line) :].lstrip()
    return (*lines, tail.strip()) if tail else tuple(lines)


def _longest(text: str, fits: Callable[[str], bool]) -> str:
    """The longest beginning of a text that fits, at least one character."""
    count = bisect.bisect_left(range(1, len(text) + 1), True, key=lambda n: not fits(text[:n]))
    return text[: max(1, count)]
