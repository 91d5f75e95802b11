"""More regions than one question holds: which go together.

A *window* is a part of the image with the regions one question is about: the whole image with
the next best regions, or a tile of it with the regions in that tile.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlm_fo1.errors import ConfigError
from vlm_fo1.regions import Floats, Regions

TILE_OVERLAP = 0.25
"""Share of a tile's side that its neighbour sees too, at least: a thing smaller than that is whole
in one of them."""

LEAST_TILE = 32
"""Smallest side of a tile in pixels."""

LARGE = 1 << 14
"""Side in pixels of an image that every model shrinks."""

READABLE = 16
"""Things that the model sees smaller than this many pixels a side are hard for it to name."""

CLEAR = 20
"""How large, in pixels a side, it shall see them through tiles."""

WORTHWHILE = 1.5
"""Tiles that nobody asked for, and that cannot do that, have to show things at least so many times
larger."""

Area = tuple[int, int, int, int]
"""A part of the image, (left, top, right, bottom) in whole pixels."""


@dataclass(frozen=True)
class Window:
    """What one question is about."""

    area: Area
    indices: tuple[int, ...]
    """Its regions, as positions among all that were offered, ascending."""


def best_of(regions: Regions, size: int) -> Window:
    """The whole image with the best regions.

    Args:
        regions: All that were offered.
        size: Greatest number of regions of a window.

    Returns:
        A window with the best by score (the first ones where there are no scores; an unknown score
        comes last).
    """
    best = np.sort(regions.order()[:size])
    return Window((0, 0, *regions.size_wh), tuple(best.tolist()))


def best_first(regions: Regions, indices: npt.NDArray[np.int64], size: int) -> list[Window]:
    """The whole image again and again, each time with the next best regions.

    Args:
        regions: All that were offered.
        indices: Which of them to spread.
        size: Greatest number of regions of a window.

    Returns:
        As few windows as hold all regions, with as many in each, give or take one: a model is
        surer of what it sees when it has few regions to tell apart. Ranked as by `best_of`; one
        window without regions where there are none.
    """
    count = max(1, -(-len(indices) // size))
    order = regions.order()
    parts = np.array_split(order[np.isin(order, indices)], count)
    return [Window((0, 0, *regions.size_wh), tuple(np.sort(part).tolist())) for part in parts]


def in_tiles(regions: Regions, tile: int, size: int) -> list[Window]:
    """Each region in the tile that shows it best.

    Args:
        regions: All that were offered.
        tile: Side of a tile in pixels.
        size: Greatest number of regions of a window.

    Returns:
        First the whole image with the regions that fit into no tile, then tiles row by row; none
        without a region, unless there are no regions at all. A tile with more regions than ``size``
        gives several windows.

    Raises:
        ConfigError: See `tiles`.
    """
    areas = tiles(regions.size_wh, tile)
    home = _homes(regions.xyxy, np.array(areas, np.float32))
    windows: list[Window] = []
    for number, area in [(-1, (0, 0, *regions.size_wh)), *enumerate(areas)]:
        members = np.flatnonzero(home == number)
        if len(members):
            parts = best_first(regions, members, size)
            windows += [Window(area, part.indices) for part in parts]
    return windows or best_first(regions, np.arange(0), size)


def fitting_tile(
    regions: Regions, seen_size: Callable[[tuple[int, int]], tuple[int, int]]
) -> int | None:
    """The side of tiles that things of an image need to be recognised, if they need any.

    Args:
        regions: What may be asked about.
        seen_size: From an image's size to that at which the model sees it, both width and height
            in pixels.

    Returns:
        Pixels, or None where half of the regions, by the square root of their area, are seen with
        `READABLE` pixels or more, or where tiles would neither show them with `CLEAR` pixels nor
        `WORTHWHILE` times larger. Without regions, tiles that are seen at half their size where
        that is so much larger.
    """
    size_wh = regions.size_wh
    seen = _side(seen_size(size_wh)) / max(_side(size_wh), 1e-6)
    sharpest = _side(seen_size((LARGE, LARGE)))  # side of the greatest square seen as it is
    if len(regions):
        width_N, height_N = (regions.xyxy[:, 2:] - regions.xyxy[:, :2]).T
        middle = float(np.median(np.sqrt(width_N * height_N)))
        if middle * seen >= READABLE:
            return None
        wanted = sharpest * middle / CLEAR
        clear = wanted >= sharpest  # else the image has no more pixels of them
    else:
        wanted, clear = 2 * sharpest, False
    tile = max(LEAST_TILE, round(max(sharpest, wanted)))
    worthwhile = clear or sharpest / tile > seen * WORTHWHILE
    return tile if worthwhile and tile < max(size_wh) else None


def _side(size_wh: tuple[int, int]) -> float:
    """Side of the square of the same area."""
    return float(np.sqrt(size_wh[0] * size_wh[1]))


def tiles(size_wh: tuple[int, int], tile: int) -> list[Area]:
    """Squares that cover an image and overlap by at least `TILE_OVERLAP`, row by row.

    Args:
        size_wh: Width and height of the image in pixels.
        tile: Side of a square; where the image is smaller, its own side is taken.

    Raises:
        ConfigError: A tile smaller than `LEAST_TILE`.
    """
    if tile < LEAST_TILE:
        raise ConfigError(f"tile = {tile}: the side of a tile in pixels, at least {LEAST_TILE}")
    (lefts, width), (tops, height) = (_starts(length, tile) for length in size_wh)
    return [(left, top, left + width, top + height) for top in tops for left in lefts]


def _starts(length: int, tile: int) -> tuple[list[int], int]:
    """Where tiles begin along one side of the image, and how long they are."""
    if length <= tile:
        return [0], length
    step = tile - int(np.ceil(tile * TILE_OVERLAP))
    count = int(np.ceil((length - tile) / step)) + 1
    return [round(start) for start in np.linspace(0, length - tile, count).tolist()], tile


def _homes(xyxy_N4: Floats, areas_T4: Floats) -> npt.NDArray[np.int64]:
    """(N,) the tile that holds each box whole, nearest to its middle; -1 for none."""
    if not len(xyxy_N4):
        return np.zeros(0, np.int64)
    before_NT2 = xyxy_N4[:, None, :2] - areas_T4[None, :, :2]
    after_NT2 = areas_T4[None, :, 2:] - xyxy_N4[:, None, 2:]
    margin_NT = np.minimum(before_NT2, after_NT2).min(-1)
    cost_NT = np.where(margin_NT >= 0, np.abs(before_NT2 - after_NT2).max(-1), np.inf)
    home = cost_NT.argmin(1)
    return np.where(np.isfinite(cost_NT.min(1)), home, -1).astype(np.int64)


def cut_regions(regions: Regions, window: Window) -> Floats:
    """(n, 4) boxes of a window's regions in pixels of its area."""
    left, top = window.area[:2]
    offset = np.array([left, top, left, top], np.float32)
    return regions.xyxy[list(window.indices)] - offset
