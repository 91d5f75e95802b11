"""What can be asked: one table of tasks, a request as a value, and the text of its question.

The templates are the released model's own (frozen as data: a changed word is another prompt to it).
User words go through `markup.escape_special_tokens` first, so they cannot forge tokens.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, cast

from vlm_fo1.errors import PromptError
from vlm_fo1.markup import RELEASED, Vocabulary, escape_special_tokens


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


Takes = Literal["labels", "label", "text", "regions", "nothing"]
"""What a request says beside its task: names, one name or phrase, words of one's own, regions."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """All that is special about a task: one row of `TASKS`."""

    template: str
    """Text of the question; ``{}`` stands for what the task takes."""
    takes: Takes
    title: str
    """What people call it, in the imperative."""
    help: str
    """What it gives, in a sentence."""
    command: str
    """Name on the command line; tasks of one name differ by `detail`."""
    detail: str = ""
    """Value of ``--detail``, where a command stands for several tasks."""
    hint: str = ""
    """An example of what it takes."""
    example: str = ""
    """What follows ``fo1 COMMAND`` in the example of its help."""
    needs_regions: bool = True
    """Whether its answer points at regions, so that it means nothing without any."""
    tiled: bool = False
    """Whether every region is asked about, tile by tile in large images; else the best ones are."""
    per_region: bool = False
    """Whether each region is a question of its own, whose words become the region's label."""
    streams: bool = False
    """Whether the words matter as much as the regions, so that people read them being written."""


_DETECT = "Please detect {} in this image. Answer the question with object indexes."

TASKS: Mapping[str, TaskSpec] = MappingProxyType(
    {
        Task.DETECTION: TaskSpec(
            template=_DETECT,
            takes="labels",
            title="Find things",
            help="Find everything that one of the labels names.",
            command="detect",
            example="photo.jpg orange apple --boxes boxes.json --out found.jpg",
            hint="What to find; Enter after each name",
            tiled=True,
        ),
        Task.COUNTING: TaskSpec(
            template=(
                "How many {} are there in this image? Count each instance of the target object. "
                "Locate them with object indexes and then answer the question with the number of "
                "objects."
            ),
            takes="label",
            title="Count",
            help="Count one kind of thing, and point at each.",
            command="count",
            example="photo.jpg orange --boxes boxes.json",
            hint="What to count: orange",
            tiled=True,
        ),
        Task.REFERRING: TaskSpec(
            template=_DETECT,
            takes="label",
            title="Find what I describe",
            help="Find what a phrase describes.",
            command="refer",
            example='photo.jpg "the orange nearest the apple" --boxes boxes.json',
            hint="the orange nearest the apple",
        ),
        Task.REGION_OCR: TaskSpec(
            template="Please provide the ocr results of {} in the image.",
            takes="regions",
            title="Read the boxes",
            help="Read the writing in each box.",
            command="read-text",
            example="shop.jpg --box 40,12,300,80",
            per_region=True,
        ),
        Task.BRIEF_CAPTION: TaskSpec(
            template="Provide a brief description for {}.",
            takes="regions",
            title="Describe the boxes briefly",
            help="Say what stands in each box.",
            command="describe",
            example="photo.jpg --box 10,20,200,220 --detail detailed",
            detail="brief",
            per_region=True,
        ),
        Task.DETAILED_CAPTION: TaskSpec(
            template="Provide a detailed description for {}.",
            takes="regions",
            title="Describe the boxes in detail",
            help="Say what stands in each box.",
            command="describe",
            detail="detailed",
            per_region=True,
        ),
        Task.GROUNDED_CAPTION: TaskSpec(
            template=(
                "Briefly describe this image and detect all mentioned objects. "
                "Answer with grounded object indexes."
            ),
            takes="nothing",
            title="Describe the image",
            help="Describe the image, and point at everything mentioned.",
            command="ground",
            example="photo.jpg --boxes boxes.json --out found.jpg",
        ),
        Task.IDENTIFY: TaskSpec(
            template=(
                "Please identify every object in the image and provide their labels along with "
                "their indexes."
            ),
            takes="nothing",
            title="Name every thing",
            help="Name every object of the image, with its boxes.",
            command="identify",
            example="photo.jpg --boxes boxes.json --out found.jpg",
        ),
        Task.VISUAL_PROMPT: TaskSpec(
            template=(
                "Using the provided object {} as a reference, identify all other objects of the "
                "same category in this image. Respond with object indexes."
            ),
            takes="regions",
            title="Find more like one box",
            help="Find more of what stands in one box.",
            command="match",
            example="photo.jpg 0 --boxes boxes.json --out found.jpg",
        ),
        Task.REASONING: TaskSpec(
            template=(
                "First thinks about the reasoning process in the mind and then provides the user "
                "with the answer. The reasoning process and answer are enclosed within <think> "
                "</think> and <answer> </answer> tags, respectively, i.e., <think> reasoning "
                "process here </think><answer> answer here </answer>. Please give a detailed "
                "reasoning process process and provide image regions that can help you answer the "
                "question better. {}"
            ),
            takes="text",
            title="Reason",
            help="Think aloud, then answer, with regions as evidence.",
            command="reason",
            example='photo.jpg "Which fruit is ripest, and why?" --boxes boxes.json',
            hint="Which fruit is nearest the edge, and why?",
            needs_regions=False,
            streams=True,
        ),
        Task.FREE: TaskSpec(
            template="{}",
            takes="text",
            title="Ask anything",
            help="Ask a question in your own words.",
            command="ask",
            example='photo.jpg "What is {} lying on?" --boxes boxes.json --about 3',
            hint="Is this a kitchen?",
            needs_regions=False,
            streams=True,
        ),
    }
)
"""Every task by its name: to add one, add a row.

Source: templates are those of REFERENCE, "Task templates", word for word, slips included: a changed
word is another prompt to the released model.
"""


