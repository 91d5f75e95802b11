"""Whether the id, the file name and the size that a file states are those of the image at hand.

Tools write them in many ways: ids as numbers or texts, names with the folders, slashes and escapes
of another machine, sizes before or after a photo was turned upright. Each is compared here only.
"""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np

from vlm_fo1.boxes import Array, BoxesLike, as_boxes, turn_upright
from vlm_fo1.errors import BoxError
from vlm_fo1.images import IMAGE_SUFFIXES, Frame

# --- ids -----------------------------------------------------------------------------------------


class Ids:
    """The ids of a file's images or categories, found whatever their type and zero padding.

    ``1``, ``"1"``, ``1.0`` and ``"0001"`` are one id, unless the file holds several of them: then
    each is the one that is written the same.

    Args:
        ids: In the order of the file; what is neither a whole number nor a text is never found.
    """

    def __init__(self, ids: Iterable[Any]) -> None:
        self._written: dict[str, int] = {}
        self._meant: dict[str, set[int]] = defaultdict(set)
        for position, id_ in enumerate(ids):
            if (text := id_text(id_)) is not None:
                first = self._written.setdefault(text, position)
                self._meant[_number_of(text)].add(first)

    def find(self, id_: Any) -> int | None:
        """The first position of an id, None where the file does not hold it."""
        text = id_text(id_)
        if text is None:
            return None
        if text in self._written:
            return self._written[text]
        meant = self._meant.get(_number_of(text), set())
        return next(iter(meant)) if len(meant) == 1 else None


def id_text(id_: Any) -> str | None:
    """An id as text; None for what can be none, such as null, a list or 1.5."""
    if isinstance(id_, float) and id_.is_integer():
        id_ = int(id_)
    if isinstance(id_, bool) or not isinstance(id_, int | str | np.integer):
        return None
    text = str(id_).strip()
    return text if is_writable(text) else None


def as_id(value: Any) -> str | None:
    """An id as text, the same whatever its type and zero padding; None if it is no id.

    ``7``, ``7.0``, ``"7"`` and ``"007"`` are one id.
    """
    text = id_text(value)
    return _number_of(text) if text else None


def is_writable(text: str) -> bool:
    """Whether a text can stand in a file or a message: no half of a character (a surrogate)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number_of(text: str) -> str:
    return text.lstrip("0") or "0" if text.isdecimal() else text


# --- names ---------------------------------------------------------------------------------------

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/?]*")
"""Scheme and host of a URL."""
_DRIVE = re.compile(r"[A-Za-z]:(?=[/\\])")
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""


@lru_cache(maxsize=2**16)
def name_parts(name: str) -> tuple[str, ...]:
    r"""Folders and file name, the same for every way in which tools write them.

    Backslashes, a drive, ``..``, the host and query of a URL, percent escapes, the form of accented
    letters and the case of the suffix make no difference: ``C:\day\My%20Photo.JPG`` and
    ``https://host/day/My Photo.jpg?x=1`` are both ``("day", "My Photo.jpg")``.
    """
    text = unicodedata.normalize("NFC", unquote(_without_query(name)))
    text = _DRIVE.sub("", text).replace("\\", "/")
    parts = [part for part in text.split("/") if part not in {"", ".", ".."}]
    if parts:
        suffix = PurePosixPath(parts[-1]).suffix
        parts[-1] = parts[-1].removesuffix(suffix) + suffix.lower()
    return tuple(parts)


def _without_query(name: str) -> str:
    """A name without the host and query of a URL; the file a query asks for, where that is one."""
    path = _ADDRESS.sub("", name, count=1)
    path, asks, query = path.partition("?")
    if not asks or _is_image(path):
        return path
    asked = [value for pair in query.split("&") if _is_image(value := pair.partition("=")[2])]
    if asked:
        return asked[0]
    return path if _ADDRESS.match(name) else name


def _is_image(name: str) -> bool:
    return PurePosixPath(name.replace("\\", "/")).suffix.lower() in IMAGE_SUFFIXES


def same_name(stated: str, image: str | Path | int) -> bool:
    """Whether a file that states this name is about this image: folders and suffix aside."""
    return bool(_last_names(stated) & _last_names(str(image)))


def _last_names(name: str) -> set[str]:
    """A file name with and without its suffix and what an upload put before it."""
    last = (name_parts(name) or ("",))[-1]
    wholes = {last, _UPLOAD.sub("", last)}
    return {_number_of(part) for whole in wholes for part in (whole, PurePosixPath(whole).stem)}


def called(image: str | Path | int | None) -> str:
    """How a message names an image."""
    if image is None:
        return "an image without a file name"
    return str(image) if isinstance(image, int) else repr(Path(str(image)).name)


class Names:
    """The file names that a file of boxes states, found for an image at hand.

    Args:
        names: In the order of the file. They may have or lack folders; one without a suffix is
            about any image of that stem, a number without a suffix whatever its zero padding.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self._by_last: dict[str, list[int]] = defaultdict(list)
        for position, name in enumerate(self.names):
            last = (name_parts(name) or ("",))[-1]
            for key in {last, _number_of(last), _UPLOAD.sub("", last)}:
                self._by_last[key].append(position)

    def find(self, image: str | Path | int | None) -> int:
        """The position of the name that shares most of an image's path.

        Raises:
            BoxError: No name is that of the image, or several are as well.
        """
        if image is not None:
            path = str(image)
            last = (name_parts(path) or ("",))[-1]
            stem = PurePosixPath(last).stem
            positions = {
                position
                for key in (last, stem, _number_of(stem))
                for position in self._by_last.get(key, ())
            }
            ranks = {position: _likeness(self.names[position], path) for position in positions}
            best = [p for p in sorted(ranks) if ranks[p] == max(ranks.values())]
            if len(best) == 1:
                return best[0]
            if best:
                raise BoxError(
                    f"the boxes hold {len(best)} images named {called(image)}: name each with the "
                    "folders it is in"
                )
        about = ", ".join(map(_shortened, self.names[:3])) or "no image"
        raise BoxError(
            f"the boxes hold nothing for {called(image)}; they are about {about}"
            + (f" and {len(self.names) - 3} more" if len(self.names) > 3 else "")
        )


