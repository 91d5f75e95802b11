"""Which answered boxes are right and which objects are found, at IoU 0.5 by COCO's rule.

Shapes: N answered boxes, M objects, I records, G groups (a label of an image).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vlm_fo1.answer import Mention
from vlm_fo1.eval.metrics import iou
from vlm_fo1.eval.metrics.images import Images, read_images
from vlm_fo1.eval.metrics.matching import AT_50, SLACK, Bools, claims
from vlm_fo1.eval.metrics.records import Array
from vlm_fo1.eval.predictions import Prediction, Record, Scored


@dataclass(frozen=True)
class Outcomes:
    """Answers of all records and what became of them."""

    score_N: Array | None
    """The model's probability of each answered box, or that of its proposal; None where neither is
    known. Answers inside crowds are left out."""
    right_N: Bools
    area_M: Array
    """Square pixels of each object."""
    found_M: Bools
    wrong_I: npt.NDArray[np.int64]
    """Boxes too many and objects missing, by record; a failed one has one more."""
    by_label: Mapping[str, Mapping[str, int]]
    """``objects``, how many of them were ``found``, and boxes ``answered``, by label."""


def finds_boxes(records: Sequence[Record]) -> bool:
    """Whether boxes are what the benchmark looks for."""
    return bool(records) and all("boxes" in record.truth for record in records)


def outcomes_of(records: Sequence[Record]) -> Outcomes:
    """What became of every answered box and every object.

    Args:
        records: All with boxes in their truth.
    """
    kind = _surest(records)
    images = read_images([r.labelled(kind or "constant") for r in records], scored=True)
    right_NT, ignored_NT = images.matched
    right_N, counted_N = right_NT[:, AT_50], ~ignored_NT[:, AT_50]
    taken_N = claims(images.answer, images.truth, (0.5,), later_on_tie=True)[:, 0]
    found_M = np.zeros(len(images.truth), np.bool_)
    found_M[taken_N[taken_N >= 0]] = True
    extra_I = _by_image(images, images.answer.group_N[counted_N & ~right_N])
    missed_I = _by_image(images, images.truth.group_N[~found_M])
    score_N = images.score_N if kind else None
    return Outcomes(
        score_N=None if score_N is None else score_N[counted_N],
        right_N=right_N[counted_N],
        area_M=images.area_M,
        found_M=found_M,
        wrong_I=extra_I + missed_I + images.failed_I,
        by_label=_by_label(images, found_M, counted_N),
    )


def best_possible(records: Sequence[Record]) -> list[Record]:
    """The records with the best answer that the offered boxes allow in place of the model's.

    Each object is answered with its best proposal of IoU 0.5 or more, whose score is that overlap;
    items that failed stay so.
    """
    return [
        record if record.answer is None else replace(record, answer=_best(record))
        for record in records
    ]


def _best(record: Record) -> Prediction:
    answer = record.answer
    assert answer is not None
    pairs = [(label, box) for label, own in record.truth["boxes"].items() for box in own]
    found: dict[str, dict[int, float]] = {}
    scores = [0.0] * len(answer.boxes)
    if pairs and scores:
        overlap_MN = iou([box for _, box in pairs], answer.boxes)
        for (label, _), overlap_N in zip(pairs, overlap_MN, strict=True):
            best = int(overlap_N.argmax())
            value = float(overlap_N[best])
            if value >= 0.5 - SLACK:
                own = found.setdefault(label, {})
                own[best] = max(own.get(best, 0.0), value)
                scores[best] = max(scores[best], value)
    mentions = tuple(
        Mention(label, tuple(own), tuple(round(value, 6) for value in own.values()))
        for label, own in found.items()
    )
    return replace(
        answer, text="", plain="", mentions=mentions, proposal_scores=tuple(scores), masks=None
    )


def _by_label(images: Images, found_M: Bools, counted_N: Bools) -> dict[str, dict[str, int]]:
    groups = {
        "objects": images.truth.group_N,
        "found": images.truth.group_N[found_M],
        "answered": images.answer.group_N[counted_N],
    }
    counts = {
        key: np.bincount(images.label_G[group], minlength=len(images.names)).tolist()
        for key, group in groups.items()
    }
    return {
        str(name): dict(zip(counts, row, strict=True))
        for name, *row in zip(images.names, *counts.values(), strict=True)
    }


def _by_image(images: Images, groups: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many of these groups' boxes each image has."""
    return np.bincount(images.image_G[groups], minlength=images.images)


def _surest(records: Sequence[Record]) -> Scored | None:
    """The surest kind of score that an answer has."""
    answered = [record.answer for record in records if record.answer is not None]
    if any(said.confidence for answer in answered for said in answer.mentions):
        return "confidence"
    return "proposal" if any(answer.proposal_scores for answer in answered) else None
