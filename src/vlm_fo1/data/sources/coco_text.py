"""COCO-Text: read what is printed in a region."""

from pathlib import Path
from typing import Any

from vlm_fo1.data.example import Example, Turn
from vlm_fo1.data.regions import build_regions
from vlm_fo1.data.sources.base import Epochs
from vlm_fo1.data.sources.files import as_text, read_json
from vlm_fo1.data.sources.join import Joined
from vlm_fo1.errors import DataError
from vlm_fo1.tasks import Task, ask_regions


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
        found = content if isinstance(content, dict) else {}
        rows, texts = found.get("imgs"), found.get("anns")
        if not isinstance(rows, dict) or not isinstance(texts, dict):
            raise DataError(f"{annotations} has no objects imgs and anns: is it COCO-Text?")
        rows = [{"id": key, **row} for key, row in rows.items() if isinstance(row, dict)]
        self._joined = Joined(self.path, rows, texts.values())
        self.notes = self._joined.notes
        """What the file holds that no record uses, with counts."""
        self._rows = [
            row
            for row in rows
            if (split is None or row.get("set") == split)
            and any(map(_legible, self._joined.of(row["id"])))
        ]
        self._epochs = Epochs(len(self._rows), seed, f"{annotations} (split {split})")

    def __len__(self) -> int:
        return self._epochs.size

    def example(self, index: int) -> Example:
        """Record ``index``: up to `turns` words of one image.

        Raises:
            DataError: The image has no usable box, no name or no size, is missing, or is of another
                size than the file says.
        """
        position, rng = self._epochs.at(index)
        row = self._rows[position]
        where = f"{self.path}: image {row['id']}"
        image = self._joined.image(row["id"], self.folder, where)
        usable = [(said, box) for said, box in image.annotations if box is not None]
        boxes = [box for _, box in usable]
        regions = build_regions(boxes, image.size_wh, rng, distractors=self.distractors)
        asked = [
            (region, usable[truth][0]["utf8_string"])
            for truth, region in regions.region_of().items()
            if _legible(usable[truth][0])
        ]
        if not asked:
            raise DataError(f"{where} has no legible text in a usable box")
        turns: list[Turn] = []
        for choice in rng.permutation(len(asked))[: self.turns]:
            region, text = asked[choice]
            question = ask_regions(Task.REGION_OCR, [region], len(regions.xyxy))
            turns.append(Turn.asked(question, text))
        return regions.example(image.file, turns, self.path, str(row["id"]))


def _legible(row: dict[str, Any]) -> bool:
    return row.get("legibility") == "legible" and as_text(row.get("utf8_string")) is not None
