"""Regions on an image: an outline in the colour of its label, and a badge that can be read.

The drawing is our own so that the core draws without an extra: supervision's annotators spread
labels too, with one text size for every image.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from vlm_fo1.boxes import scale as scale_boxes
from vlm_fo1.draw.labels import (
    DIM_ALPHA,
    Colour,
    Item,
    Rect,
    area,
    contrast,
    paint_badge,
    paint_leader,
    place_badges,
    write_badges,
)
from vlm_fo1.errors import ConfigError, ImageError
from vlm_fo1.images import read_image
from vlm_fo1.regions import Regions

_PALETTE: tuple[Colour, ...] = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
    *((136, 34, 85), (68, 170, 153), (51, 34, 136), (153, 153, 51)),
)
"""Told apart by colour-blind readers: seven of Okabe and Ito, four more of Tol's muted set."""
_DIM: Colour = (150, 150, 150)
_MASK_ALPHA = 110
_MIN_FONT_PX = 10
_MAX_EDGE_PX = 4


def draw_mentions(
    image: Any,
    regions: Regions,
    mentions: Sequence[tuple[str, Sequence[int], Sequence[float] | None]],
    labels: Sequence[str],
    *,
    show_confidence: bool = True,
    show_unchosen: bool = False,
    numbers: bool = True,
    line_width: int | None = None,
    font_size: int | None = None,
    max_side: int | None = None,
    min_side: int | None = None,
    min_score: float | None = None,
) -> Image.Image:
    """Draw the regions that were chosen for labels; `Answer.draw` says what the options are.

    Every region gets an outline and a badge such as ``3 orange 0.93``: its number, its label and
    the model's confidence. Badges stay inside the image and off each other; long ones take two
    lines and then end in an ellipsis; where there is no room a badge shrinks to its number, and
    goes when even that would cover others. Text that Pillow's own font can write looks the same
    everywhere; for other scripts a font of the system is used if there is one.

    Args:
        image: Anything `read_image` takes, at its full size. Not changed.
        regions: All that were offered. Masks are blended in.
        mentions: Label, positions in ``regions`` and confidences, mention by mention.
        labels: In the order in which they get their colours.
        show_confidence: See `Answer.draw`.
        show_unchosen: See `Answer.draw`.
        numbers: See `Answer.draw`.
        line_width: See `Answer.draw`.
        font_size: See `Answer.draw`.
        max_side: See `Answer.draw`.
        min_side: See `Answer.draw`.
        min_score: See `Answer.draw`.

    Returns:
        A new RGB image; without mentions only the image, resized if asked.

    Raises:
        ConfigError: A size below one pixel.
        ImageError: The image cannot be read, or is not of the size the regions are of.
    """
    _check_sizes(line_width=line_width, font_size=font_size, max_side=max_side, min_side=min_side)
    upright, rects = _prepare(image, regions, max_side, min_side)
    if min_score is not None and regions.scores is not None:
        low = regions.scores < min_score  # an unknown score is NaN: it stays
        rects = [None if out else rect for rect, out in zip(rects, low.tolist(), strict=True)]
    masks = regions.masks
    colours = {label: _PALETTE[i % len(_PALETTE)] for i, label in enumerate(labels)}
    chosen: dict[tuple[int, str], Item] = {}
    depths = dict.fromkeys(range(len(regions)), 0)
    for label, indices, confidences in mentions:
        for position, index in enumerate(indices):
            rect = rects[index]
            if rect is None or (index, label) in chosen:
                continue
            confidence = confidences[position] if confidences else math.nan
            chosen[index, label] = Item(
                rect=rect,
                colour=colours[label],
                number=str(index) if numbers else "",
                label=label,
                score=_score(confidence) if show_confidence else "",
                mask=masks[index] if masks is not None and not depths[index] else None,
                depth=depths[index],
            )
            depths[index] += 1
    others = [
        Item(rect=rect, colour=_DIM, number=str(index) if numbers else "", dim=True)
        for index, rect in enumerate(rects)
        if show_unchosen and rect is not None and not depths[index]
    ]
    return _draw(upright, [*others, *chosen.values()], line_width, font_size)


def draw_regions(
    image: Any,
    regions: Regions,
    *,
    show_scores: bool = False,
    numbers: bool = True,
    ids: Sequence[int] | None = None,
    line_width: int | None = None,
    font_size: int | None = None,
    max_side: int | None = None,
) -> Image.Image:
    """Draw bare regions, e.g. what a proposer offers.

    Regions with labels get a colour per label, others take turns. Masks are blended in, with an
    edge.

    Args:
        image: The image the boxes are in: anything `read_image` takes, at its full size. Not
            changed.
        regions: What to draw; (0, 4) boxes give the image alone.
        show_scores: Write the proposer's scores where they are known.
        numbers: Write each region's position in ``regions``.
        ids: Numbers to write instead, one a region; a number then has the same colour in every
            image, as frames of a video need.
        line_width: As in `draw_mentions`.
        font_size: As in `draw_mentions`.
        max_side: As in `draw_mentions`.

    Returns:
        A new RGB image.

    Raises:
        ConfigError: A size below one pixel.
        ImageError: The image cannot be read, or is not of the size the regions are about.
    """
    _check_sizes(line_width=line_width, font_size=font_size, max_side=max_side)
    canvas, rects = _prepare(image, regions, max_side)
    labels = regions.labels or ("",) * len(regions)
    kinds: Sequence[object] = regions.labels or range(len(regions))
    turn = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
    turns = [turn[kind] for kind in kinds] if ids is None else ids
    names = range(len(regions)) if ids is None else ids
    items = [
        Item(
            rect=rect,
            colour=_PALETTE[turns[index] % len(_PALETTE)],
            number=str(names[index]) if numbers else "",
            label=labels[index],
            score=_score(float(regions.scores[index]))
            if show_scores and regions.scores is not None
            else "",
            mask=None if regions.masks is None else regions.masks[index],
        )
        for index, rect in enumerate(rects)
        if rect is not None
    ]
    return _draw(canvas, items, line_width, font_size)


