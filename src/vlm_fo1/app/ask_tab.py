"""The tab for one image: boxes drawn or proposed, a question, and the answer to look at."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm_fo1.answer import Answer
from vlm_fo1.app import views
from vlm_fo1.app.annotator import (
    DRAWN,
    PROPOSED,
    Annotator,
    Scores,
    annotator,
    offered,
    tie_annotator,
)
from vlm_fo1.app.answer_panel import AnswerPanel, answer_panel
from vlm_fo1.app.context import Context, gradio, refusing
from vlm_fo1.app.controls import (
    ModelFields,
    QuestionFields,
    example_box,
    model_fields,
    question_fields,
    tie_task,
    tokens_field,
)
from vlm_fo1.app.events import (
    Updates,
    go_and_stop,
    job_name,
    run_job,
    streamed_answer,
    tie_work,
)
from vlm_fo1.app.examples import Example, examples
from vlm_fo1.app.limits import annotated
from vlm_fo1.app.models import Choice
from vlm_fo1.app.question import labels_of, put, request_of, words_of
from vlm_fo1.app.upload import annotator_value
from vlm_fo1.tasks import MAX_NEW_TOKENS, Request

if TYPE_CHECKING:
    from vlm_fo1.fo1 import FO1

EMPTY = "Choose an example or upload an image, then ask."


@dataclass(frozen=True, kw_only=True)
class _Fields:
    """The components of the tab."""

    placed: Annotator
    asked: QuestionFields
    box: Any
    boxes_from: Any
    chosen: ModelFields
    look_for: Any
    tokens: Any
    shown: AnswerPanel
    json: Any

    @property
    def question(self) -> list[Any]:
        """What a question is made of, in the order of the endpoint."""
        return [
            *(self.placed.image, *self.asked.all, self.box, self.boxes_from),
            *(*self.chosen.all, self.look_for, self.tokens, *self.shown.options),
            self.placed.scores,
        ]

    @property
    def result(self) -> list[Any]:
        """What an answer fills."""
        return [self.shown.view, self.shown.kept, self.json, *self.shown.downloads.buttons]


def ask_tab(context: Context, state: Any) -> ModelFields:
    """Lay the tab out and tie its parts together.

    Args:
        context: What it stands on.
        state: The line that says what is loaded.

    Returns:
        Its choice of model, whose state the line shows.
    """
    gr = gradio()
    scenes = examples()
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            placed = annotator(context)
            gallery = gr.Dataset(
                label="Examples",
                components=[gr.Image(visible=False)],
                samples=[[str(scene.image)] for scene in scenes],
                type="index",
                elem_id="ask-examples",
                samples_per_page=12,
            )
        with gr.Column(scale=4, min_width=320):
            asked = question_fields("ask")
            box = example_box()
            boxes_from = gr.Radio(
                [("the boxes on the image", DRAWN), ("the proposer", PROPOSED)],
                value=DRAWN,
                label="What may be pointed at",
                elem_id="ask-from",
            )
            go, stop = go_and_stop("ask", "Ask")
            chosen = model_fields(context)
            with gr.Accordion("More settings", open=False):
                look_for = gr.Textbox(
                    value="",
                    label="What the proposer looks for",
                    info="For proposers that look for named things; empty takes the question's.",
                )
                tokens = tokens_field()
    shown = answer_panel("ask", EMPTY, api_name="look")
    with gr.Accordion("The answer as JSON", open=False):
        as_json = gr.JSON(show_label=False)
    fields = _Fields(
        placed=placed,
        asked=asked,
        box=box,
        boxes_from=boxes_from,
        chosen=chosen,
        look_for=look_for,
        tokens=tokens,
        shown=shown,
        json=as_json,
    )
    _tie_question(context, fields, go, stop, state)
    tie_task(asked, box)
    tie_annotator(context, placed, boxes_from, chosen, [look_for, asked.labels])
    gallery.click(
        refusing(lambda index: _example(scenes, index)),
        [gallery],
        [placed.image, *asked.all, boxes_from],
        api_name="example",
    )
    return chosen


def _tie_question(context: Context, fields: _Fields, go: Any, stop: Any, state: Any) -> None:
    def ask(  # the names are those of the endpoint
        image: Any, task: Any, labels: Any, words: Any, box: Any, boxes_from: Any, model: Any,
        proposer: Any, device: Any, look_for: Any, max_new_tokens: Any, min_score: Any,
        unchosen: Any, scores: Any, request: Any = None,
    ) -> Updates:  # fmt: skip
        yield from run_job(
            context,
            job_name("ask", request),
            lambda flag: run_ask(
                context,
                flag,
                image,
                request_of(task, labels, words, box),
                (model, proposer, device),
                scores=None if boxes_from == PROPOSED else scores or {},
                look_for=labels_of(look_for),
                max_new_tokens=int(max_new_tokens),
                options=views.ViewOptions(min_score=min_score, unchosen=unchosen),
            ),
            outputs=len(fields.result),
            lasting=1,
        )

    tie_work(
        context,
        "ask",
        ask,
        {go.click: "ask", fields.asked.words.submit: False},
        stop,
        inputs=fields.question,
        outputs=[*fields.result, state],
        downloads=fields.shown.downloads,
        at_once=context.at_once,
    )


def run_ask(
    context: Context,
    flag: threading.Event,
    value: Any,
    request: Request,
    names: Any,
    *,
    scores: Scores | None,
    look_for: Sequence[str] = (),
    max_new_tokens: int = MAX_NEW_TOKENS,
    options: views.ViewOptions,
) -> Updates:
    """Everything that is shown from the question to the answer.

    Args:
        context: Models and limits.
        flag: Set when it shall stop.
        value: Of the annotator.
        request: The question.
        names: Model, proposer and device.
        scores: Of the boxes on the image that came from the proposer; None leaves all of them
            to the proposer, whatever is on the image.
        look_for: See `put`.
        max_new_tokens: See `put`.
        options: How to show the answer.

    Yields:
        The view, what is kept of the answer, its values, three files, and
        the state of the models.
    """
    choice = context.pool.choice(*names)
    seen = annotated(value, context.limits)
    boxes = None if scores is None else offered(seen, scores)

    def ask(fo1: "FO1", on_text: Callable[[str], None]) -> Answer:
        return put(
            fo1,
            seen.image,
            boxes,
            request,
            look_for=look_for,
            max_new_tokens=max_new_tokens,
            on_text=on_text,
        )

    def others() -> list[Any]:
        return [*[None] * 5, _state(context, choice)]

    kept = yield from streamed_answer(
        context, choice, flag, seen.image, ask, others, proposing=boxes is None
    )
    saved = context.files(kept)
    yield [
        views.result(kept, options),
        kept,
        kept.answer.to_dict(),
        *saved,
        _state(context, choice),
    ]


def _state(context: Context, choice: Choice) -> str:
    return views.state(context.pool.state(choice), choice.device)


def _example(scenes: list[Example], index: int) -> list[Any]:
    """What an example puts into the fields."""
    gr = gradio()
    scene = scenes[int(index)]
    value = annotator_value(str(scene.image), scene.boxes_xyxy)
    request = scene.request
    labels = gr.update(value=list(request.labels), choices=list(request.labels))
    return [value, request.task, labels, words_of(request), DRAWN]
