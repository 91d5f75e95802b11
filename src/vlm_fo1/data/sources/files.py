"""What annotation files say, read in one place: ids, texts, names, sizes, boxes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_fo1 import config
from vlm_fo1.boxes import clip
from vlm_fo1.data.names import locate
from vlm_fo1.errors import BoxError, DataError, ImageError
from vlm_fo1.formats.identity import is_writable, shown_boxes
from vlm_fo1.images import Frame, image_frame


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: No such file, or it is not JSON.
    """
    return config.read_json(path, DataError)


def table(content: Any, key: str, path: str | Path) -> list[Any]:
    """The list under a key; its items may be anything.

    Raises:
        DataError: The file has no such list.
    """
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise DataError(f"{path} has no list of objects {key!r}: is it the right annotation file?")
    return rows


def as_text(value: Any) -> str | None:
    """A text without blanks around it; None if it is no text, empty, or no Unicode."""
    if not isinstance(value, str) or not is_writable(value):
        return None
    return value.strip() or None


def is_set(value: Any) -> bool:
    """Whether a flag is on: 1, ``"1"``, true; not 0, ``"0"``, ``"false"``, null or nothing."""
    return str(value).strip().lower() not in {"", "0", "0.0", "false", "none"}


def image_file(row: dict[str, Any], folder: Path, where: str) -> Path:
    """The file of an image: COCO names it, LVIS gives a URL.

    Raises:
        DataError: The image has neither ``file_name`` nor ``coco_url``.
    """
    for key in ("file_name", "coco_url"):
        if row.get(key) is not None:
            name = as_text(row[key])
            if name is None:
                raise DataError(f"{where} has {key} {row[key]!r}: a path is needed")
            return locate(folder, name)
    raise DataError(f"{where} has neither file_name nor coco_url")


def frame_of(image: Path, where: str) -> Frame:
    """How an image is shown and stored.

    Raises:
        DataError: It is missing, or no image.
    """
    try:
        return image_frame(image)
    except ImageError as error:
        raise DataError(f"{where}: {error}") from error


def stated_size(row: dict[str, Any], where: str) -> tuple[int, int]:
    """Width and height that a file gives for an image.

    Raises:
        DataError: They are missing, or no whole numbers above 0.
    """
    sizes = [_whole(row.get(key)) for key in ("width", "height")]
    if 0 in sizes:
        raise DataError(
            f"{where} has width {row.get('width')!r} and height {row.get('height')!r}: the size "
            "that its boxes are in is needed, in pixels"
        )
    return sizes[0], sizes[1]


def _whole(value: Any) -> int:
    """A size in pixels; 0 if it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return int(number) if number.is_integer() and number > 0 else 0


def placed(
    xywhs: Sequence[Any], stated_wh: tuple[int, int], frame: Frame, where: str
) -> list[list[float] | None]:
    """Boxes of a file as xyxy in the image as it is shown.

    Args:
        xywhs: (x, y, width, height) each, if all is well.
        stated_wh: The size that the file gives for the image: as shown or, if whoever wrote the
            file did not look at the orientation of a photo, as stored.
        frame: Of the image.
        where: Names the image in the error.

    Returns:
        For each its corners inside the image, or None if it is no box of a pixel or more there.

    Raises:
        DataError: The file states another size than the image has.
    """
    given = [usable_xyxy(box) for box in xywhs]
    try:
        shown, _ = shown_boxes([box for box in given if box is not None], stated_wh, frame)
    except BoxError as error:
        raise DataError(f"{where}: {error}") from error
    inside = iter(clip(shown, frame.size_wh).tolist())
    corners = [None if box is None else next(inside) for box in given]
    return [box if box and box[2] - box[0] >= 1 and box[3] - box[1] >= 1 else None
            for box in corners]  # fmt: skip


def usable_xyxy(xywh: Any, size_wh: tuple[int, int] | None = None) -> list[float] | None:
    """An (x, y, width, height) box as xyxy inside its image, or None if it is no box there."""
    box = _numbers(xywh)
    if box is None or box[2] < 1 or box[3] < 1:
        return None
    x, y, width, height = box
    corners = [x, y, x + width, y + height]
    if size_wh is not None:
        corners = [
            min(max(value, 0.0), side) for value, side in zip(corners, size_wh * 2, strict=True)
        ]
        if corners[2] - corners[0] < 1 or corners[3] - corners[1] < 1:
            return None
    return corners


def looks_like_shares(xywh: Any) -> bool:
    """Whether all four numbers of a box lie in 0..1: parts of the image rather than pixels."""
    box = _numbers(xywh)
    return box is not None and all(0 <= value <= 1 for value in box)


def _numbers(xywh: Any) -> tuple[float, float, float, float] | None:
    if not isinstance(xywh, list | tuple) or len(xywh) != 4:
        return None
    try:
        x, y, width, height = map(float, xywh)
    except (TypeError, ValueError, OverflowError):
        return None
    box = (x, y, width, height)
    return box if all(map(math.isfinite, box)) else None
