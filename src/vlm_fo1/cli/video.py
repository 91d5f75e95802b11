"""`fo1 video`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from vlm_fo1.cli import options
from vlm_fo1.cli.images import check_apart, check_words
from vlm_fo1.cli.running import bars, load_fo1, load_offering, shown
from vlm_fo1.errors import FO1Error
from vlm_fo1.tasks import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from vlm_fo1.proposers.base import Proposer
    from vlm_fo1.video.track import VideoReport


def command(
    source: Annotated[
        Path, typer.Argument(help="A video file, or a folder of images: its frames in order.")
    ],
    phrase: options.Phrase,
    proposer: options.Offering,
    tracker: Annotated[
        str | None,
        typer.Option(
            help="SAM 3 folder or Hub id whose tracker carries the masks on.",
            show_default="that of --proposer sam3:...",
        ),
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, max=600, help="Frames from one key frame to the next.")
    ] = 30,
    query: options.OneQuery = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Frames a second of a folder of images.", show_default="25"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Video with the things drawn in: .mp4, .mkv or .mov, without sound."),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            help="JSON Lines file, one line a frame, written as they come. Run the same command "
            "again to go on at the key frame where it stopped."
        ),
    ] = None,
    fresh: options.Fresh = False,
    model: options.Model = "tiny",
    revision: options.Revision = None,
    token: options.Token = None,
    strict: options.Strict = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_new_tokens: options.Tokens = MAX_NEW_TOKENS,
) -> None:
    """Follow what a phrase means through a video, as masks.

    The model chooses on key frames; SAM 3's tracker carries the masks between them.

    fo1 video match.mp4 "the player in red" --query player --proposer sam3:facebook/sam3
    --out found.mp4 --save frames.jsonl
    """
    errors = Console(stderr=True)
    with shown(errors):
        _check(out, save, tracker, proposer)
        check_words([phrase])
        from vlm_fo1.proposals import ON_VIDEO
        from vlm_fo1.video.track import Models, track_video

        def load() -> Models:
            how: dict[str, Any] = {"device": device, "dtype": dtype, "token": token}
            least = ON_VIDEO.unsure_min_score
            offering = load_offering(proposer, errors, least=least, **how)
            following = _load_tracker(tracker, offering, how, errors)
            fo1 = load_fo1(model, errors, revision=revision, strict=strict, **how)
            return Models(fo1=fo1, proposer=offering, tracker=following)

        with _bars(errors) as on_progress:
            report = track_video(
                load,
                source,
                phrase,
                every=every,
                query=query,
                rate=rate,
                save=save,
                fresh=fresh,
                out=out,
                decisive=[proposer, tracker, model, revision, dtype],
                on_progress=on_progress,
                max_new_tokens=max_new_tokens,
            )
    _conclude(report, [path for path in (out, save) if path is not None], errors)


def _check(out: Path | None, save: Path | None, tracker: str | None, proposer: str) -> None:
    """Refuse a request that cannot come to anything.

    Raises:
        FO1Error: Nothing to write, one file for two things, or no tracker.
    """
    check_apart(out, save)
    if out is None and save is None:
        raise FO1Error("nothing to write: name --out VIDEO, --save FILE, or both")
    if tracker is None and proposer.partition(":")[0] != "sam3":
        raise FO1Error(
            f"--proposer {proposer} has no tracker: name one with --tracker facebook/sam3 or "
            "--tracker FOLDER"
        )


@contextmanager
def _bars(errors: Console) -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar for each thing that is done, shown from its first frame on: models load before."""
    progress = bars(errors)
    tasks: dict[str, Any] = {}

    def on_progress(what: str, done: int, total: int | None) -> None:
        progress.start()
        if what not in tasks:
            tasks[what] = progress.add_task(what)
        progress.update(tasks[what], completed=done, total=total)

    try:
        yield on_progress
    finally:
        if progress.live.is_started:
            progress.stop()


def _load_tracker(
    tracker: str | None,
    proposer: "Proposer",
    how: dict[str, Any],
    errors: Console,
) -> Any:
    from vlm_fo1.proposers.sam3 import SAM3Proposer, SAM3Tracker

    with errors.status(Text("loading the tracker")):
        if tracker is None:
            assert isinstance(proposer, SAM3Proposer)
            return SAM3Tracker.beside(proposer)
        return SAM3Tracker.from_pretrained(tracker, **how)


def _conclude(report: "VideoReport", files: list[Path], errors: Console) -> None:
    """What came of it.

    Raises:
        typer.Exit: Something failed, or nothing came.
    """
    for style, lines in (("yellow", report.problems), ("red", report.errors)):
        for line in lines[:10]:
            errors.print(Text(line, style=style), soft_wrap=True)
        if len(lines) > 10:
            errors.print(Text(f"... and {len(lines) - 10} more", style=style))
    line = f"{report.frames} frames"
    line += f", {report.resumed} of them from before" if report.resumed else ""
    line += f"; {report.objects} things followed"
    if report.frames:
        line += f"; in {' and '.join(map(str, files))}"
    typer.echo(line)
    if report.errors or not report.frames:
        raise typer.Exit(code=1)
