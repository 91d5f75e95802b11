"""The tab for many images: files in, a table and files out, and a way to stop."""

import threading
from pathlib import Path
from typing import Any

from vlm_fo1.app import views
from vlm_fo1.app.context import Context, gradio
from vlm_fo1.app.controls import example_box, model_fields, question_fields, tie_task, tokens_field
from vlm_fo1.app.events import (
    Updates,
    downloads_row,
    go_and_stop,
    job_name,
    run_job,
    tie_work,
)
from vlm_fo1.app.jobs import StoppedError, Watched
from vlm_fo1.app.question import request_of
from vlm_fo1.formats.boxes import by_image, read_boxes
from vlm_fo1.tasks import MAX_NEW_TOKENS, Request


def batch_tab(context: Context) -> None:
    """Lay the tab out and tie its parts together."""
    gr = gradio()
    limits = context.limits
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            images = gr.File(
                label=f"Images, at most {limits.batch}",
                file_count="multiple",
                elem_id="batch-files",
                height=220,
            )
            folder = gr.File(
                label="or a folder", file_count="directory", elem_id="batch-folder", height=140
            )
            boxes = gr.File(
                label="Boxes by file name (JSON or COCO); without it the proposer is asked",
                file_types=[".json"],
                elem_id="batch-boxes",
                height=180,
            )
        with gr.Column(min_width=320):
            asked = question_fields("batch")
            box = example_box()
            chosen = model_fields(context)
            tokens = tokens_field()
            go, stop = go_and_stop("batch", "Ask all")
    progress = gr.HTML(elem_id="batch-progress")
    table = gr.HTML(elem_id="batch-table")
    downloads = downloads_row("batch", {"json": "Answers (JSON Lines)", "coco": "COCO"})
    tie_task(asked, box)

    def batch(  # the names are those of the endpoint
        files: Any, folder: Any, boxes: Any, task: Any, labels: Any, words: Any, box: Any,
        model: Any, proposer: Any, device: Any, max_new_tokens: Any, request: Any = None,
    ) -> Updates:  # fmt: skip
        paths = [*(files or []), *(folder or [])]
        names = (model, proposer, device)
        yield from run_job(
            context,
            job_name("batch", request),
            lambda flag: run_batch(
                context,
                flag,
                paths,
                boxes,
                request_of(task, labels, words, box),
                names,
                max_new_tokens=int(max_new_tokens),
            ),
            outputs=4,
        )

    tie_work(
        context,
        "batch",
        batch,
        {go.click: "batch"},
        stop,
        inputs=[images, folder, boxes, *asked.all, box, *chosen.all, tokens],
        outputs=[progress, table, *downloads.buttons],
        downloads=downloads,
    )


def run_batch(
    context: Context,
    flag: threading.Event,
    paths: list[str],
    boxes_file: str | None,
    request: Request,
    names: Any,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Updates:
    """Progress, table and files, as they come.

    Args:
        context: Models and limits.
        flag: Set when it shall stop; what was finished is kept.
        paths: Uploaded files.
        boxes_file: Boxes by file name, or None for the proposer's.
        request: The question.
        names: Model, proposer and device.
        max_new_tokens: Length limit of each answer.

    Yields:
        The progress, the table, and two files.
    """
    from vlm_fo1.app.batch import TITLES, Row, ask_all, write

    images = context.limits.images(paths)
    choice = context.pool.choice(*names)
    boxes = None if boxes_file is None else read_boxes(Path(boxes_file))
    if len(images) > 1:
        boxes = by_image(boxes)
    rows: list[Row] = []

    def work(report: Any) -> None:
        report("")
        fo1 = context.pool.fo1(choice, proposing=boxes is None)
        ask_all(
            fo1,
            images,
            request,
            context.limits,
            boxes=boxes,
            max_new_tokens=max_new_tokens,
            report=report,
        )

    def table() -> str:
        return views.table(TITLES, [row.cells() for row in rows])

    watched: Watched[Row | str, None] = Watched(work, flag)
    for news in watched.news():
        fresh = [row for row in news if isinstance(row, Row)]
        rows += fresh
        ready = context.pool.ready(choice)
        said = f"{len(rows)} of {len(images)} done" if ready else f"Loading {choice.model}"
        yield [views.progress(len(rows), len(images), said), table(), None, None]
    stopped = False
    try:
        watched.result()
    except StoppedError:
        stopped = True
    wrong = sum(row.answer is None for row in rows)
    said = f"{'Stopped: ' if stopped else ''}{len(rows) - wrong} of {len(images)} answered"
    said += f", {wrong} failed: their rows say why" if wrong else ""
    said += "; what was finished is kept" if stopped else ""
    bar = views.progress(len(rows), len(images), said)
    yield [bar, table(), *map(str, write(rows, context.scratch.folder()))]
