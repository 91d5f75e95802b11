"""CountBench and PixMo-Count: how many of one thing are in an image."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlm_fo1.config import read_json
from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmark import Card, Item, Published
from vlm_fo1.eval.coco import find_image
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
        path = data / self.file
        rows = read_json(path, EvaluationError)
        if not isinstance(rows, list) or not rows:
            raise EvaluationError(f"{path} holds no list of questions: is it the right file?")
        for index, row in enumerate(rows):
            try:
                yield self._item(row, index, data)
            except (KeyError, TypeError) as error:
                raise EvaluationError(
                    f"{path}: record {index} has no {error}: 'question', 'answer', 'image' and "
                    "'bboxes' are needed"
                ) from error

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
        question, image = row["question"], row["image"]
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
            truth={"answer": int(row["answer"])},
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
        published=(
            Published(
                source="FO1 with UPN: README; the others as FO1 prints them",
                columns=("accuracy",),
                rows={
                    "FO1 + UPN": (89.73,),
                    "FO1 + OPN (blog)": (85.8,),
                    "GPT-4V": (69.9,),
                    "GPT-4o": (87.9,),
                    "Gemini 1.5 Pro": (85.8,),
                    "Claude 3 Opus": (83.6,),
                    "Claude 3.5": (89.7,),
                    "LLaVA-1.5-13B": (47.1,),
                    "LLaVA-OV-72B": (84.3,),
                    "InternVL2-8B": (57.8,),
                    "InternVL2-76B": (74.7,),
                    "InternVL2.5-78B": (72.1,),
                    "Qwen2-VL-72B": (80.4,),
                    "Qwen2.5-VL-72B": (93.6,),
                    "Pixtral": (78.8,),
                    "Llama-3.2V-90B": (78.5,),
                    "Molmo-7B-D": (88.5,),
                },
            ),
        ),
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
        published=(
            Published(
                source="FO1 with UPN: README; the others as FO1 prints them",
                columns=("accuracy",),
                rows={
                    "FO1 + UPN": (85.07,),
                    "FO1 + OPN (blog)": (84.8,),
                    "GPT-4V": (45.0,),
                    "GPT-4o": (59.6,),
                    "Gemini 1.5 Pro": (64.3,),
                    "Claude 3 Opus": (43.3,),
                    "Claude 3.5": (58.3,),
                    "LLaVA-1.5-13B": (35.2,),
                    "LLaVA-OV-72B": (60.7,),
                    "InternVL2-8B": (43.9,),
                    "InternVL2-76B": (54.6,),
                    "Qwen2-VL-72B": (55.7,),
                    "Pixtral": (51.7,),
                    "Llama-3.2V-90B": (58.5,),
                    "Molmo-7B-D": (84.8,),
                },
            ),
            Published(
                source="VLX-Seek 1.5; whether on all 540 images or on 529 is not said",
                columns=("accuracy",),
                rows={
                    "Gemini-3 Pro": (90.0,),
                    "VLX-Seek-1.5-10B": (89.0,),
                    "VLX-Seek-1.5-3B": (88.1,),
                    "Rex-Omni": (85.3,),
                    "LocateAnything": (85.1,),
                    "VLX-Seek-3B": (85.0,),
                    "Gemini 2.5 Pro": (73.8,),
                    "GPT-5": (67.2,),
                    "Qwen3-VL-8B": (65.0,),
                    "MiniCPM-V-4.5": (62.8,),
                    "InternVL3.5-8B": (61.9,),
                },
            ),
        ),
    ),
)
