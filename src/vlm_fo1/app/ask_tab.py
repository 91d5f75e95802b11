"""The tab for one picture: boxes drawn or proposed, a question, and the answer to look at."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm_fo1.app import views
from vlm_fo1.app.asking import Asked, labels_of, put
from vlm_fo1.app.context import KEPT_S, Context, gradio, refusing, with_request
from vlm_fo1.app.controls import (
    Chosen,
    QuestionFields,
    chooser,
    question,
    tie_task,
    tokens_field,
)
from vlm_fo1.app.examples import Example, examples
from vlm_fo1.app.limits import drawn
from vlm_fo1.app.models import Choice
from vlm_fo1.app.running import (
    ANSWER_FILES,
    Updates,
    answering,
    download_buttons,
    enable_after,
    job_name,
    running,
    same,
    stop_with,
)
from vlm_fo1.app.upload import annotator_value, picture_field
from vlm_fo1.errors import BoxError
from vlm_fo1.proposers.base import select
from vlm_fo1.proposers.given import given_regions
from vlm_fo1.structures import Answer

if TYPE_CHECKING:
    from vlm_fo1.pipeline import FO1

DRAWN, PROPOSED = "boxes on the picture", "proposer"
EMPTY = "Choose an example or upload a picture, then ask."


@dataclass(frozen=True, kw_only=True)
class _Fields:
    """The components of the tab."""

    picture: Any
    asked: QuestionFields
    box: Any
    boxes_from: Any
    chosen: Chosen
    look_for: Any
    tokens: Any
    view: Any
    kept: Any
    json: Any
    files: list[Any]
    score: Any
    unchosen: Any

    @property
    def question(self) -> list[Any]:
        """What a question is made of, in the order of the endpoint."""
        return [
            *(self.picture, *self.asked.all, self.box, self.boxes_from),
            *(*self.chosen.all, self.look_for, self.tokens, self.score, self.unchosen),
        ]

    @property
    def result(self) -> list[Any]:
        """What an answer fills."""
        return [self.view, self.kept, self.json, *self.files]


def ask_tab(context: Context, state: Any) -> Chosen:
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
            picture = picture_field(context, "ask-picture")
            with gr.Row():
                propose = gr.Button("Propose boxes", size="sm", elem_id="ask-propose")
                clear = gr.Button("Remove all boxes", size="sm", elem_id="ask-clear")
            with gr.Accordion("Boxes as numbers", open=False):
                typed = gr.Textbox(
                    value="",
                    label="Boxes: [[x1, y1, x2, y2], ...] in pixels",
                    lines=2,
                    max_lines=6,
                    elem_id="ask-typed",
                )
                typing = gr.Button("Put them on the picture", size="sm", elem_id="ask-type")
            shelf = gr.Dataset(
                label="Examples",
                components=[gr.Image(visible=False)],
                samples=[[str(scene.picture)] for scene in scenes],
                type="index",
                elem_id="ask-examples",
                samples_per_page=12,
            )
        with gr.Column(scale=4, min_width=320):
            asked = question("ask")
            box = gr.Number(
                value=0, precision=0, minimum=0, visible=False, label="Number of the example box"
            )
            boxes_from = gr.Radio(
                [("the boxes on the picture", DRAWN), ("the proposer", PROPOSED)],
                value=DRAWN,
                label="What may be pointed at",
                elem_id="ask-from",
            )
            with gr.Row():
                ask = gr.Button("Ask", variant="primary", elem_id="ask-go")
                stop = gr.Button("Stop", elem_id="ask-stop")
            chosen = chooser(context)
            with gr.Accordion("More settings", open=False):
                look_for = gr.Textbox(
                    value="",
                    label="What the proposer looks for",
                    info="For proposers that look for named things; empty takes the question's.",
                )
                tokens = tokens_field()
    with gr.Row():
        score = gr.Slider(
            0, 1, value=0, step=0.01, label="Hide proposals that score less", elem_id="ask-score"
        )
        unchosen = gr.Checkbox(label="Show boxes that were not chosen, dimly", elem_id="ask-dim")
    view = gr.HTML(views.note(EMPTY), elem_id="ask-view")
    downloads = download_buttons("ask", ANSWER_FILES)
    with gr.Accordion("The answer as JSON", open=False):
        as_json = gr.JSON(show_label=False)
    fields = _Fields(
        picture=picture,
        asked=asked,
        box=box,
        boxes_from=boxes_from,
        chosen=chosen,
        look_for=look_for,
        tokens=tokens,
        view=view,
        kept=gr.State(None, time_to_live=KEPT_S),
        json=as_json,
        files=downloads,
        score=score,
        unchosen=unchosen,
    )
    _tie_question(context, fields, ask, stop, state)
    _tie_boxes(context, fields, propose, clear, (typed, typing))
    shelf.click(
        refusing(lambda index: _example(scenes, index)),
        [shelf],
        [picture, *asked.all, boxes_from],
        api_name="example",
    )
    return chosen


def _tie_question(context: Context, fields: _Fields, ask: Any, stop: Any, state: Any) -> None:
    gr = gradio()

    def ask_now(  # the names are those of the endpoint
        picture: Any, task: Any, labels: Any, words: Any, box: Any, boxes_from: Any, model: Any,
        proposer: Any, device: Any, look_for: Any, max_new_tokens: Any, min_score: Any,
        unchosen: Any, request: Any = None,
    ) -> Updates:  # fmt: skip
        asked = Asked(
            task=task,
            labels=labels_of(labels),
            words=words or "",
            box=int(box or 0),
            look_for=labels_of(look_for),
            max_new_tokens=int(max_new_tokens),
        )
        yield from running(
            context,
            job_name("ask", request),
            lambda flag: run_ask(
                context,
                flag,
                picture,
                asked,
                (model, proposer, device),
                proposing=boxes_from == PROPOSED,
                look=views.Look(min_score=min_score, unchosen=unchosen),
            ),
            outputs=len(fields.result) + 1,
        )

    for trigger, name in ((ask.click, "ask"), (fields.asked.words.submit, False)):
        done = trigger(
            with_request(ask_now),
            fields.question,
            [*fields.result, state],
            api_name=name,
            concurrency_limit=context.at_once,
            concurrency_id="ask",
            show_progress="hidden",
            trigger_mode="once",
        )
        enable_after(done, fields.files)

    stop_with(context, stop, "ask", "stop")
    tie_task(fields.asked, fields.box)

    def look_again(kept: Any, min_score: float, unchosen: bool) -> Any:
        if kept is None:
            return gr.skip()
        return views.result(kept, views.Look(min_score=min_score, unchosen=unchosen))

    for trigger, name in ((fields.score.change, "look"), (fields.unchosen.change, False)):
        trigger(
            look_again,
            [fields.kept, fields.score, fields.unchosen],
            [fields.view],
            api_name=name,
            queue=False,
            show_progress="hidden",
        )


def _tie_boxes(
    context: Context, fields: _Fields, propose: Any, clear: Any, typed: tuple[Any, Any]
) -> None:
    def proposed(
        picture: Any, model: Any, proposer: Any, device: Any, look_for: Any, labels: Any
    ) -> Any:
        choice = context.shelf.choice(model, proposer, device)
        looked_for = labels_of(look_for) or labels_of(labels)
        return proposed_boxes(context, choice, picture, looked_for), DRAWN

    propose.click(
        refusing(proposed),
        [fields.picture, *fields.chosen.all, fields.look_for, fields.asked.labels],
        [fields.picture, fields.boxes_from],
        api_name="propose",
        concurrency_limit=context.at_once,
        concurrency_id="ask",
    )

    def cleared(picture: Any) -> Any:
        return annotator_value(drawn(picture, context.limits).picture, [])

    clear.click(refusing(cleared), [fields.picture], [fields.picture], api_name="clear")

    def put_on(picture: Any, boxes: str) -> Any:
        seen = drawn(picture, context.limits).picture
        return annotator_value(seen, typed_boxes(boxes, seen.size)), DRAWN

    typed[1].click(
        refusing(put_on),
        [fields.picture, typed[0]],
        [fields.picture, fields.boxes_from],
        api_name="boxes",
    )


def typed_boxes(text: str, size_wh: tuple[int, int]) -> list[list[float]]:
    """Boxes that somebody wrote.

    Args:
        text: JSON of anything `given_regions` takes.
        size_wh: Of the picture.

    Raises:
        BoxError: No JSON, or a box that cannot be used.
    """
    try:
        given = json.loads(text)
    except ValueError as error:
        raise BoxError(f"the boxes are no JSON ({error}): write [[x1, y1, x2, y2], ...]") from error
    if (
        isinstance(given, list)
        and len(given) == 4
        and all(isinstance(v, int | float) for v in given)
    ):
        given = [given]
    return given_regions(given, size_wh).xyxy.tolist()


def proposed_boxes(
    context: Context, choice: Choice, value: Any, looked_for: tuple[str, ...]
) -> dict[str, Any]:
    """The picture with the boxes of the proposer on it.

    Raises:
        BoxError: It found none.
    """
    seen = drawn(value, context.limits)
    proposer = context.shelf.proposer(choice)
    queries = list(looked_for) if proposer.takes_queries else None
    (found,) = proposer.propose([seen.picture], queries=queries)
    from vlm_fo1.pipeline import DEFAULT_SELECTION

    best = select(found, getattr(proposer, "selection", None) or DEFAULT_SELECTION)
    best = best[: context.limits.boxes]
    if not len(best):
        raise BoxError(f"the proposer {proposer.name} found nothing it is sure of: draw boxes")
    return annotator_value(seen.picture, best.xyxy.tolist())


def run_ask(
    context: Context,
    flag: threading.Event,
    value: Any,
    asked: Asked,
    names: Any,
    *,
    proposing: bool,
    look: views.Look,
) -> Updates:
    """Everything that is shown from the question to the answer.

    Args:
        context: Models and limits.
        flag: Set when it shall stop.
        value: Of the annotator.
        asked: The question.
        names: Model, proposer and device.
        proposing: Leave the boxes to the proposer.
        look: How to show the answer.

    Yields:
        The view, what is kept of the answer, its values, three files, and
        the state of the models.
    """
    choice = context.shelf.choice(*names)
    asked.check()
    seen = drawn(value, context.limits)

    def ask(fo1: "FO1", on_text: Callable[[str], None]) -> Answer:
        return put(fo1, seen.picture, None if proposing else seen.boxes_xyxy, asked, on_text)

    def others() -> list[Any]:
        return [*same(5), _state(context, choice)]

    kept = yield from answering(
        context, choice, flag, seen.picture, ask, others, proposing=proposing
    )
    saved = context.files(kept)
    yield [views.result(kept, look), kept, kept.answer.to_dict(), *saved, _state(context, choice)]


def _state(context: Context, choice: Choice) -> str:
    return views.state(context.shelf.state(choice), choice.device)


def _example(scenes: list[Example], index: int) -> list[Any]:
    """What an example puts into the fields."""
    gr = gradio()
    scene = scenes[int(index)]
    value = annotator_value(str(scene.picture), scene.boxes_xyxy)
    labels = gr.update(value=list(scene.labels), choices=list(scene.labels))
    return [value, scene.task, labels, scene.words, DRAWN]
