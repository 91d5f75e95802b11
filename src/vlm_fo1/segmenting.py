"""Masks of what a phrase means: a detector with masks offers, FO1's counting question decides.

Source: the released demo of FO1 with SAM 3, whose thresholds these are.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np

from vlm_fo1.images import read_image
from vlm_fo1.pipeline import FO1
from vlm_fo1.proposers.base import Proposer, Selection, select, selection_of
from vlm_fo1.structures import Answer, Regions

SURE = 0.75
"""From a best score above this on, the detector knows the phrase."""
SURE_MIN_SCORE, UNSURE_MIN_SCORE = 0.3, 0.05
"""What is offered to FO1 scores more than the first where the detector knows the phrase; else more
than the second, so that FO1 has something to choose from."""
MAX_OFFERED = 100


def worth_offering(regions: Regions, *, limit: int = MAX_OFFERED) -> Regions:
    """The regions of a detector that are shown to FO1.

    Args:
        regions: With scores in [0, 1]; without scores all are kept, up to the limit.
        limit: Greatest number.

    Returns:
        Those above 0.3 if the best is above 0.75, else those above 0.05; best first, at most
        ``limit``.
    """
    if regions.scores is not None:
        scores = np.nan_to_num(regions.scores, nan=0.0)
        best = float(scores.max(initial=0.0))
        least = SURE_MIN_SCORE if best > SURE else UNSURE_MIN_SCORE
        regions = regions[np.flatnonzero(scores > least)]
    return select(regions, Selection(limit=limit))


def segment(
    fo1: FO1,
    proposer: Proposer,
    image: Any,
    phrase: str,
    *,
    query: str | None = None,
    allow_url: bool = False,
    **options: Any,
) -> Answer:
    """Find what a phrase means, as masks where the proposer has them.

    Args:
        fo1: Decides which of the offered things the phrase means.
        proposer: Offers things; `SAM3Proposer` gives them masks. One that looks for no names offers
            its own selection: its scores say nothing of the phrase.
        image: Anything `read_image` takes.
        phrase: Of any kind: "the player in red nearest the ball".
        query: What the proposer looks for, by default the phrase. A detector knows names better
            than sentences: "player".
        allow_url: Whether http(s) URLs are fetched.
        **options: Of `Scene.count`: ``max_new_tokens``, ``on_text``.

    Returns:
        The answer to the counting question: ``answer.chosen`` has the masks, ``answer.count`` the
        number, ``answer.regions`` everything that was offered.

    Raises:
        ImageError: The image cannot be read.
        PromptError: The phrase or the query cannot be asked.
        BoxError: The proposer returned what is no number.
    """
    picture = read_image(image, allow_url=allow_url)
    start = time.perf_counter()
    queries = [query or phrase] if proposer.takes_queries else None
    found = proposer.propose([picture], queries=queries)[0]
    proposed_s = time.perf_counter() - start
    if proposer.takes_queries:
        offered = worth_offering(found)
    else:
        offered = select(found, selection_of(proposer))[:MAX_OFFERED]
    answer = fo1.open(picture, offered, tile=None).count(phrase, **options)
    return replace(answer, timing_s={**answer.timing_s, "propose": proposed_s})
