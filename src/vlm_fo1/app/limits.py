"""What the page takes in: how large, how many, and an image or a plain refusal."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlm_fo1.errors import BoxError, ConfigError, ImageError, counted
from vlm_fo1.images import image_size, images_among, read_image, without_reader

MEGABYTE = 2**20
SAVE = "save them as JPEG first"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a visitor may send."""

    upload_mb: float = 20.0
    """Largest file of an image, in MiB."""
    video_mb: float = 200.0
    """Largest file of a video, in MiB; also the most that the server takes in one upload."""
    pixels: int = 40_000_000
    """Largest image, in pixels."""
    boxes: int = 300
    """Most boxes of one question."""
    batch: int = 500
    """Most images of one batch."""

    def __post_init__(self) -> None:
        """Refuse limits that let nothing in.

        Raises:
            ConfigError: One of them is not positive.
        """
        for name in ("upload_mb", "video_mb", "pixels", "boxes", "batch"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"the limit {name} is {getattr(self, name)}: more than 0 needed")

    def image(self, path: str | Path, *, name: str | None = None) -> Image.Image:
        """An uploaded image, upright RGB.

        Args:
            path: Where the upload lies.
            name: What its sender calls it, for messages.

        Raises:
            ImageError: Not an image, broken, or larger than allowed.
        """
        called = name or Path(path).name
        self.check_size(path, self.upload_mb, called)
        data = Path(path).read_bytes()  # so that no message has the path on the server
        with named(f"image data of {len(data)} bytes", called):
            size_wh = image_size(data)
        self.check_pixels(size_wh, called)
        with named(f"image data of {len(data)} bytes", called):
            return read_image(data, max_pixels=self.pixels)

    def check_size(self, path: str | Path, megabytes: float, called: str) -> None:
        """Refuse a file that is too large.

        Args:
            path: Where the upload lies.
            megabytes: The most that is allowed, in MiB.
            called: The name for the message.

        Raises:
            ImageError: It is larger, or gone.
        """
        try:
            size = Path(path).stat().st_size
        except OSError as error:
            raise ImageError(f"{called} is no longer here: upload it again") from error
        if size > megabytes * MEGABYTE:
            raise ImageError(
                f"{called} has {size / MEGABYTE:.1f} MB, at most {megabytes:g} MB are taken: "
                "make it smaller first"
            )

    def check_pixels(self, size_wh: tuple[int, int], called: str) -> None:
        """Refuse an image that has too many pixels.

        Args:
            size_wh: Of the image.
            called: The name for the message.

        Raises:
            ImageError: It has more than allowed.
        """
        width, height = size_wh
        if width * height > self.pixels:
            raise ImageError(
                f"{called} has {width} x {height} pixels, at most {self.pixels} are taken: "
                "make it smaller first"
            )

    def images(self, paths: Sequence[str | Path]) -> list[Path]:
        """The images among uploaded files, in their order.

        Raises:
            ImageError: There are none, or too many.
        """
        there = [Path(path) for path in paths if not Path(path).name.startswith(".")]
        found = images_among(there)
        if not found:
            if unread := without_reader(there):
                files = counted(len(unread), "HEIC image")
                raise ImageError(f"{files}, which nothing here reads: {SAVE}")
            raise ImageError("there are no images yet: choose files or a folder first")
        if len(found) > self.batch:
            raise ImageError(
                f"{len(found)} images, at most {self.batch} are taken at once: "
                "use the command line for more (fo1 detect FOLDER --save FILE)"
            )
        return found


@contextmanager
def named(known_as: str, called: str) -> Iterator[None]:
    """Call a file in errors what its sender does.

    Args:
        known_as: What it is called here, where nobody else knows it.
        called: What its sender calls it.

    Raises:
        ImageError: What went wrong inside.
    """
    try:
        yield
    except ImageError as error:
        reason = str(error).replace(known_as, "it")
        raise ImageError(f"{called} cannot be used: {reason}") from error


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image with the boxes that stand on it, in the order of their numbers."""

    image: Image.Image
    boxes_xyxy: list[list[float]]
    upload: Any = None
    """Where the image lies, not turned, if that is known; else the image."""
    turns: int = 0
    """Quarter turns clockwise from the upload to the image."""


def annotated(value: dict[str, Any] | None, limits: Limits) -> AnnotatedImage:
    """What somebody did on the image, in pixels of the image as they saw it.

    Args:
        value: Of the annotator: ``image`` (RGB), ``boxes`` with ``xmin`` and so on in any order of
            the corners and perhaps a number as ``label``, ``orientation`` in quarter turns
            clockwise, and perhaps ``path``, where ``image`` lies.
        limits: What is allowed.

    Returns:
        The turned image and its boxes: numbered ones first, by their numbers, then others as they
        come; those without an area, which a click leaves, are gone.

    Raises:
        ImageError: There is no image.
        BoxError: Too many boxes.
    """
    if not value or value.get("image") is None:
        raise ImageError("there is no image yet: upload one, or take an example")
    image = upload = value["image"]
    turns = int(value.get("orientation") or 0) % 4
    if turns:
        image = Image.fromarray(np.rot90(np.asarray(image), k=-turns).copy())
    width, height = image.size
    boxes: list[list[float]] = []
    for box in sorted(value.get("boxes") or [], key=_number):
        x1, x2 = sorted((float(box["xmin"]), float(box["xmax"])))
        y1, y2 = sorted((float(box["ymin"]), float(box["ymax"])))
        kept = [max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)]
        if kept[2] > kept[0] and kept[3] > kept[1]:
            boxes.append(kept)
    if len(boxes) > limits.boxes:
        raise BoxError(f"{len(boxes)} boxes are on the image, at most {limits.boxes} are taken")
    return AnnotatedImage(image, boxes, value.get("path") or upload, turns)


def _number(box: dict[str, Any]) -> float:
    label = str(box.get("label") or "")
    return float(label) if label.isdecimal() else float("inf")
