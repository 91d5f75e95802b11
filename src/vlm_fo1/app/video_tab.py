"""The tab for a video: a phrase, the distance between key frames, and the annotated clip."""

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_fo1.app import views
from vlm_fo1.app.context import Context, gradio
from vlm_fo1.app.controls import model_fields, tokens_field
from vlm_fo1.app.events import (
    Updates,
    downloads_row,
    go_and_stop,
    job_name,
    run_job,
    tie_work,
)
from vlm_fo1.app.jobs import Watched
from vlm_fo1.app.limits import named
from vlm_fo1.app.segment_tab import phrase_fields
from vlm_fo1.errors import ImageError, PromptError
from vlm_fo1.images import image_size, images_among
from vlm_fo1.video.frames import VideoFile

ABOUT = (
    "FO1 chooses on key frames; between them SAM 3's tracker carries the masks. On a page without "
    "`--proposer sam3:...` things stay where the key frame had them."
)


def video_tab(context: Context) -> None:
    """Lay the tab out and tie its parts together."""
    gr = gradio()
    gr.Markdown(ABOUT)
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            source = gr.File(
                label="One video, or the frames of one as images",
                file_count="multiple",
                file_types=["video", "image"],
                elem_id="video-source",
            )
            every = gr.Slider(1, 300, value=30, step=1, label="Frames from key frame to key frame")
        with gr.Column(min_width=320):
            phrase, query = phrase_fields("video")
            chosen = model_fields(context, prefer="sam3")
            tokens = tokens_field()
            go, stop = go_and_stop("video", "Follow")
    progress = gr.HTML(elem_id="video-progress")
    clip = gr.Video(label="Annotated clip", interactive=False, height=480, elem_id="video-clip")
    downloads = downloads_row("video", {"json": "Frames (JSON Lines)"})

    def video(  # the names are those of the endpoint
        source: Any, phrase: str, query: str, every: Any, model: Any, proposer: Any, device: Any,
        max_new_tokens: Any, request: Any = None,
    ) -> Updates:  # fmt: skip
        asked = {"phrase": phrase, "query": query, "every": int(every), "tokens": max_new_tokens}
        names = (model, proposer, device)
        yield from run_job(
            context,
            job_name("video", request),
            lambda flag: run_video(context, flag, source or [], asked, names),
            outputs=3,
        )

    tie_work(
        context,
        "video",
        video,
        {go.click: "video"},
        stop,
        inputs=[source, phrase, query, every, *chosen.all, tokens],
        outputs=[progress, clip, *downloads.buttons],
        downloads=downloads,
    )


def frames_source(context: Context, paths: Sequence[str], folder: Path) -> Path:
    """The uploaded video, or a folder with the uploaded frames.

    Args:
        context: Has the limits.
        paths: Uploaded files.
        folder: An existing folder, in which one for frames is made.

    Raises:
        ImageError: Nothing was uploaded, several videos were, or one is too large.
        MissingExtraError: A video, and PyAV is not installed.
    """
    if not paths:
        raise ImageError("there is no video yet: choose a file, or its frames as images")
    frames = images_among(Path(path) for path in paths if not Path(path).name.startswith("."))
    if not frames:
        if len(paths) > 1:
            raise ImageError(f"{len(paths)} videos were chosen: one at a time")
        video = Path(paths[0])
        context.limits.check_size(video, context.limits.video_mb, video.name)
        with named(str(video), video.name):
            size_wh = VideoFile(video).size_wh
        context.limits.check_pixels(size_wh, video.name)
        return video
    home = folder / "frames"
    home.mkdir()
    for frame in frames:
        context.limits.check_size(frame, context.limits.upload_mb, frame.name)
        try:
            size_wh = image_size(frame)
        except ImageError:  # is told of with the result, as a problem of that frame
            size_wh = (1, 1)
        context.limits.check_pixels(size_wh, frame.name)
        shutil.copy(frame, home / frame.name)
    return home


def run_video(
    context: Context,
    flag: threading.Event,
    paths: Sequence[str],
    asked: dict[str, Any],
    names: Any,
) -> Updates:
    """Progress, then the clip and its lines.

    Args:
        context: Models and limits.
        flag: Set when it shall stop.
        paths: Uploaded files.
        asked: ``phrase``, ``query``, ``every`` and ``tokens``.
        names: Model, proposer and device.

    Yields:
        The progress, the clip, and the file of lines.

    Raises:
        PromptError: There is no phrase.
    """
    if not asked["phrase"].strip():
        raise PromptError("the phrase is empty: write what to follow")
    choice = context.pool.choice(*names)
    folder = context.scratch.folder()
    source = frames_source(context, paths, folder)

    def work(report: Any) -> Any:
        from vlm_fo1.app.follow import follow

        return follow(
            context.pool,
            choice,
            source,
            asked["phrase"],
            every=asked["every"],
            query=asked["query"].strip() or None,
            folder=folder,
            report=report,
            max_new_tokens=int(asked["tokens"]),
        )

    watched: Watched[tuple[str, int, int | None], Any] = Watched(work, flag)
    for news in watched.news():
        what, done, total = news[-1]
        counted = f"frame {done}" + (f" of {total}" if total else "") if done else ""
        said = f"{what.capitalize()} {counted}".strip()
        yield [views.progress(done, total, said), None, None]
    report, clip, lines = watched.result()
    said = f"{report.frames} frames, {report.objects} things followed"
    shown = views.progress(report.frames, report.frames or None, said)
    if report.errors or report.problems:
        shown += views.note("To be aware of", "\n".join([*report.errors, *report.problems][:20]))
    yield [shown, str(clip) if clip.exists() else None, str(lines)]
