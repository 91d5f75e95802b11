"""Boxes as plain arrays: convert, check, clip, scale, compare.

Every function takes and returns float32 arrays of shape (N, 4), never changes its input, and
accepts N = 0. Unless a name says otherwise boxes are ``xyxy`` (left, top, right, bottom) in pixels,
with (0, 0) the top left corner of the image and right/bottom exclusive.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vlm_fo1.errors import BoxError

Array = npt.NDArray[np.float32]
BoxesLike = npt.ArrayLike | Sequence[Sequence[float]]


def as_boxes(boxes: BoxesLike) -> Array:
    """Turn anything box-shaped into a fresh float32 array.

    Args:
        boxes: A list of four-number lists, an array or a CPU tensor; one bare box counts as a list
            of one.

    Returns:
        Array of shape (N, 4); (0, 4) for an empty list.

    Raises:
        BoxError: Not numbers, or not four of them a box.
    """
    try:
        array = np.asarray(boxes)  # tensors warn when asked for a copy, which is made below
    except (ValueError, TypeError, RuntimeError) as error:  # ragged rows, a tensor elsewhere
        raise BoxError(f"boxes must be rows of four numbers (x1, y1, x2, y2): {error}") from error
    if array.shape == (0,):
        return np.zeros((0, 4), np.float32)
    if array.dtype.kind not in "iuf":
        raise BoxError(
            f"boxes must be rows of four numbers (x1, y1, x2, y2), got {array.dtype.name} values"
        )
    if array.shape == (4,):
        array = array[None]
    if array.ndim != 2 or array.shape[1] != 4:
        raise BoxError(
            f"boxes must have shape (N, 4), got {array.shape}: pass one (x1, y1, x2, y2) per box"
        )
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which `check` names
        return array.astype(np.float32)


def well_formed(boxes: BoxesLike) -> Array:
    """Refuse boxes that are not finite or are reversed; sides of zero length are let through.

    Args:
        boxes: (N, 4) xyxy.

    Returns:
        A fresh (N, 4) float32 array of the same boxes.

    Raises:
        BoxError: With the index and value of a box that breaks a rule.
    """
    array = as_boxes(boxes)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        index = int(np.argmin(finite))
        raise BoxError(
            f"{_named(array, index)} holds NaN or infinity: every coordinate must be finite"
        )
    ordered = (array[:, 2:] >= array[:, :2]).all(axis=1)
    if not ordered.all():
        index = int(np.argmin(ordered))
        raise BoxError(
            f"{_named(array, index)} is reversed: x2 >= x1 and y2 >= y1 are needed; "
            "is it (x, y, width, height)? then use vlm_fo1.boxes.xywh_to_xyxy"
        )
    return array


def check(boxes: BoxesLike, size_wh: tuple[int, int]) -> Array:
    """Refuse boxes that cannot be used and clip the rest to the image.

    A box that sticks out is clamped; one that lies outside, has no area, is reversed or is not
    finite is refused with its index.

    Args:
        boxes: (N, 4) xyxy in image pixels.
        size_wh: Width and height of the image in pixels.

    Returns:
        (N, 4) xyxy inside the image, in the given order.

    Raises:
        BoxError: With the index and value of a box that breaks a rule.
    """
    array = well_formed(boxes)
    width, height = size_wh
    for index, (x1, y1, x2, y2) in enumerate(array.tolist()):
        if x2 == x1 or y2 == y1:
            raise BoxError(f"{_named(array, index)} has no area: drop it or widen it")
        if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            raise BoxError(
                f"{_named(array, index)} lies outside the image of {width} x {height} pixels: "
                "boxes are in pixels of the image as displayed (EXIF applied)"
            )
    return clip(array, size_wh)


def clip(boxes: BoxesLike, size_wh: tuple[int, int]) -> Array:
    """Clamp (N, 4) xyxy boxes to an image of the given width and height."""
    limit = np.array([*size_wh, *size_wh], np.float32)
    return np.clip(as_boxes(boxes), 0, limit)


def scale(boxes: BoxesLike, from_wh: tuple[int, int], to_wh: tuple[int, int]) -> Array:
    """Carry (N, 4) xyxy boxes from one image size to another, each axis by its own factor."""
    factor_xy = np.array([to_wh[0] / from_wh[0], to_wh[1] / from_wh[1]] * 2, np.float64)
    return (as_boxes(boxes).astype(np.float64) * factor_xy).astype(np.float32)


def turn_upright(boxes: BoxesLike, stored_wh: tuple[int, int], orientation: int) -> Array:
    """Carry boxes from an image as its file stores it to the image as it is shown.

    Args:
        boxes: (N, 4) xyxy in pixels of the stored image.
        stored_wh: Its width and height.
        orientation: EXIF's number, 1 to 8.

    Returns:
        (N, 4) xyxy in pixels of the shown image.
    """
    array = as_boxes(boxes)
    x1, y1, x2, y2 = array.T
    width, height = stored_wh
    left, top, right, bottom = width - x2, height - y2, width - x1, height - y1  # of the mirrored
    turned = {
        2: (left, y1, right, y2),
        3: (left, top, right, bottom),
        4: (x1, top, x2, bottom),
        5: (y1, x1, y2, x2),
        6: (top, x1, bottom, x2),
        7: (top, left, bottom, right),
        8: (y1, left, y2, right),
    }.get(orientation)
    return array if turned is None else np.stack(turned, axis=1)


def xywh_to_xyxy(boxes: BoxesLike) -> Array:
    """(x, y, width, height) to (x1, y1, x2, y2), as COCO files need; (N, 4) in and out."""
    array = as_boxes(boxes)
    return np.concatenate([array[:, :2], array[:, :2] + array[:, 2:]], axis=1)


def xyxy_to_xywh(boxes: BoxesLike) -> Array:
    """(x1, y1, x2, y2) to (x, y, width, height); (N, 4) in and out."""
    array = as_boxes(boxes)
    return np.concatenate([array[:, :2], array[:, 2:] - array[:, :2]], axis=1)


def areas(boxes: BoxesLike) -> Array:
    """Areas of (N, 4) xyxy boxes as (N,), zero for a reversed box."""
    return _areas(as_boxes(boxes).astype(np.float64)).astype(np.float32)


def iou(first: BoxesLike, second: BoxesLike) -> Array:
    """Intersection over union of every pair.

    Args:
        first: (N, 4) xyxy.
        second: (M, 4) xyxy, same frame.

    Returns:
        (N, M) in [0, 1]; 0 where both boxes have no area.
    """
    first_N4 = as_boxes(first).astype(np.float64)  # float32 areas of large images lose whole pixels
    second_M4 = as_boxes(second).astype(np.float64)
    top_left = np.maximum(first_N4[:, None, :2], second_M4[None, :, :2])
    bottom_right = np.minimum(first_N4[:, None, 2:], second_M4[None, :, 2:])
    sides = np.maximum(bottom_right - top_left, 0)
    shared = sides[..., 0] * sides[..., 1]
    union = _areas(first_N4)[:, None] + _areas(second_M4)[None] - shared
    ratio = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio.astype(np.float32)


def nms(boxes: BoxesLike, scores: npt.ArrayLike, threshold: float) -> npt.NDArray[np.int64]:
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,), higher is better; equal scores keep their order.
        threshold: A box is dropped when its IoU with a kept one is strictly greater.

    Returns:
        Indices of the kept boxes, best first.

    Raises:
        BoxError: Boxes and scores differ in number.
    """
    boxes_N4 = as_boxes(boxes)
    scores_N = np.asarray(scores, np.float64)
    if scores_N.shape != (len(boxes_N4),):
        raise BoxError(
            f"scores have shape {scores_N.shape} for {len(boxes_N4)} boxes: pass one per box"
        )
    order = np.argsort(-scores_N, kind="stable")
    kept: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        order = rest[iou(boxes_N4[best], boxes_N4[rest])[0] <= threshold]
    return np.array(kept, np.int64)


def _areas(boxes_N4: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    sides = np.maximum(boxes_N4[:, 2:] - boxes_N4[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def _named(boxes_N4: Array, index: int) -> str:
    """How a message names a box: its index and its values."""
    return f"box {index} = ({', '.join(f'{value:g}' for value in boxes_N4[index].tolist())})"
