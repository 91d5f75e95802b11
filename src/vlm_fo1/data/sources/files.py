"""Annotation files: read as JSON, with errors that name the file."""

import math
from pathlib import Path
from typing import Any

from vlm_fo1 import settings
from vlm_fo1.errors import DataError


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: No such file, or it is not JSON.
    """
    return settings.read_json(path, DataError)


def table(content: Any, key: str, path: str | Path) -> list[dict[str, Any]]:
    """The list of objects under a key.

    Raises:
        DataError: The file has no such list.
    """
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} has no list of objects {key!r}: is it the right annotation file?")
    return rows


def usable_xyxy(xywh: Any, size_wh: tuple[int, int] | None = None) -> list[float] | None:
    """An (x, y, width, height) box as xyxy inside its image, or None if it is no box there."""
    if not isinstance(xywh, list | tuple) or len(xywh) != 4:
        return None
    try:
        x, y, width, height = map(float, xywh)
    except (TypeError, ValueError):
        return None
    if not all(map(math.isfinite, (x, y, width, height))) or width < 1 or height < 1:
        return None
    box = [x, y, x + width, y + height]
    if size_wh is not None:
        box = [
            min(max(box[0], 0.0), size_wh[0]),
            min(max(box[1], 0.0), size_wh[1]),
            min(box[2], size_wh[0]),
            min(box[3], size_wh[1]),
        ]
        if box[2] - box[0] < 1 or box[3] - box[1] < 1:
            return None
    return box
