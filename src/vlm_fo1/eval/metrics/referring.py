"""Boxes for one expression: RefCOCO, HumanRef, gRefCOCO and RefDrone.

Shapes: I items, N answered boxes, M objects, T thresholds.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.metrics.matching import (
    SLACK,
    THRESHOLDS,
    Grouped,
    best_pairs,
    claims,
    overlap_giou,
    overlap_iou,
)
from vlm_fo1.eval.metrics.records import (
    Array,
    BoxLists,
    choice,
    field,
    listed,
    overlaps,
    read_boxes,
    same_length,
)
from vlm_fo1.eval.metrics.tally import Score, Tally, share


def referring_accuracy(answers: Iterable[Any], truths: Iterable[Any], at: float = 0.5) -> Score:
    """Share of expressions whose first box is the object: RefCOCO, RefCOCO+, RefCOCOg.

    Args:
        answers: One list of boxes an expression, in answer order; None for a failed one.
        truths: One box each, in the same order.
        at: IoU that suffices; the rule is ``>=`` (some scorers use ``>``).

    Returns:
        ``accuracy`` of the first box; ``oracle``, the share in which any box suffices (what scorers
        report that pick the best box by the truth); ``several``, the share of answers with more
        than one box. No box and a failed item are wrong.

    Raises:
        EvaluationError: No items, lists of different length, a truth that is not one box, or an
            ``at`` outside (0, 1].
        BoxError: A box is not four finite numbers, or is reversed.
    """
    return referring_tally(answers, truths, at).score()


def referring_tally(answers: Iterable[Any], truths: Iterable[Any], at: float = 0.5) -> Tally:
    """The tally of `referring_accuracy`; draw images, not sentences: ``bootstrap(groups=...)``.

    Raises:
        EvaluationError: As there.
        BoxError: As there.
    """
    answers, truths = listed(answers, "answers"), listed(truths, "truths")
    same_length(answers, truths, "answers and truths")
    (at,) = overlaps([at])
    rows = np.zeros((len(truths), 4))
    for index, (answer, truth) in enumerate(zip(answers, truths, strict=True)):
        object_14 = read_boxes(truth, f"truth {index}")
        if len(object_14) != 1:
            raise EvaluationError(
                f"truth {index} holds {len(object_14)} boxes: an expression here is one object; "
                "grec scores several or none"
            )
        boxes_N4 = read_boxes([] if answer is None else answer, f"answer {index}")
        hit_N = overlap_iou(boxes_N4, object_14) >= at - SLACK
        rows[index] = hit_N[:1].any(), hit_N.any(), len(hit_N) > 1, 1
    return Tally.of_items(rows, _referring_formula)


def humanref(items: Iterable[Any]) -> Score:
    """Precision, recall and DF1 of HumanRef's items with an object.

    Per threshold, objects in order each taking the best answer that is left, m of them served:
    R = m / objects, P = m / answers, DF1 = 2PR / (P + R) x D, **D = min(1, objects / answers)**, as
    the official code has it (its README describes another factor). No answer: all 0. An item's
    value is the mean over ten thresholds; the score is the mean over items, not over domains.

    Args:
        items: Mappings with ``truth`` and ``answer``, lists of boxes.

    Returns:
        ``precision``, ``recall``, ``df1``.

    Raises:
        EvaluationError: No items, one without ``truth`` or ``answer``, or one without an object:
            that is for `rejection`.
        BoxError: A box is not four finite numbers, or is reversed.
    """
    return humanref_tally(items).score()


def humanref_tally(items: Iterable[Any]) -> Tally:
    """The tally of `humanref`.

    Raises:
        EvaluationError: As there.
        BoxError: As there.
    """
    answers, truths, _ = _read(items)
    count = len(truths)
    objects_I, answered_I = truths.sizes, answers.sizes
    if not objects_I.all():
        raise EvaluationError(
            f"item {int(np.argmin(objects_I))} has no object: HumanRef's precision and recall are "
            "over items with one; `rejection` scores the others"
        )
    served_MT = claims(truths.boxes, answers.boxes, THRESHOLDS, later_on_tie=False) >= 0
    matched_IT = np.zeros((count, len(THRESHOLDS)))
    np.add.at(matched_IT, truths.boxes.group_N, served_MT)
    precision_IT = matched_IT / np.maximum(answered_I, 1)[:, None]
    recall_IT = matched_IT / objects_I[:, None]
    both_IT = precision_IT + recall_IT
    density_I1 = np.minimum(1, objects_I / np.maximum(answered_I, 1))[:, None]
    df1_IT = 2 * precision_IT * recall_IT / np.where(both_IT, both_IT, 1) * density_I1
    values = [precision_IT.mean(1), recall_IT.mean(1), df1_IT.mean(1), np.ones(count)]
    return Tally.of_items(np.stack(values, axis=1), _humanref_formula)


def rejection(answers: Iterable[Any]) -> float:
    """Share of expressions without an object that are answered with no box.

    Args:
        answers: Lists of boxes, ``[]`` and ``[[]]`` being none; None for an item that failed, which
            is wrong (the official tool takes it for a rejection).

    Raises:
        EvaluationError: No answers.
        BoxError: A box is not four finite numbers, or is reversed.
    """
    value = rejection_tally(answers).score()["rejection"]
    assert value is not None  # there is an item
    return value


def rejection_tally(answers: Iterable[Any]) -> Tally:
    """The tally of `rejection`.

    Raises:
        EvaluationError: As there.
        BoxError: As there.
    """
    none = [
        answer is not None and not len(read_boxes(answer, f"answer {index}"))
        for index, answer in enumerate(listed(answers, "answers"))
    ]
    return Tally.of_items(np.stack([none, np.ones(len(none))], axis=1), _rejection_formula)


def grec(items: Iterable[Any], overlap: str = "iou") -> Score:
    """Exactly right answers of gRefCOCO: expressions for several objects, one, or none.

    The best pair of all is taken first, down to an overlap of 0.5. Right is an item whose
    F1 = 2TP / (2TP + FP + FN) is 1; without an object, one that is answered with no box.

    Args:
        items: Mappings with ``truth`` and ``answer``, lists of boxes; no object: ``[]``.
        overlap: ``giou`` is what the official scorer compares (its copies that read only the first
            annotation are not offered).

    Returns:
        ``pr``: right items; ``n_acc``: of those without an object, those answered with no box;
        ``t_acc``: of those with one, those answered with a box. The last two are None where there
        are no such items. A failed item counts as wrong in each that it belongs to.

    Raises:
        EvaluationError: No items, one without ``truth`` or ``answer``, or another overlap.
        BoxError: A box is not four finite numbers, or is reversed.
    """
    return grec_tally(items, overlap).score()


def grec_tally(items: Iterable[Any], overlap: str = "iou") -> Tally:
    """The tally of `grec`.

    Raises:
        EvaluationError: As there.
        BoxError: As there.
    """
    choice(overlap, ("iou", "giou"), "overlap")
    answers, truths, failed_I = _read(items)
    compare = overlap_iou if overlap == "iou" else overlap_giou
    right_I = best_pairs(answers.boxes, truths.boxes, len(truths), 0.5, compare)
    target_I = truths.sizes > 0
    answered_I = answers.sizes > 0
    exact_I = (right_I == truths.sizes) & (right_I == answers.sizes) & ~failed_I
    values = [exact_I, np.ones(len(truths)), exact_I & ~target_I, ~target_I,
              answered_I & target_I, target_I]  # fmt: skip
    return Tally.of_items(np.stack(values, axis=1), _grec_formula)


def refdrone(items: Iterable[Any]) -> Score:
    """F1 and accuracy of RefDrone, over instances and over images (its first metric file).

    The best pair of all is taken first, down to an IoU of 0.5. With an object: TP, FP and FN are
    added to the instances; the image is a TP if nothing is false or missed, else an **FN**.
    Without: any box is one FP (however many) of both, no box a TN of both.
    F1 = 2TP / (2TP + FP + FN), accuracy = (TP + TN) / all.

    Args:
        items: Mappings with ``truth`` and ``answer``, lists of boxes; no object: ``[]``. A failed
            item has missed every object; without one it is an FP.

    Returns:
        ``f1_instance``, ``acc_instance``, ``f1_image``, ``acc_image``; an F1 is None where nothing
        was there, answered or missed.

    Raises:
        EvaluationError: No items, or one without ``truth`` or ``answer``.
        BoxError: A box is not four finite numbers, or is reversed.
    """
    return refdrone_tally(items).score()


def refdrone_tally(items: Iterable[Any]) -> Tally:
    """The tally of `refdrone`.

    Raises:
        EvaluationError: As there.
        BoxError: As there.
    """
    answers, truths, failed_I = _read(items)
    right_I = best_pairs(answers.boxes, truths.boxes, len(truths), 0.5)
    target_I = truths.sizes > 0
    false_I = answers.sizes - right_I
    missed_I = truths.sizes - right_I
    alarm_I = ~target_I & ((answers.sizes > 0) | failed_I)
    quiet_I = ~target_I & ~alarm_I
    exact_I = target_I & (false_I == 0) & (missed_I == 0)
    values = [right_I, np.where(target_I, false_I, alarm_I), missed_I, quiet_I,
              exact_I, alarm_I, target_I & ~exact_I, quiet_I]  # fmt: skip
    return Tally.of_items(np.stack(values, axis=1), _refdrone_formula)


class _Lists:
    """One list of boxes an item."""

    def __init__(self, lists: BoxLists, count: int) -> None:
        self.boxes = Grouped(*lists.stacked())
        self.sizes = self.boxes.counts(count)

    def __len__(self) -> int:
        return len(self.sizes)


def _read(items: Iterable[Any]) -> tuple[_Lists, _Lists, npt.NDArray[np.bool_]]:
    """Answers, truths, and which items failed (I,)."""
    answers, truths = BoxLists(), BoxLists()
    failed: list[bool] = []
    for index, item in enumerate(listed(items, "items")):
        answer = field(item, "answer", index)
        failed.append(answer is None)
        answers.add([] if answer is None else answer, f"item {index}", "answer")
        truths.add(field(item, "truth", index), f"item {index}", "truth")
    return _Lists(answers, len(failed)), _Lists(truths, len(failed)), np.array(failed)


def _referring_formula(sums_1K: Array) -> Score:
    first, any_box, several, count = sums_1K[0]
    return {
        "accuracy": share(first, count),
        "oracle": share(any_box, count),
        "several": share(several, count),
    }


def _humanref_formula(sums_1K: Array) -> Score:
    precision, recall, df1, count = sums_1K[0]
    return {
        "precision": share(precision, count),
        "recall": share(recall, count),
        "df1": share(df1, count),
    }


def _rejection_formula(sums_1K: Array) -> Score:
    return {"rejection": share(*sums_1K[0])}


def _grec_formula(sums_1K: Array) -> Score:
    right, count, quiet, without, answered, target = sums_1K[0]
    return {
        "pr": share(right, count),
        "n_acc": share(quiet, without),
        "t_acc": share(answered, target),
    }


def _refdrone_formula(sums_1K: Array) -> Score:
    instance, image = sums_1K[0].reshape(2, 4)
    score: Score = {}
    for name, (right, false, missed, quiet) in (("instance", instance), ("image", image)):
        score[f"f1_{name}"] = share(2 * right, 2 * right + false + missed)
        score[f"acc_{name}"] = share(right + quiet, right + false + missed + quiet)
    return score
