"""Contract cases of held-out records."""

import numpy as np

from tests.helpers.evaluation import BenchmarkCase, answer_to, write_image
from vlm_fo1.data.example import Example, Turn, write_examples

A, B = [0, 0, 10, 10], [20, 0, 30, 10]


def write_records(folder):
    image = write_image(folder / "images" / "a.png", boxes=[A, B])
    found = "<ground>cat</ground><objects><region1></objects>"
    turns = (
        Turn(question="Please detect cat.", answer=found, task="detection"),
        Turn(question="How many cats?", answer=f"There is 1. {found}", task="counting"),
        Turn(question="What is <region0>?", answer="A dog", task="brief_caption"),
        Turn(question="The cat?", answer=found, task="referring"),
    )
    example = Example(image=image, regions_xyxy=np.array([A, B], np.float32), turns=turns)
    write_examples(folder / "records.jsonl", [example])
    return folder


def right(item):
    """The boxes and the words of the record."""
    return answer_to(item.request, (64, 48), item.truth["boxes"], item.truth["answer"])


CASES = [
    BenchmarkCase(
        name="records",
        write=write_records,
        says=right,
        best={"detection f1_mean": 100, "counting exact": 100, "referring pr": 100},
        nothing={"detection f1_mean": 0, "counting exact": 0, "referring pr": 0},
    ),
]
