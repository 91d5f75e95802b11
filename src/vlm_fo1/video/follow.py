"""From frame to frame: FO1 chooses on key frames, a tracker carries the masks between them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlm_fo1.answer import Answer
from vlm_fo1.errors import FO1Error, item_errors
from vlm_fo1.masks import mask_boxes, mask_iou
from vlm_fo1.regions import Regions
from vlm_fo1.video.frames import Frame
from vlm_fo1.video.records import FrameRecord

SAME_THING_IOU = 0.3
"""A chosen thing whose mask overlaps one of the frame before at least this much is the same."""


@runtime_checkable
class Track(Protocol):
    """Things being followed."""

    def follow(self, image: Image.Image) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Masks (N, H, W) of the things in the next frame, and (N,) how surely each is there."""
        ...


@runtime_checkable
class Tracker(Protocol):
    """Begins to follow things; `SAM3Tracker` is one."""

    def start(self, image: Image.Image, regions: Regions) -> Track:
        """Follow regions of an image, which is also the first frame of the track."""
        ...


class Follower:
    """Follows what is chosen through a video, frame by frame.

    Frame ``n * every``, or the first readable one after it, is a key frame: things are chosen
    anew, and one that overlaps a thing of the frame before keeps its number. Where choosing fails,
    the masks of the frame before are carried on, and the record says so.

    Args:
        choose: Gives the answer whose chosen regions are followed.
        tracker: Carries masks on.
        every: Frames from one key frame to the next.
        before: The last frame that is already known, to go on from there.
        next_id: A number that no thing has yet.
    """

    def __init__(
        self,
        choose: Callable[[Image.Image], Answer],
        tracker: Tracker,
        *,
        every: int,
        before: FrameRecord | None = None,
        next_id: int = 0,
    ) -> None:
        self.choose = choose
        self.tracker = tracker
        self.every = every
        self.last = before
        self.next_id = next_id
        self._segment = -1
        self._track: Track | None = None
        self._things: tuple[tuple[int, str], ...] = ()
        """Number and label of each thing that was in sight on the key frame."""
        self._places = np.zeros(0, np.int64)
        """Where each of them stands in the track."""

    def step(self, frame: Frame) -> FrameRecord:
        """What is in the next frame; unreadable ones are recorded as such."""
        problem = frame.problem
        image = frame.image
        if image is not None and self.last is not None and self.last.regions is not None:
            size_wh = self.last.regions.size_wh
            if image.size != size_wh:
                problem = f"the frame has {image.size} pixels, those before {size_wh}: left out"
                image = None
        if image is None:
            return FrameRecord(index=frame.index, time_s=frame.time_s, regions=None, error=problem)
        if frame.index // self.every == self._segment:
            record = self._carry(frame, image)
        else:
            self._segment = frame.index // self.every
            record = self._choose(frame, image)
        self.last = record
        return record

    def _choose(self, frame: Frame, image: Image.Image) -> FrameRecord:
        answer, error = None, ""
        try:
            with item_errors("choosing"):
                answer = self.choose(image)
            chosen, ids = _once(answer), None
        except FO1Error as failure:
            chosen, ids = self._known(image)
            error = f"nothing could be chosen here: {failure}"
            error += "; the masks of the frame before are carried on" if len(chosen) else ""
        self._track = None
        if len(chosen):
            try:
                with item_errors("the tracker"):
                    self._track = self.tracker.start(image, chosen)
                    masks, scores = self._track.follow(image)
            except FO1Error as failure:
                self._track = None
                error = "; ".join(filter(None, [error, f"nothing is followed: {failure}"]))
            else:
                chosen = _with_masks(chosen, masks, scores, carried=answer is None)
        if chosen.masks is None:  # nothing, or boxes that no tracker could turn into masks
            chosen = Regions.empty(image.size)
        else:
            self._places = np.flatnonzero(chosen.masks.any((1, 2)))
            chosen = chosen[self._places]
            ids = None if ids is None else tuple(ids[int(i)] for i in self._places)
        ids = self._numbers(chosen) if ids is None else ids
        self._things = tuple(zip(ids, chosen.labels or ("",) * len(chosen), strict=True))
        return self._record(frame, chosen, ids, key=True, answer=answer, error=error)

    def _known(self, image: Image.Image) -> tuple[Regions, tuple[int, ...]]:
        """The things of the frame before, with their numbers."""
        if self.last is None or self.last.regions is None:
            return Regions.empty(image.size), ()
        return self.last.regions, self.last.ids

    def _carry(self, frame: Frame, image: Image.Image) -> FrameRecord:
        if self._track is None:
            return self._record(frame, Regions.empty(image.size), ())
        try:
            with item_errors("the tracker"):
                masks, scores = self._track.follow(image)
        except FO1Error as failure:
            self._track = None
            error = f"nothing is followed: {failure}"
            return self._record(frame, Regions.empty(image.size), (), error=error)
        masks, scores = masks[self._places], scores[self._places]
        regions = Regions(
            mask_boxes(masks),
            image.size,
            scores,
            labels=tuple(label for _, label in self._things),
            masks=masks,
        )
        return self._record(frame, regions, tuple(number for number, _ in self._things))

    def _numbers(self, chosen: Regions) -> tuple[int, ...]:
        """A number for each thing: that of the frame before where it overlaps, else a new one."""
        numbers = dict[int, int]()
        before = self.last.regions if self.last is not None else None
        if before is not None and before.masks is not None and chosen.masks is not None:
            assert self.last is not None
            overlap = mask_iou(chosen.masks, before.masks)
            while overlap.size and overlap.max() >= SAME_THING_IOU:
                new, old = (int(i) for i in np.unravel_index(overlap.argmax(), overlap.shape))
                numbers[new] = self.last.ids[old]
                overlap[new], overlap[:, old] = 0, 0
        for index in range(len(chosen)):
            if index not in numbers:
                numbers[index] = self.next_id
                self.next_id += 1
        return tuple(numbers[index] for index in range(len(chosen)))

    def _record(
        self,
        frame: Frame,
        regions: Regions,
        ids: tuple[int, ...],
        *,
        key: bool = False,
        answer: Answer | None = None,
        error: str = "",
    ) -> FrameRecord:
        """The record of a frame, without the things that are out of sight."""
        if regions.masks is not None:
            seen = np.flatnonzero(regions.masks.any((1, 2)))
            regions, ids = regions[seen], tuple(ids[int(i)] for i in seen)
        return FrameRecord(
            index=frame.index,
            time_s=frame.time_s,
            regions=regions,
            ids=ids,
            key=key,
            text="" if answer is None else answer.plain,
            error=error,
            problems=() if answer is None else answer.problems,
        )


def _once(answer: Answer) -> Regions:
    """The chosen regions, each once with the first label it was given."""
    first = dict[int, str]()
    for mention in answer.mentions:
        for index in mention.indices:
            first.setdefault(index, mention.label)
    found = answer.regions[list(first)]
    return Regions(
        found.xyxy, found.size_wh, found.scores, labels=tuple(first.values()), masks=found.masks
    )


def _with_masks(
    chosen: Regions,
    masks: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.float32],
    *,
    carried: bool,
) -> Regions:
    """The chosen regions; as the tracker sees them where they had no masks or are not of now."""
    if chosen.masks is None or carried:
        return Regions(mask_boxes(masks), chosen.size_wh, scores, labels=chosen.labels, masks=masks)
    blank = ~chosen.masks.any((1, 2), keepdims=True)
    return replace(chosen, masks=np.where(blank, masks, chosen.masks))
