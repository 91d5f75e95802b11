"""From a task to the text of its question.

The templates are the released model's own (frozen as data: a changed word is another prompt to it).
User words go through `markup.neutralise` first, so they cannot forge tokens.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any, cast

from vlm_fo1.errors import PromptError
from vlm_fo1.markup import RELEASED, Vocabulary, neutralise


class Task(StrEnum):
    """What can be asked; the value is the name used in files and on the command line."""

    DETECTION = "detection"
    REFERRING = "referring"
    COUNTING = "counting"
    REGION_OCR = "region_ocr"
    BRIEF_CAPTION = "brief_caption"
    DETAILED_CAPTION = "detailed_caption"
    GROUNDED_CAPTION = "grounded_caption"
    IDENTIFY = "identify"
    VISUAL_PROMPT = "visual_prompt"
    REASONING = "reasoning"
    FREE = "free"


TEMPLATES: dict[Task, str] = {
    Task.DETECTION: "Please detect {} in this image. Answer the question with object indexes.",
    Task.REFERRING: "Please detect {} in this image. Answer the question with object indexes.",
    Task.COUNTING: (
        "How many {} are there in this image? Count each instance of the target object. "
        "Locate them with object indexes and then answer the question with the number of objects."
    ),
    Task.REGION_OCR: "Please provide the ocr results of {} in the image.",
    Task.BRIEF_CAPTION: "Provide a brief description for {}.",
    Task.DETAILED_CAPTION: "Provide a detailed description for {}.",
    Task.GROUNDED_CAPTION: (
        "Briefly describe this image and detect all mentioned objects. "
        "Answer with grounded object indexes."
    ),
    Task.IDENTIFY: (
        "Please identify every object in the image and provide their labels along with their "
        "indexes."
    ),
    Task.VISUAL_PROMPT: (
        "Using the provided object {} as a reference, identify all other objects of the same "
        "category in this image. Respond with object indexes."
    ),
    Task.REASONING: (
        "First thinks about the reasoning process in the mind and then provides the user with the "
        "answer. The reasoning process and answer are enclosed within <think> </think> and "
        "<answer> </answer> tags, respectively, i.e., <think> reasoning process here </think>"
        "<answer> answer here </answer>. Please give a detailed reasoning process process and "
        "provide image regions that can help you answer the question better. {}"
    ),
    Task.FREE: "{}",
}
"""Question text per task. Source: REFERENCE, "Task templates"; word for word, slips included."""

LABEL_TASKS = frozenset({Task.DETECTION, Task.REFERRING, Task.COUNTING})
REGION_TASKS = frozenset(
    {Task.REGION_OCR, Task.BRIEF_CAPTION, Task.DETAILED_CAPTION, Task.VISUAL_PROMPT}
)
TEXT_TASKS = frozenset({Task.REASONING, Task.FREE})
IMAGE_TASKS = frozenset({Task.GROUNDED_CAPTION, Task.IDENTIFY})

MAX_NEW_TOKENS = 4096
"""Default length limit of an answer, in tokens; the model's context may leave less."""

SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question ready to be put to the model."""

    task: Task
    text: str
    """What stands in the user's turn after the line of regions."""
    labels: tuple[str, ...] = ()
    """The labels asked for, in order, without repeats; as the user wrote them but disarmed."""
    notes: tuple[str, ...] = ()
    """What was changed on the way (repeated labels); ends up in `Answer.problems`."""
    spelt: Mapping[str, str] = field(default_factory=dict[str, str])
    """From a label as the user wrote it to the one that was asked, where they differ."""


def ask_labels(
    task: Task,
    labels: str | Iterable[str],
    vocabulary: Vocabulary = RELEASED,
    *,
    reserved: Sequence[str] = (),
) -> Question:
    """A detection, referring or counting question.

    Args:
        task: One of `LABEL_TASKS`.
        labels: One label or several; several are joined with a comma.
        vocabulary: The checkpoint's markup, disarmed in the labels.
        reserved: The tokenizer's special tokens, disarmed as well.

    Returns:
        The question; repeated labels are asked once and noted.

    Raises:
        PromptError: No label, an empty one, one that is not text, or a task of another kind.
    """
    _of_kind(task, LABEL_TASKS, "labels")
    given = as_list(labels, "labels")
    if not given:
        raise PromptError(f"{task} needs at least one label: pass a name such as 'orange'")
    clean: list[str] = []
    repeated: dict[str, int] = {}
    spelt: dict[str, str] = {}
    for index, label in enumerate(given):
        plain = checked_text(label, f"label {index}")
        words = " ".join(neutralise(plain, vocabulary, reserved).split())
        spelt |= {label: words} if label != words else {}
        if not words:
            raise PromptError(f"label {index} = {label!r} is empty: name the thing to look for")
        if words in clean:
            repeated[words] = repeated.get(words, 1) + 1
        else:
            clean.append(words)
    notes = [f"label {name!r} given {count} times: asked once" for name, count in repeated.items()]
    return Question(
        task=task,
        text=TEMPLATES[task].format(", ".join(clean)),
        labels=tuple(clean),
        notes=tuple(notes),
        spelt=spelt,
    )


