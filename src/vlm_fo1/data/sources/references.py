"""RefCOCO-style references: a sentence that means one box among the boxes of its image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_fo1.data.answers import label_answer
from vlm_fo1.data.example import Example, Turn
from vlm_fo1.data.regions import build_regions
from vlm_fo1.data.sources.base import Epochs
from vlm_fo1.data.sources.files import as_text, is_set, read_json, table
from vlm_fo1.data.sources.join import Joined
from vlm_fo1.errors import DataError
from vlm_fo1.formats.identity import as_id
from vlm_fo1.tasks import Task, ask_labels


class ReferencesSource:
    """Records from a list of references and the COCO instances they point at.

    The references are JSON, a list of ``{"image_id", "ann_id", "sentences": [{"sent"}], "split"}``
    (a sentence may be a plain text): what RefCOCO's pickle holds (pickles run code when read:
    convert yours once, with care).

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
        boxes = (
            row
            for row in table(content, "annotations", annotations)
            if not (isinstance(row, dict) and is_set(row.get("iscrowd")))
        )
        self._joined = Joined(Path(annotations), table(content, "images", annotations), boxes)
        self.notes = self._joined.notes
        """What the annotations hold that no record uses, with counts."""
        grouped: dict[str | None, list[dict[str, Any]]] = {}
        for row in rows:
            reference = row if isinstance(row, dict) else {}
            if split is None or reference.get("split") == split:
                grouped.setdefault(as_id(reference.get("image_id")), []).append(reference)
        self._groups = list(grouped.values())
        self._epochs = Epochs(len(self._groups), seed, f"{references} (split {split})")

    def __len__(self) -> int:
        return self._epochs.size

    def example(self, index: int) -> Example:
        """Record ``index``: up to `turns` references to things in one image.

        Raises:
            DataError: A reference to an image or a box that is not there, or without a sentence; an
                image that is missing or of another size than the annotations say.
        """
        position, rng = self._epochs.at(index)
        references = self._groups[position]
        image_id = references[0].get("image_id")
        where = f"{self.path}: image {image_id}"
        image = self._joined.image(image_id, self.folder, where)
        boxes: dict[str | None, list[float]] = {}
        for annotation, box in image.annotations:
            if box is not None:
                boxes.setdefault(as_id(annotation.get("id")), box)
        order = list(boxes)
        asked = [(_target(reference, order, where), reference) for reference in references]
        found = list(boxes.values())
        regions = build_regions(found, image.size_wh, rng, distractors=self.distractors)
        region_of = regions.region_of()
        turns: dict[str, Turn] = {}
        for choice in rng.permutation(len(asked))[: self.turns]:
            place, reference = asked[choice]
            region = region_of.get(place)
            if region is None:  # more things than regions
                continue
            sentences = _sentences(reference)
            phrase = sentences[rng.integers(len(sentences))]
            question = ask_labels(Task.REFERRING, phrase)
            answer = label_answer({question.labels[0]: [region]})
            turns[question.text] = Turn.asked(question, answer)
        return regions.example(image.file, turns.values(), self.path, str(image_id))


def _target(reference: dict[str, Any], order: Sequence[str | None], where: str) -> int:
    """The place of the box that a reference means.

    Raises:
        DataError: It has no box, or no sentence.
    """
    key = as_id(reference.get("ann_id"))
    if key is None or key not in order or not _sentences(reference):
        raise DataError(f"{where}: reference {reference.get('ref_id')} has no sentence or no box")
    return order.index(key)


def _sentences(reference: dict[str, Any]) -> list[str]:
    """What is said of a reference, as objects with ``sent`` or as plain texts."""
    said = reference.get("sentences")
    rows = said if isinstance(said, list) else []
    texts = (as_text(row.get("sent") if isinstance(row, dict) else row) for row in rows)
    return [text for text in texts if text is not None]
