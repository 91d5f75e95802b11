"""Long work as every tab shows it: watched, stopped by a button, errors in the place of results."""

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm_fo1.answer import Answer
from vlm_fo1.app import views
from vlm_fo1.app.context import Context, expected, failed, gradio, refuse, visitor, with_request
from vlm_fo1.app.jobs import StoppedError, Watched
from vlm_fo1.app.models import Choice

if TYPE_CHECKING:
    from PIL import Image

    from vlm_fo1.fo1 import FO1

Updates = Iterator[list[Any]]
"""What a callback shows, one list of its outputs after the other.

An output that gets its value in the end is None meanwhile: Gradio holds on to a component for each
time that it is skipped and then gets one.
"""


def run_job(
    context: Context,
    job: str,
    work: Callable[[threading.Event], Updates],
    *,
    outputs: int,
    lasting: int = 0,
) -> Updates:
    """Show what work yields, as a job that can be stopped.

    Args:
        context: Knows the jobs.
        job: Its name, of `job_name`; `tie_work` makes the button that stops it.
        work: Gets the flag that is set when it shall stop.
        outputs: Components that it fills. When it fails, the first one shows what went wrong, and
            nothing is left of an earlier answer in the others.
        lasting: Further components, which keep what they show then.

    Yields:
        What the work yields.
    """
    flag = context.jobs.begin(job)
    try:
        yield from work(flag)
    except (Exception, StoppedError) as raised:  # noqa: BLE001 - raised again as a message
        error = expected(raised)
        yield [failed(error), *[None] * (outputs - 1), *[gradio().skip()] * lasting]
        refuse(error)
    finally:
        context.jobs.end(job, flag)


def streamed_answer(
    context: Context,
    choice: Choice,
    flag: threading.Event,
    image: "Image.Image",
    ask: Callable[["FO1", Callable[[str], None]], Answer],
    others: Callable[[], list[Any]],
    *,
    proposing: bool,
) -> Generator[list[Any], None, views.AnswerState]:
    """Load what is needed, ask, and show the text as it is written.

    Args:
        context: Has the models.
        choice: Which of them.
        flag: Set when it shall stop.
        image: What the question is about.
        ask: Gets the model, and what to call with text.
        others: What goes to the outputs after the place of the answer, meanwhile.
        proposing: Whether the model asks the proposer for boxes itself.

    Yields:
        A note for the place of the answer, and what goes to the others.

    Returns:
        The answer with what it takes to show it.
    """

    def work(report: Callable[[str], None]) -> tuple[Answer, Any]:
        report("")
        fo1 = context.pool.fo1(choice, proposing=proposing)
        report("")
        return ask(fo1, report), fo1.processor.vocabulary

    watched: Watched[str, tuple[Answer, Any]] = Watched(work, flag)
    text = ""
    for news in watched.news():
        text += "".join(news)
        loading = not context.pool.ready(choice)
        title = f"Loading {choice.model}: only the first time" if loading else "Working"
        yield [views.note(title, text, kind="busy"), *others()]
    answer, vocabulary = watched.result()
    return views.AnswerState(answer, image, vocabulary)


def job_name(kind: str, request: Any) -> str:
    """One job of a kind for each visitor."""
    return f"{kind} {visitor(request)}"


def go_and_stop(prefix: str, title: str) -> tuple[Any, Any]:
    """A row with the button that starts and the one that stops.

    Args:
        prefix: Of their ids.
        title: What stands on the first.
    """
    gr = gradio()
    with gr.Row():
        go = gr.Button(title, variant="primary", elem_id=f"{prefix}-go")
        return go, gr.Button("Stop", elem_id=f"{prefix}-stop")


@dataclass(frozen=True)
class Downloads:
    """Buttons for files, in a row that shows when there are some."""

    row: Any
    buttons: list[Any]


def downloads_row(prefix: str, labels: dict[str, str]) -> Downloads:
    """A row of buttons, hidden until `tie_work` has files for them.

    Args:
        prefix: Of their ids.
        labels: What stands on each, by the rest of its id.
    """
    gr = gradio()
    with gr.Row(visible=False) as row:
        buttons = [
            gr.DownloadButton(label, size="sm", elem_id=f"{prefix}-{name}")
            for name, label in labels.items()
        ]
    return Downloads(row, buttons)


def tie_work(
    context: Context,
    kind: str,
    function: Callable[..., Updates],
    triggers: dict[Callable[..., Any], Any],
    stop: Any,
    *,
    inputs: list[Any],
    outputs: list[Any],
    downloads: Downloads,
    at_once: int = 1,
    lane: str | None = None,
) -> None:
    """Let buttons start work of a kind and stop it.

    Args:
        context: Knows the jobs.
        kind: Of the jobs.
        function: What runs, with a last argument ``request``.
        triggers: Events that start it, with the name of the endpoint or False.
        stop: The button that stops it.
        inputs: What the function gets.
        outputs: What it fills.
        downloads: AnswerPanel when it is over, if there are files.
        at_once: How many jobs run at the same time.
        lane: Jobs of one lane wait for each other; by default each kind has its own.
    """
    quiet: Any = {"queue": False, "show_progress": "hidden"}
    for trigger, api_name in triggers.items():
        done = trigger(
            with_request(function),
            inputs,
            outputs,
            api_name=api_name,
            concurrency_limit=at_once,
            concurrency_id=lane or kind,
            show_progress="hidden",
            trigger_mode="once",
        )
        for after in (done.success, done.failure):  # `then` does not come after a failure
            after(  # a step of its own so that programs get plain paths
                lambda *paths: gradio().update(visible=any(paths)),
                downloads.buttons,
                downloads.row,
                api_name=False,
                **quiet,
            )

    def stop_now(request: Any = None) -> None:
        if not context.jobs.stop(job_name(kind, request)):
            gradio().Info("Nothing is running.")

    stop_name = "stop" if kind == "ask" else f"stop_{kind}"
    stop.click(with_request(stop_now), None, None, api_name=stop_name, queue=False)
