"""Files of boxes: JSON, JSON Lines, YOLO and LabelMe files, and folders with one file an image.

What is read is plain values (as JSON has them), which `given_regions` turns into boxes once the
size of the image is known.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from vlm_fo1.errors import BoxError

YOLO = "yolo"
"""Key of rows in YOLO's form: class, centre x, centre y, width, height[, score], as shares."""
UNREADABLE = "unreadable"
"""Key of what is wrong with a file of a folder; it is told to who asks for that image."""

_SUFFIXES = (".txt", ".json")


def read_boxes(path: Path) -> Any:
    """What a file or a folder of boxes holds, for `given_regions`: read once for many images.

    Args:
        path: A JSON file; a JSON Lines file of answers or proposals, one line a picture
            (``.jsonl``); a YOLO file of one image (``.txt``); or a folder with a ``.txt`` or
            ``.json`` file for each image, named as the image is.

    Raises:
        BoxError: It cannot be read, or holds no boxes.
    """
    if path.is_dir():
        return _read_folder(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".txt":
            return {YOLO: _yolo_rows(text, path)}
        if path.suffix.lower() == ".jsonl":
            return _of_lines(text, path)
        values = json.loads(text)
    except OSError as error:
        raise BoxError(f"boxes file {path} cannot be read: {error.strerror}") from error
    except BoxError:
        raise
    except ValueError as error:
        raise BoxError(f"boxes file {path} is not JSON: {error}") from error
    if not isinstance(values, list | dict):
        raise BoxError(f"boxes file {path} holds {values!r}: a list or a dict is needed")
    return values


def boxes_of_image(folder: Path, image: str | Path | int | None) -> Any:
    """What the file of one image in a folder holds.

    Raises:
        BoxError: There is none, or it cannot be read.
    """
    if image is None:
        raise BoxError(f"{folder} is a folder with a file for each image: the image needs a name")
    path = Path(str(image))
    ends = [PurePath(*path.parts[start:]) for start in range(len(path.parts))]
    for end in ends if not path.is_absolute() else ends[1:]:
        for suffix in _SUFFIXES:
            if (found := folder / end.with_suffix(suffix)).is_file():
                return read_boxes(found)
    raise BoxError(
        f"the folder {folder} holds no boxes of {path.name!r}: "
        f"{' or '.join(path.stem + suffix for suffix in _SUFFIXES)} is needed in it"
    )


def by_name(source: Mapping[str, Any], image: str | Path | int | None) -> Any:
    """What a dict from file name holds about an image.

    Keys may have or lack folders and the suffix; the one that says most about the path counts.

    Raises:
        BoxError: Nothing, or several that fit as well.
    """
    path = Path(str(image))
    for key in (str(image), path.name, path.stem):
        if key in source:
            return source[key]
    for wanted in (path, path.with_suffix("")) if path.name else ():
        fits = [key for key in source if _is_end_of(Path(key), wanted)]
        if fits:
            return source[max(fits, key=lambda key: len(Path(key).parts))]
    fits = [key for key in source if Path(key).name in {path.name, path.stem} and path.name]
    if len(fits) == 1:
        return source[fits[0]]
    if fits:
        raise BoxError(
            f"the boxes hold {len(fits)} images named {path.name!r}: name the image with its folder"
        )
    about = ", ".join(map(str, list(source)[:5])) or "no image"
    raise BoxError(
        f"the boxes hold nothing for {called(image)}; they are about {about}"
        f"{', ...' if len(source) > 5 else ''}"
    )


def called(image: str | Path | int | None) -> str:
    """How a message names an image."""
    if image is None:
        return "an image without a file name"
    return str(image) if isinstance(image, int) else repr(Path(str(image)).name)


def yolo_boxes(
    rows: Sequence[Sequence[float]], size_wh: tuple[int, int]
) -> tuple[list[list[float]], list[float] | None]:
    """Boxes in pixels, and their scores if there are some.

    Args:
        rows: As `read_boxes` gives them under `YOLO`: a class, then four shares of the image and
            perhaps a score, or the corners of an outline (x1 y1 x2 y2 x3 y3 ...).
        size_wh: Width and height of the image in pixels.

    Raises:
        BoxError: A row that is neither, or only some have a score.
    """
    width, height = size_wh
    boxes: list[list[float]] = []
    scores: list[float] = []
    for index, row in enumerate(rows):
        numbers = [float(value) for value in row[1:]]
        if len(numbers) in {4, 5}:
            x, y, w, h = numbers[:4]
            shares = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            scores.extend(numbers[4:])
        elif len(numbers) >= 6 and len(numbers) % 2 == 0:
            xs, ys = numbers[::2], numbers[1::2]
            shares = [min(xs), min(ys), max(xs), max(ys)]
        else:
            raise BoxError(
                f"line {index + 1} has {len(row)} numbers: a class, then cx cy w h (and a score), "
                "or the corners of an outline"
            )
        if not all(-0.5 <= value <= 1.5 for value in shares):
            raise BoxError(
                f"line {index + 1} gives the box {[round(value, 3) for value in shares]}: YOLO "
                "files hold shares of the image, from 0 to 1, not pixels"
            )
        boxes.append(
            [value * side for value, side in zip(shares, (width, height) * 2, strict=True)]
        )
    if scores and len(scores) < len(boxes):
        raise BoxError(f"{len(scores)} of {len(boxes)} lines have a score: give all or none")
    return boxes, scores or None


def labelme_boxes(
    source: Mapping[str, Any], size_wh: tuple[int, int]
) -> tuple[list[list[float]], list[str]]:
    """Boxes around the shapes of a LabelMe file, and their labels.

    Raises:
        BoxError: The file is about an image of another size, or a shape that has no box.
    """
    said = (source.get("imageWidth"), source.get("imageHeight"))
    if None not in said and said != size_wh:
        raise BoxError(
            f"this LabelMe file is about an image of {said}, this one is {size_wh}: it has to be "
            "the same picture, turned as it was in LabelMe"
        )
    boxes: list[list[float]] = []
    labels: list[str] = []
    for index, shape in enumerate(source["shapes"]):
        try:
            points = [(float(x), float(y)) for x, y in shape["points"]]
            kind = shape.get("shape_type", "polygon")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BoxError(f"shape {index} has no points (x, y): {error!r}") from error
        if kind == "circle" and len(points) == 2:  # its centre, and a point on it
            (x, y), (edge_x, edge_y) = points
            radius = ((edge_x - x) ** 2 + (edge_y - y) ** 2) ** 0.5
            points = [(x - radius, y - radius), (x + radius, y + radius)]
        if len(points) < 2:
            raise BoxError(f"shape {index} ({kind}) has {len(points)} points: no box is around it")
        xs, ys = zip(*points, strict=True)
        boxes.append([min(xs), min(ys), max(xs), max(ys)])
        labels.append(str(shape.get("label", "")))
    return boxes, labels


def _read_folder(folder: Path) -> dict[str, Any]:
    """File name without suffix, with the folders below ``folder``, to what that file holds.

    Raises:
        BoxError: There is no file that could hold boxes.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in _SUFFIXES or not path.is_file():
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            found.setdefault(name, read_boxes(path))
        except BoxError as error:  # a list of class names, say: no picture may ask for it
            found.setdefault(name, {UNREADABLE: str(error)})
    if not found:
        raise BoxError(
            f"the folder {folder} holds no boxes: a .txt or .json file for each image is needed"
        )
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


def _of_lines(text: str, path: Path) -> dict[str, Any]:
    """Picture to record; pictures that failed have none.

    Raises:
        BoxError: A line that is none of ours.
    """
    found: dict[str, Any] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            name = record["file"]
        except (ValueError, KeyError, TypeError) as error:
            raise BoxError(
                f"line {number} of {path} is no JSON object with a 'file': one line a picture is "
                "needed, as --save writes it"
            ) from error
        if "error" not in record:
            found[str(name)] = record
    return found


def _is_end_of(part: Path, whole: Path) -> bool:
    """Whether a path ends as another does, folder by folder."""
    return bool(part.parts) and whole.parts[-len(part.parts) :] == part.parts
