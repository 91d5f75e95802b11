"""COCO and LVIS instances: detection, counting, region captions, visual prompts."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_fo1.data.example import Example
from vlm_fo1.data.sources.base import Epochs
from vlm_fo1.data.sources.files import read_json, table, usable_xyxy
from vlm_fo1.data.sources.instances import InstanceConfig, Picture, ask_instances
from vlm_fo1.errors import DataError

logger = logging.getLogger(__name__)


class CocoSource:
    """Records from an annotation file in COCO's or LVIS's format.

    In COCO every category that an image does not hold is absent there, and those of the same
    supercategory, or that share a word, are hard. LVIS says which are: ``neg_category_ids``, all of
    them hard; ``not_exhaustive_category_ids`` are never counted. Crowds (``iscrowd``) make their
    category uncountable. Names lose LVIS's underscores and brackets.

    Args:
        annotations: The JSON file.
        images: Folder of the images.
        config: What to ask.
        seed: Of the order and of the questions.
        proposals: Image id to (M, 4) boxes of a proposer, if there are any.

    Raises:
        DataError: A file that cannot be used.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        config: InstanceConfig | None = None,
        seed: int = 0,
        proposals: Mapping[int, Any] | None = None,
    ) -> None:
        self.path, self.folder = Path(annotations), Path(images)
        self.config = config or InstanceConfig()
        self.proposals = proposals or {}
        content = read_json(self.path)
        try:
            categories = table(content, "categories", self.path)
            self._names = {row["id"]: clean_name(row["name"]) for row in categories}
            self._groups = {row["id"]: row.get("supercategory") for row in categories}
            self._rows: dict[int, list[dict[str, Any]]] = {}
            for row in table(content, "annotations", self.path):
                self._rows.setdefault(row["image_id"], []).append(row)
            self._images = [
                row
                for row in table(content, "images", self.path)
                if row["id"] in self._rows or row.get("neg_category_ids")
            ]
            for row in self._images:
                _ = row["width"], row["height"]
        except KeyError as error:
            raise DataError(
                f"{self.path}: an entry has no {error}: is it in COCO format?"
            ) from error
        self.unusable = 0
        """Boxes left out so far because they have no area in their image."""
        self._epochs = Epochs(len(self._images), seed, str(annotations))

    def __len__(self) -> int:
        return self._epochs.size

    def example(self, index: int) -> Example:
        """Record ``index``.

        Raises:
            DataError: The image holds nothing to ask about.
        """
        position, rng = self._epochs.at(index)
        picture = self.picture(position)
        example = ask_instances(picture, self.config, rng)
        if example is None:
            raise DataError(f"{picture.source}: image {picture.id} gives no question")
        return example

    def picture(self, position: int) -> Picture:
        """What is known of an image, by its place in the file.

        Raises:
            DataError: A category that the file does not list, or an image without a name.
        """
        row = self._images[position]
        size_wh = (int(row["width"]), int(row["height"]))
        boxes: list[list[float]] = []
        names: list[str] = []
        uncounted = {self._names[i] for i in row.get("not_exhaustive_category_ids", ())}
        present: set[int] = set()
        for annotation in self._rows.get(row["id"], ()):
            category = annotation.get("category_id", -1)
            if category not in self._names:
                raise DataError(
                    f"{self.path}: image {row['id']} has category {category!r}, unknown"
                )
            present.add(category)
            box = usable_xyxy(annotation.get("bbox"), size_wh)
            if annotation.get("iscrowd") or box is None:
                self.unusable += box is None
                uncounted.add(self._names[category])
                continue
            boxes.append(box)
            names.append(self._names[category])
        absent, hard = self._absent(row, present)
        return Picture(
            image=self.folder / _file_name(row),
            size_wh=size_wh,
            boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
            names=tuple(names),
            partial=frozenset(uncounted),
            absent=absent,
            hard=hard,
            proposals_xyxy=self.proposals.get(row["id"]),
            source=str(self.path),
            id=str(row["id"]),
        )

    def _absent(self, row: dict[str, Any], present: set[int]) -> tuple[list[str], list[str]]:
        if "neg_category_ids" in row:
            known = [self._names[i] for i in row["neg_category_ids"] if i in self._names]
            return known, known
        absent = [i for i in self._names if i not in present]
        groups = {self._groups[i] for i in present} - {None}
        words = {word for i in present for word in self._names[i].split()}
        hard = [
            self._names[i]
            for i in absent
            if self._groups[i] in groups or words & set(self._names[i].split())
        ]
        return [self._names[i] for i in absent], hard


def clean_name(name: str) -> str:
    """``baseball_bat`` -> ``baseball bat``, ``bow_(weapon)`` -> ``bow weapon``."""
    return " ".join(name.replace("_", " ").replace("(", "").replace(")", "").split())


def _file_name(row: dict[str, Any]) -> str:
    """COCO names the file; LVIS gives a URL whose end is ``val2017/000000000139.jpg``.

    Raises:
        DataError: The image has neither.
    """
    if "file_name" in row:
        return str(row["file_name"])
    if "coco_url" in row:
        return "/".join(str(row["coco_url"]).split("/")[-2:])
    raise DataError(f"image {row.get('id')} has neither file_name nor coco_url")
