"""Asking every item of a benchmark, each answer on disk before the next batch is asked."""

import hashlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vlm_fo1.answer import Answer
from vlm_fo1.errors import EvaluationError, FO1Error, item_errors
from vlm_fo1.eval.benchmark import Benchmark, Item
from vlm_fo1.eval.files import PredictionFile
from vlm_fo1.eval.predictions import Prediction, Record
from vlm_fo1.formats.identity import shown_boxes
from vlm_fo1.images import Frame, image_frame
from vlm_fo1.tasks import Request

logger = logging.getLogger(__name__)

Asked = tuple[Any, Request, Any]
AnswerMany = Callable[[Iterable[Asked]], Iterator[Answer | FO1Error]]
"""Answers image, request and boxes in order: `FO1.answer_many` with its options filled in."""


@dataclass(frozen=True)
class Shard:
    """One part of a run: every ``count``-th item from the ``number``-th on, from 1."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse a part that cannot be.

        Raises:
            EvaluationError: Numbers start at 1 and end at the count.
        """
        if not 1 <= self.number <= self.count:
            raise EvaluationError(
                f"shard {self.number}/{self.count} cannot be: write 1/4, 2/4, 3/4 and 4/4 for four"
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that ``2/4`` means.

        Raises:
            EvaluationError: Not of this form.
        """
        first, slash, second = text.partition("/")
        if not slash or not first.strip().isdecimal() or not second.strip().isdecimal():
            raise EvaluationError(f"shard {text!r}: write 1/4 for the first of four")
        return cls(int(first), int(second))

    def holds(self, index: int) -> bool:
        """Whether an item is of this part."""
        return index % self.count == self.number - 1

    @property
    def file_name(self) -> str:
        """Name of its predictions."""
        if self.count == 1:
            return "predictions.jsonl"
        return f"predictions-{self.number}-of-{self.count}.jsonl"


def items_of(benchmark: Benchmark, data: Path, limit: int | None = None) -> list[Item]:
    """The items of a benchmark, checked together.

    Args:
        benchmark: What is asked.
        data: Its folder.
        limit: At most so many, the first ones.

    Raises:
        EvaluationError: There are none, ids stand twice, or no image is there; some missing images
            are only warned of, and fail when they are asked about.
    """
    if not data.is_dir():
        raise EvaluationError(f"--data {data} is no folder: it must hold {benchmark.card.layout}")
    try:
        items = list(islice(benchmark.items(data), limit))
    except EvaluationError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        card = benchmark.card
        raise EvaluationError(f"{error}; needed: {card.layout}; from: {card.source}") from error
    if not items:
        raise EvaluationError(f"{data} holds no item of {benchmark.card.title}: nothing to ask")
    doubled = [id_ for id_, times in Counter(item.id for item in items).items() if times > 1]
    if doubled:
        raise EvaluationError(
            f"{len(doubled)} ids of items stand more than once, {doubled[0]!r} is the first: each "
            "item needs an id of its own"
        )
    missing = [path for path in dict.fromkeys(item.image for item in items) if not path.is_file()]
    if missing:
        images = len({item.image for item in items})
        said = f"{len(missing)} of {images} images are missing, {missing[0]} is the first"
        if len(missing) == images:
            raise EvaluationError(f"{said}: the data folder must hold {benchmark.card.layout}")
        logger.warning("%s: their items fail and count as wrong", said)
    return items


def digest_of(items: Sequence[Item]) -> str:
    """A short hash of what is asked and what is right, by which parts of one run know each other.

    Records hold the truth: were that of a file mended in between, half of them would be judged by
    the old one.
    """
    digest = hashlib.sha256()
    for item in items:
        own = isinstance(item.boxes, list) or (
            isinstance(item.boxes, dict) and "xyxy" in item.boxes
        )
        boxes = item.boxes if own else None  # else they are of a file that the header names
        content = (item.id, item.request.to_dict(), item.truth, boxes, item.size_wh)
        digest.update(repr(content).encode())
    return digest.hexdigest()[:16]


def predict(
    items: Sequence[Item],
    answer_many: AnswerMany,
    file: PredictionFile,
    *,
    shard: Shard = Shard(),
    data: Path = Path(),
) -> Iterator[Record]:
    """Ask about the items that the file has no answer to, and write each answer as it comes.

    An item that fails is written with its error, and the others go on.

    Args:
        items: Of `items_of`.
        answer_many: The model.
        file: Where records go; what it holds already is not asked again.
        shard: Which items.
        data: The data folder, to which paths of images are relative in the file.

    Yields:
        Each record when it is on disk.

    Raises:
        EvaluationError: The model gave fewer answers than were asked.
        OutputError: The disk refuses a record.
    """
    todo = [i for i in range(len(items)) if shard.holds(i) and i not in file.finished]
    waiting: deque[tuple[int, Item, FO1Error | None]] = deque()

    def asked() -> Iterator[Asked]:
        for index in todo:
            item = items[index]
            try:
                with item_errors(f"item {item.id}"):
                    item = as_shown(item, image_frame(item.image))
            except FO1Error as error:
                waiting.append((index, item, error))
            else:
                waiting.append((index, item, None))
                yield item.image, item.request, item.boxes

    def written(answer: Answer | FO1Error) -> Record:
        index, item, _ = waiting.popleft()
        record = record_of(index, item, answer, data)
        file.append(record)
        return record

    def broken() -> Iterator[Record]:
        while waiting and waiting[0][2] is not None:
            yield written(waiting[0][2])

    for answer in answer_many(asked()):
        yield from broken()
        yield written(answer)
    yield from broken()
    if waiting:
        raise EvaluationError(f"the model gave no answer to the last {len(waiting)} items")
    file.finish()


def as_shown(item: Item, frame: Frame) -> Item:
    """An item with its boxes in pixels of the image as it is shown; masks are not turned but lost.

    Args:
        item: Its boxes are about an image of its ``size_wh``.
        frame: How the image at hand is shown and stored.

    Raises:
        BoxError: The image has another size than the file of the benchmark states.
    """
    stated = item.size_wh
    if stated is None or stated == frame.size_wh:
        return item

    def turned(boxes: Any) -> list[list[float]]:
        return np.asarray(shown_boxes(boxes, stated, frame)[0], np.float64).tolist()

    turned([])  # refuses another size even where there are no boxes
    truth = {key: value for key, value in item.truth.items() if key != "segmentations"}
    for kind in ("boxes", "crowd"):
        if kind in truth:
            truth[kind] = {label: turned(boxes) for label, boxes in truth[kind].items()}
    boxes = item.boxes
    if isinstance(boxes, Mapping) and "xyxy" in boxes:
        boxes = {**boxes, "xyxy": turned(boxes["xyxy"])}
    elif isinstance(boxes, Sequence):
        boxes = turned(boxes)  # a file of boxes for many images states its own size
    return replace(item, truth=truth, boxes=boxes)


def record_of(index: int, item: Item, answer: Answer | FO1Error, data: Path) -> Record:
    """An item with what was answered.

    Args:
        index: Its place among the items.
        item: As it is shown.
        answer: Or what went wrong.
        data: The folder to which the path of the image is relative.
    """
    failed = isinstance(answer, FO1Error)
    image = item.image
    name = str(image.relative_to(data)) if image.is_relative_to(data) else str(image)
    return Record(
        index=index,
        id=item.id,
        image=name,
        size_wh=None if failed else answer.size_wh,
        request=item.request.to_dict(),
        truth=item.truth,
        group=item.group or name,
        answer=None if failed else Prediction.of_answer(answer),
        error=(str(answer) or type(answer).__name__) if failed else "",
        seconds={} if failed else answer.timing_s,
    )
