"""Regions for an image: from the user's boxes or from a proposer, whole or tile by tile."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from vlm_fo1.boxes import check
from vlm_fo1.errors import PromptError
from vlm_fo1.merging import merge_tiles
from vlm_fo1.processing import FO1ImageProcessor
from vlm_fo1.proposers.base import Proposer, Selection, select, selection_of
from vlm_fo1.regions import Offer, Regions
from vlm_fo1.tiling import Area, fitting_tile, tiles

Tile = int | Literal["auto"] | None
"""Side of tiles in pixels, "auto" for what the things of the image need, None for no tiles."""

PROPOSED_AT_ONCE = 8
"""How many tiles a proposer gets in one call."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Which of a detector's things are offered to FO1, by their scores."""

    sure: float
    """From a best score above this on, the detector knows the phrase."""
    sure_min_score: float
    """Where it does, what scores more than this is offered."""
    unsure_min_score: float
    """Where it does not: so that FO1 has something to choose from."""
    limit: int
    """Greatest number, best first."""


ON_IMAGES = Thresholds(sure=0.75, sure_min_score=0.3, unsure_min_score=0.05, limit=100)
ON_VIDEO = Thresholds(sure=0.6, sure_min_score=0.3, unsure_min_score=0.001, limit=50)


def worth_offering(regions: Regions, thresholds: Thresholds = ON_IMAGES) -> Regions:
    """The regions of a detector that are shown to FO1.

    Args:
        regions: With scores in [0, 1]; without scores all are kept, up to the limit.
        thresholds: Which scores are enough.

    Returns:
        Best first.
    """
    if regions.scores is not None:
        scores = np.nan_to_num(regions.scores, nan=0.0)
        sure = float(scores.max(initial=0.0)) > thresholds.sure
        least = thresholds.sure_min_score if sure else thresholds.unsure_min_score
        regions = regions[np.flatnonzero(scores > least)]
    return select(regions, Selection(limit=thresholds.limit))


def offer_for(proposer: Proposer, image: Image.Image, query: str, thresholds: Thresholds) -> Offer:
    """What a detector offers for a name, with masks where it has them.

    Args:
        proposer: One that looks for no names offers its own selection: its scores say nothing of
            the name.
        image: RGB, upright.
        query: What it looks for.
        thresholds: Which of the things it finds are offered.

    Source: the released demos of FO1 with SAM 3, whose thresholds `ON_IMAGES` and `ON_VIDEO` are.
    """
    start = time.perf_counter()
    queries = [query] if proposer.requires_labels else None
    found = proposer.propose([image], queries=queries)[0]
    if proposer.requires_labels:
        offered = worth_offering(found, thresholds)
    else:
        offered = select(found, selection_of(proposer))[: thresholds.limit]
    return Offer(offered, seconds=time.perf_counter() - start)


def propose(
    proposer: Proposer,
    image: Image.Image,
    *,
    selection: Selection,
    queries: str | Sequence[str] | None,
    tile: Tile,
    seen_by: FO1ImageProcessor,
) -> Offer:
    """What a proposer offers for an image.

    Args:
        proposer: Looks at the image and, with tiles, at each tile.
        image: RGB, upright.
        selection: Which of its boxes are used; its limit is meant for one look.
        queries: What it shall look for, if it looks for named things.
        tile: See `Tile`.
        seen_by: At what size the model sees an image, for "auto".

    Returns:
        Regions in pixels of the image; the notes say why there are none.

    Raises:
        PromptError: It looks for named things and there are no queries.
        BoxError: It returned what is no box.
    """
    start = time.perf_counter()
    wanted = None
    if proposer.requires_labels:
        wanted = [queries] if isinstance(queries, str) else list(queries or ())
        if not wanted:
            raise PromptError(
                f"the proposer {proposer.name} looks for named things: pass "
                "queries=['orange', ...] (--query on the command line), or boxes=..."
            )
    whole = (0, 0, *image.size)
    seen = {whole: proposer.propose([image], queries=wanted)[0]}
    side = tile_side(tile, select(seen[whole], selection), seen_by)
    if side is not None:
        parts = [area for area in tiles(image.size, side) if area != whole]
        seen |= _found_in(image, parts, proposer, wanted)
    found = seen[whole] if len(seen) == 1 else merge_tiles(seen.items(), image.size)
    if selection.limit is not None:
        selection = replace(selection, limit=selection.limit * len(seen))
    chosen = select(found, selection)
    regions = replace(chosen, xyxy=check(chosen.xyxy, image.size))
    notes: tuple[str, ...] = ()
    if not len(regions):
        notes = (
            f"no regions were offered: the proposer {proposer.name} found {len(found)} boxes, "
            f"and none passed min_score = {selection.min_score:g}"
            if len(found)
            else f"no regions were offered: the proposer {proposer.name} found nothing",
        )
    return Offer(regions, notes, side, time.perf_counter() - start)


def tile_side(tile: Tile, regions: Regions, seen_by: FO1ImageProcessor) -> int | None:
    """The side of tiles in pixels, None for the whole image."""
    return fitting_tile(regions, seen_by.seen_size) if tile == "auto" else tile


def _found_in(
    image: Image.Image, areas: Sequence[Area], proposer: Proposer, queries: list[str] | None
) -> dict[Area, Regions]:
    """What a proposer finds in each of these parts, in pixels of the part."""
    seen: list[Regions] = []
    for first in range(0, len(areas), PROPOSED_AT_ONCE):
        crops = [image.crop(area) for area in areas[first : first + PROPOSED_AT_ONCE]]
        seen += proposer.propose(crops, queries=queries)
    return dict(zip(areas, seen, strict=True))
