"""Frames of a video file or of a folder of images, in and out.

A frame that cannot be read is handed on as one, with the reason: whoever follows a video must not
lose what came before it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_fo1._extras import require
from vlm_fo1.errors import ConfigError, FO1Error, ImageError, counted, item_errors
from vlm_fo1.images import HEIF_REMEDY, images_among, read_image, without_reader
from vlm_fo1.jsonl import check_writable, replacing

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")
"""What `write_video` can write."""

FOLDER_RATE = Fraction(25)
"""Frames a second of a folder of images, unless told."""


@dataclass(frozen=True)
class Frame:
    """One image of a video."""

    index: int
    time_s: float
    image: Image.Image | None
    """Upright RGB; None if it could not be read."""
    problem: str = ""
    """Why it could not be read."""


class FrameFolder:
    """The images of a folder as frames, in the order of the numbers in their names.

    Args:
        folder: Subfolders are left out.
        rate: Frames a second.

    Raises:
        ImageError: There are no images in it, or some of a kind that nothing here reads.
    """

    def __init__(self, folder: Path, rate: Fraction = FOLDER_RATE) -> None:
        shown = [path for path in folder.iterdir() if not path.name.startswith(".")]
        self.paths = sorted(images_among(shown), key=lambda path: _natural(path.name))
        unread = without_reader(shown)
        if unread:
            raise ImageError(
                f"{folder} has {counted(len(unread), 'HEIC image')}, which nothing here reads, and "
                f"frames must not be missing: {HEIF_REMEDY}"
            )
        if not self.paths:
            raise ImageError(f"the folder {folder} holds no images")
        self.rate = rate
        self.count: int | None = len(self.paths)

    def read(self, start: int = 0) -> Iterator[Frame]:
        """Frames from the one with index ``start`` on."""
        for index in range(start, len(self.paths)):
            time_s = float(index / self.rate)
            try:
                with item_errors(str(self.paths[index])):
                    image = read_image(self.paths[index])
            except FO1Error as error:
                yield Frame(index, time_s, None, str(error))
            else:
                yield Frame(index, time_s, image)


class VideoFile:
    """A video file, decoded by PyAV; turned upright where it says how.

    Args:
        path: Of the file.

    Raises:
        ImageError: It is missing, no video, or its index is cut off.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._av: Any = require("av", extra="video")
        with self._open() as container:
            stream: Any = container.streams.video[0]
            self.rate = Fraction(stream.average_rate or FOLDER_RATE)
            self.size_wh = (int(stream.width), int(stream.height))
            self._announced = int(stream.frames)
            if stream.duration is not None and stream.time_base is not None:
                self._exact = self._announced > 0
                self._length_s = float(stream.duration * stream.time_base)
            else:  # Matroska: of all streams together
                self._exact = False
                self._length_s = (container.duration or 0) / self._av.time_base
            self.count: int | None = self._announced or round(self._length_s * self.rate) or None

    def read(self, start: int = 0) -> Iterator[Frame]:
        """Frames from the one with index ``start`` on.

        A file that ends before it should gives one more frame, without an image, that says so.
        """
        index, end_s, reasons = 0, 0.0, list[str]()
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            first_s = float((stream.start_time or 0) * (stream.time_base or 0))
            for frame in self._decoded(container, stream, reasons):
                time_s = float(index / self.rate) if frame.time is None else frame.time - first_s
                if index >= start:
                    yield Frame(index, round(time_s, 6), _upright(frame))
                index += 1
                end_s = time_s + float(1 / self.rate)
        if reasons or self._ends_early(index, end_s):
            of = f" of {self.count}" if self.count else ""
            yield Frame(
                index,
                round(end_s, 6),
                None,
                f"{self.path} ends early or is damaged: {index}{of} frames ({end_s:.2f} of "
                f"{self._length_s:.2f} s) could be read, and all of them were used"
                f"{f' ({reasons[0]})' if reasons else ''}",
            )

    def _decoded(self, container: Any, stream: Any, reasons: list[str]) -> Iterator[Any]:
        """All frames that can be decoded, those after a damaged place too; adds to ``reasons``."""
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._av.FFmpegError as error:
                reasons.append(str(error))
                return
            try:
                yield from packet.decode()
            except self._av.FFmpegError as error:
                reasons.append(str(error))

    def _ends_early(self, frames: int, end_s: float) -> bool:
        """Whether the file promised more; only by counts and times, both of which may be rough."""
        missing_s = self._length_s - end_s
        if self._exact:  # edits of a file hide frames that it counts, so the time must lack too
            return frames < self._announced and missing_s > float(2 / self.rate)
        return missing_s > 1.0

    def _open(self) -> Any:
        try:
            container = self._av.open(str(self.path))
        except (self._av.FFmpegError, OSError) as error:
            raise ImageError(
                f"{self.path} cannot be opened as a video ({error}): pass a video file that is "
                "complete, or a folder of images"
            ) from error
        if not container.streams.video:
            container.close()
            raise ImageError(f"{self.path} has no images in it, only other streams")
        return container


