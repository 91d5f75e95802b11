"""Images with boxes by label, read into arrays once for every metric of named boxes.

Shapes: N answered boxes, M objects, G groups (one label of one image), I images, T thresholds,
L lists of boxes.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm_fo1.eval.metrics.matching import (
    SLACK,
    THRESHOLDS,
    Bools,
    Grouped,
    Ints,
    best_overlap,
    box_areas,
    claims,
    overlap_crowd,
)
from vlm_fo1.eval.metrics.records import (
    Array,
    BoxLists,
    by_label,
    field,
    listed,
)


@dataclass(frozen=True)
class Images:
    """Images as arrays: one group for each label that an image's truth, crowd or answer holds."""

    truth: Grouped
    crowd: Grouped
    answer: Grouped
    image_G: Ints
    label_G: Ints
    names: list[Hashable]
    """Of labels, in the order in which they occur."""
    spared_G: Bools
    """Groups whose unmatched answers are not counted: labels an image names ``not_exhaustive``."""
    negative_G: Bools
    """Groups of labels that an image names ``negative``."""
    failed_I: Bools
    area_M: Array
    """Square pixels of objects: as stated, else of their boxes."""
    score_N: Array | None
    """Of answers; None where they were not asked for."""

    @property
    def images(self) -> int:
        """Their number."""
        return len(self.failed_I)

    def present(self) -> Bools:
        """Which groups have an object, be it a crowd; (G,)."""
        groups = len(self.image_G)
        return self.truth.counts(groups) + self.crowd.counts(groups) > 0

    def answering(self, kept_N: Bools | Ints) -> "Images":
        """The same with some of the answers."""
        score_N = None if self.score_N is None else self.score_N[kept_N]
        return replace(self, answer=self.answer.where(kept_N), score_N=score_N)

    @cached_property
    def matched(self) -> tuple[Bools, Bools]:
        """(N, T) of answers by COCO's rule: those that have an object, and those not counted."""
        right_NT = claims(self.answer, self.truth, THRESHOLDS, later_on_tie=True) >= 0
        inside_N = best_overlap(self.answer, self.crowd, overlap_crowd)
        least_T = np.array(THRESHOLDS) - SLACK
        return right_NT, ~right_NT & (inside_N[:, None] >= least_T)


def read_images(
    images: "Iterable[Any] | Images",
    rename: Callable[[Hashable], Hashable] = lambda label: label,
    *,
    scored: bool = False,
) -> Images:
    """Images with boxes by label, as arrays.

    Args:
        images: Mappings with ``truth``, ``answer`` and perhaps ``crowd`` (boxes by label),
            ``areas`` (numbers by label, one an object), ``negative`` and ``not_exhaustive``
            (labels). What was read before passes as it is, so that several metrics of many images
            read them once.
        rename: What labels are compared by.
        scored: Whether ``scores`` (numbers by label, one an answer) are needed.

    Raises:
        EvaluationError: No images, or one that is no such mapping.
        BoxError: A box is not four finite numbers, or is reversed.
    """
    if isinstance(images, Images):
        return images
    lists = {"truth": BoxLists(), "crowd": BoxLists(), "answer": BoxLists()}
    group_L: dict[str, list[int]] = {kind: [] for kind in lists}
    label_of: dict[Hashable, int] = {}
    image_G, label_G, spared_G, negative_G, failed_I = [], [], [], [], []
    for index, image in enumerate(listed(images, "images")):
        said = _fields(image, index)
        failed_I.append(said["answer"] is None)
        spared = {rename(label) for label in image.get("not_exhaustive") or ()}
        negative = {rename(label) for label in image.get("negative") or ()}
        stated = _numbers_of(image, index, scored=scored)
        group_of: dict[int, int] = {}
        for kind, boxes_of in said.items():
            for label, boxes in (boxes_of or {}).items():
                name = rename(label)
                number = label_of.setdefault(name, len(label_of))
                if number not in group_of:
                    group_of[number] = len(image_G)
                    image_G.append(index)
                    label_G.append(number)
                    spared_G.append(name in spared)
                    negative_G.append(name in negative)
                own = stated[kind].get(label, [] if scored and kind == "answer" else None)
                lists[kind].add(boxes, f"image {index}", kind, repr(label), each=own)
                group_L[kind].append(group_of[number])
    grouped, order_of = {}, {}
    for kind, boxes in lists.items():
        grouped[kind], order_of[kind] = _in_groups(boxes, group_L[kind])
    stated_M = lists["truth"].numbers("areas")[order_of["truth"]]
    score_N = lists["answer"].numbers("scores")[order_of["answer"]] if scored else None
    return Images(
        **grouped,
        area_M=np.where(np.isnan(stated_M), box_areas(grouped["truth"].boxes_N4), stated_M),
        score_N=score_N,
        image_G=np.array(image_G, np.int64),
        label_G=np.array(label_G, np.int64),
        names=list(label_of),
        spared_G=np.array(spared_G, np.bool_),
        negative_G=np.array(negative_G, np.bool_),
        failed_I=np.array(failed_I, np.bool_),
    )


def sums_by_group(values_NT: npt.NDArray[Any], group_N: Ints, groups: int) -> Array:
    """(groups, T) sums of rows by an ascending group."""
    sums = np.zeros((groups, values_NT.shape[1]))
    if len(group_N):
        starts = np.flatnonzero(np.diff(group_N, prepend=-1))
        sums[group_N[starts]] = np.add.reduceat(values_NT.astype(np.float64), starts, axis=0)
    return sums


def _fields(image: Any, index: int) -> dict[str, Mapping[Hashable, Any] | None]:
    said = {"truth": field(image, "truth", index), "answer": field(image, "answer", index)}
    said = {"truth": said["truth"], "crowd": image.get("crowd") or {}, "answer": said["answer"]}
    for kind, boxes_of in said.items():
        if kind != "answer" or boxes_of is not None:
            by_label(boxes_of, f"image {index}, {kind}")
    return said


def _numbers_of(image: Any, index: int, *, scored: bool) -> dict[str, Mapping[Hashable, Any]]:
    """Areas of objects, and the scores of answers where they are needed, by label."""
    scores: Any = {}
    if scored and image["answer"] is not None:
        scores = by_label(field(image, "scores", index), f"image {index}, scores")
    areas = by_label(image.get("areas") or {}, f"image {index}, areas")
    return {"truth": areas, "crowd": {}, "answer": scores}


def _in_groups(lists: BoxLists, group_L: list[int]) -> tuple[Grouped, Ints]:
    """Boxes with groups ascending, and their order; lists of one group stay in order."""
    boxes_N4, list_N = lists.stacked()
    group_N = np.array(group_L, np.int64)[list_N]
    order_N = np.argsort(group_N, kind="stable")
    return Grouped(boxes_N4[order_N], group_N[order_N]), order_N
