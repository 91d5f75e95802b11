"""Images and their annotations, joined by id; what belongs nowhere is counted."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_fo1.data.sources.files import (
    frame_of,
    image_file,
    looks_like_shares,
    placed,
    stated_size,
    usable_xyxy,
)
from vlm_fo1.errors import DataError
from vlm_fo1.formats.identity import as_id


@dataclass(frozen=True)
class JoinedImage:
    """An image that is there, with what is said about it."""

    file: Path
    size_wh: tuple[int, int]
    """As it is shown, in pixels."""
    annotations: list[tuple[dict[str, Any], list[float] | None]]
    """Each, in the order of the file, with its corners inside the image as it is shown; None where
    it has no box of a pixel or more there."""


class Joined:
    """Images of an annotation file with what is said about each.

    Ids are compared whatever their type and zero padding (`as_id`). Nothing here refuses a row: who
    reads a row says what is wrong with it, so that the others can be used.

    Args:
        path: Of the file, for messages.
        images: Rows with ``id``.
        annotations: Rows with ``image_id``.
    """

    def __init__(self, path: Path, images: Sequence[Any], annotations: Iterable[Any]) -> None:
        self.path = path
        self._images: dict[str, dict[str, Any]] = {}
        self._names: dict[str, set[str]] = {}
        for row in images:
            if isinstance(row, dict) and (key := as_id(row.get("id"))) is not None:
                self._images.setdefault(key, row)
                self._names.setdefault(key, set()).add(str(row.get("file_name")))
        self._annotations: dict[str, list[dict[str, Any]]] = {}
        self.notes: list[str] = []
        """What the file holds that no record uses, with counts."""
        lost: Counter[str] = Counter()
        number = odd = 0
        for row in annotations:
            number += 1
            if not isinstance(row, dict):
                odd += 1
            elif (key := as_id(row.get("image_id"))) in self._images:
                self._annotations.setdefault(key, []).append(row)
            else:
                lost[repr(row.get("image_id"))] += 1
        if odd:
            self.notes.append(f"{path}: {odd} of {number} annotations are no objects: left out")
        if lost:
            few = ", ".join(list(lost)[:3]) + (", ..." if len(lost) > 3 else "")
            self.notes.append(
                f"{path}: {lost.total()} of {number} annotations belong to no image of the file "
                f"(image_id {few}): left out"
            )
        self._tell_unusable(number)

    def _tell_unusable(self, number: int) -> None:
        unusable = shares = 0
        for key, rows in self._annotations.items():
            try:
                size_wh = stated_size(self._images[key], "")
            except DataError:
                continue  # told of the image
            boxes = [row.get("bbox") for row in rows]
            dropped = [box for box in boxes if usable_xyxy(box, size_wh) is None]
            unusable += len(dropped)
            shares += sum(map(looks_like_shares, dropped))
        if unusable:
            hint = (
                f"; {shares} of them lie within 0..1: boxes are (x, y, width, height) in pixels"
                if shares
                else ""
            )
            self.notes.append(
                f"{self.path}: {unusable} of {number} annotations have no box of a pixel or more "
                f"in their image: left out{hint}"
            )

    def image(self, value: Any, folder: Path, where: str) -> JoinedImage:
        """The image with an id.

        Args:
            value: The id.
            folder: Where the files are.
            where: Names the image in the error.

        Raises:
            DataError: There is none, the id is that of several images, it has no name or no size,
                or its file is missing or of another size than is said.
        """
        key = as_id(value)
        if key not in self._images:
            raise DataError(f"{where} is not in {self.path}")
        if len(self._names[key]) > 1:
            raise DataError(
                f"{where}: {len(self._names[key])} images have this id "
                f"({', '.join(sorted(self._names[key])[:3])}): give each its own"
            )
        row = self._images[key]
        stated_wh = stated_size(row, where)
        file = image_file(row, folder, where)
        frame = frame_of(file, where)
        annotations = self.of(value)
        corners = placed([each.get("bbox") for each in annotations], stated_wh, frame, where)
        return JoinedImage(file, frame.size_wh, list(zip(annotations, corners, strict=True)))

    def of(self, value: Any) -> list[dict[str, Any]]:
        """The annotations of the image with an id, in the order of the file."""
        return self._annotations.get(as_id(value) or "", [])