Frames = FrameFolder | VideoFile


def open_frames(source: str | Path, *, rate: Fraction | float | None = None) -> Frames:
    """A video file, or a folder of images as if it were one.

    Args:
        source: The file or the folder.
        rate: Frames a second of a folder; files know their own.

    Raises:
        ImageError: It is missing, or holds no video.
        ConfigError: A rate that is none, or one for a file.
        MissingExtraError: PyAV is not installed, for a file.
    """
    path = Path(source)
    if rate is not None and not 0 < rate <= 1000:
        raise ConfigError(f"a rate of {rate} frames a second: more than 0, at most 1000 is needed")
    if path.is_dir():
        kind = FOLDER_RATE if rate is None else Fraction(rate).limit_denominator(1001)
        return FrameFolder(path, kind)
    if rate is not None:
        raise ConfigError(f"{path} is a file with a rate of its own: leave the rate out")
    if not path.exists():
        raise ImageError(f"there is no {path}: pass a video file, or a folder of images")
    return VideoFile(path)


def check_video_path(path: Path) -> None:
    """Refuse what `write_video` could not write, before work is done for it.

    Raises:
        ConfigError: Another kind of file.
        MissingExtraError: PyAV is not installed.
    """
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ConfigError(
            f"{path}: no video can be written as {path.suffix or 'a file without suffix'}; "
            f"one of {', '.join(VIDEO_SUFFIXES)} is needed"
        )
    require("av", extra="video")


def write_video(path: Path, images: Iterable[Image.Image], rate: Fraction) -> int:
    """Write a video: H.264 where this PyAV has it, else MPEG-4.

    The file is there when it is complete, not before. An odd side loses its last line of pixels,
    as both codecs need even ones; an image of another size than the first is resized.

    Args:
        path: Ends in one of `VIDEO_SUFFIXES`.
        images: RGB, at least one.
        rate: Frames a second.

    Returns:
        The number of frames.

    Raises:
        ConfigError: No such kind of file.
        ImageError: There are no images, or one is under 2 x 2 pixels.
        OutputError: The disk refuses it.
        MissingExtraError: PyAV is not installed.
    """
    check_video_path(path)
    av: Any = require("av", extra="video")
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    count, stream = 0, None
    check_writable(path)
    with replacing(path) as partial:
        with av.open(str(partial), "w") as container:
            for image in images:
                if stream is None:
                    stream = container.add_stream(codec, rate=rate)
                    stream.width, stream.height = (side // 2 * 2 for side in image.size)
                    stream.pix_fmt = "yuv420p"
                    if min(stream.width, stream.height) < 2:
                        raise ImageError(
                            f"a video of {image.size} pixels: at least 2 x 2 are needed"
                        )
                size = (stream.width, stream.height)
                near = max(abs(a - b) for a, b in zip(size, image.size, strict=True)) < 2
                fitted = image.crop((0, 0, *size)) if near else image.resize(size)
                container.mux(stream.encode(av.VideoFrame.from_image(fitted)))
                count += 1
            if stream is not None:
                container.mux(stream.encode())
        if not count:
            raise ImageError(f"no image for {path}: a video needs at least one")
    return count


def _upright(frame: Any) -> Image.Image:
    """RGB, turned as the file asks; ``rotation`` is counter-clockwise, in degrees."""
    image = frame.to_image()
    turn = round(frame.rotation / 90) % 4 * 90
    return image.rotate(turn, expand=True) if turn else image


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts ``f2.png`` before ``f10.png``."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
