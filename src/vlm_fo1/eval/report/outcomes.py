"""Which answered boxes are right and which objects are found, at IoU 0.5 by COCO's rule.

Shapes: N answered boxes, M objects, I records, G groups (a label of an image).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm_fo1.answer import Mention
from vlm_fo1.eval.metrics import iou
from vlm_fo1.eval.metrics.images import Images, read_images
from vlm_fo1.eval.metrics.matching import AT_50, SLACK, Bools, claims
from vlm_fo1.eval.metrics.records import Array
from vlm_fo1.eval.predictions import Prediction, Record


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


def finds_boxes(records: Sequence[Record]) -> bool:
    """Whether boxes are what the benchmark looks for."""
    return bool(records) and all("boxes" in record.truth for record in records)


def outcomes_of(records: Sequence[Record]) -> Outcomes:
    """What became of every answered box and every object.

    Args:
        records: All with boxes in their truth.
    """
    said = [record.labelled() for record in records]
    images = read_images(said)
    right_NT, ignored_NT = images.matched()
    right_N, counted_N = right_NT[:, AT_50], ~ignored_NT[:, AT_50]
    taken_N = claims(images.answer, images.truth, (0.5,), later_on_tie=True)[:, 0]
    found_M = np.zeros(len(images.truth), np.bool_)
    found_M[taken_N[taken_N >= 0]] = True
    boxes_M4 = images.truth.boxes_N4
    own_M = (boxes_M4[:, 2] - boxes_M4[:, 0]) * (boxes_M4[:, 3] - boxes_M4[:, 1])
    stated_M = _in_order(images, [record.truth.get("areas") or {} for record in records])
    area_M = np.array(stated_M) if len(stated_M) == len(own_M) else own_M
    extra_I = _by_image(images, images.answer.group_N[counted_N & ~right_N])
    missed_I = _by_image(images, images.truth.group_N[~found_M])
    score_N = _scores(images, records)
    return Outcomes(
        score_N=None if score_N is None else score_N[counted_N],
        right_N=right_N[counted_N],
        area_M=area_M,
        found_M=found_M,
        wrong_I=extra_I + missed_I + images.failed_I,
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
        Mention(label, tuple(own), tuple(own.values())) for label, own in found.items()
    )
    return replace(
        answer, text="", plain="", mentions=mentions, proposal_scores=tuple(scores), masks=None
    )


def _by_image(images: Images, groups: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many of these groups' boxes each image has."""
    return np.bincount(images.image_G[groups], minlength=images.images)


def _in_order(images: Images, by_label: Sequence[Mapping[Any, Iterable[float]]]) -> list[float]:
    """Values by image and label in the order of the groups, as boxes stand in `Images`."""
    pairs = zip(images.image_G.tolist(), images.label_G.tolist(), strict=True)
    return [
        value for image, label in pairs for value in by_label[image].get(images.names[label], ())
    ]


def _scores(images: Images, records: Sequence[Record]) -> Array | None:
    """A score an answered box: the surest kind that is known."""

    def of(kind: Any) -> Array:
        own = [{} if r.answer is None else r.answer.scores_by_label(kind) for r in records]
        return np.array(_in_order(images, own))

    answered = [record.answer for record in records if record.answer is not None]
    known: dict[str, Callable[[], bool]] = {
        "confidence": lambda: any(said.confidence for a in answered for said in a.mentions),
        "proposal": lambda: any(a.proposal_scores for a in answered),
    }
    return next((of(kind) for kind, is_known in known.items() if is_known()), None)
