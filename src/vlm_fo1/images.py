"""Images from anywhere to RGB: files, bytes, arrays, URLs, in every pixel kind we can mean.

What comes out is what a viewer would show: orientation (EXIF or XMP) applied and left out of what
is known of the image, so that nobody applies it again; transparency over white, deep greys scaled
(not clipped) to 8 bits, the first frame of an animation. Every size is that of the image as shown.
"""

import base64
import binascii
import importlib
import io
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes
from urllib.request import Request, urlopen

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, ImageOps

from vlm_fo1.errors import ImageError

MAX_PIXELS = 89_478_485
"""Largest image that is decoded, in pixels; Pillow warns of decompression bombs from here on."""

MAX_BYTES = 64 * 2**20
"""Largest file that is fetched from a URL."""

TIMEOUT_S = 20.0
"""Time a URL has to answer in full."""

IMAGE_SUFFIXES = frozenset(
    {
        *(".avif", ".bmp", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".pbm", ".pgm", ".png", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"),
    }
)
"""Lower-case file suffixes that a search for images in a folder should take."""

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
"""Suffixes of what phones write; Pillow reads those with a plug-in only."""

HEIF_REMEDY = "'pip install pillow-heif' to read them, or save them as JPEG"
"""What to do where there is no plug-in."""

_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)
_HEIF = "HEIF"
"""What plug-ins call that format."""

_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000"),
    *("PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP"),
)  # none that starts a helper program, as Pillow does for EPS

_TRUST = "read it with vlm_fo1.images.read_image(path, max_pixels=...)"

_QUARTER_TURNS = frozenset({5, 6, 7, 8})
"""Orientations that swap width and height."""

_DEEP_GREYS = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})


class Frame(NamedTuple):
    """How an image is shown, and how its file stores it."""

    size_wh: tuple[int, int]
    """Width and height as shown, in pixels: the frame of every box."""
    stored_wh: tuple[int, int]
    """Width and height as stored, before the orientation is applied."""
    orientation: int = 1
    """EXIF's number, 1 to 8: what turns the stored image into the shown one."""


def images_among(paths: Iterable[Path]) -> list[Path]:
    """Those of some files that are images by their names and can be read here, in their order."""
    suffixes = IMAGE_SUFFIXES | HEIF_SUFFIXES if reads_heif() else IMAGE_SUFFIXES
    return [path for path in paths if path.suffix.lower() in suffixes]


def without_reader(paths: Iterable[Path]) -> list[Path]:
    """Those of some files that are images by their names, but of a kind nothing here reads."""
    found = [path for path in paths if path.suffix.lower() in HEIF_SUFFIXES]
    return [] if found and reads_heif() else found


def reads_heif() -> bool:
    """Whether a plug-in for HEIC is there; the one that is installed is made known to Pillow."""
    if _HEIF not in Image.OPEN:
        try:
            plug_in: Any = importlib.import_module("pillow_heif")
            plug_in.register_heif_opener()
        except (ImportError, AttributeError, OSError):
            return False
    return _HEIF in Image.OPEN