def _likeness(stated: str, image: str) -> tuple[bool, int, bool, bool]:
    """How much a stated name says of an image: more is greater."""
    ours, theirs = name_parts(image), name_parts(stated)
    shared = 1  # the last ones are known to fit
    for our, their in zip(ours[-2::-1], theirs[-2::-1], strict=False):
        if our != their:
            break
        shared += 1
    written = Path(stated).name in {Path(image).name, Path(image).stem}
    return theirs[-1:] == ours[-1:], shared, shared == len(theirs), written


def _shortened(name: str) -> str:
    return repr(name if len(name) <= 60 else "..." + name[-57:])


# --- sizes ---------------------------------------------------------------------------------------


def stated_size(width: Any, height: Any) -> tuple[int, int] | None:
    """The size that a file states of its image; None where it states none (null, 0, -1).

    Raises:
        BoxError: Something that is no size.
    """
    sides: list[int] = []
    for side in (width, height):
        if side is None:
            return None
        try:
            number = float(side)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(side, bool) or not number.is_integer():
            raise BoxError(f"the size {width!r} x {height!r} is none: whole pixels are needed")
        sides.append(int(number))
    return (sides[0], sides[1]) if min(sides) > 0 else None


def shown_boxes(
    boxes_xyxy: BoxesLike, stated_wh: tuple[int, int] | None, frame: Frame
) -> tuple[Array, str | None]:
    """Boxes in pixels of the image as it is shown, from a file that states its size.

    A file that states the size of a photo as stored, before its orientation was applied, has its
    boxes turned along, unless one of them fits into the shown image alone: then the tool drew them
    upright and only wrote the other size.

    Args:
        boxes_xyxy: (N, 4) xyxy in pixels of the image that the file is about.
        stated_wh: Its width and height; None where the file does not say.
        frame: How the image at hand is shown and stored.

    Returns:
        (N, 4) xyxy in pixels of the shown image, and what was done to them for the user to know:
        None where they are as they were.

    Raises:
        BoxError: The file is about an image of another size.
    """
    boxes = as_boxes(boxes_xyxy)
    if stated_wh is None or stated_wh == frame.size_wh:
        return boxes, None
    if stated_wh != frame.stored_wh:
        raise BoxError(
            f"the boxes are of an image of {stated_wh}, this one is {frame.size_wh}: it has to be "
            "the same image; for one that was resized, scale them with vlm_fo1.boxes.scale"
        )
    stored, shown = (f"{width} x {height}" for width, height in (frame.stored_wh, frame.size_wh))
    if len(boxes) and _fits(boxes, frame.size_wh) and not _fits(boxes, frame.stored_wh):
        return boxes, (
            f"the boxes state the size of the image as stored ({stored}) but fit only the image as "
            f"shown ({shown}): they were taken as they are"
        )
    return turn_upright(boxes, frame.stored_wh, frame.orientation), (
        f"the boxes state the size of the image as stored ({stored}): they were turned upright "
        f"with it (EXIF orientation {frame.orientation}) to {shown}"
    )


def _fits(boxes_N4: Array, size_wh: tuple[int, int]) -> bool:
    return bool((boxes_N4[:, 2:] <= np.array(size_wh) + 1).all())
