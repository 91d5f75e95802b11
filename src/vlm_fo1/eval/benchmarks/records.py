"""Held-out records of one's own, as training reads them: each question is asked by itself.

So a model that was trained on such records, or the bundled one on synthetic images, is judged by
its answers, task by task.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_fo1.data.example import Example, Turn, read_examples
from vlm_fo1.errors import EvaluationError, FO1Error
from vlm_fo1.eval.benchmark import NO_OPTIONS, Card, Item, NoOptions
from vlm_fo1.eval.metrics import (
    false_positives_tally,
    grec_tally,
    official_count,
    pooled_f1_tally,
    text_accuracy_tally,
)
from vlm_fo1.eval.metrics.tally import Tally, share
from vlm_fo1.eval.predictions import Record, boxes_by_label
from vlm_fo1.eval.scores import Part, Scores, places_of
from vlm_fo1.markup import RELEASED, scan
from vlm_fo1.regions import rounded
from vlm_fo1.tasks import TASKS, Request, Task

_NAMES = (Task.DETECTION, Task.GROUNDED_CAPTION, Task.IDENTIFY)
_PHRASES = (Task.REFERRING, Task.VISUAL_PROMPT)


@dataclass(frozen=True, kw_only=True)
class Records:
    """A ``records.jsonl`` of image, regions and questions with their answers."""

    card: Card
    options: NoOptions = NO_OPTIONS

    def items(self, data: Path) -> Iterator[Item]:
        """Every question of every record, with the regions of the record.

        Raises:
            EvaluationError: The file is missing, or a record cannot be read or has no image.
        """
        path = data if data.is_file() else data / "records.jsonl"
        if not path.is_file():
            raise EvaluationError(f"{path} is missing: {self.card.layout}")
        try:
            for number, example in enumerate(read_examples(path)):
                if not isinstance(example.image, Path):
                    raise EvaluationError(f"{path}: record {number} has no image")
                for place, turn in enumerate(example.turns):
                    yield _item(f"{number}/{place}", example, example.image, turn)
        except FO1Error as error:
            raise EvaluationError(str(error)) from error

    def judge(self, records: Sequence[Record]) -> Scores:
        """Task by task: F1 and false names, exact numbers, exact regions, exact words."""
        parts: list[Part] = []
        for task, places in places_of(record.truth["task"] for record in records).items():
            own = [records[place] for place in places]
            parts += _parts(task, own, places)
        errors = [1 - _exact(record) for record in records]
        return Scores(parts=tuple(parts), errors=errors)


def _item(id_: str, example: Example, image: Path, turn: Turn) -> Item:
    """A question with its regions where ``{}`` stands."""
    found = scan(turn.answer, RELEASED)
    boxes = example.regions_xyxy.tolist()
    pairs = [(said.label, boxes[n]) for said in found.mentions for n in said.numbers]
    return Item(
        id=id_,
        image=image,
        request=_request(turn, {said.label for said in found.mentions}),
        truth={
            "boxes": boxes_by_label(pairs),
            "task": turn.task or str(Task.FREE),
            "answer": found.plain.strip(),
        },
        boxes={"xyxy": boxes, "scores": None if example.scores is None
               else example.scores.tolist()},
    )  # fmt: skip


def _request(turn: Turn, answered: Set[str]) -> Request:
    """The task with its names, which may be several questions; other words are asked as they are.

    Args:
        turn: Of a record.
        answered: Names that its answer has.
    """
    tags = RELEASED.tag_pattern()
    words = turn.question.replace(RELEASED.region_feature, "")
    spec = TASKS[Task(turn.task)]
    head, _, tail = spec.template.partition("{}")
    if spec.takes in {"label", "labels"} and words.startswith(head) and words.endswith(tail):
        named = words[len(head) : len(words) - len(tail)]
        labels = named.split(", ") if spec.takes == "labels" else [named]
        if all(label.strip() for label in labels) and answered <= {*labels}:
            return Request(task=turn.task, labels=tuple(labels))
    regions = tuple(int(match[1]) for match in tags.finditer(turn.question))
    return Request(task="free", text=tags.sub("{}", words), regions=regions)


def _parts(task: str, records: Sequence[Record], places: Sequence[int]) -> Iterator[Part]:
    """The scores of a task, whose records have these places."""
    if task in _NAMES:
        images = [record.labelled() for record in records]
        if any(image["truth"] for image in images):
            yield Part(pooled_f1_tally(images, "all"), task, records=places)
            prefix = f"{task} false positives per truth"
            yield Part(false_positives_tally(images), prefix, 1, places)
    if task in _PHRASES:
        yield Part(grec_tally([record.unlabelled() for record in records]), task, records=places)
    rows = [(_exact(record), 1) for record in records]
    tally = Tally.of_items(rows, lambda sums_1K: {"exact": share(*sums_1K[0])})
    yield Part(tally, task, records=places, words=task not in (*_NAMES, *_PHRASES))


def _exact(record: Record) -> float:
    """Whether an answer is right as a whole: its regions, its number or its words."""
    if record.answer is None:
        return 0.0
    task, truth = record.truth["task"], record.truth
    if task == Task.COUNTING:
        return float(official_count(record.answer.text) == official_count(truth["answer"]))
    if task in _NAMES:
        said = {label: sorted(boxes) for label, boxes in record.answer.by_label.items()}
        true = {label: sorted(_rounded(boxes)) for label, boxes in truth["boxes"].items()}
        return float(said == true)
    if task in _PHRASES:
        return grec_tally([record.unlabelled()]).score()["pr"] or 0.0
    value: Any = text_accuracy_tally([record.answer.plain], [truth["answer"]]).score()["accuracy"]
    return value or 0.0


def _rounded(boxes: Sequence[Sequence[float]]) -> list[list[float]]:
    """Boxes as those of an answer are."""
    return [[rounded(value) for value in box] for box in boxes]


RECORDS = Records(
    card=Card(
        title="Held-out records",
        protocol="Each question of each record by itself, with the record's regions, in its own "
        "words (in the task's words, as several questions where it has more names than the model "
        "takes at once); F1 of names, exact number, exact regions or exact words by task.",
        metric="detection f1_mean",
        layout="records.jsonl, as training reads it, and the images that it names",
        source="your own, or synthetic images: python -m recipes.synthetic FOLDER",
        licence="yours",
    )
)