def _check_sizes(**sizes: int | None) -> None:
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}: pass at least 1 pixel, or None to choose it")


def _score(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _prepare(
    image: Any, regions: Regions, max_side: int | None, min_side: int | None = None
) -> tuple[Image.Image, list[Rect | None]]:
    """The canvas to draw on, and each box in its pixels; None for a box outside it.

    Raises:
        ImageError: Image and regions differ in size.
    """
    canvas = read_image(image)
    if canvas.size != regions.size_wh:
        raise ImageError(
            f"the image is {canvas.width} x {canvas.height} pixels but the regions are about one "
            f"of {regions.size_wh[0]} x {regions.size_wh[1]}: pass the image that was asked about "
            "(max_side shrinks the result)"
        )
    longest = max(canvas.size)
    factor = max(1.0, (min_side or 0) / longest)
    factor = min(factor, (max_side or longest * factor) / longest)
    if factor != 1:
        width, height = (max(1, round(side * factor)) for side in canvas.size)
        canvas = canvas.resize((width, height), Image.Resampling.LANCZOS)
    scaled = scale_boxes(regions.xyxy, regions.size_wh, canvas.size)
    rects: list[Rect | None] = []
    for x1, y1, x2, y2 in scaled.tolist():
        if x1 >= canvas.width or y1 >= canvas.height or x2 < 0 or y2 < 0:
            rects.append(None)
            continue
        left, right = _pixels(x1, x2, canvas.width)
        top, bottom = _pixels(y1, y2, canvas.height)
        rects.append((left, top, right, bottom))
    return canvas, rects


def _pixels(start: float, end: float, size: int) -> tuple[int, int]:
    """The whole pixels of an interval inside [0, size], at least one."""
    first = min(max(round(start), 0), size - 1)
    return first, min(max(round(end), first + 1), size)


def _draw(
    image: Image.Image, items: list[Item], line_width: int | None, font_size: int | None
) -> Image.Image:
    side = math.sqrt(image.width * image.height)
    line_px = line_width or max(1, round(side / 200))
    crowd = min(1.0, max(0.6, math.sqrt(20 / max(1, len(items)))))
    fitting = min(crowd * side / 36, image.width / 10, image.height / 4)
    font_px = font_size or max(_MIN_FONT_PX, round(fitting))

    for item in items:
        if item.mask is not None:
            _blend(image, item.mask, item.colour, line_px)
    brush = ImageDraw.Draw(image, "RGBA")
    for item in sorted(items, key=lambda item: (not item.dim, -area(item.rect))):
        _outline(brush, item, line_px)

    badges = place_badges(write_badges(items, font_px, image.size), items, image.size)
    for badge in badges:
        paint_leader(brush, badge, line_px)
    for badge in badges:
        paint_badge(brush, badge)
    return image


def _blend(image: Image.Image, mask: npt.NDArray[np.bool_], colour: Colour, line_px: int) -> None:
    """A veil over the mask, and its edge in full colour where it does not touch the image's."""
    shape = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    if shape.size != image.size:
        shape = shape.resize(image.size, Image.Resampling.NEAREST)
    where = shape.getbbox()
    if where is None:
        return
    left, top, right, bottom = where
    margin = min(max(1, line_px // 2), _MAX_EDGE_PX)
    around = (
        *(max(0, left - margin), max(0, top - margin)),
        *(min(image.width, right + margin), min(image.height, bottom + margin)),
    )
    shape = shape.crop(around)
    inside = shape
    for _ in range(margin):
        inside = inside.filter(ImageFilter.MinFilter(3))
    edge = ImageChops.subtract(shape, inside)
    veil = ImageChops.lighter(
        inside.point([level * _MASK_ALPHA // 255 for level in range(256)]), edge
    )
    image.paste(colour, around, veil)


def _outline(brush: ImageDraw.ImageDraw, item: Item, line_px: int) -> None:
    """A frame inside the box, with a thin edge that sets it off from any background."""
    left, top, right, bottom = item.rect
    room = min(right - left, bottom - top)
    inset = min(item.depth * (line_px + 2), max(0, room // 2 - 1))
    frame = (left + inset, top + inset, right - inset - 1, bottom - inset - 1)
    line = max(1, min(line_px // 2 if item.dim else line_px, room // 6))
    alpha = DIM_ALPHA if item.dim else 255
    edge = math.ceil(line / 5)
    if room > 8 * (line + edge):
        around = (frame[0] - edge, frame[1] - edge, frame[2] + edge, frame[3] + edge)
        brush.rectangle(around, outline=(*contrast(item.colour), alpha // 2), width=line + 2 * edge)
    brush.rectangle(frame, outline=(*item.colour, alpha), width=line)
