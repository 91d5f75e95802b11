"""A phrase in a video from beginning to end: records as they come, then the annotated video."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_fo1.draw import draw_regions
from vlm_fo1.errors import ConfigError
from vlm_fo1.fo1 import FO1
from vlm_fo1.jsonl import check_writable
from vlm_fo1.proposals import ON_VIDEO
from vlm_fo1.proposers.base import Proposer
from vlm_fo1.tasks import MAX_NEW_TOKENS
from vlm_fo1.video.follow import Follower, Tracker
from vlm_fo1.video.frames import Frames, check_video_path, open_frames, write_video
from vlm_fo1.video.records import FrameFile, FrameRecord

LONGEST_TRACK = 600
"""Most frames that masks are carried on from where things were chosen, as in the official demo."""

OnProgress = Callable[[str, int, int | None], None]
"""Called with what is being done, frames done so far, and frames in all where that is known."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """What a video is followed with."""

    fo1: FO1
    proposer: Proposer
    tracker: Tracker


@dataclass(frozen=True, kw_only=True)
class VideoReport:
    """What came of a video."""

    frames: int
    """Frames with a record, those of earlier runs included."""
    resumed: int
    """How many of them were there before this run."""
    objects: int
    """Different things that were followed."""
    errors: tuple[str, ...]
    """Everything that failed, each with its frame; empty is good."""
    problems: tuple[str, ...]
    """What answers on key frames could not use, each with its frame."""


def track_video(
    models: Models | Callable[[], Models],
    source: str | Path,
    phrase: str,
    *,
    every: int = 30,
    query: str | None = None,
    rate: Fraction | float | None = None,
    save: Path | None = None,
    fresh: bool = False,
    out: Path | None = None,
    decisive: Sequence[Any] = (),
    on_progress: OnProgress | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> VideoReport:
    """Follow what a phrase means through a video.

    Args:
        models: What to do it with; a function that loads it is only called when frames are left.
        source: A video file (needs PyAV), or a folder of images in the order of their numbers.
        phrase: What to follow, of any kind.
        every: Frames from one key frame, where FO1 chooses, to the next; at most `LONGEST_TRACK`.
        query: What the proposer looks for, by default the phrase.
        rate: Frames a second of a folder.
        save: JSON Lines file of the frames, written as they come. Called again, it goes on at the
            first key frame whose segment is not complete.
        fresh: Start that file anew.
        out: Annotated video; MP4, Matroska or QuickTime, without sound. It is drawn from the
            records when all frames are done.
        decisive: What else decides the result, in plain values: the file of another model is then
            refused instead of gone on with.
        on_progress: Called after each frame.
        max_new_tokens: Length limit of an answer.

    Returns:
        What came of it. A video that ends early, a broken frame and a detector that returns NaN
        do not end it: they are in ``errors``, and everything that could be done is in the
        files.

    Raises:
        ImageError: The video cannot be opened.
        ConfigError: An option that cannot be, a file of something else, or one that another run
            writes.
        OutputError: A file that cannot be written.
        MissingExtraError: PyAV is needed and not installed.
    """
    if not 1 <= every <= LONGEST_TRACK:
        raise ConfigError(
            f"every = {every}: 1 to {LONGEST_TRACK} frames from key frame to key frame"
        )
    if out is not None:
        check_video_path(out)
        if out.resolve() == Path(source).resolve():
            raise ConfigError(f"{out} is the video itself: name another file for the drawing")
        check_writable(out)
    frames = open_frames(source, rate=rate)
    with tempfile.TemporaryDirectory() as scratch:
        request = [str(source), phrase, every, query, str(rate), max_new_tokens, *decisive]
        path = Path(scratch) / "frames.jsonl" if save is None else save
        with FrameFile(path, request, every=every, fresh=fresh) as file:
            if not file.complete:
                loaded = models if isinstance(models, Models) else models()

                def choose(image: Image.Image) -> Any:
                    return loaded.fo1.segment(
                        image,
                        phrase,
                        proposer=loaded.proposer,
                        query=query,
                        thresholds=ON_VIDEO,
                        max_new_tokens=max_new_tokens,
                    )

                _follow(frames, file, choose, loaded.tracker, every, on_progress)
            report = _report(file)
            if out is not None and report.frames:
                write_video(out, _drawn(frames, file.records(), on_progress), frames.rate)
    return report


def _follow(
    frames: Frames,
    file: FrameFile,
    choose: Callable[[Image.Image], Any],
    tracker: Tracker,
    every: int,
    on_progress: OnProgress | None,
) -> None:
    follower = Follower(choose, tracker, every=every, before=file.last, next_id=file.next_id)
    done, error = file.start, False
    for frame in frames.read(file.start):
        record = follower.step(frame)
        file.append(record)
        done, error = frame.index + 1, record.regions is None
        if on_progress is not None:
            on_progress("following", done, frames.count)
    if not error:
        file.finish(done)


def _report(file: FrameFile) -> VideoReport:
    frames, things = 0, set[int]()
    errors, problems = list[str](), list[str]()
    for record in file.records():
        frames += record.regions is not None
        things.update(record.ids)
        errors += [f"frame {record.index}: {record.error}"] if record.error else []
        problems += [f"frame {record.index}: {problem}" for problem in record.problems]
    return VideoReport(
        frames=frames,
        resumed=file.kept,
        objects=len(things),
        errors=tuple(errors),
        problems=tuple(problems),
    )


def _drawn(
    frames: Frames, records: Iterator[FrameRecord], on_progress: OnProgress | None
) -> Iterator[Image.Image]:
    """Every frame that has a record, with the things in it."""
    record = next(records, None)
    for frame in frames.read():
        while record is not None and record.index < frame.index:
            record = next(records, None)
        if record is None:
            return
        if frame.image is not None and record.regions is not None:
            yield draw_regions(frame.image, record.regions, ids=record.ids)
        if on_progress is not None:
            on_progress("drawing", frame.index + 1, frames.count)
