"""RefCOCO-style references: a sentence that means one box among the boxes of its image."""

from pathlib import Path
from typing import Any

import numpy as np

from vlm_fo1.data.answers import label_answer
from vlm_fo1.data.example import Example, Turn
from vlm_fo1.data.regions import build_regions
from vlm_fo1.data.sources.base import Epochs
from vlm_fo1.data.sources.files import read_json, table, usable_xyxy
from vlm_fo1.errors import DataError
from vlm_fo1.prompts import Task, ask_labels


class ReferencesSource:
    """Records from a list of references and the COCO instances they point at.

    The references are JSON, a list of ``{"image_id", "ann_id", "sentences": [{"sent"}], "split"}``:
    what RefCOCO's pickle holds (pickles run code when read: convert yours once, with care).

    Args:
        references: The JSON file.
        annotations: The COCO instances file.
        images: Folder of the images.
        split: Keep references of this split; None keeps all.
        seed: Of the order and of the regions.
        distractors: Least and greatest number of boxes that are nothing, beside the other things.
        turns: Greatest number of sentences about one image in a record.

    Raises:
        DataError: A file that cannot be used.
    """

    def __init__(
        self,
        references: str | Path,
        annotations: str | Path,
        images: str | Path,
        split: str | None = "train",
        seed: int = 0,
        distractors: tuple[int, int] = (0, 10),
        turns: int = 4,
    ) -> None:
        self.path, self.folder = Path(references), Path(images)
        self.distractors, self.turns = distractors, turns
        content = read_json(annotations)
        rows = read_json(self.path)
        if not isinstance(rows, list):
            raise DataError(f"{references} must be a list of references")
        try:
            self._images = {row["id"]: row for row in table(content, "images", annotations)}
            self._boxes: dict[int, dict[int, Any]] = {}
            for row in table(content, "annotations", annotations):
                if not row.get("iscrowd"):
                    self._boxes.setdefault(row["image_id"], {})[row["id"]] = row["bbox"]
            grouped: dict[int, list[dict[str, Any]]] = {}
            for row in rows:
                if split is None or row.get("split") == split:
                    grouped.setdefault(row["image_id"], []).append(row)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{references} or {annotations}: an entry lacks {error}") from error
        self._groups = sorted(grouped.items())
        self._epochs = Epochs(len(self._groups), seed, f"{references} (split {split})")

    def __len__(self) -> int:
        return self._epochs.size

    def example(self, index: int) -> Example:
        """Record ``index``: up to `turns` references to things in one image.

        Raises:
            DataError: A reference to an image or a box that is not there.
        """
        position, rng = self._epochs.at(index)
        image_id, references = self._groups[position]
        where = f"{self.path}: image {image_id}"
        if image_id not in self._images:
            raise DataError(f"{where} is not in the annotations")
        row = self._images[image_id]
        size_wh = (int(row["width"]), int(row["height"]))
        usable = {
            key: box
            for key, xywh in self._boxes.get(image_id, {}).items()
            if (box := usable_xyxy(xywh, size_wh)) is not None
        }
        order = list(usable)
        regions = build_regions(
            np.array(list(usable.values()), np.float32).reshape(-1, 4),
            size_wh,
            rng,
            distractors=self.distractors,
        )
        region_of = regions.region_of()
        turns: dict[str, Turn] = {}
        for choice in rng.permutation(len(references))[: self.turns]:
            reference = references[choice]
            sentences = [s.get("sent", "").strip() for s in reference.get("sentences", ())]
            sentences = [sentence for sentence in sentences if sentence]
            if reference.get("ann_id") not in usable or not sentences:
                raise DataError(
                    f"{where}: reference {reference.get('ref_id')} has no sentence or no box"
                )
            region = region_of.get(order.index(reference["ann_id"]))
            if region is None:  # more things than regions
                continue
            phrase = sentences[rng.integers(len(sentences))]
            question = ask_labels(Task.REFERRING, phrase)
            answer = label_answer({question.labels[0]: [region]})
            turns[question.text] = Turn(
                question=question.text, answer=answer, task=str(Task.REFERRING)
            )
        return Example(
            image=self.folder / str(row["file_name"]),
            regions_xyxy=regions.xyxy,
            scores=regions.scores,
            turns=tuple(turns.values()),
            source=str(self.path),
            id=str(image_id),
        )
