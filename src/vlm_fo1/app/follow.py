"""A phrase through a video for the page; without SAM 3 things stay where key frames had them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlm_fo1.app.models import Choice, ModelPool
from vlm_fo1.regions import Regions
from vlm_fo1.video.follow import Tracker
from vlm_fo1.video.track import Models, VideoReport, track_video


@dataclass(frozen=True, eq=False)
class _Still:
    """Things that do not move until the next key frame."""

    masks: npt.NDArray[np.bool_]

    def follow(self, image: Image.Image) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """The same masks again, all of them there."""
        del image
        return self.masks, np.ones(len(self.masks), np.float32)


class StillTracker:
    """Keeps masks, or boxes as masks, where they were; what a page has without SAM 3."""

    def start(self, image: Image.Image, regions: Regions) -> _Still:
        """Hold regions of an image."""
        if regions.masks is not None:
            return _Still(np.array(regions.masks))
        masks = np.zeros((len(regions), image.height, image.width), np.bool_)
        for mask, (x1, y1, x2, y2) in zip(masks, regions.xyxy.tolist(), strict=True):
            mask[int(y1) : max(int(y1) + 1, round(y2)), int(x1) : max(int(x1) + 1, round(x2))] = (
                True
            )
        return _Still(masks)


def tracker_for(pool: ModelPool, choice: Choice) -> Tracker:
    """SAM 3's own tracker beside its detector, else one that holds things still."""
    proposer = pool.proposer(choice)
    if proposer.name == "sam3":
        from vlm_fo1.proposers.sam3 import SAM3Proposer, SAM3Tracker

        if isinstance(proposer, SAM3Proposer):
            return SAM3Tracker.beside(proposer)
    return StillTracker()


def follow(
    pool: ModelPool,
    choice: Choice,
    source: Path,
    phrase: str,
    *,
    every: int,
    query: str | None,
    folder: Path,
    report: Callable[[tuple[str, int, int | None]], None],
    **options: Any,
) -> tuple[VideoReport, Path, Path]:
    """Follow what a phrase means.

    Args:
        pool: Has the model and the proposer.
        choice: Which ones.
        source: The uploaded video, or a folder of frames.
        phrase: What to follow.
        every: Frames from one key frame to the next.
        query: What the proposer looks for, by default the phrase.
        folder: Where the results go.
        report: Gets what is done, frames done, and frames in all; may raise to stop.
        **options: Of `Scene.count`.

    Returns:
        What came of it, the annotated clip, and its JSON Lines.
    """
    clip, lines = folder / "clip.mp4", folder / "frames.jsonl"
    report(("loading", 0, None))
    fo1, proposer = pool.fo1(choice, proposing=False), pool.proposer(choice)
    models = Models(fo1=fo1, proposer=proposer, tracker=tracker_for(pool, choice))
    told = track_video(
        models,
        source,
        phrase,
        every=every,
        query=query,
        save=lines,
        out=clip,
        on_progress=lambda what, done, total: report((what, done, total)),
        **options,
    )
    return told, clip, lines
