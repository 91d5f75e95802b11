"""Held-out questions put to the network in training as users put them: each alone, constrained."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from vlm_fo1.answer import Answer
from vlm_fo1.data.check import BadRecord
from vlm_fo1.data.example import Example, Turn
from vlm_fo1.data.show import Line, draw_cell, sheet_of
from vlm_fo1.errors import FO1Error, PromptError, TrainingError, item_errors
from vlm_fo1.fo1 import FO1
from vlm_fo1.images import read_image
from vlm_fo1.markup import RELEASED, scan
from vlm_fo1.parser import parse
from vlm_fo1.processing import FO1Processor
from vlm_fo1.regions import Offer, Regions
from vlm_fo1.scene import Scene, encode_parts
from vlm_fo1.tasks import TASKS, Question, Request, questions_of
from vlm_fo1.train.figures import FIGURES, Counts, judge

AT_ONCE = 8
"""Records that are asked about side by side."""
ROOM = 64
"""An answer may have twice the tokens of the right one and so many more; one that goes on is
wrong by then, and a network that has learnt nothing yet would write for long."""


@dataclass(frozen=True)
class Asked:
    """One question of a record, as a user puts it."""

    turn: Turn
    request: Request
    question: Question


@dataclass(frozen=True)
class Record:
    """A held-out record with those of its questions whose answers can be judged."""

    number: int
    """Of the draw: it decides how boxes are shuffled and which answer is drawn."""
    example: Example
    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class Judged:
    """A question with both answers."""

    asked: Asked
    image: Image.Image
    truth: Answer
    said: Answer
    counts: Counts

    @property
    def right(self) -> bool:
        """Whether the answer is right in every respect."""
        return bool(self.counts.exact)


@dataclass
class Outcome:
    """What came of asking some records."""

    counts: dict[str, Counts] = field(default_factory=dict[str, Counts])
    """By task."""
    bad: list[BadRecord] = field(default_factory=list[BadRecord])
    """Records that could not be asked about."""
    drawn: list[Judged] = field(default_factory=list[Judged])
    """Some of the answers, of a record each."""


def draw_records(source: Iterable[Any], count: int) -> list[Record]:
    """Those of the first records of a held-out stream that ask something.

    Args:
        source: Examples; of others nothing is asked.
        count: How many examples are looked at.
    """
    found = [
        Record(number, example, _asked_of(example))
        for number, example in zip(range(count), source, strict=False)
    ]
    return [record for record in found if record.asked]


def ask(
    records: Sequence[Record],
    model: Any,
    processor: FO1Processor,
    *,
    shuffled: bool = False,
    drawn: int = 0,
) -> Outcome:
    """Put the questions of records to a model, greedily and constrained as users have it.

    Args:
        records: What is asked.
        model: In evaluation mode, with all of its weights on this process.
        processor: Its processor.
        shuffled: Show every region's box under the number of another: what is still right then was
            not seen in the regions.
        drawn: How many answers are kept to be drawn.

    Raises:
        TrainingError: Not one record can be asked about; with the reason of the last.
    """
    engine = FO1(model, processor).engine  # its own, so that nothing is kept when weights change
    outcome = Outcome()
    for start in range(0, len(records), AT_ONCE):
        group = records[start : start + AT_ONCE]
        for record, judged in _judged(group, engine, processor, shuffled=shuffled):
            if isinstance(judged, FO1Error):
                bad = BadRecord(record.example.source, record.example.id, str(judged))
                outcome.bad.append(bad)
                continue
            for one in judged:
                task = one.truth.task
                outcome.counts[task] = outcome.counts.get(task, Counts()) + one.counts
            if len(outcome.drawn) < drawn:
                outcome.drawn.append(judged[record.number % len(judged)])
    if records and not outcome.counts:
        raise TrainingError(f"no held-out record can be asked about: {outcome.bad[-1]}")
    return outcome


def draw_answers(judged: Sequence[Judged]) -> Image.Image:
    """Answers beside each other: image, question, the model's answer, and the right one if wrong.

    Args:
        judged: At least one.

    Returns:
        A new RGB image. A cell begins with RIGHT in green or WRONG in red.
    """
    return sheet_of([draw_cell(one.said, one.image, _lines(one)) for one in judged], columns=5)


def request_of(turn: Turn, regions: int) -> Request | None:
    """What a user asks for so that just this question is put.

    Args:
        turn: A question of a record, in the words of its task or others.
        regions: How many regions the record has.

    Returns:
        The request; None where there is none, or where the task's answers are not judged.
    """
    if turn.task not in FIGURES:
        return None
    tags = RELEASED.tag_pattern()
    if TASKS[turn.task].takes == "regions":
        values: dict[str, Any] = {"regions": tuple(map(int, tags.findall(turn.question)))}
    else:
        values = {"labels": _labels(turn)}
    for template in ("", tags.sub("{}", turn.question)):
        try:
            request = Request(task=turn.task, template=template, **values)
            texts = [question.text for question in questions_of(request, regions)]
        except PromptError:  # words that name nothing
            return None
        if texts == [turn.question]:
            return request
    return None


def _labels(turn: Turn) -> tuple[str, ...]:
    """What a question asks for; in words of its own, what its answer names.

    A list is cut at its commas, but for labels of the answer that have one themselves.
    """
    named = tuple(dict.fromkeys(said.label for said in scan(turn.answer).mentions if said.label))
    head, _, tail = TASKS[turn.task].template.partition("{}")
    if not (turn.question.startswith(head) and turn.question.endswith(tail)):
        return named
    rest = turn.question[len(head) : len(turn.question) - len(tail)]
    if TASKS[turn.task].takes == "label":
        return (rest,)
    labels: list[str] = []
    while rest:
        whole = [label for label in named if f"{rest}, ".startswith(f"{label}, ")]
        labels.append(max(whole, key=len, default=rest.partition(", ")[0]))
        rest = rest[len(labels[-1]) :].removeprefix(", ")
    return tuple(labels)


def _asked_of(example: Any) -> tuple[Asked, ...]:
    """The questions of a record that can be judged; of a conversation the first alone."""
    if not isinstance(example, Example) or example.image is None:
        return ()
    regions = len(example.regions_xyxy)
    turns = example.turns[:1] if example.conversation else example.turns
    requests = [(turn, request_of(turn, regions)) for turn in turns]
    return tuple(
        Asked(turn, request, questions_of(request, regions)[0])
        for turn, request in requests
        if request is not None
    )


def _judged(
    group: Sequence[Record], engine: Any, processor: FO1Processor, *, shuffled: bool
) -> Iterator[tuple[Record, list[Judged] | FO1Error]]:
    """Answers of a group of records; one that cannot be asked about costs itself alone."""
    name = f"record {group[0].example.id} of {group[0].example.source}"
    try:
        with item_errors(name if len(group) == 1 else f"{len(group)} records"):
            found = _together(group, engine, processor, shuffled=shuffled)
    except FO1Error as error:
        if len(group) == 1:
            yield group[0], error
            return
        for record in group:
            yield from _judged([record], engine, processor, shuffled=shuffled)
        return
    yield from zip(group, found, strict=True)


def _together(
    group: Sequence[Record], engine: Any, processor: FO1Processor, *, shuffled: bool
) -> list[list[Judged]]:
    """All questions of a group side by side, the towers' work shared by those on one image."""
    scenes = [_open(record, engine, processor, shuffled=shuffled) for record in group]
    planned = [
        (scene, scene.plan(one.request, max_new_tokens=_limit(one, processor), scores=None))
        for record, scene in zip(group, scenes, strict=True)
        for one in record.asked
    ]
    first = {id(scene): (scene, plan) for scene, plan in reversed(planned)}
    encode_parts(part for scene, plan in first.values() for part in scene.preprocess(plan))
    prompts = [scene.prompts(plan) for scene, plan in planned]
    done = iter(engine.generate([prompt for some in prompts for prompt in some]))
    answers = iter(
        [
            scene.read(plan, list(islice(done, len(some))), 0.0)
            for (scene, plan), some in zip(planned, prompts, strict=True)
        ]
    )
    found: list[list[Judged]] = []
    for record, scene in zip(group, scenes, strict=True):
        scene.close()
        found.append([_compared(one, scene, next(answers)) for one in record.asked])
    return found