def read_image(
    source: Any, *, allow_url: bool = False, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Read one image.

    Args:
        source: A path, bytes, a binary file object (read from its start, position kept), a PIL
            image, a data URL, an http(s) URL, or an array of shape (H, W) or (H, W, 1|3|4) with
            dtype uint8, uint16, bool, or floating point in [0, 1]. Never changed.
        allow_url: Fetch http(s) URLs; off unless asked, so that no user text starts a request.
        max_pixels: Refuse larger images, before they are decoded; arrays, and PIL images that are
            decoded already, may have any size.

    Returns:
        A new RGB image, 8 bits a channel, without orientation or other information: reading it
        again changes nothing. 32-bit integer greys are read as 16-bit ones, which is how Pillow
        stores those.

    Raises:
        ImageError: Missing, empty, broken, too large, or not an image; the message names it.
    """
    return read_framed(source, allow_url=allow_url, max_pixels=max_pixels)[0]


def read_framed(
    source: Any, *, allow_url: bool = False, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, Frame]:
    """`read_image`, and how the file stored the image; takes and raises the same."""
    if isinstance(source, np.ndarray):
        image = _from_array(source)
        return image, Frame(image.size, image.size)
    if isinstance(source, Image.Image):
        lazy = isinstance(source, ImageFile.ImageFile) and bool(source.tile)
        limit = max_pixels if lazy else None
        return _finish(source, f"the PIL image (mode {source.mode})", limit)
    data, name = _load_bytes(source, allow_url)
    with _opened(data, name) as image:
        return _finish(image, name, max_pixels)


def image_frame(source: Any) -> Frame:
    """How an image is shown and stored, without decoding it.

    Args:
        source: A path, bytes, a binary file object, a data URL, a PIL image or an array.

    Raises:
        ImageError: Missing, empty, or not an image; the message names it.
    """
    if isinstance(source, np.ndarray):
        height, width = source.shape[:2]
        return Frame((width, height), (width, height))
    if isinstance(source, Image.Image):
        return _frame(source)
    data, name = _load_bytes(source, allow_url=False)
    with _opened(data, name) as image, _explained(name):
        return _frame(image)


def image_size(source: Any) -> tuple[int, int]:
    """Width and height of an image as it is shown; takes and raises what `image_frame` does."""
    return image_frame(source).size_wh


def _frame(image: Image.Image) -> Frame:
    orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    if orientation not in range(1, 9) or image.format == _HEIF:
        orientation = 1  # so viewers show such images; a plug-in turns HEIC as its container says
    first, second = image.size
    if orientation in _QUARTER_TURNS:
        if image.format == "TIFF":  # whose size Pillow gives as shown
            return Frame((first, second), (second, first), orientation)
        return Frame((second, first), (first, second), orientation)
    return Frame((first, second), (first, second), orientation)


def _opened(data: bytes, name: str) -> Image.Image:
    if not data:
        raise ImageError(f"{name} is empty (0 bytes): pass a complete image file")
    with _explained(name):
        if not _is_heif(data):
            return Image.open(io.BytesIO(data), formats=_FORMATS)
        if reads_heif():
            return Image.open(io.BytesIO(data), formats=(_HEIF,))
    raise ImageError(f"{name} is a HEIC image, which needs a plug-in: {HEIF_REMEDY}")


def _is_heif(data: bytes) -> bool:
    """Whether a file says that it is HEIC; AVIF, of the same family, is read by Pillow."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def _load_bytes(source: Any, allow_url: bool) -> tuple[bytes, str]:
    # The encoded file and a name for it in messages.
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), f"image data of {len(source)} bytes"
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _decode_data_url(source), f"the data URL {_short(source)}"
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        if not allow_url:
            raise ImageError(
                f"{_short(source)} is a URL, and URLs are not fetched unless asked: "
                "pass allow_url=True if you trust it, or download it first"
            )
        return _fetch(source), f"the image at {_short(source)}"
    if isinstance(source, str | Path):
        return _read_file(source), f"the image file {_short(source)}"
    if hasattr(source, "read"):
        return _read_stream(source)
    raise ImageError(
        f"{type(source).__name__} is not an image: pass a path, bytes, a binary file, a PIL image, "
        "a numpy array of shape (H, W, 3) or a data URL"
    )


def _read_file(path: str | Path) -> bytes:
    name = _short(path)
    if not str(path).strip():
        raise ImageError("the image path is empty: pass the path of an image file")
    try:
        if Path(path).is_dir():
            raise ImageError(f"{name} is a folder: pass one image file in it")
        if Path(path).exists() and not Path(path).is_file():  # reading it may never end
            raise ImageError(f"{name} is a device or a pipe: pass a file, or the bytes of one")
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"image file {name} does not exist: check the path") from error
    except (OSError, ValueError) as error:  # no permission, a name that no file can have
        raise ImageError(f"image file {name} cannot be read ({error}): check the path") from error


def _read_stream(stream: Any) -> tuple[bytes, str]:
    name = f"the image file {_short(getattr(stream, 'name', type(stream).__name__))}"
    try:
        if hasattr(stream, "seekable") and stream.seekable():
            position = stream.tell()
            stream.seek(0)
            data = stream.read()
            stream.seek(position)
        else:
            data = stream.read()
    except (OSError, ValueError) as error:  # closed, or text that is no text
        raise ImageError(f"{name} cannot be read ({error}): open it with mode 'rb'") from error
    if not isinstance(data, bytes):
        raise ImageError(f"{name} gives {type(data).__name__}: open it with mode 'rb'")
    return data, name


def _decode_data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise ImageError(
            f"data URL {_short(url)} has no comma: data:image/png;base64,... is needed"
        )
    data = unquote_to_bytes(body)
    if not head.lower().endswith(";base64"):
        return data
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error as error:
        raise ImageError(f"data URL {_short(url)} is not valid base64 ({error})") from error


