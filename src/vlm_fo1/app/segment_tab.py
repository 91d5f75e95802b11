"""The tab for SAM 3 and FO1 together: one finds what a name means, the other what a phrase does."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vlm_fo1.answer import Answer
from vlm_fo1.app import views
from vlm_fo1.app.answer_panel import answer_panel
from vlm_fo1.app.context import Context, gradio
from vlm_fo1.app.controls import model_fields, tokens_field
from vlm_fo1.app.events import (
    Updates,
    go_and_stop,
    job_name,
    run_job,
    streamed_answer,
    tie_work,
)
from vlm_fo1.app.upload import plain_image_field
from vlm_fo1.errors import ImageError, PromptError

if TYPE_CHECKING:
    from vlm_fo1.fo1 import FO1

ABOUT = (
    "SAM 3 finds everything that a **name** means and gives each thing a mask; FO1 decides which "
    "of them the **phrase** means. Masks need a page started with `--proposer sam3:facebook/sam3`; "
    "other proposers give boxes."
)

EMPTY = "Upload an image and write a phrase."


def phrase_fields(prefix: str) -> tuple[Any, Any]:
    """A phrase, and the name that the proposer looks for."""
    gr = gradio()
    phrase = gr.Textbox(
        value="", label="Phrase", placeholder="the cup behind the plate", elem_id=f"{prefix}-phrase"
    )
    query = gr.Textbox(
        value="",
        label="Name that the proposer looks for",
        placeholder="cup",
        info="Empty: the phrase itself.",
        elem_id=f"{prefix}-query",
    )
    return phrase, query


def segment_tab(context: Context) -> None:
    """Lay the tab out and tie its parts together."""
    gr = gradio()
    gr.Markdown(ABOUT)
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            image = plain_image_field(context, "segment-image")
        with gr.Column(min_width=320):
            phrase, query = phrase_fields("segment")
            chosen = model_fields(context, prefer="sam3")
            tokens = tokens_field()
            go, stop = go_and_stop("segment", "Find")
    shown = answer_panel("segment", EMPTY, api_name="look_segment")

    def segment(  # the names are those of the endpoint
        image: Any, phrase: str, query: str, model: Any, proposer: Any, device: Any,
        max_new_tokens: Any, min_score: Any, unchosen: Any, request: Any = None,
    ) -> Updates:  # fmt: skip
        options = views.ViewOptions(min_score=min_score, unchosen=unchosen)
        asked = {"phrase": phrase, "query": query, "max_new_tokens": int(max_new_tokens)}
        names = (model, proposer, device)
        yield from run_job(
            context,
            job_name("segment", request),
            lambda flag: run_segment(context, flag, image, asked, names, options=options),
            outputs=5,
        )

    tie_work(
        context,
        "segment",
        segment,
        {go.click: "segment", phrase.submit: False, query.submit: False},
        stop,
        inputs=[image, phrase, query, *chosen.all, tokens, *shown.options],
        outputs=[shown.view, shown.kept, *shown.downloads.buttons],
        downloads=shown.downloads,
        at_once=context.at_once,
        lane="ask",
    )


def run_segment(
    context: Context,
    flag: threading.Event,
    image: Any,
    asked: dict[str, Any],
    names: Any,
    *,
    options: views.ViewOptions,
) -> Updates:
    """The answer with its masks, and what is seen until it is there.

    Args:
        context: Models and limits.
        flag: Set when it shall stop.
        image: RGB.
        asked: ``phrase``, ``query`` (empty takes the phrase) and ``max_new_tokens``.
        names: Model, proposer and device.
        options: How to show the answer.

    Yields:
        The view, what is kept of the answer, and three files.

    Raises:
        ImageError: There is no image.
        PromptError: There is no phrase.
    """
    if image is None:
        raise ImageError("there is no image yet: upload one")
    phrase = asked["phrase"]
    if not phrase.strip():
        raise PromptError("the phrase is empty: write what to find, e.g. the leftmost orange")
    choice = context.pool.choice(*names)

    def ask(fo1: "FO1", on_text: Callable[[str], None]) -> Answer:
        return fo1.segment(
            image,
            phrase,
            proposer=context.pool.proposer(choice),
            query=asked["query"].strip() or None,
            max_new_tokens=asked["max_new_tokens"],
            on_text=on_text,
        )

    kept = yield from streamed_answer(
        context, choice, flag, image, ask, lambda: [None] * 4, proposing=False
    )
    yield [views.result(kept, options), kept, *context.files(kept)]
