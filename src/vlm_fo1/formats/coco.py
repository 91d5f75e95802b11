"""COCO data sets: which annotations are those of an image, whatever wrote the file; new ones."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vlm_fo1.errors import BoxError, counted
from vlm_fo1.formats.identity import Ids, Names, called, id_text, stated_size

NAMES = ("file_name", "coco_url", "flickr_url", "path")
"""Where an image of a data set may have its name; LVIS gives only ``coco_url``."""


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """What a data set says of one image."""

    annotations: Sequence[Mapping[str, Any]]
    stated_wh: tuple[int, int] | None
    """Width and height that the file states; None where it states none."""


class CocoFile(dict[str, Any]):
    """A COCO data set as it was read; its annotations are joined to its images once.

    Ids are joined whatever their type and zero padding, names as `Names` finds them.
    """

    def image(self, image: str | Path | int | None) -> CocoImage:
        """What it says of an image.

        Args:
            image: File name, id (a number), or None if the data set has one image only.

        Raises:
            BoxError: It does not hold the image or cannot say which annotations are its own, or is
                no data set.
        """
        joined, _ = self._joined
        position = self._position(image)
        entry = self._entries[position]
        id_ = id_text(entry["id"])
        if self._times[id_] > 1:
            raise BoxError(
                f"{self._times[id_]} images of the data set have the id {id_}, {_name(entry)!r} is "
                "one: whose the annotations are cannot be told; give each image an id of its own"
            )
        try:
            size_wh = stated_size(entry.get("width"), entry.get("height"))
        except BoxError as error:
            raise BoxError(f"image {id_} ({_name(entry)!r}) of the data set: {error}") from error
        return CocoImage(annotations=joined.get(position, []), stated_wh=size_wh)

    @property
    def strays(self) -> str | None:
        """What is to be told of annotations that belong to no image; None if there are none."""
        strays = self._joined[1]
        if not strays:
            return None
        ids = list(dict.fromkeys(repr(stray)[:40] for stray in strays))
        return (
            f"{len(strays)} of {len(self['annotations'])} annotations belong to no image of the "
            f"file (image_id {', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''}): they were "
            "left out"
        )

    @property
    def size(self) -> int:
        """How many images it has."""
        return len(self._entries)

    def label(self, annotation: Mapping[str, Any]) -> str | None:
        """The label of an annotation, or its category's name; None where the file has neither."""
        if isinstance(annotation.get("label"), str):
            return annotation["label"]
        position = self._categories.find(annotation.get("category_id"))
        if position is None:
            return None
        name = self["categories"][position].get("name")
        return str(name) if isinstance(name, str | int) and not isinstance(name, bool) else None

    def _position(self, image: str | Path | int | None) -> int:
        if image is None and self.size == 1:
            return 0
        if isinstance(image, int):
            position = self._ids.find(image)
            if position is None:
                raise BoxError(
                    f"the data set holds {counted(self.size, 'image')}, none has the id {image}"
                )
            return position
        return self._names.find(image)

    @cached_property
    def _entries(self) -> list[Mapping[str, Any]]:
        """The images, each once."""
        unique = {
            (id_text(entry["id"]), _name(entry)): entry
            for entry in reversed(self._objects("images", "id"))
        }
        return list(reversed(unique.values()))

    @cached_property
    def _ids(self) -> Ids:
        return Ids(entry["id"] for entry in self._entries)

    @cached_property
    def _times(self) -> Counter[str | None]:
        """How many images have an id."""
        return Counter(id_text(entry["id"]) for entry in self._entries)

    @cached_property
    def _names(self) -> Names:
        return Names(map(_name, self._entries))

    @cached_property
    def _joined(self) -> tuple[dict[int, list[Mapping[str, Any]]], list[Any]]:
        """Annotations by the position of their image, and ids of those that have none."""
        ids = self._ids
        joined: dict[int, list[Mapping[str, Any]]] = {}
        strays: list[Any] = []
        for annotation in self._objects("annotations", "image_id"):
            position = ids.find(annotation["image_id"])
            if position is None:
                strays.append(annotation["image_id"])
            else:
                joined.setdefault(position, []).append(annotation)
        return joined, strays

    @cached_property
    def _categories(self) -> Ids:
        categories = self.get("categories")
        listed = categories if isinstance(categories, list) else []
        return Ids(row.get("id") if isinstance(row, Mapping) else None for row in listed)

    def _objects(self, key: str, needed: str) -> list[Mapping[str, Any]]:
        """The objects under a key.

        Raises:
            BoxError: There is no such list, or one of them lacks what is needed.
        """
        rows = self.get(key)
        wrong = f"{key!r} is no list"
        if isinstance(rows, list):
            for index, row in enumerate(rows):
                if not isinstance(row, Mapping) or needed not in row:
                    wrong = f"number {index} of {key!r} has no {needed!r}"
                    break
            else:
                return rows
        raise BoxError(
            f"this is no COCO data set ({wrong}): each of 'images' needs an 'id' and a "
            "'file_name', each of 'annotations' an 'image_id'"
        )


