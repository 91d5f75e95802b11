"""`read_image`: what is read, as what, and what is refused with which words."""

import base64
import io
import os
import struct
import threading
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from vlm_fo1 import images
from vlm_fo1.boxes import turn_upright
from vlm_fo1.errors import ImageError
from vlm_fo1.images import IMAGE_SUFFIXES, image_frame, image_size, read_framed, read_image

RED, WHITE = (255, 0, 0), (255, 255, 255)
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [40, 50, 60]]], np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(source, **options) -> np.ndarray:
    image = read_image(source, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its few bytes do not hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def palette_with_a_hole() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    image.info["transparency"] = 1
    return image


def sixteen_bits(values: list[list[int]]) -> Image.Image:
    return Image.fromarray(np.array(values, np.uint16))


KINDS = {
    "RGB": (Image.new("RGB", (2, 1), RED), "PNG", [RED, RED]),
    "palette": (palette_with_a_hole(), "PNG", [RED, WHITE]),
    "transparent GIF": (palette_with_a_hole(), "GIF", [RED, WHITE]),
    "grey": (Image.new("L", (2, 1), 7), "PNG", [(7, 7, 7)] * 2),
    "grey with alpha": (Image.new("LA", (2, 1), (0, 0)), "PNG", [WHITE] * 2),
    "alpha": (Image.new("RGBA", (2, 1), (255, 0, 0, 128)), "PNG", [(255, 127, 127)] * 2),
    "16 bits": (sixteen_bits([[0, 65535]]), "PNG", [(0, 0, 0), WHITE]),
    "16 bits between": (sixteen_bits([[257 * 100, 300]]), "PNG", [(100,) * 3, (1,) * 3]),
    "16 bit TIFF": (sixteen_bits([[257 * 100, 300]]), "TIFF", [(100,) * 3, (1,) * 3]),
    "32 bit integers": (Image.new("I", (2, 1), 257 * 100), "TIFF", [(100,) * 3] * 2),
    "floats": (Image.new("F", (2, 1), 0.5), "TIFF", [(128,) * 3] * 2),
    "1 bit": (Image.new("1", (2, 1), 1), "PNG", [WHITE] * 2),
    "CMYK": (Image.new("CMYK", (2, 1), (0, 255, 255, 0)), "TIFF", [RED] * 2),
    "one pixel": (Image.new("RGB", (1, 1), RED), "PNG", [RED]),
    "webp": (Image.new("RGBA", (2, 1), (0, 0, 0, 0)), "WEBP", [WHITE] * 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_becomes_what_a_viewer_shows(kind, tmp_path):
    image, suffix, expected = KINDS[kind]
    path = tmp_path / f"image.{suffix.lower()}"
    image.save(path, suffix)
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert [tuple(pixel) for pixel in pixels(source)[0]] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_pil_image_is_read_and_left_as_it_was(kind):
    image, _, expected = KINDS[kind]
    before, mode = image.tobytes(), image.mode
    read = read_image(image)
    assert [tuple(pixel) for pixel in np.asarray(read)[0]] == expected
    assert read is not image
    read.paste((1, 2, 3), (0, 0, *read.size))
    assert (image.tobytes(), image.mode) == (before, mode)


def test_a_cmyk_jpeg_keeps_its_colours():
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(pixels(data).astype(int) - RED).max() < 8


STORED = {  # from the shown image to the stored one, by orientation
    1: lambda i: i,
    2: lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda i: i.rotate(180),
    4: lambda i: i.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda i: i.transpose(Image.Transpose.TRANSPOSE),
    6: lambda i: i.rotate(90, expand=True),
    7: lambda i: i.transpose(Image.Transpose.TRANSVERSE),
    8: lambda i: i.rotate(-90, expand=True),
}


def turned(shown: Image.Image, kind: str, orientation: int) -> bytes:
    """The file of an image whose EXIF, or XMP, says how it is turned."""
    stored = STORED[orientation](shown)
    lossless = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    kind, _, by_xmp = kind.partition(" ")
    if not by_xmp:
        exif = Image.Exif()
        exif[0x0112] = orientation
        return encoded(stored, kind, exif=exif, **lossless.get(kind, {}))
    xmp = f'<rdf:Description tiff:Orientation="{orientation}"/>'
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp)
        return encoded(stored, kind, pnginfo=info)
    return encoded(stored, kind, xmp=xmp.encode(), **lossless[kind])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "JPEG xmp", "PNG xmp", "WEBP xmp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(kind, orientation):
    shown = Image.fromarray(CORNERS.repeat(16, 0).repeat(8, 1))
    data = turned(shown, kind, orientation)
    read, frame = read_framed(data)
    assert np.abs(np.asarray(read).astype(int) - np.asarray(shown)).max() < 12
    assert read.info == {}
    assert np.array_equal(pixels(read), np.asarray(read))
    assert pixels(encoded(read)).tolist() == np.asarray(read).tolist()
    with Image.open(io.BytesIO(data)) as opened:
        assert image_frame(opened) == frame
        assert np.array_equal(pixels(opened), np.asarray(read))
    stored_wh = STORED[orientation](shown).size
    assert frame == image_frame(data) == ((16, 32), stored_wh, orientation)
    assert image_size(data) == image_size(read) == (16, 32)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_their_image(orientation):
    shown = Image.new("L", (16, 32))
    shown.paste(255, (2, 5, 9, 12))
    stored = STORED[orientation](shown)
    box = stored.getbbox()
    assert turn_upright([box], stored.size, orientation).tolist() == [[2, 5, 9, 12]]
    assert turn_upright([], stored.size, orientation).shape == (0, 4)


def test_an_orientation_that_means_nothing_is_none():
    exif = Image.Exif()
    exif[0x0112] = 42
    data = encoded(Image.new("RGB", (3, 2)), "PNG", exif=exif)
    assert image_frame(data) == ((3, 2), (3, 2), 1)
    assert read_image(data).size == (3, 2)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_an_animation_is_read_at_its_first_frame(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    assert np.abs(pixels(data).astype(int) - RED).max() <= 1  # MPO holds JPEGs


ARRAYS = {
    "bytes": (np.full((2, 3), 7, np.uint8), (7, 7, 7)),
    "one channel": (np.full((2, 3, 1), 7, np.uint8), (7, 7, 7)),
    "three channels": (np.full((2, 3, 3), 7, np.uint8), (7, 7, 7)),
    "alpha over white": (np.full((2, 3, 4), 0, np.uint8), WHITE),
    "16 bits": (np.full((2, 3), 257 * 9, np.uint16), (9, 9, 9)),
    "16 bit colour": (np.full((2, 3, 3), 65535, np.uint16), WHITE),
    "unit floats": (np.full((2, 3, 3), 0.5, np.float64), (128, 128, 128)),
    "half floats": (np.full((2, 3), 1, np.float16), WHITE),
    "truth": (np.full((2, 3), fill_value=True), WHITE),
    "not contiguous": (np.full((3, 2, 3), 7, np.uint8).transpose(1, 0, 2), (7, 7, 7)),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_every_kind_of_array_is_read_and_left_as_it_was(kind):
    array, colour = ARRAYS[kind]
    before = array.copy()
    read = pixels(array)
    assert read.shape == (2, 3, 3)
    assert (read == colour).all()
    assert np.array_equal(array, before)


def test_a_read_only_array_is_read():
    array = np.zeros((2, 2, 3), np.uint8)
    array.setflags(write=False)
    assert pixels(array).shape == (2, 2, 3)


def test_a_file_object_is_read_from_its_start_and_left_where_it_was():
    stream = io.BytesIO()
    Image.new("RGB", (2, 2), RED).save(stream, "PNG")
    end = stream.tell()
    assert pixels(stream).shape == (2, 2, 3)
    assert stream.tell() == end


@pytest.mark.parametrize(
    "head", ["data:image/png;base64,", "DATA:;base64,", "data:a/b;x=y;base64,"]
)
def test_a_data_url_is_read(head):
    body = base64.b64encode(encoded(Image.new("RGB", (2, 2), RED))).decode()
    assert (pixels(head + body) == RED).all()
    assert (pixels(head + body.replace("+", "%2B").replace("=", "%3D")) == RED).all()


@pytest.fixture(scope="module")
def server():
    data = encoded(Image.new("RGB", (2, 2), RED))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/image.png" else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_url_is_fetched_only_when_asked(server):
    with pytest.raises(ImageError, match=r"is a URL.*allow_url=True"):
        read_image(f"{server}/image.png")
    assert (pixels(f"{server}/image.png", allow_url=True) == RED).all()


def test_a_url_that_answers_badly_is_named(server, monkeypatch):
    with pytest.raises(ImageError, match=r"/gone' cannot be fetched \(.*404.*check the address"):
        read_image(f"{server}/gone", allow_url=True)
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(ImageError, match="larger than 10 bytes"):
        read_image(f"{server}/image.png", allow_url=True)
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    monkeypatch.setattr(images, "TIMEOUT_S", 1e-9)
    with pytest.raises(ImageError, match="cannot be fetched"):
        read_image(f"{server}/image.png", allow_url=True)


def test_a_missing_file_a_folder_and_an_empty_file_are_told_apart(tmp_path):
    empty = tmp_path / "empty.png"
    empty.touch()
    with pytest.raises(ImageError, match=r"gone.png' does not exist: check the path"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="is a folder: pass one image file"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match=r"empty.png' is empty \(0 bytes\)"):
        read_image(empty)
    with pytest.raises(ImageError, match="is empty"):
        read_image(b"")
    with pytest.raises(ImageError, match="path is empty"):
        read_image("")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "file:///etc/hostname"])
def test_a_name_no_file_can_have_is_refused(name):
    with pytest.raises(ImageError, match=r"(cannot be read|does not exist).*check the path"):
        read_image(name)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "notes.png").write_text("these are words")
    with pytest.raises(ImageError, match=r"notes.png' is not an image that can be read: pass one"):
        read_image(tmp_path / "notes.png")
    with pytest.raises(ImageError, match="NoneType is not an image: pass a path"):
        read_image(None)
    with pytest.raises(ImageError, match="mode 'rb'"):
        read_image(io.StringIO("text"))


def test_formats_that_start_other_programs_are_not_opened():
    with pytest.raises(ImageError, match="is not an image that can be read"):
        read_image(encoded(Image.new("RGB", (4, 4)), "EPS"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_a_truncated_file_is_refused(kind, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ImageError, match=r"cut.img' is (broken or cut short|not an image)"):
        read_image(path)


def test_a_device_or_a_pipe_is_refused_before_it_is_read(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)  # nobody writes to it: reading would wait for ever
    for path in (pipe, "/dev/full"):
        with pytest.raises(ImageError, match="is a device or a pipe: pass a file, or the bytes"):
            read_image(path)


def test_a_decompression_bomb_is_refused_from_its_header():
    with pytest.raises(ImageError, match="too large"):
        read_image(png_claiming(50_000, 50_000))
    with pytest.raises(ImageError, match="3000 x 3000 = 9000000 pixels, more than 1000000: shrink"):
        read_image(png_claiming(3000, 3000), max_pixels=1_000_000)


def test_the_limit_on_pixels_holds_for_what_is_not_decoded_yet(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 20)).save(path)
    with Image.open(path) as opened:
        for source in (path, path.read_bytes(), opened):
            with pytest.raises(ImageError, match="20 x 20 = 400 pixels, more than 399"):
                read_image(source, max_pixels=399)
            assert read_image(source, max_pixels=400).size == (20, 20)


def test_the_hint_for_an_image_that_is_too_large_can_be_followed(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 20)).save(path)
    with pytest.raises(
        ImageError, match=r"read it with vlm_fo1\.images\.read_image\(path, max_pix"
    ):
        read_image(path, max_pixels=100)
    trusted = read_image(path, max_pixels=1000)
    for source in (trusted, np.asarray(trusted)):
        assert read_image(source, max_pixels=100).size == (20, 20)  # as everything else reads it


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3, 2), np.uint8), r"\(H, W\) or \(H, W, 1\|3\|4\) is needed"),
        (np.zeros((3, 8, 9), np.uint8), "move the channels last"),
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (np.zeros((0, 5), np.uint8), "has no pixels"),
        (np.zeros((2, 2), np.int64), "int64 has no known range"),
        (np.full((2, 2), 200.0), r"floats from 200 to 200: \[0, 1\] is needed; divide by 255"),
        (np.full((2, 2), np.nan), r"\[0, 1\] is needed"),
    ],
)
def test_an_array_that_is_no_image_is_refused_with_a_remedy(array, words):
    with pytest.raises(ImageError, match=words):
        read_image(array)


def test_integer_greys_beyond_16_bits_are_refused():
    with pytest.raises(ImageError, match="holds levels 70000 to 70000: at most 16 bits"):
        read_image(Image.new("I", (2, 2), 70_000))


def test_a_broken_data_url_is_refused():
    with pytest.raises(ImageError, match="has no comma"):
        read_image("data:image/png;base64")
    with pytest.raises(ImageError, match="is not valid base64"):
        read_image("data:image/png;base64,@@@")
    with pytest.raises(ImageError, match="is not an image"):
        read_image("data:,hello")


def test_long_values_are_shortened_in_messages():
    with pytest.raises(ImageError) as caught:
        read_image("data:image/png;base64," + "A" * 10_000)
    assert len(str(caught.value)) < 400


def test_every_suffix_belongs_to_a_format_that_is_read():
    Image.init()
    kinds = {Image.EXTENSION[suffix] for suffix in IMAGE_SUFFIXES}
    assert kinds <= set(images._FORMATS)
    assert all(Path(f"a{suffix}").suffix == suffix for suffix in IMAGE_SUFFIXES)
