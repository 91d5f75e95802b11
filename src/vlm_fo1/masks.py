"""Masks as plain arrays: COCO's run lengths, bounding boxes, overlap.

A mask is bool, (H, W), at the size of its image. COCO writes one as the lengths of its runs down
the columns, the first of them background; its files hold those lengths as text, six bits a
character.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm_fo1.errors import BoxError

Mask = npt.NDArray[np.bool_]

_FIRST = 48
"""Character code of the digit 0."""
_MORE, _SIGN = 0x20, 0x10
"""Bits of a digit: another one follows; in the last one, the number is negative."""


def encode_rle(mask: npt.ArrayLike) -> dict[str, Any]:
    """A mask as COCO's compressed run lengths.

    Args:
        mask: (H, W), true or non-zero where the thing is.

    Returns:
        ``{"size": [H, W], "counts": text}``, as pycocotools writes it with the text decoded.

    Raises:
        BoxError: Not two axes.
    """
    array = np.asarray(mask, np.bool_)
    if array.ndim != 2:
        raise BoxError(f"a mask has shape {array.shape}: (height, width) is needed")
    pixels = array.ravel(order="F")
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    lead = [0] if pixels.size and pixels[0] else []
    bounds = np.concatenate([np.array([*lead, 0], np.int64), edges, np.array([pixels.size])])
    height, width = array.shape
    return {"size": [height, width], "counts": _to_text(np.diff(bounds).tolist())}


def decode_rle(rle: Mapping[str, Any]) -> Mask:
    """The mask that COCO's run lengths, compressed or not, stand for.

    Args:
        rle: ``size`` as [H, W], and ``counts``: text, bytes, or a list of run lengths.

    Returns:
        (H, W) bool.

    Raises:
        BoxError: Fields are missing, or the runs do not fill the image.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        if isinstance(counts, bytes):
            counts = counts.decode("ascii")
        runs = _from_text(counts) if isinstance(counts, str) else [int(run) for run in counts]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BoxError(
            f"no run lengths of a mask ({error}): a dict with size [height, width] and counts, as "
            "COCO files have, is needed"
        ) from error
    if min([height, width, *runs]) < 0 or sum(runs) != height * width:
        raise BoxError(
            f"the runs of a mask cover {sum(runs)} pixels of an image of {width} x {height}: "
            "they were cut, or are of another image"
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, np.array(runs, np.int64)).reshape((height, width), order="F")


def turn_masks_upright(masks: npt.ArrayLike, orientation: int) -> Mask:
    """Carry masks from an image as its file stores it to the image as it is shown.

    Args:
        masks: (N, H, W) bool, of the stored image.
        orientation: EXIF's number, 1 to 8.

    Returns:
        (N, H, W) or (N, W, H) bool, of the shown image.
    """
    masks_NHW = np.asarray(masks, np.bool_)
    if orientation in {5, 6, 7, 8}:
        masks_NHW = masks_NHW.swapaxes(1, 2)
    if orientation in {2, 3, 6, 7}:
        masks_NHW = masks_NHW[:, :, ::-1]
    if orientation in {3, 4, 7, 8}:
        masks_NHW = masks_NHW[:, ::-1]
    return masks_NHW


def mask_boxes(masks: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The tightest box around each mask.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, 4) xyxy in pixels, right and bottom exclusive; zeros for an empty mask.
    """
    masks_NHW = np.asarray(masks, np.bool_)
    boxes = np.zeros((len(masks_NHW), 4), np.float32)
    for box, mask in zip(boxes, masks_NHW, strict=True):
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if len(columns):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def component_boxes(mask: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Boxes around the connected parts of one mask.

    Args:
        mask: (H, W); pixels that touch at a corner are connected.

    Returns:
        (N, 4) xyxy in pixels, by the first row of each part.
    """
    boxes: list[list[int]] = []
    owner: list[int] = []  # of each part the one it turned out to belong to
    before: list[tuple[int, int, int]] = []
    for y, row in enumerate(np.asarray(mask, np.bool_)):
        edges = np.flatnonzero(np.diff(np.pad(row.astype(np.int8), 1)))
        runs: list[tuple[int, int, int]] = []
        for start, end in edges.reshape(-1, 2).tolist():
            touched = [_root(owner, part) for x1, x2, part in before if x1 <= end and start <= x2]
            part = min(touched, default=len(boxes))
            if not touched:
                owner.append(part)
                boxes.append([start, y, end, y + 1])
            for other in [part, *touched]:
                owner[other] = part
                old, new = boxes[part], boxes[other]
                boxes[part] = [*map(min, old[:2], new[:2]), *map(max, old[2:], new[2:])]
            boxes[part] = [
                min(boxes[part][0], start), boxes[part][1], max(boxes[part][2], end), y + 1,
            ]  # fmt: skip
            runs.append((start, end, part))
        before = runs
    whole = [box for part, box in enumerate(boxes) if owner[part] == part]
    return np.array(whole, np.float32).reshape(-1, 4)


def _root(owner: Sequence[int], part: int) -> int:
    while owner[part] != part:
        part = owner[part]
    return part


def mask_iou(first: npt.ArrayLike, second: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Intersection over union of every pair of masks.

    Args:
        first: (N, H, W) bool.
        second: (M, H, W) bool, of the same image.

    Returns:
        (N, M) in [0, 1]; 0 where both are empty.
    """
    masks_NP, masks_MP = _flat(first), _flat(second)
    shared = np.zeros((len(masks_NP), len(masks_MP)), np.int64)
    for row, mask in zip(shared, masks_NP, strict=True):
        row[:] = [np.count_nonzero(mask & other) for other in masks_MP]
    total = masks_NP.sum(1)[:, None] + masks_MP.sum(1)[None]
    union = np.maximum(total - shared, 1)
    return (shared / union).astype(np.float32)


def _flat(masks: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    array = np.asarray(masks, np.bool_)
    return array.reshape(len(array), int(np.prod(array.shape[1:])))


def _to_text(runs: Sequence[int]) -> str:
    """Each run as the difference to the run two before (from the fourth on), five bits a digit."""
    digits: list[int] = []
    for index, run in enumerate(runs):
        rest = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            digit, rest = rest & 0x1F, rest >> 5
            more = rest != (-1 if digit & _SIGN else 0)
            digits.append(_FIRST + (digit | _MORE if more else digit))
    return bytes(digits).decode("ascii")


def _from_text(text: str) -> list[int]:
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        digit = ord(character) - _FIRST
        if not 0 <= digit < 64:
            raise ValueError(f"{character!r} stands for no run length")
        value |= (digit & 0x1F) << shift
        shift += 5
        if not digit & _MORE:
            value -= (1 << shift) if digit & _SIGN else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise ValueError("the text ends within a run length")
    return runs