def spec_of(task: str) -> TaskSpec:
    """The row of a task.

    Raises:
        PromptError: There is no such task; the nearest name is told.
    """
    if task in TASKS:
        return TASKS[task]
    near = get_close_matches(str(task), map(str, TASKS), 1)
    raise PromptError(
        f"there is no task {task!r}: one of {', '.join(TASKS)} is needed"
        + (f"; did you mean {near[0]!r}?" if near else "")
    )


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of an image: plain values, so it names a saved run and is a line of JSON."""

    task: str
    """A key of `TASKS`."""
    labels: tuple[str, ...] = ()
    """Names to look for; one name or phrase for tasks that take one."""
    text: str = ""
    """The question in one's own words; each ``{}`` stands for a region of `regions`, in order."""
    regions: tuple[int, ...] = ()
    """Numbers of the regions it is about. Of tasks that ask about each: none stands for all."""
    system: str | None = None
    """A system message in place of the usual one."""
    template: str = ""
    """Words of the question in place of the task's own. ``{}`` stands for what the task takes;
    without one they are the whole question, and what is asked for only says how to read the
    answer: so benchmarks put their official prompts."""

    def __post_init__(self) -> None:
        """Refuse what cannot be asked, before anything looks at an image.

        Raises:
            PromptError: No such task, a value of another kind, or one that the task does not take.
        """
        spec = spec_of(self.task)
        object.__setattr__(self, "task", str(self.task))
        labels = as_list(self.labels, "labels")
        for index, label in enumerate(labels):
            if not checked_text(label, f"label {index}").strip():
                raise PromptError(f"label {index} = {label!r} is empty: name the thing to look for")
        object.__setattr__(self, "labels", tuple(labels))
        checked_text(self.text, "the question")
        if self.system is not None:
            checked_text(self.system, "the system message")
        if checked_text(self.template, "the template") and not self.template.strip():
            raise PromptError("the template is blank: leave it out for the task's own words")
        regions = tuple(_index(value) for value in as_list(self.regions, "regions"))
        object.__setattr__(self, "regions", regions)
        given = {"labels": self.labels, "text": self.text, "regions": self.regions}
        wanted = {"label": "labels"}.get(spec.takes, spec.takes)
        for name, value in given.items():
            if value and name != wanted and (name, wanted) != ("regions", "text"):
                raise PromptError(f"{self.task} takes no {name}: it takes {spec.takes}")
        if wanted in {"labels", "text"} and not given[wanted]:
            raise PromptError(
                f"{self.task} needs at least one label: pass a name such as 'orange'"
                if wanted == "labels"
                else "the question is empty: write what you want to know"
            )
        if self.template and wanted not in {"labels", "regions"}:
            raise PromptError(
                f"{self.task} takes no template, tasks of labels and regions do: ask in words of "
                "your own with the task 'free'"
            )

    @property
    def spec(self) -> TaskSpec:
        """The row of its task."""
        return TASKS[self.task]

    def to_dict(self) -> dict[str, Any]:
        """Plain values without those that are left at their defaults."""
        values = {
            "task": self.task,
            "labels": list(self.labels),
            "text": self.text,
            "regions": list(self.regions),
            "system": self.system,
            "template": self.template,
        }
        return {name: value for name, value in values.items() if value}


MAX_NEW_TOKENS = 4096
"""Default length limit of an answer, in tokens; the model's context may leave less."""
BATCH_SIZE = 8
"""How many images are asked about side by side, unless somebody says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question ready to be put to the model."""

    task: str
    text: str
    """What stands in the user's turn after the line of regions."""
    labels: tuple[str, ...] = ()
    """The labels asked for, in order, without repeats; as the user wrote them but escaped."""
    notes: tuple[str, ...] = ()
    """What was changed on the way (repeated labels); ends up in `Answer.problems`."""
    spelt: Mapping[str, str] = field(default_factory=dict[str, str])
    """From a label as the user wrote it to the one that was asked, where they differ."""
    template: str = ""
    """Its words with ``{}`` for the labels, where they are not those of the task."""


