"""Average precision by COCO's and by LVIS's rules, through faster-coco-eval.

Answers of equal score are taken in the order of images, and within one in that of the answer, so AP
of a model without scores depends on both: say which score was used.

Shapes: T thresholds, R recalls, K categories of one part, A sizes, M limits.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vlm_fo1._extras import require
from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.metrics.matching import THRESHOLDS
from vlm_fo1.eval.metrics.records import Array, BoxLists, Item, by_label, choice, field, listed
from vlm_fo1.eval.metrics.suppression import checked_scores
from vlm_fo1.eval.metrics.tally import Score

SIZES = ("ap_small", "ap_medium", "ap_large")
FREQUENCIES = ("r", "c", "f")
_MOST = {"coco": 100, "lvis": 300}
_CELLS = 250_000
"""Images times categories that are scored together, which bounds memory."""


def average_precision(
    images: Iterable[Any],
    style: str = "coco",
    *,
    frequency: Mapping[Any, str] | None = None,
) -> Score:
    """Mean over labels and ten IoU of the interpolated precision at 101 recalls.

    LVIS's rules: the 300 best answers of an image over **all** labels are looked at
    (faster-coco-eval alone would take 300 of each label); an answer whose label the image neither
    holds nor names ``negative`` is dropped; in a label that it names ``not_exhaustive`` unmatched
    ones are not counted. COCO: the 100 best of each label.

    Args:
        images: In the order of the data set, mappings with ``truth``, ``answer`` (boxes by label)
            and ``scores`` (numbers by label, one per answered box). Perhaps ``crowd`` (boxes by
            label; COCO), ``areas`` (of the objects by label, in pixels, by which they are small or
            large: COCO's are those of the masks; by default those of the boxes), ``negative`` and
            ``not_exhaustive`` (labels; LVIS). ``answer`` is None for a failed image: it found
            nothing.
        style: Whose rules.
        frequency: ``r``, ``c`` or ``f`` of each label, for LVIS.

    Returns:
        ``ap``, ``ap@.5``, ``ap@.75``, ``ap_small``, ``ap_medium``, ``ap_large``; with a frequency
        also ``ap_r``, ``ap_c``, ``ap_f``. None where there is no object of the kind.

    Raises:
        EvaluationError: No images, one of another form, or a label without a frequency.
        BoxError: A box is not four finite numbers, or is reversed.
        MissingExtraError: faster-coco-eval is not installed.
    """
    choice(style, tuple(_MOST), "style")
    images = listed(images, "images")
    labels = _labels(images)
    if frequency is not None:
        _check_frequency(labels, frequency)
    truths = _truths(images, labels)
    answers = _answers(images, labels)
    if style == "lvis":
        answers = _best_of_image(answers, _MOST[style])
    library = require("faster_coco_eval", extra="eval")
    numbers = list(labels.values())
    step = max(1, _CELLS // len(images))
    parts = [
        _precision(
            library, style, images, labels, truths, answers, set(numbers[start : start + step])
        )
        for start in range(0, len(numbers), step)
    ]
    precision = np.concatenate([np.full((10, 101, 0, 4, 1), -1.0), *parts], axis=2)
    score: Score = {
        "ap": _mean(precision[:, :, :, 0]),
        "ap@.5": _mean(precision[THRESHOLDS.index(0.5), :, :, 0]),
        "ap@.75": _mean(precision[THRESHOLDS.index(0.75), :, :, 0]),
    }
    for size, name in enumerate(SIZES, 1):
        score[name] = _mean(precision[:, :, :, size])
    if frequency is not None:
        for word in FREQUENCIES:
            those_K = [frequency[label] == word for label in labels]
            score[f"ap_{word}"] = _mean(precision[:, :, those_K, 0])
    return score


def _mean(precision: Array) -> float | None:
    known = precision[precision > -1]  # -1: a label without an object
    return float(known.mean()) if known.size else None


def _precision(
    library: Any,
    style: str,
    images: Sequence[Item],
    labels: Mapping[Hashable, int],
    truths: Sequence[Mapping[str, Any]],
    answers: Sequence[Mapping[str, Any]],
    part: set[int],
) -> Array:
    """(T, R, K, A, M) of some of the labels, -1 for one without an object."""
    known = library.COCO({
        "images": [_entry(image, number, labels) for number, image in enumerate(images, 1)],
        "categories": [{"id": number, "name": "", "frequency": "f"} for number in sorted(part)],
        "annotations": [dict(row) for row in truths if row["category_id"] in part],
    })  # fmt: skip
    found = known.loadRes([dict(row) for row in answers if row["category_id"] in part])
    scorer = library.COCOeval_faster(
        known, found, "bbox", lvis_style=style == "lvis", print_function=_quiet
    )
    scorer.params.iouThrs = np.array(THRESHOLDS)
    scorer.params.maxDets = [_MOST[style]]
    scorer.evaluate()
    scorer.accumulate()
    return np.asarray(scorer.eval["precision"])


def _quiet(*_: Any) -> None:
    """The library's progress, which nobody reads."""


def _labels(images: Sequence[Any]) -> dict[Hashable, int]:
    """Numbers from 1, in the order of occurrence; labels without an object have no AP."""
    labels: dict[Hashable, int] = {}
    for index, image in enumerate(images):
        for label in by_label(field(image, "truth", index), f"image {index}, truth"):
            labels.setdefault(label, len(labels) + 1)
    return labels


def _check_frequency(labels: Iterable[Hashable], frequency: Mapping[Any, str]) -> None:
    for label in labels:
        if frequency.get(label) not in FREQUENCIES:
            raise EvaluationError(
                f"the frequency of {label!r} is {frequency.get(label)!r}: one of "
                f"{', '.join(FREQUENCIES)} is needed for every label with an object"
            )


def _entry(image: Item, number: int, labels: Mapping[Hashable, int]) -> dict[str, Any]:
    return {
        "id": number,
        "neg_category_ids": [
            labels[name] for name in image.get("negative") or () if name in labels
        ],
        "not_exhaustive_category_ids": [
            labels[name] for name in image.get("not_exhaustive") or () if name in labels
        ],
    }


def _rows(
    images: Sequence[Item], kind: str, labels: Mapping[Hashable, int]
) -> Iterator[tuple[Item, Hashable, dict[str, Any]]]:
    """Boxes of one kind, checked together, in the library's form."""
    lists = BoxLists()
    owners: list[tuple[int, Hashable, int]] = []
    for index, image in enumerate(images):
        boxes_of = by_label(image.get(kind) or {}, f"image {index}, {kind}")
        for label, boxes in boxes_of.items():
            if label in labels:
                count = lists.add(boxes, f"image {index}", kind, repr(label))
                owners += [(index, label, place) for place in range(count)]
    for (index, label, place), box in zip(owners, lists.stacked()[0].tolist(), strict=True):
        width, height = box[2] - box[0], box[3] - box[1]
        yield images[index], label, {
            "image_id": index + 1, "category_id": labels[label], "place": place,
            "bbox": [box[0], box[1], width, height], "area": width * height,
        }  # fmt: skip


def _truths(images: Sequence[Item], labels: Mapping[Hashable, int]) -> list[dict[str, Any]]:
    truths = []
    for kind in ("truth", "crowd"):
        for image, label, row in _rows(images, kind, labels):
            areas = (image.get("areas") or {}).get(label) if kind == "truth" else None
            if areas is not None:
                row["area"] = float(
                    checked_scores(areas, len(image["truth"][label]), "areas")[row["place"]]
                )
            truths.append({**row, "id": len(truths) + 1, "iscrowd": int(kind == "crowd")})
    return truths


def _answers(images: Sequence[Item], labels: Mapping[Hashable, int]) -> list[dict[str, Any]]:
    scores: dict[tuple[int, Hashable], list[float]] = {}
    for index, image in enumerate(images):
        answer = field(image, "answer", index)
        if answer is None:
            continue
        said = by_label(field(image, "scores", index), f"image {index}, scores")
        for label in by_label(answer, f"image {index}, answer"):
            count = np.size(answer[label]) // 4
            scores[index + 1, label] = checked_scores(
                said.get(label, []), count, f"image {index}, {label!r}"
            ).tolist()
    return [
        {**row, "score": scores[row["image_id"], label][row["place"]]}
        for _, label, row in _rows(images, "answer", labels)
    ]


def _best_of_image(answers: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The best of each image over all labels; equal scores keep their order."""
    by_score = sorted(answers, key=lambda row: (row["image_id"], -row["score"]))
    seen: dict[int, int] = {}
    kept = []
    for row in by_score:
        seen[row["image_id"]] = seen.get(row["image_id"], 0) + 1
        if seen[row["image_id"]] <= most:
            kept.append(row)
    return kept
