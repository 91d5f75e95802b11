"""From a task to the text of its question.

The templates are the released model's own (frozen as data: a changed word is another prompt to it).
User words go through `markup.neutralise` first, so they cannot forge tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

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


def ask_labels(
    task: Task,
    labels: str | Sequence[str],
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
    given = [labels] if isinstance(labels, str) else list(labels)
    if not given:
        raise PromptError(f"{task} needs at least one label: pass a name such as 'orange'")
    clean: list[str] = []
    repeated: dict[str, int] = {}
    for index, label in enumerate(given):
        if not isinstance(label, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise PromptError(f"label {index} is {type(label).__name__}, a text is needed")
        words = " ".join(neutralise(label, vocabulary, reserved).split())
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
    )


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
    if len(indices) == 0:
        raise PromptError(f"{task} needs at least one region")
    tags = ", ".join(vocabulary.tag(_existing(index, count)) for index in indices)
    return Question(task=task, text=TEMPLATES[task].format(tags))


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
    words = neutralise(text, vocabulary, reserved).strip()
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


def _of_kind(task: Task, kind: frozenset[Task], takes: str) -> None:
    if task not in kind:
        raise PromptError(f"{task} does not take {takes}: one of {', '.join(sorted(kind))} does")


def _existing(index: int, count: int) -> int:
    if not 0 <= index < count:
        raise PromptError(f"region {index} does not exist: the image has {count} regions (from 0)")
    return index
