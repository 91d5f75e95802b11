"""Masks for one expression, from their areas alone: gRefCOCO's GRES."""

from collections.abc import Iterable
from typing import Any

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.metrics.matching import SLACK
from vlm_fo1.eval.metrics.records import Array, field, listed, number
from vlm_fo1.eval.metrics.tally import Score, Tally, share


def gres(items: Iterable[Any]) -> Score:
    """gIoU, cIoU and their like of gRefCOCO's masks.

    ``giou`` is the mean over items of I / U; without an object 1 if nothing is predicted, else 0.
    ``ciou`` is the sum of I over the sum of U; a mask where there is no object adds its area to U.

    Args:
        items: Mappings with ``intersection``, ``union``, ``truth_area`` and ``answer_area`` in
            pixels; the first two are not looked at where there is no object. An item that failed
            has None as its ``answer_area``: it is wrong, and all of its object stays in the sum of
            U.

    Returns:
        ``giou``, ``ciou``; ``n_acc``, of items without an object those with nothing predicted;
        ``t_acc``, of the others those with something; ``pr@.7``, of the others those with an IoU
        of 0.7 or more. None where there are no such items.

    Raises:
        EvaluationError: No items, or one that lacks a field or has an impossible value in it.
    """
    return gres_tally(items).score()


def gres_tally(items: Iterable[Any]) -> Tally:
    """The tally of `gres`.

    Raises:
        EvaluationError: As there.
    """
    rows = [_row(item, index) for index, item in enumerate(listed(items, "items"))]
    return Tally.of_items(rows, _formula)


def _row(item: Any, index: int) -> tuple[Any, ...]:
    """IoU, count; I, U; quiet, without; answered, IoU of 0.7, with an object.

    Raises:
        EvaluationError: A field is missing or impossible.
    """
    truth = _pixels(item, "truth_area", index)
    answer = field(item, "answer_area", index)
    if answer is None:
        return 0, 1, 0, truth, 0, not truth, 0, 0, truth > 0
    answer = _pixels(item, "answer_area", index)
    if not truth:
        return not answer, 1, 0, answer, not answer, 1, 0, 0, 0
    shared, union = _pixels(item, "intersection", index), _pixels(item, "union", index)
    if shared > min(truth, answer) or union < max(truth, answer):
        raise EvaluationError(
            f"item {index} has an intersection of {shared:g} and a union of {union:g} for areas of "
            f"{truth:g} and {answer:g}: no two masks do"
        )
    ratio = shared / union
    return ratio, 1, shared, union, 0, 0, answer > 0, ratio >= 0.7 - SLACK, 1


def _pixels(item: Any, key: str, index: int) -> float:
    return number(field(item, key, index), f"item {index}, {key}")


def _formula(sums_1K: Array) -> Score:
    ratio, count, shared, union, quiet, without, answered, at_70, target = sums_1K[0]
    return {
        "giou": share(ratio, count),
        "ciou": share(shared, union),
        "n_acc": share(quiet, without),
        "t_acc": share(answered, target),
        "pr@.7": share(at_70, target),
    }
