"""The regions of a training record, built as users will build them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlm_fo1 import boxes as box_math
from vlm_fo1.data.example import Example, Turn

Floats = npt.NDArray[np.float32]
Rng = np.random.Generator

SAME = 0.9
"""A proposal above this IoU with a ground-truth box is that box, and gives way to it."""
UNLIKE = 0.45
"""A distractor overlaps no ground-truth box above this IoU."""


@dataclass(frozen=True, eq=False)
class BuiltRegions:
    """Boxes in the order of their tags, and what each stands for."""

    xyxy: Floats
    """(N, 4) pixels."""
    truth: npt.NDArray[np.int64]
    """(N,) index of the ground-truth box that a region stands for, -1 for none."""
    scores: Floats
    """(N,) in [0, 1], as a proposer would give."""

    def region_of(self) -> dict[int, int]:
        """Ground-truth index to region number."""
        return {int(truth): region for region, truth in enumerate(self.truth) if truth >= 0}

    def example(self, image: Path, turns: Iterable[Turn], source: str | Path, id_: str) -> Example:
        """The record of what is asked about them.

        Args:
            image: Their image.
            turns: Questions and answers, with the numbers of the regions.
            source: Where it comes from.
            id_: Of the image there.

        Raises:
            DataError: See `Example`.
        """
        return Example(
            image=image,
            regions_xyxy=self.xyxy,
            scores=self.scores,
            turns=tuple(turns),
            source=str(source),
            id=id_,
        )


def build_regions(
    truth_xyxy: npt.ArrayLike,
    size_wh: tuple[int, int],
    rng: Rng,
    *,
    proposals_xyxy: npt.ArrayLike | None = None,
    distractors: tuple[int, int] = (0, 6),
    jitter: float = 0.5,
    drop: float = 0.0,
    limit: int = 100,
) -> BuiltRegions:
    """Mix ground truth with proposals and boxes that are nothing, in random order.

    Args:
        truth_xyxy: (N, 4) boxes of things in pixels.
        size_wh: Width and height of the image.
        rng: Decides everything.
        proposals_xyxy: (M, 4) a proposer's boxes, or None. Those above `SAME` IoU with a box of
            `truth_xyxy` give way to it; those from 0.5 to `SAME` are left out, as nobody could say
            whether they are right; the rest are distractors, the first ones where there is not
            room for all.
        distractors: Least and greatest number of further boxes: on the background, around two
            things at once, around a part. Fewer where the image leaves no room.
        jitter: Share of ground-truth boxes that are shifted a little, as proposals are.
        drop: Share of ground-truth boxes that get no region.
        limit: Greatest number of regions; distractors give way first.

    Returns:
        The regions; every ground-truth box that is not dropped has exactly one.
    """
    truth = box_math.as_boxes(truth_xyxy)
    kept = np.flatnonzero(rng.random(len(truth)) >= drop)
    if len(kept) > limit:
        kept = np.sort(rng.choice(kept, limit, replace=False))
    shifted = truth[kept].copy()
    for row in np.flatnonzero(rng.random(len(kept)) < jitter):
        shifted[row] = _jittered(shifted[row], size_wh, rng)
    nothing = _given(truth, proposals_xyxy)
    drawn = int(rng.integers(distractors[0], distractors[1] + 1))
    nothing = np.concatenate([nothing, _distractors(truth, size_wh, drawn, rng)])
    nothing = nothing[: limit - len(kept)]
    xyxy = np.concatenate([shifted, nothing])
    owner = np.concatenate([kept, np.full(len(nothing), -1)])
    scores = np.concatenate([rng.beta(6, 2, len(kept)), rng.beta(2, 4, len(nothing))])
    order = rng.permutation(len(xyxy))
    return BuiltRegions(
        xyxy[order].astype(np.float32), owner[order].astype(np.int64), scores[order].astype("f4")
    )


def _given(truth: Floats, proposals: npt.ArrayLike | None) -> Floats:
    boxes = box_math.as_boxes([] if proposals is None else proposals)
    if len(boxes) and len(truth):
        boxes = boxes[box_math.iou(boxes, truth).max(axis=1) < 0.5]
    return boxes


def _jittered(box: Floats, size_wh: tuple[int, int], rng: Rng) -> Floats:
    """Each edge moved by up to six percent of the side, at least a pixel long and in the image."""
    side = np.tile(box[2:] - box[:2], 2)
    moved = box_math.clip(box + rng.uniform(-0.06, 0.06, 4) * side, size_wh)[0]
    return moved if (moved[2:] - moved[:2] >= 2).all() else box


def _distractors(truth: Floats, size_wh: tuple[int, int], count: int, rng: Rng) -> Floats:
    found = np.zeros((0, 4), np.float32)
    for _ in range(count * 4):
        if len(found) == count:
            break
        box = box_math.clip(_candidate(truth, size_wh, rng), size_wh)
        if (box[0, 2:] - box[0, :2] < 8).any():
            continue
        if len(truth) and box_math.iou(box, truth).max() > UNLIKE:
            continue
        if len(found) and box_math.iou(box, found).max() > 0.8:
            continue
        found = np.concatenate([found, box])
    return found


def _candidate(truth: Floats, size_wh: tuple[int, int], rng: Rng) -> Floats:
    """A box on the background, a loose one around two things, or a part of a thing."""
    kind = rng.random()
    if len(truth) >= 2 and kind < 0.25:
        first, second = truth[rng.choice(len(truth), 2, replace=False)]
        return np.concatenate([np.minimum(first, second)[:2], np.maximum(first, second)[2:]])
    if len(truth) and kind < 0.5:
        x1, y1, x2, y2 = truth[rng.integers(len(truth))]
        w, h = (x2 - x1) * rng.uniform(0.3, 0.6), (y2 - y1) * rng.uniform(0.4, 0.7)
        left, top = rng.uniform(x1, x2 - w), rng.uniform(y1, y2 - h)
        return np.array([left, top, left + w, top + h], np.float32)
    best = np.zeros(4, np.float32)
    least = np.inf
    for _ in range(4):  # the emptiest of a few
        w, h = rng.uniform(0.06, 0.3) * size_wh[0], rng.uniform(0.06, 0.3) * size_wh[1]
        left, top = rng.uniform(0, size_wh[0] - w), rng.uniform(0, size_wh[1] - h)
        box = np.array([left, top, left + w, top + h], np.float32)
        full = float(covered(box, truth).sum())
        if full < least:
            best, least = box, full
    return best


def covered(box: npt.ArrayLike, truth: Floats) -> Floats:
    """(N,) share of one box that lies in each of N others."""
    box = np.asarray(box, np.float32)
    sides = np.minimum(box[2:], truth[:, 2:]) - np.maximum(box[:2], truth[:, :2])
    return np.maximum(sides, 0).prod(axis=1) / max(float((box[2:] - box[:2]).prod()), 1e-6)