def _fetch(url: str) -> bytes:
    # GET with a limit on time and size.
    deadline = time.monotonic() + TIMEOUT_S
    parts: list[bytes] = []
    size = 0
    try:
        request = Request(url, headers={"User-Agent": "vlm-fo1"})
        with urlopen(request, timeout=TIMEOUT_S) as response:
            while part := response.read1(2**16):
                parts.append(part)
                size += len(part)
                if size > MAX_BYTES:
                    raise ImageError(
                        f"{_short(url)} is larger than {MAX_BYTES} bytes: download and shrink it"
                    )
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not complete after {TIMEOUT_S:g} s")
    except (OSError, HTTPException, UnicodeError) as error:
        raise ImageError(f"{_short(url)} cannot be fetched ({error}): check the address") from error
    return b"".join(parts)


def _finish(image: Image.Image, name: str, max_pixels: int | None) -> tuple[Image.Image, Frame]:
    """Decode, turn upright and convert an opened image; the image given is not changed."""
    width, height = image.size
    _check_size(width, height, name, max_pixels)
    with _explained(name):
        frame = _frame(image)
        image.load()  # Pillow turns a TIFF here and drops its orientation
        upright = image if image.format == _HEIF else ImageOps.exif_transpose(image)
        shown = _to_rgb(upright, name)
        shown.info = {}
        return shown, frame


def _check_size(width: int, height: int, name: str, max_pixels: int | None = None) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}): at least 1 x 1 is needed")
    if max_pixels is not None and width * height > max_pixels:
        raise ImageError(
            f"{name} has {width} x {height} = {width * height} pixels, more than {max_pixels}: "
            f"shrink it, or if you trust it, {_TRUST} and pass what it returns"
        )


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what Pillow raises on bad files into an `ImageError` that names the file.

    Raises:
        ImageError: Pillow found the file broken, too large, or not an image.
    """
    try:
        yield
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not an image that can be read: pass one of {', '.join(_FORMATS)}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name} is too large to be decoded safely ({error}): shrink it, or if you trust it, "
            f"set PIL.Image.MAX_IMAGE_PIXELS = None, {_TRUST} and pass what it returns"
        ) from error
    except (
        *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error),
        *(IndexError, KeyError, TypeError, OverflowError, MemoryError),
    ) as error:
        raise ImageError(
            f"{name} is broken or cut short ({error}): save or download it again"
        ) from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in _DEEP_GREYS:
        return Image.fromarray(_from_16_bits(np.asarray(image), name)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(_from_unit_range(np.asarray(image), name)).convert("RGB")
    if image.has_transparency_data:
        return _over_white(image.convert("RGBA"))
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    name = f"the array of shape {array.shape} and dtype {array.dtype}"
    if array.ndim not in {2, 3} or (array.ndim == 3 and array.shape[2] not in {1, 3, 4}):
        hint = "; move the channels last" if array.ndim == 3 and array.shape[0] in {1, 3, 4} else ""
        raise ImageError(f"{name} is not an image: (H, W) or (H, W, 1|3|4) is needed{hint}")
    _check_size(array.shape[1], array.shape[0], name)
    if array.dtype == np.uint8:
        levels = array
    elif array.dtype == np.bool_:
        levels = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        levels = _from_16_bits(array, name)
    elif np.issubdtype(array.dtype, np.floating):
        levels = _from_unit_range(array, name)
    else:
        raise ImageError(
            f"{name} has no known range: pass uint8, uint16, bool, or floats in [0, 1]"
        )
    if levels.ndim == 3 and levels.shape[2] == 1:
        levels = levels[:, :, 0]
    image = Image.fromarray(np.array(levels, order="C"))
    return _over_white(image) if image.mode == "RGBA" else image.convert("RGB")


def _from_16_bits(levels: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    # 0..65535 to 0..255, rounded.
    low, high = int(levels.min()), int(levels.max())
    if low < 0 or high > 65535:
        raise ImageError(f"{name} holds levels {low} to {high}: at most 16 bits, 0 to 65535, fit")
    return np.rint(levels / np.float32(257)).astype(np.uint8)


def _from_unit_range(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    # 0..1 to 0..255, rounded.
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN fails this as well
        raise ImageError(
            f"{name} holds floats from {low:g} to {high:g}: [0, 1] is needed; "
            "divide by 255, or convert to uint8"
        )
    return np.rint(values * 255).astype(np.uint8)


def _short(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 100 else f"{text[:60]}...{text[-20:]}")
