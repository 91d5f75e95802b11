"""Which answered box is which object: overlap, and the three greedy rules that are in use.

The rules are not interchangeable. COCO's: answers in order, each takes the best object that is
left, the later of two equals. Rex-Omni's and RexSeek's: objects in order, each takes the best
answer that is left, the first of two equals. gRefCOCO's and RefDrone's: the best pair of all first.

Shapes: N seekers, M targets, P pairs of one group, T thresholds. Boxes of a group (an image, or a
label of an image) stand together, groups in ascending order.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm_fo1.eval.metrics.records import Array, read_boxes

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Overlap = Callable[[Array, Array], Array]

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""COCO's ten, as literals: ``arange(.5, 1, .05)`` gives 0.6000000000000001, which an IoU of exactly
0.6 misses."""
AT_50, AT_95 = THRESHOLDS.index(0.5), THRESHOLDS.index(0.95)
SLACK = 1e-10
"""An IoU this little below a threshold reaches it, and this little above one is not strictly above:
moving boxes by a constant changes their IoU by rounding. The same as COCO's ``1 - 1e-10``."""
_PAIRS = 2_000_000
"""Pairs that are looked at together, which bounds memory."""


@dataclass(frozen=True)
class Grouped:
    """Boxes and the group that each is of, groups ascending."""

    boxes_N4: Array
    group_N: Ints

    def __len__(self) -> int:
        return len(self.boxes_N4)

    def where(self, kept_N: Bools | Ints) -> "Grouped":
        """Some of them."""
        return Grouped(self.boxes_N4[kept_N], self.group_N[kept_N])

    def counts(self, groups: int) -> Ints:
        """Number of boxes in each group, (groups,)."""
        return np.bincount(self.group_N, minlength=groups)


def iou(a: Any, b: Any) -> Any:
    """Intersection over union of boxes, in float64: I / (A1 + A2 - I), 0 where the union is 0.

    Args:
        a: (N, 4) xyxy, or one box.
        b: (M, 4) xyxy in the same frame, or one box.

    Returns:
        (N, M) in [0, 1]; a bare box drops its axis, so that two of them give a float.

    Raises:
        BoxError: A box is not four finite numbers, or is reversed.
    """
    a_N4, b_M4 = read_boxes(a, "the first boxes"), read_boxes(b, "the second boxes")
    ratio_NM = overlap_iou(a_N4[:, None], b_M4[None])
    if np.ndim(b) == 1 and len(b_M4):
        ratio_NM = ratio_NM[:, 0]
    if np.ndim(a) == 1 and len(a_N4):
        ratio_NM = ratio_NM[0]
    return ratio_NM if ratio_NM.ndim else float(ratio_NM)


def overlap_iou(a: Array, b: Array) -> Array:
    """IoU of boxes of equal or broadcast shapes (..., 4)."""
    shared = _shared(a, b)
    return _ratio(shared, box_areas(a) + box_areas(b) - shared)


def overlap_giou(a: Array, b: Array) -> Array:
    """Generalised IoU: IoU less the share of the hull that neither covers; in [-1, 1].

    Source: Rezatofighi et al. 2019; gRefCOCO's scorer of boxes matches by it.
    """
    shared = _shared(a, b)
    union = box_areas(a) + box_areas(b) - shared
    low = np.minimum(a[..., :2], b[..., :2])
    high = np.maximum(a[..., 2:], b[..., 2:])
    hull = (high - low).prod(-1)
    return _ratio(shared, union) - _ratio(hull - union, hull)


def overlap_crowd(a: Array, b: Array) -> Array:
    """Share of each box of ``a`` that lies in a crowd ``b``: I / area of the answer."""
    return _ratio(_shared(a, b), box_areas(a))


def claims(
    seekers: Grouped,
    targets: Grouped,
    thresholds: tuple[float, ...],
    *,
    later_on_tie: bool,
    idle_NT: Bools | None = None,
    above_N: Array | None = None,
) -> Ints:
    """Each seeker in order takes the target of its group with the best IoU that is left.

    Args:
        seekers: Answers for COCO's rule, objects for Rex-Omni's.
        targets: The other side.
        thresholds: Least IoU, each looked at by itself.
        later_on_tie: Of targets with equal IoU take the last (COCO's), rather than the first.
        idle_NT: Which seekers look at which thresholds; by default all.
        above_N: What the IoU of a seeker's target has to exceed; by default nothing.

    Returns:
        (N, T) index of the target that each seeker took, -1 for none.
    """
    least_T = np.array(thresholds) - SLACK
    taken_NT = np.full((len(seekers), len(thresholds)), -1, np.int64)
    rank_N = _rank_in_group(seekers.group_N)
    for seeker_P, target_P, value_P in pairs(seekers, targets, overlap_iou, least_T.min()):
        if above_N is not None:
            kept_P = value_P > above_N[seeker_P]
            if not kept_P.any():
                continue
            seeker_P, target_P, value_P = seeker_P[kept_P], target_P[kept_P], value_P[kept_P]
        tie_P = target_P if later_on_tie else -target_P
        order_P = np.lexsort((tie_P, value_P, seeker_P, rank_N[seeker_P]))
        seeker_P, target_P, value_P = seeker_P[order_P], target_P[order_P], value_P[order_P]
        first = target_P.min()
        free_MT = np.ones((target_P.max() - first + 1, len(thresholds)), np.bool_)
        for part in _runs(rank_N[seeker_P]):  # one seeker a group, so they cannot disturb another
            fits_PT = free_MT[target_P[part] - first] & (value_P[part][:, None] >= least_T)
            if idle_NT is not None:
                fits_PT &= idle_NT[seeker_P[part]]
            found = _last_fitting(seeker_P[part], fits_PT)
            seekers_Q, columns_Q, places_Q = found
            chosen_Q = target_P[part][places_Q]
            taken_NT[seekers_Q, columns_Q] = chosen_Q
            free_MT[chosen_Q - first, columns_Q] = False
    return taken_NT


