"""The tab for SAM 3 and FO1 together: one finds what a name means, the other what a phrase does."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vlm_fo1.app import views
from vlm_fo1.app.context import Context, gradio, with_request
from vlm_fo1.app.controls import Chosen, chooser, tokens_field
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
from vlm_fo1.app.upload import plain_picture_field
from vlm_fo1.errors import ImageError, PromptError
from vlm_fo1.structures import Answer

if TYPE_CHECKING:
    from vlm_fo1.pipeline import FO1

ABOUT = (
    "SAM 3 finds everything that a **name** means and gives each thing a mask; FO1 decides which "
    "of them the **phrase** means. Masks need a page started with `--proposer sam3:facebook/sam3`; "
    "other proposers give boxes."
)


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
            picture = plain_picture_field(context, "segment-picture")
        with gr.Column(min_width=320):
            phrase, query = phrase_fields("segment")
            chosen = _sam3_first(context, chooser(context))
            tokens = tokens_field()
            with gr.Row():
                go = gr.Button("Find", variant="primary", elem_id="segment-go")
                stop = gr.Button("Stop", elem_id="segment-stop")
    view = gr.HTML(views.note("Upload a picture and write a phrase."), elem_id="segment-view")
    downloads = download_buttons("segment", ANSWER_FILES)

    def segment(  # the names are those of the endpoint
        picture: Any, phrase: str, query: str, model: Any, proposer: Any, device: Any,
        max_new_tokens: Any, request: Any = None,
    ) -> Updates:  # fmt: skip
        asked = {"phrase": phrase, "query": query, "max_new_tokens": int(max_new_tokens)}
        names = (model, proposer, device)
        yield from running(
            context,
            job_name("segment", request),
            lambda flag: run_segment(context, flag, picture, asked, names),
            outputs=4,
        )

    done = go.click(
        with_request(segment),
        [picture, phrase, query, *chosen.all, tokens],
        [view, *downloads],
        api_name="segment",
        concurrency_limit=context.at_once,
        concurrency_id="ask",
        show_progress="hidden",
        trigger_mode="once",
    )
    enable_after(done, downloads)
    stop_with(context, stop, "segment", "stop_segment")


def _sam3_first(context: Context, chosen: Chosen) -> Chosen:
    """SAM 3 as what is chosen at first, where the page has it."""
    names = [name for name in context.shelf.proposers if name.startswith("sam3")]
    if names:
        chosen.proposer.value = names[0]
    return chosen


def run_segment(
    context: Context, flag: threading.Event, picture: Any, asked: dict[str, Any], names: Any
) -> Updates:
    """The answer with its masks, and what is seen until it is there.

    Args:
        context: Models and limits.
        flag: Set when it shall stop.
        picture: RGB.
        asked: ``phrase``, ``query`` (empty takes the phrase) and ``max_new_tokens``.
        names: Model, proposer and device.

    Yields:
        The view, and three files.

    Raises:
        ImageError: There is no picture.
        PromptError: There is no phrase.
    """
    from vlm_fo1.segmenting import segment

    if picture is None:
        raise ImageError("there is no picture yet: upload one")
    phrase = asked["phrase"]
    if not phrase.strip():
        raise PromptError("the phrase is empty: write what to find, e.g. the leftmost orange")
    choice = context.shelf.choice(*names)

    def ask(fo1: "FO1", on_text: Callable[[str], None]) -> Answer:
        return segment(
            fo1,
            context.shelf.proposer(choice),
            picture,
            phrase,
            query=asked["query"].strip() or None,
            max_new_tokens=asked["max_new_tokens"],
            on_text=on_text,
        )

    def others() -> list[Any]:
        return same(3)

    kept = yield from answering(context, choice, flag, picture, ask, others, proposing=False)
    yield [views.result(kept, views.Look()), *context.files(kept)]
