"""Rex-Omni's pooled F1 with its faults, to reproduce printed numbers; never for a comparison.

As the variant ``present`` of `vlm_fo1.eval.metrics.pooled_f1`, except:

- labels are compared in lower case with ``_`` as a space;
- only so many answers of a label of an image are looked at (100 on COCO, all on LVIS), and in a
  label that an image names ``not_exhaustive`` unmatched ones are not counted;
- the precision is the last positive value of COCO's interpolated curve at 101 recalls, all answers
  having one score, so that false answers after the last right one are not seen;
- the means over labels skip zeros, P and R each by itself: a label that is never found costs
  nothing;
- a label without a right answer at a threshold, or without an object, inherits the precision of the
  label before it.

Source: Rex-Omni's scorer. That nothing is inherited across thresholds is our reading.

Shapes: N answered boxes, C labels, T thresholds.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from vlm_fo1.eval.metrics.images import read_images
from vlm_fo1.eval.metrics.matching import AT_50, AT_95, THRESHOLDS, Bools
from vlm_fo1.eval.metrics.records import Array
from vlm_fo1.eval.metrics.tally import Score, f1

_RECALLS = np.linspace(0, 1, 101)


def published_f1(
    images: Iterable[Any], labels: Sequence[Hashable] = (), most: int | None = 100
) -> Score:
    """The variant ``published`` of `vlm_fo1.eval.metrics.pooled_f1`, with its arguments.

    Raises:
        EvaluationError: No images, or one without ``truth`` or ``answer``.
        BoxError: A box is not four finite numbers, or is reversed.
    """
    read = read_images(images, _plain_name)
    read = read.answering(read.present()[read.answer.group_N])
    if most is not None:
        group_N = read.answer.group_N
        rank_N = np.arange(len(group_N)) - np.searchsorted(group_N, group_N)
        read = read.answering(rank_N < most)
    right_NT, ignored_NT = read.matched
    ignored_NT = ignored_NT | ~right_NT & read.spared_G[read.answer.group_N][:, None]
    objects_C = np.bincount(read.label_G[read.truth.group_N], minlength=len(read.names))
    label_N = read.label_G[read.answer.group_N]
    known = {name: number for number, name in enumerate(read.names)}
    order = [known.get(_plain_name(label)) for label in labels]
    order += [number for number in range(len(read.names)) if number not in order]
    precision_CT = np.zeros((len(order), len(THRESHOLDS)))
    recall_CT = np.zeros((len(order), len(THRESHOLDS)))
    before_T = np.zeros(len(THRESHOLDS))
    for place, number in enumerate(order):
        if number is not None and objects_C[number]:
            those_N = label_N == number
            found = _curve_end(right_NT[those_N], ignored_NT[those_N], int(objects_C[number]))
            before_T = np.where(found[0] > 0, found[0], before_T)
            recall_CT[place] = found[1]
        precision_CT[place] = before_T
    if not objects_C.any():
        return {"f1@.5": None, "f1@.95": None, "f1_mean": None}
    return {
        "f1@.5": _f1_of_positives(precision_CT[:, AT_50], recall_CT[:, AT_50]),
        "f1@.95": _f1_of_positives(precision_CT[:, AT_95], recall_CT[:, AT_95]),
        "f1_mean": _f1_of_positives(precision_CT.mean(1), recall_CT.mean(1)),
    }


def _curve_end(right_NT: Bools, ignored_NT: Bools, objects: int) -> tuple[Array, Array]:
    """Last positive interpolated precision (T,), 0 if there is none, and final recall (T,)."""
    right_NT = right_NT.cumsum(0)
    counted_NT = np.maximum((~ignored_NT).cumsum(0), 1)
    precision_T, recall_T = np.zeros(right_NT.shape[1]), np.zeros(right_NT.shape[1])
    if len(right_NT):
        recall_NT = right_NT / objects
        recall_T = recall_NT[-1]
        envelope_NT = np.maximum.accumulate((right_NT / counted_NT)[::-1])[::-1]
        for column, reached in enumerate(recall_T):
            last = _RECALLS[reached >= _RECALLS][-1]
            precision_T[column] = envelope_NT[np.searchsorted(recall_NT[:, column], last), column]
    return precision_T, recall_T


def _f1_of_positives(precision_C: Array, recall_C: Array) -> float:
    means = [
        float(values[values > 0].mean()) if (values > 0).any() else 0.0
        for values in (precision_C, recall_C)
    ]
    return f1(*means)


def _plain_name(label: Hashable) -> Hashable:
    return label.lower().replace("_", " ") if isinstance(label, str) else label