def best_pairs(
    answers: Grouped, truths: Grouped, groups: int, least: float, overlap: Overlap = overlap_iou
) -> Ints:
    """How many pairs each group has when the best pair of all is taken first, and so on.

    Args:
        answers: Answered boxes.
        truths: Objects.
        groups: Number of groups.
        least: Overlap that a pair needs.
        overlap: What is compared.

    Returns:
        (groups,) number of pairs.
    """
    counts = np.zeros(groups, np.int64)
    taken_answers: set[int] = set()
    taken_truths: set[int] = set()
    for answer_P, truth_P, value_P in pairs(answers, truths, overlap, least - SLACK):
        order_P = np.argsort(-value_P, kind="stable")
        for answer, truth in zip(
            answer_P[order_P].tolist(), truth_P[order_P].tolist(), strict=True
        ):
            if answer not in taken_answers and truth not in taken_truths:
                taken_answers.add(answer)
                taken_truths.add(truth)
                counts[truths.group_N[truth]] += 1
    return counts


def best_overlap(seekers: Grouped, targets: Grouped, overlap: Overlap) -> Array:
    """Greatest overlap of each seeker with a target of its group, 0 where there is none; (N,)."""
    best_N = np.zeros(len(seekers))
    for seeker_P, _, value_P in pairs(seekers, targets, overlap, 0.0):
        np.maximum.at(best_N, seeker_P, value_P)
    return best_N


def pairs(
    seekers: Grouped, targets: Grouped, overlap: Overlap, least: float
) -> Iterator[tuple[Ints, Ints, Array]]:
    """Pairs of one group that overlap enough, group by group, by seeker and then by target.

    A group is never split between two parts.

    Args:
        seekers: One side.
        targets: The other.
        overlap: What is compared.
        least: Pairs below are left out.

    Yields:
        Indices of seekers (P,) and targets (P,), and their overlap (P,); P is not 0.
    """
    begin_N = np.searchsorted(targets.group_N, seekers.group_N, side="left")
    count_N = np.searchsorted(targets.group_N, seekers.group_N, side="right") - begin_N
    for part in _chunks(seekers.group_N, count_N):
        counts = count_N[part]
        seeker_P = np.repeat(np.arange(part.start, part.stop), counts)
        step_P = np.arange(len(seeker_P)) - np.repeat(np.cumsum(counts) - counts, counts)
        target_P = begin_N[seeker_P] + step_P
        value_P = overlap(seekers.boxes_N4[seeker_P], targets.boxes_N4[target_P])
        kept_P = value_P >= least
        if kept_P.any():
            yield seeker_P[kept_P], target_P[kept_P], value_P[kept_P]


def _last_fitting(seeker_P: Ints, fits_PT: Bools) -> tuple[Ints, Ints, Ints]:
    """Of each seeker's pairs, in ascending order, the last that fits: seeker, column, pair."""
    place_PT = np.where(fits_PT, np.arange(len(seeker_P))[:, None], -1)
    starts = np.flatnonzero(np.diff(seeker_P, prepend=-1))
    best_ST = np.maximum.reduceat(place_PT, starts, axis=0)
    rows, columns = np.nonzero(best_ST >= 0)
    return seeker_P[starts[rows]], columns, best_ST[rows, columns]


def _chunks(group_N: Ints, count_N: Ints) -> Iterator[slice]:
    """Seekers of whole groups with at most `_PAIRS` pairs together, or one group with more."""
    ends = np.append(np.flatnonzero(np.diff(group_N)) + 1, len(group_N))
    pairs_before = np.concatenate([[0], np.cumsum(count_N)])
    start = 0
    while start < len(group_N):
        fitting = (
            np.searchsorted(pairs_before[ends], pairs_before[start] + _PAIRS, side="right") - 1
        )
        following = np.searchsorted(ends, start, side="right")
        stop = int(ends[max(fitting, following)])
        yield slice(start, stop)
        start = stop


def _rank_in_group(group_N: Ints) -> Ints:
    starts_N = np.searchsorted(group_N, group_N, side="left")
    return np.arange(len(group_N)) - starts_N


def _runs(values_P: Ints) -> Iterator[slice]:
    edges = np.flatnonzero(np.diff(values_P)) + 1
    bounds = [0, *edges.tolist(), len(values_P)]
    for start, stop in pairwise(bounds):
        yield slice(start, stop)


def _shared(a: Array, b: Array) -> Array:
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.maximum(sides, 0).prod(-1)


def box_areas(boxes: Array) -> Array:
    """Square pixels of boxes (..., 4)."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)
