"""One training record, and the JSONL file of such records: `docs/data.md` is its description.

A line of a file is one JSON object::

    {"id": "12", "image": "images/12.jpg", "regions": [[10, 20, 110, 90]], "scores": [0.8],
     "turns": [{"task": "brief_caption", "question": "Provide a brief description for <region0>.",
                "answer": "a dog"}], "source": "mine"}

``image`` is a path beside the file, or null; ``regions`` are xyxy in pixels of the image as
displayed; ``scores``, ``source``, ``id`` and ``task`` may be left out. ``"conversation": true``
says that later turns need earlier ones; without it each question is learnt by itself.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlm_fo1 import boxes as box_math
from vlm_fo1.data.names import locate
from vlm_fo1.errors import BoxError, DataError, item_errors
from vlm_fo1.formats.identity import is_writable
from vlm_fo1.markup import RELEASED, scan
from vlm_fo1.tasks import Question, Task

_KEYS = frozenset({"id", "image", "regions", "scores", "turns", "source", "conversation"})
_TURN_KEYS = frozenset({"question", "answer", "task"})
_BLANK = b"\0 \t\r\n\xef\xbb\xbf"  # the mark of UTF-8, and what a power cut leaves, included


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A question and its answer, with region tags that index `Example.regions_xyxy`."""

    question: str
    """What stands in the user's turn after the line of regions."""
    answer: str
    """What the model should write, markup included; may be empty."""
    task: str = "free"
    """A value of `vlm_fo1.tasks.Task`."""

    @classmethod
    def asked(cls, question: Question, answer: str) -> "Turn":
        """A question as it is asked of a model, with its answer."""
        return cls(question=question.text, answer=answer, task=str(question.task))


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """An image, its regions, and what is asked about them."""

    image: Path | Image.Image | None
    """A file, an image in memory, or None for a conversation without one."""
    turns: tuple[Turn, ...]
    regions_xyxy: npt.NDArray[np.float32] = field(default_factory=lambda: box_math.as_boxes([]))
    """(N, 4) float32 in pixels of the image as displayed, in the order of their tags."""
    scores: npt.NDArray[np.float32] | None = None
    """(N,) of the proposer, or None."""
    source: str = ""
    """Where it comes from: a file with line, or a stream with index."""
    id: str = ""
    conversation: bool = False
    """Whether a turn sees those before it; otherwise each is asked alone."""
    replay: bool = False
    """Whether it is here so that what the model knew is not lost: set by a mixture's source, and
    not written."""

    def __post_init__(self) -> None:
        """Check that the parts fit.

        Raises:
            DataError: No turn, regions without an image, scores of another number than regions, a
                tag of a region that does not exist, a task that nobody knows, a text that is no
                Unicode, or markup in an answer that cannot be read back.
            BoxError: Regions that are no boxes.
        """
        regions = box_math.as_boxes(self.regions_xyxy)
        object.__setattr__(self, "regions_xyxy", regions)
        object.__setattr__(self, "turns", tuple(self.turns))
        if self.scores is not None:
            scores = np.asarray(self.scores, np.float32)
            if scores.shape != (len(regions),):
                raise DataError(
                    f"scores have shape {scores.shape} for {len(regions)} regions: one each"
                )
            object.__setattr__(self, "scores", scores)
        if not self.turns:
            raise DataError("turns is empty: a record needs at least one question and answer")
        if self.image is None and len(regions):
            raise DataError(f"{len(regions)} regions but no image: regions need an image")
        for number, turn in enumerate(self.turns):
            fault = next(_faults(turn, len(regions)), None)
            if fault is not None:
                raise DataError(f"{fault[0]} of turn {number} {fault[1]}")


def _faults(turn: Turn, regions: int) -> Iterator[tuple[str, str]]:
    """What a model should not learn from a turn: which part of it, and what is wrong there."""
    if not turn.question.strip():
        yield "the question", "is empty"
    tags = RELEASED.tag_pattern()
    for name, text in (("the question", turn.question), ("the answer", turn.answer)):
        for match in tags.finditer(text):
            if int(match.group(1)) >= regions:
                yield (
                    name,
                    (
                        f"names {match.group()} but the record has {regions} regions (numbers "
                        "start at 0)"
                    ),
                )
        if not is_writable(text):
            yield name, "holds half of a surrogate pair, which is no character"
    tasks = [str(task) for task in Task]
    if turn.task not in tasks:
        near = get_close_matches(turn.task, tasks, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(tasks)} is needed"
        yield "the task", f"is {turn.task!r}, unknown: {hint}"
    # Regions named in running text are fine: the documented conversations do that.
    opening, closing = map(re.escape, RELEASED.objects)
    parts = re.split(f"({opening}.*?{closing})", turn.answer, flags=re.DOTALL)
    parts[::2] = [tags.sub("", part) for part in parts[::2]]
    for problem in scan("".join(parts)).problems:
        yield "the answer", f"has broken markup: {problem}"


