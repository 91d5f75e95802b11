"""Masks of what a phrase means: a detector with masks offers, FO1's counting question decides.

Source: the released demos of FO1 with SAM 3, whose thresholds these are: for images, for video.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlm_fo1.answer import Answer
from vlm_fo1.fo1 import FO1
from vlm_fo1.images import read_image
from vlm_fo1.proposers.base import Proposer, Selection, select, selection_of
from vlm_fo1.regions import Regions
from vlm_fo1.sight import OnText, Writing
from vlm_fo1.tasks import MAX_NEW_TOKENS, Task, ask_labels


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


def segment(
    fo1: FO1,
    proposer: Proposer,
    image: Any,
    phrase: str,
    *,
    query: str | None = None,
    thresholds: Thresholds = ON_IMAGES,
    allow_url: bool = False,
    max_new_tokens: int = MAX_NEW_TOKENS,
    on_text: OnText | None = None,
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
        thresholds: Which of the things it finds are offered.
        allow_url: Whether http(s) URLs are fetched.
        max_new_tokens: Length limit of the answer.
        on_text: Gets the text as it is written.

    Returns:
        The answer to the counting question: ``answer.chosen`` has the masks, ``answer.count`` the
        number, ``answer.regions`` everything that was offered.

    Raises:
        ImageError: The image cannot be read.
        PromptError: The phrase or the query cannot be asked.
        BoxError: The proposer returned what is no number.
    """
    writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
    ask_labels(Task.COUNTING, phrase)  # what cannot be asked is refused before anything looks
    picture = read_image(image, allow_url=allow_url)
    start = time.perf_counter()
    queries = [query or phrase] if proposer.requires_labels else None
    found = proposer.propose([picture], queries=queries)[0]
    proposed_s = time.perf_counter() - start
    if proposer.requires_labels:
        offered = worth_offering(found, thresholds)
    else:
        offered = select(found, selection_of(proposer))[: thresholds.limit]
    answer = fo1.open(picture, offered, tile=None).count(phrase, **writing.options())
    return replace(answer, timing_s={**answer.timing_s, "propose": proposed_s})
