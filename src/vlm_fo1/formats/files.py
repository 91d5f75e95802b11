"""Files of boxes: JSON, JSON Lines, YOLO and LabelMe files, and folders with one file an image.

What is read is plain values (as JSON has them), which `given_regions` turns into boxes once the
size of the image is known.
"""

import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from vlm_fo1.config import read_json, read_text
from vlm_fo1.errors import BoxError
from vlm_fo1.formats.coco import CocoFile
from vlm_fo1.formats.identity import Names

YOLO = "yolo"
"""Key of rows in YOLO's form: class, centre x, centre y, width, height[, score], as shares."""
UNREADABLE = "unreadable"
"""Key of what is wrong with a file of a folder; it is told to who asks for that image."""

_SUFFIXES = (".txt", ".json")


class ByName(dict[str, Any]):
    """Boxes of many images by file name, which are made comparable once for all of them."""

    @cached_property
    def names(self) -> Names:
        """Finds the position of an image's name."""
        return Names(self)

    def of_image(self, image: str | Path | int | None) -> Any:
        """What is held of an image.

        Raises:
            BoxError: Nothing, or several names fit.
        """
        return self[self.names.names[self.names.find(image)]]


def read_boxes(path: Path) -> Any:
    """What a file or a folder of boxes holds, for `given_regions`: read once for many images.

    Args:
        path: A JSON file; a JSON Lines file of answers or proposals, one line an image
            (``.jsonl``); a YOLO file of one image (``.txt``); or a folder with a ``.txt`` or
            ``.json`` file for each image, named as the image is.

    Raises:
        BoxError: It cannot be read, or holds no boxes.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() == ".txt":
        return {YOLO: _yolo_rows(read_text(path, BoxError), path)}
    if path.suffix.lower() == ".jsonl":
        return _of_lines(read_text(path, BoxError), path)
    values = read_json(path, BoxError)
    if not isinstance(values, list | dict):
        raise BoxError(f"boxes file {path} holds {values!r}: a list or a dict is needed")
    if isinstance(values, list):
        return values
    return CocoFile(values) if "annotations" in values else ByName(values)


def boxes_of_image(folder: Path, image: str | Path | int | None) -> Any:
    """What the file of one image in a folder holds.

    Raises:
        BoxError: There is none, or it cannot be read.
    """
    if image is None:
        raise BoxError(f"{folder} is a folder with a file for each image: the image needs a name")
    try:
        file = ByName(_files(folder)).of_image(image)
    except BoxError as error:
        stem = Path(str(image)).stem
        needed = " or ".join(stem + suffix for suffix in _SUFFIXES)
        raise BoxError(f"in the folder {folder} {error}; {needed} is needed in it") from error
    return read_boxes(file)


def yolo_boxes(rows: Sequence[Sequence[float]]) -> tuple[list[list[float]], list[float] | None]:
    """Boxes as shares of the image (x1, y1, x2, y2), and their scores if there are some.

    Args:
        rows: As `read_boxes` gives them under `YOLO`: a class, then four shares of the image or
            the corners of an outline (x1 y1 x2 y2 x3 y3 ...), then perhaps a score, and after the
            score perhaps the number of a track.

    Raises:
        BoxError: A row that is neither, or only some have a score.
    """
    tracked = any(_ends_in_track(row[1:]) for row in rows)
    alike = len({len(row) for row in rows}) == 1
    boxes: list[list[float]] = []
    scores: list[float] = []
    for index, row in enumerate(rows):
        try:
            shares, score = _yolo_box(row[1:], tracked=tracked, alike=alike)
        except BoxError as error:
            raise BoxError(f"line {index + 1} {error}") from error
        if not all(-0.5 <= value <= 1.5 for value in shares):
            raise BoxError(
                f"line {index + 1} gives the box {[round(value, 3) for value in shares]}: YOLO "
                "files hold shares of the image, from 0 to 1, not pixels"
            )
        boxes.append(shares)
        scores += [] if score is None else [score]
    if scores and len(scores) < len(boxes):
        raise BoxError(f"{len(scores)} of {len(boxes)} lines have a score: give all or none")
    return boxes, scores or None


def _ends_in_track(numbers: Sequence[float]) -> bool:
    """Whether a row ends in a score and the number of a track, which no outline can."""
    if len(numbers) < 6 or len(numbers) % 2:
        return False
    return numbers[-1] > 1.5 and numbers[-1].is_integer() and 0 <= numbers[-2] <= 1


def _yolo_box(
    numbers: Sequence[float], *, tracked: bool, alike: bool
) -> tuple[list[float], float | None]:
    """The box of a row and its score.

    Args:
        numbers: What stands after the class.
        tracked: Rows of this file end in the number of a track.
        alike: All rows of this file have as many numbers.

    Raises:
        BoxError: It is of no form known; the message goes on after "line N".
    """
    if not all(map(math.isfinite, numbers)):
        raise BoxError("holds NaN or infinity: every number must be finite")
    if len(numbers) % 3 == 1 and _has_visibility(numbers[4:]):
        raise BoxError(_POSE)
    if tracked and len(numbers) >= 6 and len(numbers) % 2 == 0:
        numbers = numbers[:-1]
    elif len(numbers) == 6 and numbers[-1] == 1:
        raise BoxError(
            "ends in 1 as its sixth number: a track, or the last corner of a triangle? leave out "
            "the number of the track, or write the outline with four corners"
        )
    if len(numbers) < 4:
        raise BoxError(
            f"has {len(numbers) + 1} numbers: a class, then cx cy w h (and a score), or the "
            "corners of an outline"
        )
    score = None
    if len(numbers) % 2:
        *numbers, score = numbers
        if not 0 <= score <= 1:
            raise BoxError(
                f"ends in {score:g} where a score from 0 to 1 is needed: is it the number of a "
                "track? leave it out, or write it after the score"
            )
    if len(numbers) == 4:
        x, y, w, h = numbers
        return [x - w / 2, y - h / 2, x + w / 2, y + h / 2], score
    xs, ys = numbers[::2], numbers[1::2]
    if alike and len(xs) < _FEW and _crosses(list(zip(xs, ys, strict=True))):
        raise BoxError(_POSE)
    return [min(xs), min(ys), max(xs), max(ys)], score


_POSE = (
    "is a pose (a box with keypoints), or an outline whose edges cross: for the boxes of poses "
    "keep the first five numbers of each line"
)
_FEW = 25
"""Outlines with fewer corners might as well be the keypoints of a pose."""


def _has_visibility(numbers: Sequence[float]) -> bool:
    """Whether numbers are keypoints x, y, visibility (0, 1 or 2)."""
    seen = set(numbers[2::3])
    return len(numbers) >= 6 and 2 in seen and seen <= {0, 1, 2}


def _crosses(corners: Sequence[tuple[float, float]]) -> bool:
    """Whether two edges of an outline cross."""
    edges = list(zip(corners, [*corners[1:], corners[0]], strict=True))
    return any(
        _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0
        for index, (a, b) in enumerate(edges)
        for c, d in edges[:index]
    )


def _side(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """On which side of the line from a to b a point is: the sign."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def labelme_boxes(shapes: Any) -> tuple[list[list[float]], list[str]]:
    """Boxes around the shapes of a LabelMe file, in its pixels, and their labels.

    Raises:
        BoxError: Not a list, or a shape that has no box.
    """
    if not isinstance(shapes, list | tuple):
        raise BoxError(f"'shapes' is {type(shapes).__name__}: a list of shapes is needed")
    boxes: list[list[float]] = []
    labels: list[str] = []
    for index, shape in enumerate(shapes):
        try:
            points = [(float(x), float(y)) for x, y in shape["points"]]
            kind, label = shape.get("shape_type", "polygon"), shape.get("label")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BoxError(f"shape {index} has no points (x, y): {error!r}") from error
        if kind == "circle" and len(points) == 2:  # its centre, and a point on it
            (x, y), edge = points
            radius = math.dist((x, y), edge)
            points = [(x - radius, y - radius), (x + radius, y + radius)]
        if len(points) < 2:
            raise BoxError(
                f"shape {index} ({kind!r}) has {len(points)} points: no box is around it"
            )
        xs, ys = zip(*points, strict=True)
        if not all(map(math.isfinite, (*xs, *ys))):
            raise BoxError(
                f"shape {index} ({kind!r}) holds NaN or infinity: finite points are needed"
            )
        boxes.append([min(xs), min(ys), max(xs), max(ys)])
        labels.append(label if isinstance(label, str) else "")
    return boxes, labels


