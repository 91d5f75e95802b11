"""From what stands in the fields of the page to a request of the library, and to its answer."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from vlm_fo1.app.models import NO_PROPOSER
from vlm_fo1.errors import BoxError, PromptError
from vlm_fo1.tasks import MAX_NEW_TOKENS, Request, TaskSpec, spec_of

if TYPE_CHECKING:
    from PIL import Image

    from vlm_fo1.answer import Answer
    from vlm_fo1.fo1 import FO1

Field = Literal["labels", "words", "box", "nothing"]


_FIELDS: Mapping[str, Field] = {
    "labels": "labels",
    "label": "words",
    "text": "words",
    "regions": "box",
    "nothing": "nothing",
}


def field_of(spec: TaskSpec) -> Field:
    """The field of the page that a task takes; one that asks about each region asks about all."""
    return "nothing" if spec.per_region else _FIELDS[spec.takes]


def request_of(
    task: str, labels: "str | Sequence[str] | None" = None, words: str | None = None, box: Any = 0
) -> Request:
    """What the fields ask; those that the task does not take may hold anything.

    Args:
        task: A key of `vlm_fo1.tasks.TASKS`.
        labels: Chips, or names parted by commas.
        words: A phrase or a question.
        box: Number of the example box.

    Raises:
        PromptError: There is no such task, or the field that it takes is empty.
    """
    spec = spec_of(task)
    field, words = field_of(spec), words or ""
    if field == "labels":
        names = labels_of(labels)
        if not names:
            raise PromptError("no labels yet: write what to find, and press Enter after each name")
        return Request(task=task, labels=names)
    if field == "words" and not words.strip():
        example = f", e.g. {spec.hint}" if spec.hint else ""
        raise PromptError(f"the question is empty: write it first{example}")
    if field == "words" and spec.takes == "text":
        return Request(task=task, text=words)
    if field == "words":
        return Request(task=task, labels=(words,))
    return Request(task=task, regions=(int(box or 0),) if field == "box" else ())


def words_of(request: Request) -> str:
    """What stands in the field of words for a request."""
    one = request.labels[:1] if request.spec.takes == "label" else ()
    return request.text or "".join(one)


def labels_of(text: "str | Sequence[str] | None") -> tuple[str, ...]:
    """Chips, or names parted by commas, as labels."""
    parts = text.split(",") if isinstance(text, str) else list(text or ())
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def put(
    fo1: "FO1",
    image: "Image.Image",
    boxes: Any,
    request: Request,
    *,
    look_for: Sequence[str] = (),
    max_new_tokens: int = MAX_NEW_TOKENS,
    on_text: Callable[[str], None] | None = None,
) -> "Answer":
    """Ask.

    Args:
        fo1: With the proposer to be used, if boxes are not given.
        image: What the question is about.
        boxes: What `FO1.answer` takes; None asks the proposer.
        request: Of `request_of`.
        look_for: What a proposer that looks for named things shall look for, if not what is asked.
        max_new_tokens: Length limit of the answer.
        on_text: Called with the text as it is written.

    Raises:
        PromptError: A question that cannot be asked.
        BoxError: A task that points at regions, and none are there.
    """
    check_boxes(fo1, boxes, request)
    return fo1.answer(
        image,
        request,
        boxes,
        queries=list(look_for) or queries_of(request),
        max_new_tokens=max_new_tokens,
        on_text=on_text,
    )


def queries_of(request: Request) -> list[str] | None:
    """What a proposer shall look for, where the request has no labels."""
    return [request.text] if request.text else None


def check_boxes(fo1: "FO1", boxes: Any, request: Request) -> None:
    """Refuse a request that the boxes do not go with.

    Args:
        fo1: Has a proposer, or has none.
        boxes: Those that are given; None asks the proposer.
        request: Of `request_of`.

    Raises:
        PromptError: An example box that is not there.
        BoxError: A task that points at regions, and none are there.
    """
    spec = request.spec
    if boxes is None:
        if spec.needs_regions and fo1.proposer is None:
            raise BoxError(NO_PROPOSER)
    elif spec.needs_regions and not len(boxes):
        raise BoxError(
            f"'{spec.title}' is about boxes, and none are on the image: draw some, press "
            "'Propose boxes', or let the proposer choose them"
        )
    elif request.regions and not 0 <= request.regions[0] < len(boxes):
        raise PromptError(
            f"box {request.regions[0]} is the example, and the image has {len(boxes)} boxes, "
            "numbered from 0: choose one of them"
        )
