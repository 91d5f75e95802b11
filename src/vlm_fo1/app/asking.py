"""From what stands in the fields of the page to one of the library's questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vlm_fo1.errors import BoxError, PromptError
from vlm_fo1.tasks import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from PIL import Image

    from vlm_fo1.answer import Answer
    from vlm_fo1.fo1 import FO1
    from vlm_fo1.scene import Scene

Takes = Literal["labels", "words", "box", "nothing"]


@dataclass(frozen=True, kw_only=True)
class AskedTask:
    """One kind of question, as the page shows it."""

    title: str
    takes: Takes
    """Which field it needs: labels, one text, an example box, or none."""
    hint: str = ""
    """What to write into that field."""
    needs_boxes: bool = True


TASKS: dict[str, AskedTask] = {
    "detection": AskedTask(
        title="Find things", takes="labels", hint="What to find; Enter after each name"
    ),
    "counting": AskedTask(title="Count", takes="words", hint="What to count: orange"),
    "referring": AskedTask(
        title="Find what I describe", takes="words", hint="the orange nearest the apple"
    ),
    "region_ocr": AskedTask(title="Read the boxes", takes="nothing"),
    "brief_caption": AskedTask(title="Describe the boxes briefly", takes="nothing"),
    "detailed_caption": AskedTask(title="Describe the boxes in detail", takes="nothing"),
    "grounded_caption": AskedTask(title="Describe the picture", takes="nothing"),
    "identify": AskedTask(title="Name every thing", takes="nothing"),
    "visual_prompt": AskedTask(title="Find more like one box", takes="box"),
    "reasoning": AskedTask(
        title="Reason", takes="words", hint="Which fruit is nearest the edge, and why?",
        needs_boxes=False,
    ),
    "free": AskedTask(
        title="Ask anything", takes="words", hint="Is this a kitchen?", needs_boxes=False
    ),
}  # fmt: skip
"""The ten tasks and the free question, by the names that answers carry."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question as it stands on the page."""

    task: str
    labels: tuple[str, ...] = ()
    words: str = ""
    box: int = 0
    """Number of the example box of a visual prompt."""
    look_for: tuple[str, ...] = ()
    """What a proposer that looks for named things shall look for, if not what is asked for."""
    max_new_tokens: int = MAX_NEW_TOKENS

    @property
    def kind(self) -> AskedTask:
        """What this task takes.

        Raises:
            PromptError: There is no such task.
        """
        if self.task not in TASKS:
            raise PromptError(
                f"there is no task {self.task!r}: one of {', '.join(TASKS)} is needed"
            )
        return TASKS[self.task]

    def check(self) -> None:
        """Refuse a question with an empty field before anything is loaded.

        Raises:
            PromptError: The field that this task needs is empty.
        """
        if self.kind.takes == "labels" and not any(label.strip() for label in self.labels):
            raise PromptError("no labels yet: write what to find, and press Enter after each name")
        if self.kind.takes == "words" and not self.words.strip():
            raise PromptError(f"the question is empty: write it first, e.g. {self.kind.hint}")

    def queries(self) -> list[str]:
        """What a proposer that looks for named things is told to look for."""
        if self.look_for:
            return list(self.look_for)
        if self.kind.takes == "labels":
            return list(self.labels)
        return [self.words] if self.words.strip() else []


def labels_of(text: "str | Sequence[str] | None") -> tuple[str, ...]:
    """Chips, or names parted by commas, as labels."""
    parts = text.split(",") if isinstance(text, str) else list(text or ())
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def put(
    fo1: "FO1",
    picture: "Image.Image",
    boxes: Any,
    asked: Asked,
    on_text: Callable[[str], None] | None = None,
) -> "Answer":
    """Ask.

    Args:
        fo1: With the proposer to be used, if boxes are not given.
        picture: What the question is about.
        boxes: What `FO1.open` takes; None asks the proposer.
        asked: The question.
        on_text: Called with the text as it is written.

    Raises:
        PromptError: A question that cannot be asked.
        BoxError: A task that points at regions, and none are there.
    """
    asked.check()
    if boxes is not None and not len(boxes) and asked.kind.needs_boxes:
        raise BoxError(
            f"'{asked.kind.title}' is about boxes, and none are on the picture: draw some, press "
            "'Propose boxes', or let the proposer choose them"
        )
    queries = None if boxes is not None else asked.queries()
    tile = "auto" if asked.task in {"detection", "counting"} else None
    scene = fo1.open(picture, boxes, queries=queries, tile=tile)
    options: dict[str, Any] = {"max_new_tokens": asked.max_new_tokens, "on_text": on_text}
    if asked.kind.takes == "box":
        return scene.match(_existing(asked.box, scene), **options)
    methods: dict[str, Callable[[], Answer]] = {
        "detection": lambda: scene.detect(asked.labels, **options),
        "counting": lambda: scene.count(asked.words, **options),
        "referring": lambda: scene.refer(asked.words, **options),
        "region_ocr": lambda: scene.read_text(**options),
        "brief_caption": lambda: scene.describe(detail="brief", **options),
        "detailed_caption": lambda: scene.describe(detail="detailed", **options),
        "grounded_caption": lambda: scene.ground(**options),
        "identify": lambda: scene.identify(**options),
        "reasoning": lambda: scene.reason(asked.words, **options),
        "free": lambda: scene.ask(asked.words, **options),
    }
    return methods[asked.task]()


def _existing(index: int, scene: "Scene") -> int:
    """The number of the example box.

    Raises:
        PromptError: There is no such box.
    """
    if not 0 <= index < len(scene.regions):
        raise PromptError(
            f"box {index} is the example, and the picture has {len(scene.regions)} boxes, "
            "numbered from 0: choose one of them"
        )
    return index
