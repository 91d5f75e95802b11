"""COCO annotation files as a benchmark reads them: strictly, with the categories in their order."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from vlm_fo1.config import read_object
from vlm_fo1.errors import BoxError, EvaluationError
from vlm_fo1.formats.coco import NAMES
from vlm_fo1.formats.identity import stated_size
from vlm_fo1.formats.records import parse_records


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """An image of the file with what is in it."""

    id: int | str
    name: str
    """File name, or the URL where the file gives no name (LVIS)."""
    size_wh: tuple[int, int] | None
    values: Mapping[str, Any]
    """The entry as it stands in the file."""
    annotations: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    """Its annotations, in the order of the file."""


@dataclass(frozen=True, kw_only=True)
class CocoSet:
    """A file of images, categories and annotations whose ids all fit."""

    path: Path
    categories: Mapping[int | str, str]
    """Names by id, by ascending id."""
    images: Sequence[CocoImage]
    """In the order of the file."""
    category_values: Mapping[int | str, Mapping[str, Any]]
    """The entries of categories as they stand in the file, by id."""

    def truth(self, image: CocoImage) -> dict[str, Any]:
        """Boxes by label as `Item.truth` holds them: ``boxes``, ``crowd``, ``areas``.

        Areas are those that the file states (COCO: of the masks), else of the boxes.

        Raises:
            EvaluationError: A box that cannot be used, with the image and the annotation.
        """
        result: dict[str, Any] = {"boxes": {}, "crowd": {}, "areas": {}}
        boxes = corners(image.annotations, f"{self.path}, image {image.name!r}")
        for annotation, (x1, y1, x2, y2) in zip(image.annotations, boxes, strict=True):
            label = self.categories[annotation["category_id"]]
            kind = "crowd" if annotation.get("iscrowd") else "boxes"
            result[kind].setdefault(label, []).append([x1, y1, x2, y2])
            if kind == "boxes":
                area = annotation.get("area")
                if not isinstance(area, int | float) or isinstance(area, bool):
                    area = (x2 - x1) * (y2 - y1)
                result["areas"].setdefault(label, []).append(float(area))
        return result


def read_coco(path: Path, *, unknown_category: int | None = None) -> CocoSet:
    """Read a COCO file; what does not fit is counted and refused.

    Args:
        path: The file.
        unknown_category: A category id that annotations may have though no category does, such as
            -1 for no target; they have to be read from `CocoImage.annotations`.

    Raises:
        EvaluationError: The file is missing or no COCO data set, it has no image, ids are doubled
            (those of annotations in one image), or annotations are of images or categories that it
            does not have.
    """
    values = read_object(path, EvaluationError)
    rows = {key: _rows(values, key, path) for key in ("images", "categories", "annotations")}
    for key in ("images", "categories"):
        _refuse_doubles((row.get("id") for row in rows[key]), f"ids of {key}", path)
    names = [str(row.get("name")) for row in rows["categories"]]
    _refuse_doubles(names, "names of categories", path)
    if not rows["images"]:
        raise EvaluationError(f"{path} has no images: an empty file has no score")
    entries = {row["id"]: row for row in rows["categories"]}
    images = {
        row["id"]: CocoImage(
            id=row["id"], name=_name(row, path), size_wh=_size(row, path), values=row
        )
        for row in rows["images"]
    }
    allowed = {*entries, unknown_category} - {None}
    _refuse_strays(rows["annotations"], "category_id", allowed, path)
    _refuse_strays(rows["annotations"], "image_id", images, path)
    ids = (f"{row['id']} of image {row['image_id']}" for row in rows["annotations"] if "id" in row)
    _refuse_doubles(ids, "ids of annotations", path)
    for row in rows["annotations"]:
        images[row["image_id"]].annotations.append(row)
    return CocoSet(
        path=path,
        categories={id_: str(entries[id_]["name"]) for id_ in sorted(entries, key=_order)},
        images=list(images.values()),
        category_values=entries,
    )


def corners(annotations: Sequence[Mapping[str, Any]], where: str) -> list[list[float]]:
    """The boxes of annotations, xyxy.

    Args:
        annotations: Each with a ``bbox``, (x, y, width, height).
        where: Where they stand, for the message.

    Raises:
        EvaluationError: A box that cannot be used.
    """
    try:
        boxes: list[list[float]] = parse_records(annotations)["xyxy"]
    except BoxError as error:
        raise EvaluationError(f"{where}: {error}") from error
    for annotation, (x1, y1, x2, y2) in zip(annotations, boxes, strict=True):
        if not (-inf < x1 <= x2 < inf and -inf < y1 <= y2 < inf):  # nor is NaN
            raise EvaluationError(
                f"{where}: the box of annotation {annotation.get('id')} is {x2 - x1:g} wide and "
                f"{y2 - y1:g} high; 'bbox' is (x, y, width, height), which must be finite and not "
                "negative"
            )
    return boxes


def find_image(name: str, folders: Sequence[Path]) -> Path:
    """Where an image is: the first folder that has it, else where it should be in the first one.

    Files written on Windows may have backslashes in their names.
    """
    names = dict.fromkeys((name, name.replace("\\", "/")))
    places = [folder / name for name in names for folder in folders]
    return next((place for place in places if place.is_file()), places[0])


def _order(id_: Any) -> tuple[bool, Any]:
    return isinstance(id_, str), id_


def _rows(values: Mapping[str, Any], key: str, path: Path) -> list[Mapping[str, Any]]:
    """The objects under a key.

    Raises:
        EvaluationError: There is no list of objects with ids.
    """
    rows = values.get(key)
    needed = {"images": ("id",), "categories": ("id", "name")}
    for name in needed.get(key, ("image_id", "category_id")):
        if not isinstance(rows, list) or not all(
            isinstance(row, Mapping) and isinstance(row.get(name), int | str) for row in rows
        ):
            raise EvaluationError(
                f"{path} is no COCO data set: {key!r} must be a list of objects with {name!r}; "
                f"the file has {', '.join(map(repr, values)) or 'nothing'}"
            )
    assert isinstance(rows, list)
    return rows


def _refuse_doubles(ids: Iterable[Any], what: str, path: Path) -> None:
    """Refuse ids and names that stand twice.

    Raises:
        EvaluationError: With how many and the first.
    """
    doubled = [id_ for id_, times in Counter(ids).items() if times > 1]
    if doubled:
        raise EvaluationError(
            f"{path}: {len(doubled)} {what} stand more than once, {doubled[0]!r} is the first: "
            "each must be there once"
        )


def _refuse_strays(
    rows: Sequence[Mapping[str, Any]], key: str, known: Iterable[Any], path: Path
) -> None:
    """Refuse annotations of what is not there.

    Raises:
        EvaluationError: With how many and the first.
    """
    there = set(known)
    strays = [row[key] for row in rows if row[key] not in there]
    if strays:
        raise EvaluationError(
            f"{path}: the {key} of {len(strays)} of {len(rows)} annotations is not in the file, "
            f"{strays[0]!r} is the first: is it the right file, and whole?"
        )


def _name(row: Mapping[str, Any], path: Path) -> str:
    name = next((row[key] for key in NAMES if isinstance(row.get(key), str)), "")
    if not name:
        raise EvaluationError(
            f"{path}: image {row['id']!r} has no name: one of {', '.join(NAMES)} is needed"
        )
    return name


def _size(row: Mapping[str, Any], path: Path) -> tuple[int, int] | None:
    try:
        return stated_size(row.get("width"), row.get("height"))
    except BoxError as error:
        raise EvaluationError(f"{path}: image {row['id']!r}: {error}") from error
