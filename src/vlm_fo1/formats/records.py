"""Boxes as dicts, numbers and labels that anybody may have written: read, or refused by index."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm_fo1.errors import BoxError
from vlm_fo1.formats.identity import id_text, is_writable

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def parse_records(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Boxes, scores and run lengths of records, one a box.

    Args:
        records: Each with ``xyxy``, ``bbox`` (x, y, width, height), ``box`` (a dict of ``xmin``,
            ``ymin``, ``xmax``, ``ymax``) or an outline as ``segmentation``; perhaps a ``score``.

    Returns:
        ``xyxy``, a list of N boxes; ``scores``, N numbers or None; ``masks``, N run lengths or
        None.

    Raises:
        BoxError: A record without a box, or only some have a score.
    """
    boxes = [_box(record, _called(record, index)) for index, record in enumerate(records)]
    scores = [record.get("score") for record in records]
    known = [score for score in scores if score is not None]
    if known and len(known) < len(scores):
        raise BoxError(f"{len(known)} of {len(scores)} boxes have a score: give all or none")
    rles = [record.get("segmentation") for record in records]
    masked = bool(rles) and all(isinstance(rle, Mapping) for rle in rles)  # else outlines, or none
    return {"xyxy": boxes, "scores": known or None, "masks": rles if masked else None}


def _called(record: Mapping[str, Any], index: int) -> str:
    id_ = id_text(record.get("id"))
    return f"box {index}" if id_ is None else f"box {index} (annotation {id_})"


def _box(record: Mapping[str, Any], name: str) -> list[float]:
    """The box of a record as xyxy.

    Raises:
        BoxError: It has none.
    """
    if "xyxy" in record:
        return _four(record["xyxy"], name)
    outline = _numbers_in(record.get("segmentation"))
    if "bbox" in record and not (outline and _is_empty(record["bbox"])):
        x, y, width, height = _four(record["bbox"], name)
        return [x, y, x + width, y + height]
    box = record.get("box", record)
    if isinstance(box, Mapping) and all(key in box for key in _CORNERS):
        return _four([box[key] for key in _CORNERS], name)
    if outline:
        xs, ys = outline[::2], outline[1::2]
        return [min(xs), min(ys), max(xs), max(ys)]
    raise BoxError(
        f"{name} has neither 'xyxy' (x1, y1, x2, y2) nor 'bbox' (x, y, width, height): it has "
        f"{', '.join(repr(key) for key in record) or 'nothing'}"
    )


def _is_empty(bbox: Any) -> bool:
    return bbox is None or (isinstance(bbox, list | tuple) and not bbox)


def _numbers_in(polygons: Any) -> list[float]:
    """The numbers of outlines (x1 y1 x2 y2 x3 y3 ...), nested or not; empty where it is none."""
    if not isinstance(polygons, list | tuple):
        return []
    parts = [part for part in polygons if isinstance(part, list | tuple)] or [polygons]
    try:
        numbers = [_number(value, "") for part in parts for value in part]
    except BoxError:
        return []
    paired = len(numbers) >= 6 and all(len(part) % 2 == 0 for part in parts)
    return numbers if paired and all(map(math.isfinite, numbers)) else []


def _four(numbers: Any, name: str) -> list[float]:
    values = numbers.tolist() if hasattr(numbers, "tolist") else numbers  # an array or a tensor
    if not isinstance(values, list | tuple) or len(values) != 4:
        raise BoxError(f"{name} is {numbers!r}: four numbers are needed")
    return [_number(value, f"{name} is {numbers!r}: four numbers are needed") for value in values]


def _number(value: Any, complaint: str) -> float:
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    raise BoxError(complaint)


def array_of(values: Any) -> npt.NDArray[Any]:
    """Any array, tensor or nested list as an array; a tensor may be on any device and of any type.

    Raises:
        BoxError: It is none.
    """
    try:
        return np.asarray(_on_cpu(values))
    except (ValueError, TypeError, RuntimeError, OverflowError, RecursionError) as error:
        raise BoxError(f"boxes must be rows of four numbers (x1, y1, x2, y2): {error}") from error


def _on_cpu(values: Any) -> Any:
    if isinstance(values, list | tuple):
        return [_on_cpu(value) if hasattr(value, "detach") else value for value in values]
    if not hasattr(values, "detach"):
        return values
    tensor = values.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def scores_of(scores: Any) -> npt.NDArray[np.float32]:
    """Scores as an array; null is unknown, which is NaN.

    Raises:
        BoxError: Something that is no number.
    """
    values = _on_cpu(scores)
    if isinstance(values, list | tuple):
        values = [
            math.nan
            if value is None
            else _number(
                value, f"score of box {index} is {value!r}: scores must be numbers, one per box"
            )
            for index, value in enumerate(values)
        ]
    try:
        with np.errstate(over="ignore"):  # too large becomes infinite, which `Regions` names
            return np.asarray(values, np.float64).astype(np.float32)
    except (ValueError, TypeError) as error:
        raise BoxError(f"scores must be numbers, one per box: {error}") from error


def label_of(label: Any, index: int) -> str | None:
    """A label as text; None where there is none.

    Raises:
        BoxError: A text that cannot be written, such as half of an emoji.
    """
    if isinstance(label, bool) or not isinstance(label, str | int):
        return None
    text = str(label)
    if not is_writable(text):
        raise BoxError(
            f"label of box {index} is {text!r}, which no file can hold: half of a character "
            "(a lone surrogate) stands in it"
        )
    return text
