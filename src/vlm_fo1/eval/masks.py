"""Masks of an expression: those of its objects in COCO's files, and those of the answer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlm_fo1._extras import require
from vlm_fo1.errors import BoxError, EvaluationError
from vlm_fo1.eval.predictions import Record
from vlm_fo1.masks import Mask, decode_rle


def mask_of(segmentations: Sequence[Any], size_wh: tuple[int, int]) -> Mask:
    """The pixels of any of these objects, (H, W).

    Args:
        segmentations: Of COCO annotations: polygons as lists of x, y, x, y, ..., or run lengths.
        size_wh: Of the image.

    Raises:
        EvaluationError: One is something else, or of an image of another size.
        MissingExtraError: There are polygons, and faster-coco-eval, which fills them as COCO does,
            is not installed.
    """
    width, height = size_wh
    union = np.zeros((height, width), np.bool_)
    for segmentation in segmentations:
        try:
            rles = [segmentation]
            if not isinstance(segmentation, Mapping):
                library = require("faster_coco_eval.core.mask", extra="eval")
                polygons = [[float(value) for value in polygon] for polygon in segmentation]
                rles = library.frPyObjects(polygons, height, width) if polygons else []
            for rle in rles:
                union |= decode_rle(rle)
        except (BoxError, ValueError, TypeError) as error:
            raise EvaluationError(
                f"a segmentation cannot be used ({error}): polygons or run lengths of an image of "
                f"{width} x {height} are needed"
            ) from error
    return union


def mask_areas(record: Record) -> dict[str, Any]:
    """What `vlm_fo1.eval.metrics.gres` takes of an item.

    Args:
        record: Its truth has ``segmentations``, and ``mask_wh``, the size of their image.

    Raises:
        EvaluationError: A mask cannot be used.
        MissingExtraError: As `mask_of`.
    """
    size_wh = tuple(record.truth["mask_wh"])
    try:
        truth = mask_of(record.truth["segmentations"], size_wh)
        if record.answer is None:
            return {"truth_area": int(truth.sum()), "answer_area": None}
        answer = mask_of(list((record.answer.masks or {}).values()), size_wh)
    except EvaluationError as error:
        raise EvaluationError(f"item {record.id}: {error}") from error
    return {
        "intersection": int((truth & answer).sum()),
        "union": int((truth | answer).sum()),
        "truth_area": int(truth.sum()),
        "answer_area": int(answer.sum()),
    }
