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
    joined_numbers,
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
    image_G, label_G, spared_G, negative_G, failed_I, sized_L = [], [], [], [], [], []
    areas: list[tuple[Any, int, str, str]] = []
    scores: list[tuple[Any, int, str, str]] = []
    for index, image in enumerate(listed(images, "images")):
        said = _fields(image, index)
        failed_I.append(said["answer"] is None)
        spared = {rename(label) for label in image.get("not_exhaustive") or ()}
        negative = {rename(label) for label in image.get("negative") or ()}
        area_of = by_label(image.get("areas") or {}, f"image {index}, areas")
        score_of: Mapping[Hashable, Any] = {}
        if scored and said["answer"] is not None:
            score_of = by_label(field(image, "scores", index), f"image {index}, scores")
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
                count = lists[kind].add(boxes, f"image {index}", kind, repr(label))
                group_L[kind].append(group_of[number])
                place = f"image {index}, {label!r}"
                if kind == "answer" and scored:
                    scores.append((score_of.get(label, []), count, place, "scores"))
                elif kind == "truth":
                    sized_L.append(area_of.get(label) is not None)
                    if sized_L[-1]:
                        areas.append((area_of[label], count, place, "areas"))
    grouped, order_of = {}, {}
    for kind, boxes in lists.items():
        boxes_N4, list_N = boxes.stacked()
        group_N = np.array(group_L[kind], np.int64)[list_N]
        order_N = order_of[kind] = np.argsort(group_N, kind="stable")
        grouped[kind] = Grouped(boxes_N4[order_N], group_N[order_N])
        if kind == "truth":
            area_M = box_areas(boxes_N4)
            area_M[np.array(sized_L, np.bool_)[list_N]] = joined_numbers(areas)
    return Images(
        **grouped,
        area_M=area_M[order_of["truth"]],
        score_N=joined_numbers(scores)[order_of["answer"]] if scored else None,
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