def _name(entry: Mapping[str, Any]) -> str:
    return next((entry[key] for key in NAMES if isinstance(entry.get(key), str)), "")


def results_of(
    records: Sequence[Mapping[str, Any]], image: str | Path | int | None, *, named: bool
) -> tuple[Sequence[Mapping[str, Any]], str | None]:
    """COCO results of one image; boxes that state no ``image_id`` all belong to it.

    Args:
        records: Results, each with its ``image_id``, or boxes.
        image: File name or id of the image; None where it has none.
        named: They were found under the name of the image.

    Returns:
        Those of the image, and what the user should know: results about one image, by a number,
        may be about one that is not named by it, such as ``photo.jpg``.

    Raises:
        BoxError: They are about other images, or some do not say about which.
    """
    owners = [id_text(record.get("image_id")) for record in records]
    ids = list(dict.fromkeys(owner for owner in owners if owner is not None))
    if not ids or (len(ids) == 1 and (image is None or named)):
        return records, None
    stating = sum(owner is not None for owner in owners)
    if stating < len(records):
        raise BoxError(f"{stating} of {len(records)} boxes have an image_id: give all or none")
    stem = Path(str(image)).stem
    if len(ids) == 1 and ids[0].isdecimal() and not stem.isdecimal():
        return records, (
            f"the boxes are of image_id {ids[0]}, which does not say whether that is "
            f"{called(image)}: they were taken as its own"
        )
    try:
        wanted = ids[Names(ids).find(image)]
    except BoxError as error:
        raise BoxError(
            f"these results are about {counted(len(ids), 'image')}, none of them "
            f"{called(image)}: an image is found by its file name, which has to be its id, e.g. "
            f"{ids[0]}.jpg"
        ) from error
    return [record for record, owner in zip(records, owners, strict=True) if owner == wanted], None


@runtime_checkable
class Labelled(Protocol):
    """Labelled boxes of one image: what `vlm_fo1.Answer` is."""

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of the image in pixels."""
        ...

    def __iter__(self) -> Iterator[str]:
        """The labels, those without a box too."""
        ...

    def to_coco(self, image_id: int, category_ids: Mapping[str, int]) -> list[dict[str, Any]]:
        """The boxes in COCO's result format."""
        ...


def data_set(images: Iterable[tuple[str, Labelled]]) -> dict[str, Any]:
    """A COCO data set of what was found in images, with scores.

    Args:
        images: File name and answer of each.

    Returns:
        ``images``, ``categories`` and ``annotations``, each numbered from 1; a label has one number
        in all images.
    """
    categories: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, answer) in enumerate(images, start=1):
        width, height = answer.size_wh
        rows.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for label in answer:
            categories.setdefault(label, len(categories) + 1)
        for found in answer.to_coco(image_id, categories):
            area = round(found["bbox"][2] * found["bbox"][3], 2)
            number = {"id": len(annotations) + 1, "area": area, "iscrowd": 0}
            annotations.append({**number, **found})
    named = [{"id": number, "name": label or "object"} for label, number in categories.items()]
    return {"images": rows, "categories": named, "annotations": annotations}