def in_groups(question: Question, most: int) -> list[Question]:
    """A question about many labels as several about fewer.

    Args:
        question: Of `ask_labels`.
        most: Greatest number of labels of one question.

    Returns:
        As few questions as hold all labels, in their order, with as many in each, give or take one.
    """
    labels = question.labels
    count = max(1, -(-len(labels) // most))
    bounds = [len(labels) * part // count for part in range(count + 1)]
    groups = [labels[start:end] for start, end in pairwise(bounds)]
    template = TEMPLATES[question.task]
    return [
        replace(question, text=template.format(", ".join(group)), labels=group) for group in groups
    ]


def ask_regions(
    task: Task, indices: Sequence[int], count: int, vocabulary: Vocabulary = RELEASED
) -> Question:
    """A question about given regions: read them, describe them, find more like them.

    Args:
        task: One of `REGION_TASKS`.
        indices: Which regions; several are joined with a comma.
        count: How many regions the image has.
        vocabulary: How tags are spelt.

    Raises:
        PromptError: No region, one that does not exist, or a task of another kind.
    """
    _of_kind(task, REGION_TASKS, "regions")
    wanted = [_existing(index, count) for index in as_list(indices, "regions")]
    if not wanted:
        raise PromptError(f"{task} needs at least one region")
    tags = ", ".join(map(vocabulary.tag, wanted))
    return Question(task=task, text=TEMPLATES[task].format(tags))


def caption_task(detail: str) -> Task:
    """The task of a description.

    Args:
        detail: "brief" or "detailed".

    Raises:
        PromptError: Neither.
    """
    tasks = {"brief": Task.BRIEF_CAPTION, "detailed": Task.DETAILED_CAPTION}
    task = tasks.get(str(detail))
    if task is None:
        raise PromptError(f"detail is {detail!r}: one of {', '.join(map(repr, tasks))} is needed")
    return task


def ask_text(
    task: Task,
    text: str,
    *,
    about: Sequence[int] = (),
    count: int = 0,
    vocabulary: Vocabulary = RELEASED,
    reserved: Sequence[str] = (),
) -> Question:
    """A free or a reasoning question in the user's own words.

    Args:
        task: One of `TEXT_TASKS`.
        text: The question. Each ``{}`` in it stands for a region of ``about``, in order.
        about: Regions the question names, e.g. ``ask_text(task, "Is {} ripe?", about=[3], ...)``.
        count: How many regions the image has.
        vocabulary: How tags are spelt; disarmed in ``text``.
        reserved: The tokenizer's special tokens, disarmed as well.

    Raises:
        PromptError: An empty question, ``{}`` and ``about`` differ in number, a region that does
            not exist, or a task of another kind.
    """
    _of_kind(task, TEXT_TASKS, "a text")
    words = neutralise(checked_text(text, "the question"), vocabulary, reserved).strip()
    about = as_list(about, "about")
    if not words:
        raise PromptError("the question is empty: write what you want to know")
    if len(about) > 0:
        pieces = words.split("{}")
        if len(pieces) - 1 != len(about):
            raise PromptError(
                f"{len(pieces) - 1} placeholders {{}} in the question but {len(about)} regions: "
                "write one {} where each region is named"
            )
        tags = [vocabulary.tag(_existing(index, count)) for index in about]
        words = "".join(piece + tag for piece, tag in zip(pieces, [*tags, ""], strict=True))
    head, tail = TEMPLATES[task].split("{}")
    return Question(task=task, text=head + words + tail)


def ask_grounded_caption() -> Question:
    """Describe the image and point at everything mentioned."""
    return Question(task=Task.GROUNDED_CAPTION, text=TEMPLATES[Task.GROUNDED_CAPTION])


def ask_identify() -> Question:
    """Name every object of the image, with its regions."""
    return Question(task=Task.IDENTIFY, text=TEMPLATES[Task.IDENTIFY])


def checked_text(text: Any, what: str) -> str:
    """What somebody wrote, if it is text that can be put to a tokenizer.

    Args:
        text: Anything.
        what: What it is, for the message.

    Raises:
        PromptError: It is not text, or holds a lone surrogate, which no UTF-8 can spell.
    """
    if not isinstance(text, str):
        raise PromptError(f"{what} is {text!r} ({type(text).__name__}): a text is needed")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{what} = {text!a} holds half a character (a lone surrogate) at position "
            f"{error.start}: it was read with the wrong encoding, read it as UTF-8"
        ) from error
    return text


def _of_kind(task: Task, kind: frozenset[Task], takes: str) -> None:
    if task not in kind:
        raise PromptError(f"{task} does not take {takes}: one of {', '.join(sorted(kind))} does")


def as_list(values: Any, what: str) -> list[Any]:
    """A list of what was given; a text is one value.

    Args:
        values: Anything.
        what: What it is, for the message.

    Raises:
        PromptError: Neither a text nor a list.
    """
    if isinstance(values, str):
        return [values]
    if not isinstance(values, Iterable):
        raise PromptError(
            f"{what} is {values!r} ({type(values).__name__}): a list is needed, e.g. "
            f"{'[0, 3]' if what != 'labels' else repr(['orange', 'apple'])}"
        )
    return [*cast("Iterable[Any]", values)]


def _existing(index: Any, count: int) -> int:
    try:
        index = operator.index(index)
    except TypeError as error:
        raise PromptError(
            f"region {index!r} is {type(index).__name__}: the number of a region is needed"
        ) from error
    if not 0 <= index < count:
        raise PromptError(f"region {index} does not exist: the image has {count} regions (from 0)")
    return index
