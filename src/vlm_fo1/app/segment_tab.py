"""The tab for SAM 3 and FO1 together: one finds what a name means, the other what a phrase does."""

from collections.abc import Iterator
from typing import Any

from vlm_fo1.app import views
from vlm_fo1.app.context import (
    Context,
    failed,
    gradio,
    refuse,
    visitor,
    with_request,
)
from vlm_fo1.app.controls import Chosen, chooser, tokens_field
from vlm_fo1.app.jobs import Watched
from vlm_fo1.app.upload import plain_picture_field
from vlm_fo1.errors import ImageError, PromptError
from vlm_fo1.structures import Answer

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
    with gr.Row():
        files = [
            gr.DownloadButton(label, size="sm", interactive=False, elem_id=f"segment-{name}")
            for label, name in (("JSON", "json"), ("COCO", "coco"), ("Picture", "drawn"))
        ]

    def segment(  # the names are those of the endpoint
        picture: Any, phrase: str, query: str, model: Any, proposer: Any, device: Any,
        max_new_tokens: Any, request: Any = None,
    ) -> Iterator[list[Any]]:  # fmt: skip
        names = (model, proposer, device)
        job = f"segment {visitor(request)}"
        yield from run_segment(context, job, picture, phrase, query, names, int(max_new_tokens))

    go.click(
        with_request(segment),
        [picture, phrase, query, *chosen.all, tokens],
        [view, *files],
        api_name="segment",
        concurrency_limit=context.at_once,
        concurrency_id="ask",
        show_progress="hidden",
        trigger_mode="once",
    )

    def stop_now(request: Any = None) -> None:
        if not context.jobs.stop(f"segment {visitor(request)}"):
            gr.Info("Nothing is running.")

    stop.click(with_request(stop_now), None, None, api_name="stop_segment", queue=False)


def _sam3_first(context: Context, chosen: Chosen) -> Chosen:
    """SAM 3 as what is chosen at first, where the page has it."""
    names = [name for name in context.shelf.proposers if name.startswith("sam3")]
    if names:
        chosen.proposer.value = names[0]
    return chosen


def run_segment(
    context: Context, job: str, picture: Any, phrase: str, query: str, names: Any, tokens: int
) -> Iterator[list[Any]]:
    """The answer with its masks, and what is seen until it is there.

    Args:
        context: Models and limits.
        job: Whose question it is.
        picture: RGB.
        phrase: What is meant.
        query: What the proposer looks for; empty takes the phrase.
        names: Model, proposer and device.
        tokens: Longest answer.

    Yields:
        The view, and an update for each of three files.

    Raises:
        ImageError: There is no picture.
        PromptError: There is no phrase.
    """
    from vlm_fo1.segmenting import segment

    gr = gradio()
    flag = context.jobs.begin(job)
    try:
        if picture is None:
            raise ImageError("there is no picture yet: upload one")
        if not phrase.strip():
            raise PromptError("the phrase is empty: write what to find, e.g. the leftmost orange")
        choice = context.shelf.choice(*names)

        def work(report: Any) -> tuple[Answer, Any]:
            report("")
            fo1, proposer = (
                context.shelf.fo1(choice, proposing=False),
                context.shelf.proposer(choice),
            )
            answer = segment(
                fo1,
                proposer,
                picture,
                phrase,
                query=query.strip() or None,
                max_new_tokens=tokens,
                on_text=report,
            )
            return answer, fo1.processor.vocabulary

        watched: Watched[str, tuple[Answer, Any]] = Watched(work, flag)
        text = ""
        for news in watched.news():
            text += "".join(news)
            loading = not context.shelf.ready(choice)
            title = f"Loading {choice.model}: only the first time" if loading else "Working"
            yield [views.note(title, text, kind="busy"), gr.skip(), gr.skip(), gr.skip()]
        answer, vocabulary = watched.result()
    except Exception as error:  # noqa: BLE001 - raised again, as a message if it is expected
        yield [failed(error), gr.skip(), gr.skip(), gr.skip()]
        refuse(error)
        return
    finally:
        context.jobs.end(job, flag)
    kept = views.Kept(answer, picture, vocabulary, choice.model)
    files = [gr.update(value=path, interactive=True) for path in context.files(kept)]
    yield [views.result(kept, views.Look()), *files]