def _files(folder: Path) -> dict[str, Path]:
    """File name without suffix, with the folders below ``folder``, to the file; no hidden ones.

    Raises:
        BoxError: There is no file that could hold boxes.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            continue
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            found.setdefault(inside.with_suffix("").as_posix(), path)
    if not found:
        raise BoxError(
            f"the folder {folder} holds no boxes: a .txt or .json file for each image is needed"
        )
    return found


def _read_folder(folder: Path) -> ByName:
    """File name without suffix, with the folders below ``folder``, to what that file holds."""
    found = ByName()
    for name, path in _files(folder).items():
        try:
            found[name] = read_boxes(path)
        except BoxError as error:  # a list of class names, say: no image may ask for it
            found[name] = {UNREADABLE: str(error)}
    return found


def _yolo_rows(text: str, path: Path) -> list[list[float]]:
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = [float(part) for part in line.split()]
        except ValueError as error:
            raise BoxError(
                f"line {number} of {path} is no line of a YOLO file ({error}): "
                "class cx cy w h [score] is needed"
            ) from error
        if row:
            rows.append(row)
    return rows


def _of_lines(text: str, path: Path) -> ByName:
    """Image to record; images that failed have none.

    Raises:
        BoxError: A line that is none of ours.
    """
    found = ByName()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            name = record["file"]
        except (ValueError, KeyError, TypeError) as error:
            raise BoxError(
                f"line {number} of {path} is no JSON object with a 'file': one line an image is "
                "needed, as --save writes it"
            ) from error
        if "error" not in record:
            found[str(name)] = record
    return found
