"""CountBench and PixMo-Count: how many of one thing are in an image."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmark import Card, Item
from vlm_fo1.eval.coco import find_image
from vlm_fo1.eval.lines import read_list
from vlm_fo1.eval.metrics import Tally, official_count
from vlm_fo1.eval.predictions import Record
from vlm_fo1.eval.scores import Part, Scores
from vlm_fo1.tasks import Request

_ASKED = re.compile(r"How many (.+) are there in the image\?")


@dataclass(frozen=True, kw_only=True)
class CountingOptions:
    """What a user may choose."""

    boxes: Literal["file", "proposer"] = "file"
    """The official proposals that stand in the file, or those of the run's proposer."""


@dataclass(frozen=True, kw_only=True)
class Counting:
    """Questions with a number as the answer."""

    card: Card
    file: str
    """Name of the official file in the data folder."""
    options: CountingOptions = CountingOptions()

    def items(self, data: Path) -> Iterator[Item]:
        """The questions word for word, with the official proposals.

        Raises:
            EvaluationError: The file is missing, or a record of it lacks something.
        """
        rows = read_list(data / self.file, ("question", "answer", "image", "bboxes"))
        for index, (where, row) in enumerate(rows):
            answer = row["answer"]
            if not isinstance(answer, int) or isinstance(answer, bool):
                raise EvaluationError(f"{where} has the answer {answer!r}: a number is needed")
            yield self._item(row, index, data)

    def judge(self, records: Sequence[Record]) -> Scores:
        """Accuracy by the official rule and of the regions, and how often these two differ."""
        rows = np.array([_row(record) for record in records], np.float64)
        said = [(int(r.truth["answer"]), _stated(r)) for r in records if r.answer is not None]
        return Scores(
            parts=(Part(Tally.of_items(rows, _formula)),),
            errors=(1 - rows[:, 0]).tolist(),
            counts=said,
        )

    def _item(self, row: Mapping[str, Any], index: int, data: Path) -> Item:
        question, image = str(row["question"]), str(row["image"])
        named = _ASKED.match(question)
        boxes = {"xyxy": row["bboxes"], "scores": row.get("scores")}
        return Item(
            id=str(index),
            image=find_image(image, [data / "images", data]),
            request=Request(
                task="counting",
                labels=(named[1] if named else question,),
                template=question,
            ),
            truth={"answer": row["answer"]},
            boxes=boxes if self.options.boxes == "file" else None,
        )


def _stated(record: Record) -> int:
    return 0 if record.answer is None else official_count(record.answer.text)


def _pointed(record: Record) -> int:
    """Number of different regions of the label that was asked, else of all."""
    if record.answer is None:
        return 0
    (asked,) = record.request["labels"]
    return len(record.answer.by_label.get(asked) or record.answer.regions)


def _row(record: Record) -> tuple[bool, bool, bool, bool]:
    if record.answer is None:
        return False, False, False, True
    stated, pointed, right = _stated(record), _pointed(record), record.truth["answer"]
    return stated == right, pointed == right, stated != pointed, True


def _formula(sums_1K: Any) -> dict[str, float | None]:
    names = ("accuracy", "regions accuracy", "number and regions differ")
    *counts, items = sums_1K[0].tolist()
    return {name: count / items for name, count in zip(names, counts, strict=True)}


_PROTOCOL = (
    "The official question word for word, with the official UPN proposals; right if the first "
    "number of the answer, region tags left out, is the truth. No number counts as 0."
)
_LAYOUT = "{file} and images/"

COUNTBENCH = Counting(
    file="countbench_with_upn_score_0.3_0.8.json",
    card=Card(
        title="CountBench",
        protocol=_PROTOCOL,
        metric="accuracy",
        layout=_LAYOUT.format(file="countbench_with_upn_score_0.3_0.8.json"),
        source="questions: om-ai-lab/VLM-FO1, evaluation/processed_data; images: "
        "huggingface.co/datasets/vikhyatk/CountBenchQA, saved as image_N.jpg",
        licence="of the images: not stated",
        size="487 questions",
    ),
)

PIXMO_COUNT = Counting(
    file="pixmoCount_with_upn_score_0.3_0.8.json",
    card=Card(
        title="PixMo-Count",
        protocol=_PROTOCOL,
        metric="accuracy",
        layout=_LAYOUT.format(file="pixmoCount_with_upn_score_0.3_0.8.json"),
        source="questions: om-ai-lab/VLM-FO1, evaluation/processed_data; images: by the URLs of "
        "huggingface.co/datasets/allenai/pixmo-count (test; check the hash), saved as 00000-N.jpg",
        licence="ODC-BY",
        size="529 questions",
    ),
)
