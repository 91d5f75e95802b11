"""Contract cases of the counting benchmarks."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.helpers.evaluation import BenchmarkCase, answer_to, write_image
from vlm_fo1.answer import Answer
from vlm_fo1.eval.benchmark import Item
from vlm_fo1.eval.benchmarks.counting import COUNTBENCH, PIXMO_COUNT
from vlm_fo1.images import image_size

QUESTION = (
    "How many {} are there in the image? Count each instance of the target object. Locate them "
    "with object indexes and then answer the question with the number of objects."
)


def write_questions(
    folder: Path, rows: Sequence[tuple[str, int, Any]], file: str = COUNTBENCH.file
) -> Path:
    """The official file and images/: what is counted, how many there are, boxes."""
    content = []
    for number, (thing, answer, boxes) in enumerate(rows):
        write_image(folder / "images" / f"image_{number}.jpg", boxes=boxes)
        content.append({
            "question": QUESTION.format(thing), "answer": answer, "image": f"image_{number}.jpg",
            "bboxes": boxes, "scores": [0.5] * len(boxes),
        })  # fmt: skip
    (folder / file).write_text(json.dumps(content))
    return folder


ROWS = [
    (thing, number, [[10 * i, 0, 10 * i + 8, 10] for i in range(4)])
    for thing, number in (("dogs", 3), ("light bulbs", 2), ("cats", 4))
]


def count_right(item: Item) -> Answer:
    """Says the number, and points at so many boxes."""
    (label,) = item.request.labels
    number = item.truth["answer"]
    boxes = {label: item.boxes["xyxy"][:number]}
    return answer_to(item.request, image_size(item.image), boxes, f"There are {number}.")


CASES = [
    BenchmarkCase(
        name=name,
        write=partial(write_questions, rows=ROWS, file=benchmark.file),
        says=count_right,
        best={"accuracy": 100, "regions accuracy": 100, "number and regions differ": 0},
        nothing={"accuracy": 0, "regions accuracy": 0, "number and regions differ": 0},
    )
    for name, benchmark in (("countbench", COUNTBENCH), ("pixmo-count", PIXMO_COUNT))
]
