"""The tab for many pictures: files in, a table and files out, and a way to stop."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm_fo1.app import views
from vlm_fo1.app.asking import Asked, labels_of
from vlm_fo1.app.context import (
    Context,
    failed,
    gradio,
    refuse,
    visitor,
    with_request,
)
from vlm_fo1.app.controls import chooser, fields_of, question, tokens_field
from vlm_fo1.app.jobs import StoppedError, Watched
from vlm_fo1.proposers.given import read_boxes


def batch_tab(context: Context) -> None:
    """Lay the tab out and tie its parts together."""
    gr = gradio()
    limits = context.limits
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            files = gr.File(
                label=f"Pictures, at most {limits.batch}",
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
                height=140,
            )
        with gr.Column(min_width=320):
            asked = question("batch")
            example_box = gr.Number(
                value=0, precision=0, minimum=0, visible=False, label="Number of the example box"
            )
            chosen = chooser(context)
            tokens = tokens_field()
            with gr.Row():
                go = gr.Button("Ask all", variant="primary", elem_id="batch-go")
                stop = gr.Button("Stop", elem_id="batch-stop")
    progress = gr.HTML(elem_id="batch-progress")
    table = gr.HTML(elem_id="batch-table")
    with gr.Row():
        downloads = [
            gr.DownloadButton(label, size="sm", interactive=False, elem_id=f"batch-{name}")
            for label, name in (("Answers (JSON Lines)", "json"), ("COCO", "coco"))
        ]
    asked.task.change(
        fields_of,
        [asked.task],
        [asked.labels, asked.words, example_box],
        api_name=False,
        queue=False,
        show_progress="hidden",
    )

    def batch(  # the names are those of the endpoint
        files: Any, folder: Any, boxes: Any, task: Any, labels: Any, words: Any, box: Any,
        model: Any, proposer: Any, device: Any, max_new_tokens: Any, request: Any = None,
    ) -> Iterator[list[Any]]:  # fmt: skip
        asked_all = Asked(
            task=task,
            labels=labels_of(labels),
            words=words or "",
            box=int(box or 0),
            max_new_tokens=int(max_new_tokens),
        )
        paths = [*(files or []), *(folder or [])]
        choice = (model, proposer, device)
        yield from run_batch(context, f"batch {visitor(request)}", paths, boxes, asked_all, choice)

    go.click(
        with_request(batch),
        [files, folder, boxes, *asked.all, example_box, *chosen.all, tokens],
        [progress, table, *downloads],
        api_name="batch",
        concurrency_limit=1,
        concurrency_id="batch",
        show_progress="hidden",
        trigger_mode="once",
    )

    def stop_now(request: Any = None) -> None:
        if not context.jobs.stop(f"batch {visitor(request)}"):
            gr.Info("Nothing is running.")

    stop.click(with_request(stop_now), None, None, api_name="stop_batch", queue=False)


def run_batch(
    context: Context, job: str, paths: list[str], boxes_file: str | None, asked: Asked, names: Any
) -> Iterator[list[Any]]:
    """Progress, table and files, as they come.

    Args:
        context: Models and limits.
        job: Whose batch it is.
        paths: Uploaded files.
        boxes_file: Boxes by file name, or None for the proposer's.
        asked: The question.
        names: Model, proposer and device.

    Yields:
        The progress, the table, and an update for each of two files.
    """
    from vlm_fo1.app.batch import TITLES, Row, ask_all, write

    gr = gradio()
    flag = context.jobs.begin(job)
    rows: list[Row] = []
    stopped = False
    try:
        asked.check()
        pictures = context.limits.pictures(paths)
        choice = context.shelf.choice(*names)
        boxes = None if boxes_file is None else read_boxes(Path(boxes_file))

        def work(report: Any) -> None:
            report("")
            fo1 = context.shelf.fo1(choice, proposing=boxes is None)
            ask_all(fo1, pictures, asked, context.limits, boxes=boxes, report=report)

        watched: Watched[Row | str, None] = Watched(work, flag)
        for news in watched.news():
            fresh = [row for row in news if isinstance(row, Row)]
            rows += fresh
            ready = context.shelf.ready(choice)
            said = f"{len(rows)} of {len(pictures)} done" if ready else f"Loading {choice.model}"
            bar = views.progress(len(rows), len(pictures), said)
            shown = views.table(TITLES, [row.cells() for row in rows]) if fresh else gr.skip()
            yield [bar, shown, gr.skip(), gr.skip()]
        try:
            watched.result()
        except StoppedError:
            stopped = True
    except Exception as error:  # noqa: BLE001 - raised again, as a message if it is expected
        yield [failed(error), gr.skip(), gr.skip(), gr.skip()]
        refuse(error)
        return
    finally:
        context.jobs.end(job, flag)
    wrong = sum(row.answer is None for row in rows)
    said = f"{'Stopped: ' if stopped else ''}{len(rows) - wrong} of {len(pictures)} answered"
    said += f", {wrong} failed: their rows say why" if wrong else ""
    said += "; what was finished is kept" if stopped else ""
    files = [gr.update(value=str(path), interactive=True) for path in
             write(rows, context.scratch.folder())]  # fmt: skip
    table = views.table(TITLES, [row.cells() for row in rows])
    yield [views.progress(len(rows), len(pictures), said), table, *files]
