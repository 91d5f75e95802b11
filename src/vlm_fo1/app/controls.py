"""Fields that several tabs have: which task, which model, what to ask."""

from dataclasses import dataclass
from typing import Any

from vlm_fo1 import tasks
from vlm_fo1.app.context import Context, gradio
from vlm_fo1.app.question import field_of
from vlm_fo1.tasks import MAX_NEW_TOKENS, Task, spec_of


@dataclass(frozen=True, kw_only=True)
class ModelFields:
    """The components that say what a question is put to."""

    model: Any
    proposer: Any
    device: Any

    @property
    def all(self) -> list[Any]:
        """In the order of `ModelPool.choice`."""
        return [self.model, self.proposer, self.device]


@dataclass(frozen=True, kw_only=True)
class QuestionFields:
    """The components of a question."""

    task: Any
    labels: Any
    words: Any

    @property
    def all(self) -> list[Any]:
        """In this order."""
        return [self.task, self.labels, self.words]


def model_fields(context: Context, *, prefer: str | None = None) -> ModelFields:
    """Model, proposer and device; only those with a choice are shown.

    Args:
        context: Has their names.
        prefer: What the name of the proposer that is chosen at first starts with, where there is
            such a one.
    """
    gr, pool = gradio(), context.pool

    def one(label: str, names: list[str], first: str | None = None) -> Any:
        liked = [name for name in names if first is not None and name.startswith(first)]
        return gr.Dropdown(
            names,
            value=next(iter([*liked, *names]), None),
            label=label,
            visible=len(names) > 1,
            filterable=False,
        )

    return ModelFields(
        model=one("Model", pool.models),
        proposer=one("Proposer", pool.proposers, prefer),
        device=one("Device", pool.devices),
    )


def question_fields(prefix: str) -> QuestionFields:
    """The task and the fields it takes; others are hidden."""
    gr = gradio()
    task = gr.Dropdown(
        [(spec.title, name) for name, spec in tasks.TASKS.items()],
        value=str(Task.DETECTION),
        label="Task",
        filterable=False,
        elem_id=f"{prefix}-task",
    )
    labels = gr.Dropdown(
        [],
        value=[],
        label="Labels",
        info=spec_of(Task.DETECTION).hint,
        multiselect=True,
        allow_custom_value=True,
        elem_id=f"{prefix}-labels",
    )
    words = gr.Textbox(
        value="",
        label="Question",
        visible=False,
        max_lines=4,
        max_length=2000,
        elem_id=f"{prefix}-words",
    )
    return QuestionFields(task=task, labels=labels, words=words)


def example_box() -> Any:
    """Which box more are to be found of; only shown with the task that takes it."""
    return gradio().Number(
        value=0, precision=0, minimum=0, visible=False, label="Number of the example box"
    )


def fields_of(task: str) -> list[Any]:
    """What changes of labels, words and the example box with the task."""
    gr = gradio()
    spec = spec_of(task)
    field = field_of(spec)
    return [
        gr.update(visible=field == "labels", info=spec.hint),
        gr.update(visible=field == "words", label=spec.title, placeholder=spec.hint),
        gr.update(visible=field == "box"),
    ]


def tie_task(asked: QuestionFields, example_box: Any) -> None:
    """Show the fields that the chosen task takes."""
    asked.task.change(
        fields_of,
        [asked.task],
        [asked.labels, asked.words, example_box],
        api_name=False,
        queue=False,
        show_progress="hidden",
    )


def tokens_field() -> Any:
    """The longest answer."""
    return gradio().Slider(
        16, MAX_NEW_TOKENS, value=MAX_NEW_TOKENS, step=16, label="Longest answer, in tokens"
    )
