"""OVDEval's filter: of answers that fight over one object, whatever their labels, one survives."""

from collections.abc import Hashable
from typing import Any

import numpy as np

from vlm_fo1.eval.metrics.matching import SLACK, overlap_iou
from vlm_fo1.eval.metrics.records import (
    BoxLists,
    Item,
    by_label,
    checked_numbers,
    field,
    read_boxes,
)

_AT = 0.5


def nms_survivors(truth: Any, boxes: Any, scores: Any) -> list[int]:
    """Which answers of an image NMS-AP keeps.

    Answers of any label with IoU > 0.5 (strictly) with an object are its candidates: that with the
    best score, of equals the last, is kept and the others are marked. After all objects those go
    that are marked and were kept for none. An image without objects loses nothing. With one score
    for all labels of a region, the last label alone survives.

    Args:
        truth: (M, 4) objects of the image, of all labels.
        boxes: (N, 4) answers of the image, of all labels, in order.
        scores: (N,) higher is better.

    Returns:
        Indices of the answers that stay, ascending.

    Raises:
        BoxError: A box is not four finite numbers, or is reversed.
        EvaluationError: There is not one finite score per answer.
    """
    truth_M4, boxes_N4 = read_boxes(truth, "truth"), read_boxes(boxes, "boxes")
    scores_N = checked_numbers(scores, len(boxes_N4), "the boxes")
    rivals_NM = overlap_iou(boxes_N4[:, None], truth_M4[None]) > _AT + SLACK
    kept_N = np.zeros(len(boxes_N4), np.bool_)
    for rivals_N in rivals_NM.T:
        candidates = np.flatnonzero(rivals_N)
        if len(candidates):
            backwards = scores_N[candidates][::-1]
            kept_N[candidates[len(candidates) - 1 - int(backwards.argmax())]] = True
    return np.flatnonzero(kept_N | ~rivals_NM.any(1)).tolist()


def surviving(image: Item) -> dict[str, Any]:
    """An image of `average_precision` with the answers alone that NMS-AP keeps.

    Args:
        image: A mapping with ``truth``, ``answer`` and ``scores``, by label; of equal scores the
            later label in ``answer`` survives. A failed image comes back as it is.

    Raises:
        BoxError: A box is not four finite numbers, or is reversed.
        EvaluationError: It is no such mapping, or there is not one finite score per answer.
    """
    answer = field(image, "answer", 0)
    if answer is None:
        return dict(image)
    truth = by_label(field(image, "truth", 0), "truth")
    scores = by_label(field(image, "scores", 0), "scores")
    lists, objects = BoxLists(), BoxLists()
    owners: list[tuple[Hashable, int]] = []
    scores_N: list[float] = []
    for label, value in by_label(answer, "answer").items():
        count = lists.add(value, "answer", repr(label))
        scores_N += checked_numbers(scores.get(label, []), count, repr(label)).tolist()
        owners += [(label, index) for index in range(count)]
    for label, value in truth.items():
        objects.add(value, "truth", repr(label))
    kept = nms_survivors(objects.stacked()[0], lists.stacked()[0], scores_N)
    kept_of: dict[Hashable, list[int]] = {label: [] for label in answer}
    for number in kept:
        label, index = owners[number]
        kept_of[label].append(index)
    return {
        **image,
        "answer": {label: [answer[label][i] for i in rows] for label, rows in kept_of.items()},
        "scores": {label: [scores[label][i] for i in rows] for label, rows in kept_of.items()},
    }