def in_groups(question: Question, most: int) -> list[Question]:
    """A question about many labels as several about fewer.

    Args:
        question: Of `ask_labels`.
        most: Greatest number of labels of one question.

    Returns:
        As few questions as hold all labels, in their order, with as many in each, give or take one.
        Words of somebody's own that have no place for labels stay one question.
    """
    template = question.template or TASKS[question.task].template
    if "{}" not in template:
        return [question]
    labels = question.labels
    count = max(1, -(-len(labels) // most))
    bounds = [len(labels) * part // count for part in range(count + 1)]
    groups = [labels[start:end] for start, end in pairwise(bounds)]
    return [
        replace(question, text=template.replace("{}", ", ".join(group)), labels=group)
        for group in groups
    ]


def task_of(command: str, detail: str = "") -> str:
    """The task that a command stands for.

    Args:
        command: A name of `TaskSpec.command`.
        detail: Which of its tasks, where it stands for several.

    Raises:
        PromptError: It has no such detail.
    """
    tasks = {spec.detail: task for task, spec in TASKS.items() if spec.command == command}
    if detail not in tasks:
        raise PromptError(f"detail is {detail!r}: one of {', '.join(map(repr, tasks))} is needed")
    return tasks[detail]


def questions_of(
    request: Request, count: int, vocabulary: Vocabulary = RELEASED, reserved: Sequence[str] = ()
) -> list[Question]:
    """The questions that a request puts.

    Args:
        request: What is asked.
        count: How many regions the image has.
        vocabulary: How the checkpoint spells its markup; escaped in what the user wrote.
        reserved: The tokenizer's special tokens, escaped as well.

    Returns:
        One; of a task that asks about each region as many as the request names. Repeated labels are
        asked once and noted.

    Raises:
        PromptError: A label or a question that says nothing, ``{}`` and regions that differ in
            number, or a region that is missing or does not exist.
    """
    task, spec = request.task, request.spec

    def escaped(text: str) -> str:
        return escape_special_tokens(text, vocabulary, reserved)

    template = escaped(request.template)
    asked = Question(task=task, text=template or spec.template, template=template)
    tags = [vocabulary.tag(_existing(index, count)) for index in request.regions]
    if spec.takes in {"labels", "label"}:
        return [_about_labels(asked, [(label, escaped(label)) for label in request.labels])]
    if spec.takes == "text":
        said = [_own_words(escaped(request.text).strip(), tags)]
    elif spec.per_region:
        said = tags
    elif spec.takes == "regions" and not tags:
        raise PromptError(f"{task} needs at least one region")
    else:
        said = [", ".join(tags)]
    return [replace(asked, text=asked.text.replace("{}", words)) for words in said]


def _about_labels(asked: Question, labels: Sequence[tuple[str, str]]) -> Question:
    """A question about labels: each as it was written, and escaped.

    Raises:
        PromptError: Nothing is left of one.
    """
    repeated: dict[str, int] = {}
    spelt: dict[str, str] = {}
    for index, (label, escaped) in enumerate(labels):
        words = " ".join(escaped.split())
        if not words:
            raise PromptError(f"label {index} = {label!r} is empty: name the thing to look for")
        repeated[words] = repeated.get(words, 0) + 1
        spelt |= {label: words} if label != words else {}
    return replace(
        asked,
        text=asked.text.replace("{}", ", ".join(repeated)),
        labels=tuple(repeated),
        notes=tuple(
            f"label {name!r} given {count} times: asked once"
            for name, count in repeated.items()
            if count > 1
        ),
        spelt=spelt,
    )


def _own_words(words: str, tags: Sequence[str]) -> str:
    """A question in the user's own words, with the regions that it names.

    Raises:
        PromptError: Nothing is left of it, or it has another number of places for regions.
    """
    if not words:
        raise PromptError("the question is empty: write what you want to know")
    if not tags:
        return words
    pieces = words.split("{}")
    if len(pieces) - 1 != len(tags):
        raise PromptError(
            f"{len(pieces) - 1} placeholders {{}} in the question but {len(tags)} regions: "
            "write one {} where each region is named"
        )
    return "".join(piece + tag for piece, tag in zip(pieces, [*tags, ""], strict=True))


def ask_labels(task: str, labels: str | Iterable[str]) -> Question:
    """A detection, referring or counting question; see `questions_of`."""
    (question,) = questions_of(Request(task=task, labels=tuple(as_list(labels, "labels"))), 0)
    return question


def ask_regions(task: str, indices: Sequence[int], count: int) -> Question:
    """A question about one of ``count`` regions: read it, describe it, find more like it."""
    (question,) = questions_of(Request(task=task, regions=tuple(indices)), count)
    return question


def ask_text(task: str, text: str) -> Question:
    """A free or a reasoning question in the user's own words."""
    (question,) = questions_of(Request(task=task, text=text), 0)
    return question


def ask_image(task: str) -> Question:
    """A question about the whole image, such as a grounded caption."""
    (question,) = questions_of(Request(task=task), 0)
    return question


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


def _index(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise PromptError(
            f"region {value!r} is {type(value).__name__}: the number of a region is needed"
        ) from error


def _existing(value: Any, count: int) -> int:
    index = _index(value)
    if not 0 <= index < count:
        raise PromptError(f"region {index} does not exist: the image has {count} regions (from 0)")
    return index