def _open(record: Record, engine: Any, processor: FO1Processor, *, shuffled: bool) -> Scene:
    boxes_xyxy = record.example.regions_xyxy
    if shuffled and len(boxes_xyxy) > 1:
        order = np.random.default_rng([record.number, 1]).permutation(len(boxes_xyxy))
        moved = boxes_xyxy.copy()
        moved[order] = boxes_xyxy[np.roll(order, 1)]  # no box keeps its number
        boxes_xyxy = moved
    image = read_image(record.example.image)
    return Scene(engine, processor, image, Offer(Regions(boxes_xyxy, image.size)))


def _limit(one: Asked, processor: FO1Processor) -> int:
    right = processor.tokenizer(one.turn.answer, add_special_tokens=False)["input_ids"]
    return ROOM + 2 * len(right)


def _compared(one: Asked, scene: Scene, said: Answer) -> Judged:
    truth = parse(one.turn.answer, scene.regions, one.question)
    return Judged(one, scene.image, truth, said, judge(truth, said))


_GREEN, _RED, _INK, _GREY = (0, 92, 40), (176, 0, 32), (20, 20, 20), (105, 105, 105)
_LIGHT_GREEN, _LIGHT_RED = (223, 243, 228), (253, 226, 228)


def _lines(one: Judged) -> list[Line]:
    ink, ground = (_GREEN, _LIGHT_GREEN) if one.right else (_RED, _LIGHT_RED)
    lines: list[Line] = [
        ("RIGHT" if one.right else "WRONG", ink, ground),
        (f"[{one.asked.turn.task}] {one.asked.turn.question}", _GREY, None),
        (one.said.text or "(nothing)", ink, ground),
    ]
    if not one.right:
        lines.append((f"right: {one.asked.turn.answer or '(nothing)'}", _INK, None))
    return lines