def read_examples(path: str | Path) -> Iterator[Example]:
    """The records of a JSONL file, in order.

    Args:
        path: The file; image paths in it are relative to its folder.

    Yields:
        Examples; empty lines are skipped.

    Raises:
        DataError: The file does not exist, or a line cannot be used; the message has file and line.
    """
    path = Path(path)
    for number, _, line in read_lines(path):
        yield parse_line(line, path, number)


def read_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), place in the file in bytes, and bytes of each line that holds something.

    Raises:
        DataError: No such file, or it cannot be read.
    """
    start = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip(_BLANK):
                    yield number, start, line
                start += len(line)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: check the path") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the path") from error


def parse_line(line: bytes, path: Path, number: int) -> Example:
    """One line of a file.

    Raises:
        DataError: With file and line, what is wrong and what is needed.
    """
    where = f"{path}:{number}"
    with item_errors(where):
        try:
            return _from_dict(json.loads(line.decode("utf-8-sig")), path, number)
        except (DataError, BoxError, ValueError) as error:  # of JSON, of UTF-8
            raise DataError(f"{where}: {error}") from error


def to_dict(example: Example, folder: Path) -> dict[str, Any]:
    """Plain values of a record, image path relative to ``folder`` where it lies in it.

    Raises:
        DataError: The image is in memory: save it first.
    """
    if isinstance(example.image, Image.Image):
        raise DataError(f"record {example.id!r} holds its image in memory: save it to a file")
    image = example.image
    if image is not None and image.is_relative_to(folder):
        image = image.relative_to(folder)
    record: dict[str, Any] = {
        "id": example.id,
        "image": None if image is None else image.as_posix(),
        "regions": [[round(v, 2) for v in box] for box in example.regions_xyxy.tolist()],
    }
    if example.scores is not None:
        record["scores"] = [round(v, 4) for v in example.scores.tolist()]
    record["turns"] = [
        {"task": turn.task, "question": turn.question, "answer": turn.answer}
        for turn in example.turns
    ]
    record["source"] = example.source
    if example.conversation:
        record["conversation"] = True
    return record


def write_examples(path: str | Path, examples: Iterable[Example]) -> int:
    """Write records to a JSONL file.

    Args:
        path: The file, replaced if it exists.
        examples: Records whose image is a file or None.

    Returns:
        How many were written.
    """
    path = Path(path)
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(to_dict(example, path.parent), ensure_ascii=False) + "\n")
            count += 1
    return count


def _from_dict(record: Any, path: Path, number: int) -> Example:
    if not isinstance(record, dict):
        raise DataError(f"a record is a JSON object, this is {type(record).__name__}")
    unknown = sorted(set(record) - _KEYS)
    if unknown:
        raise DataError(f"unknown keys {unknown}: a record has {', '.join(sorted(_KEYS))}")
    image = record.get("image")
    if image is not None and not (isinstance(image, str) and image):
        raise DataError(f"image = {image!r} must be a path or null")
    turns = record.get("turns")
    if not isinstance(turns, list):
        raise DataError("turns must be a list of {question, answer, task}")
    conversation = record.get("conversation", False)
    if not isinstance(conversation, bool):
        raise DataError(f"conversation = {conversation!r} must be true or false")
    return Example(
        image=None if image is None else locate(path.parent, image),
        regions_xyxy=box_math.as_boxes(record.get("regions") or []),
        turns=tuple(_turn(turn, index) for index, turn in enumerate(turns)),
        scores=_scores(record.get("scores")),
        source=f"{path}:{number}",
        id=str(record.get("id", number)),
        conversation=conversation,
    )


def _scores(values: Any) -> npt.NDArray[np.float32] | None:
    if values is None:
        return None
    try:
        return np.array(values, np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(f"scores must be a list of numbers: {error}") from error


def _turn(values: Any, index: int) -> Turn:
    if not isinstance(values, dict) or set(values) - _TURN_KEYS:
        raise DataError(f"turn {index} must be an object with {', '.join(sorted(_TURN_KEYS))}")
    for key in ("question", "answer"):
        if not isinstance(values.get(key), str):
            raise DataError(f"turn {index} has no text {key!r}")
    return Turn(
        question=values["question"], answer=values["answer"], task=str(values.get("task") or "free")
    )
