"""COCO-Text: read what is printed in a region."""

from pathlib import Path
from typing import Any

import numpy as np

from vlm_fo1.data.example import Example, Turn
from vlm_fo1.data.regions import build_regions
from vlm_fo1.data.sources.base import Epochs
from vlm_fo1.data.sources.files import read_json, usable_xyxy
from vlm_fo1.errors import DataError
from vlm_fo1.prompts import Task, ask_regions


class CocoTextSource:
    """Records from ``cocotext.v2.json``: objects ``imgs`` and ``anns`` by id.

    Only legible text is asked for; illegible text is a region that nobody asks about.

    Args:
        annotations: The JSON file.
        images: Folder of the images.
        split: ``train`` or ``val`` as the file's ``set`` says; None keeps all.
        seed: Of the order and of the regions.
        distractors: Least and greatest number of boxes that are nothing.
        turns: Greatest number of words asked for in a record.

    Raises:
        DataError: A file that cannot be used.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        split: str | None = "train",
        seed: int = 0,
        distractors: tuple[int, int] = (0, 10),
        turns: int = 4,
    ) -> None:
        self.path, self.folder = Path(annotations), Path(images)
        self.distractors, self.turns = distractors, turns
        content = read_json(self.path)
        if not isinstance(content, dict) or not {"imgs", "anns"} <= set(content):
            raise DataError(f"{annotations} has no objects imgs and anns: is it COCO-Text?")
        grouped: dict[str, list[dict[str, Any]]] = {}
        for row in content["anns"].values():
            grouped.setdefault(str(row.get("image_id")), []).append(row)
        self._pictures: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
            (row, grouped[key])
            for key, row in sorted(content["imgs"].items())
            if (split is None or row.get("set") == split)
            and any(map(_legible, grouped.get(key, ())))
        ]
        self._epochs = Epochs(len(self._pictures), seed, f"{annotations} (split {split})")

    def __len__(self) -> int:
        return self._epochs.size

    def example(self, index: int) -> Example:
        """Record ``index``: up to `turns` words of one image.

        Raises:
            DataError: The image has no usable box.
        """
        position, rng = self._epochs.at(index)
        row, annotations = self._pictures[position]
        where = f"{self.path}: image {row.get('id')}"
        try:
            size_wh = (int(row["width"]), int(row["height"]))
            name = str(row["file_name"])
        except KeyError as error:
            raise DataError(f"{where} has no {error}") from error
        usable = [
            (annotation, box)
            for annotation in annotations
            if (box := usable_xyxy(annotation.get("bbox"), size_wh)) is not None
        ]
        regions = build_regions(
            np.array([box for _, box in usable], np.float32).reshape(-1, 4),
            size_wh,
            rng,
            distractors=self.distractors,
        )
        asked = [
            (region, str(usable[truth][0]["utf8_string"]))
            for truth, region in regions.region_of().items()
            if _legible(usable[truth][0])
        ]
        if not asked:
            raise DataError(f"{where} has no legible text in a usable box")
        turns: list[Turn] = []
        for choice in rng.permutation(len(asked))[: self.turns]:
            region, text = asked[choice]
            question = ask_regions(Task.REGION_OCR, [region], len(regions.xyxy))
            turns.append(Turn(question=question.text, answer=text, task=str(Task.REGION_OCR)))
        return Example(
            image=self.folder / name,
            regions_xyxy=regions.xyxy,
            scores=regions.scores,
            turns=tuple(turns),
            source=str(self.path),
            id=str(row.get("id")),
        )


def _legible(row: dict[str, Any]) -> bool:
    return row.get("legibility") == "legible" and bool(str(row.get("utf8_string", "")).strip())
