"""What lies in folders and on disks, and what becomes of the answers: no run is lost to a file.

The commands run in this process; instead of a model, every image is answered at once.
"""

import errno
import json
import logging
import os
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFile
from typer.testing import CliRunner

from vlm_fo1 import jsonl
from vlm_fo1.answer import Answer
from vlm_fo1.cli.main import app
from vlm_fo1.errors import FO1Error, item_errors
from vlm_fo1.images import image_size, read_image
from vlm_fo1.regions import Regions

BOX = ("--box", "2,3,10,12")


def quick_answers(items, **_):
    """An answer an item, or its error."""
    for path, _, boxes in items:
        try:
            with item_errors(str(path)):
                answer = quick_answer(path, boxes)
        except FO1Error as error:
            yield error
        else:
            yield answer


def quick_answer(path, boxes):
    """Answers at once; an image whose name begins with ``bad`` breaks as nobody foresaw."""
    size_wh = read_image(path).size
    if Path(path).name.startswith("bad"):
        raise RuntimeError("Calculated padded input size per channel: (3 x 0)")
    return Answer(
        text="a cat",
        regions=Regions(np.array(boxes, np.float32), size_wh),
        mentions=(),
        plain="a cat",
    )


@pytest.fixture
def loaded(monkeypatch):
    """How often a model was loaded."""
    times = []
    quick = SimpleNamespace(answer_many=quick_answers, proposer=None)
    monkeypatch.setattr(
        "vlm_fo1.fo1.FO1.from_pretrained", lambda *_, **__: times.append(1) or quick
    )
    return times


@pytest.fixture
def run(loaded, tmp_path, monkeypatch):
    """Types a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def typed(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return typed


def photo(name, size_wh=(32, 24)):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size_wh, "teal").save(path, format="PNG")
    return path


def answered(result):
    return [json.loads(line)["file"] for line in result.stdout.splitlines()]


# --- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", ["in", "in/*", "in/**/*.jpg"])
def test_hidden_files_and_folders_are_no_images(run, image):
    for name in ("in/p1.jpg", "in/._p1.jpg", "in/.thumbnails/p1.jpg", "in/.trash/x/p2.jpg"):
        photo(name)
    result = run("detect", image, "cat", *BOX, "--json")
    assert result.exit_code == 0, result.stderr
    assert answered(result) == ["in/p1.jpg"]


def test_what_is_hidden_is_asked_about_where_it_is_named(run):
    photo("in/.thumbnails/p1.jpg")
    for image in ("in/.thumbnails", "in/.thumbnails/*.jpg", "in/.th*/*", "in/.thumbnails/p1.jpg"):
        assert answered(run("detect", image, "cat", *BOX, "--json")) == ["in/.thumbnails/p1.jpg"]


@pytest.mark.parametrize("image", ["in", "in/*"])
def test_images_of_a_kind_that_nothing_reads_are_counted_and_named(run, image):
    photo("in/a.jpg")
    for name in ("in/b.heic", "in/c.HEIC", "in/d.heif"):
        Path(name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    result = run("detect", image, "cat", *BOX, "--json")
    assert result.exit_code == 0
    assert answered(result) == ["in/a.jpg"]
    assert result.stderr.strip() == (
        "skipped 3 HEIC images: 'pip install pillow-heif' to read them, or save them as JPEG"
    )
    Path("in/a.jpg").unlink()
    only = run("detect", image, "cat", *BOX)
    assert only.exit_code == 2
    assert "but 3 HEIC images: 'pip install pillow-heif'" in only.stderr
    for name in ("in/b.heic", "in/c.HEIC"):
        Path(name).unlink()
    assert "but 1 HEIC image: 'pip" in run("detect", image, "cat", *BOX).stderr
    Path("in/b.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    one = run("detect", "in/b.heic", "cat", *BOX)
    assert one.exit_code == 1
    assert "in/b.heic' is a HEIC image, which needs a plug-in: 'pip install" in one.stderr


class FakeHeif(ImageFile.ImageFile):
    """A format of 4 x 3 grey pixels behind the mark of HEIC."""

    format = "HEIF"

    def _open(self):
        self._size, self._mode = (4, 3), "L"
        exif = Image.Exif()
        exif[0x0112] = 6  # as phones write it, though the container has said it already
        self.info["exif"] = exif.tobytes()
        self.tile = [ImageFile._Tile("raw", (0, 0, 4, 3), 12, "L")]


@pytest.fixture
def plug_in(monkeypatch):
    """An installed plug-in for HEIC, which is registered as the real one is."""
    module = ModuleType("pillow_heif")
    module.__dict__["register_heif_opener"] = lambda: Image.register_open("HEIF", FakeHeif)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", module)
    yield
    Image.OPEN.pop("HEIF", None)
    Image.ID[:] = [name for name in Image.ID if name != "HEIF"]


@pytest.mark.usefixtures("plug_in")
def test_an_installed_plug_in_reads_heic_wherever_images_are_read(run):
    data = b"\0\0\0\x18ftypheic" + bytes(range(12))
    Path("in").mkdir()
    Path("in/b.HEIC").write_bytes(data)
    assert read_image(data).size == image_size(data) == (4, 3)  # turned by its container alone
    result = run("detect", "in", "cat", "--box", "0,0,3,3", "--json")
    assert result.exit_code == 0, result.stderr
    assert answered(result) == ["in/b.HEIC"]
    assert result.stderr == ""


@pytest.mark.parametrize("command", ["detect", "refer", "reason"])
def test_words_that_are_files_are_refused_as_a_pattern_without_quotes(run, loaded, command):
    photo("a.jpg")
    photo("in/b.jpg")
    Path("cat").write_text("a file that is called as a label may be")
    for word in ("a.jpg", "in/b.jpg"):
        result = run(command, "a.jpg", word, *BOX)
        assert result.exit_code == 2
        assert result.stderr.strip() == (
            f"error: {word!r} is a file, not words to ask with: to ask about several images, put "
            "the pattern in quotes ('*.jpg'), or name their folder"
        )
    assert not loaded
    assert run("detect", "a.jpg", "cat", "in", "x" * 300, *BOX).exit_code == 0


# --- what breaks ---------------------------------------------------------------------------------


def test_a_foreign_exception_fails_its_image_and_the_others_are_done(run, caplog):
    for name in ("in/a.jpg", "in/bad.jpg", "in/c.jpg"):
        photo(name)
    result = run("detect", "in", "cat", *BOX, "--json", "--save", "s.jsonl")
    assert result.exit_code == 1
    assert answered(result) == ["in/a.jpg", "in/c.jpg"]
    reason = "in/bad.jpg failed: RuntimeError: Calculated padded input size per channel: (3 x 0)"
    assert f"{reason} (fo1 --verbose shows where)\n" in result.stderr
    assert "2 answered, 1 failed: in/bad.jpg" in result.stderr
    assert "Traceback" not in result.stderr
    records = [json.loads(line) for line in Path("s.jsonl").read_text().splitlines()]
    assert [record.get("error") for record in records] == [None, reason, None]


@pytest.mark.parametrize("how", ["option", "variable"])
def test_verbose_shows_where_it_failed(run, monkeypatch, how, caplog):
    if how == "variable":
        monkeypatch.setenv("FO1_VERBOSE", "1")
    run(*["--verbose"] * (how == "option"), "detect", photo("bad.jpg"), "cat", *BOX)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage() == "bad.jpg failed"
    logging.getLogger("vlm_fo1").setLevel(logging.NOTSET)


# --- what cannot be written ----------------------------------------------------------------------


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_stops_the_run_with_a_line_and_what_was_finished_is_kept(run, monkeypatch):
    photo("in/a.jpg")
    photo("in/b.jpg")
    saved = []

    def second_is_full(handle):
        saved.append(handle)
        if len(saved) == 2:
            full()

    with monkeypatch.context() as disk:
        disk.setattr("os.fsync", second_is_full)
        result = run("detect", "in", "cat", *BOX, "--save", "s.jsonl")
    assert result.exit_code == 2
    said = "error: s.jsonl cannot be written: No space left on device; make room for it, or name"
    assert said in result.stderr
    assert "in/a.jpg" in Path("s.jsonl").read_text().splitlines()[0]


def test_a_drawing_on_a_full_disk_stops_the_run_too_and_leaves_nothing_half(run, monkeypatch):
    photo("in/a.jpg")
    photo("in/b.jpg")
    monkeypatch.setattr(Path, "write_bytes", full)
    result = run("detect", "in", "cat", *BOX, "--out", "found")
    assert result.exit_code == 2
    assert "error: found/a.jpg cannot be written: No space left on device" in result.stderr
    assert not list(Path("found").iterdir())


@pytest.mark.parametrize("option", ["--out", "--save"])
@pytest.mark.parametrize("command", ["detect", "propose", "segment", "video"])
def test_a_folder_that_cannot_be_written_is_one_line_before_anything_is_loaded(
    run, loaded, monkeypatch, command, option
):
    photo("in/a.jpg")
    Path("locked").write_text("a file, where a folder is needed")
    kind = {"propose": ".jsonl", "video": ".mp4"}.get(command, ".jpg")
    name = f"locked/x{kind if option == '--out' else '.jsonl'}"
    if command == "propose" and option == "--out":
        name = "locked/x.jpg"
    words = {"detect": ["cat", *BOX], "propose": []}
    given = words.get(command, ["cat", "--proposer", "sam3:nowhere"])
    result = run(command, "in", *given, option, name)
    assert result.exit_code == 2
    assert f"error: {name} cannot be written: " in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not loaded


def test_two_runs_do_not_write_one_file(run, loaded):
    path = photo("in/a.jpg")
    with jsonl.lock_file(Path("s.jsonl"), "answers"):
        for command in (["detect", path, "cat", *BOX], ["propose", path]):
            result = run(*command, "--save", "s.jsonl")
            assert result.exit_code == 2
            assert "error: s.jsonl is being written by another run (process" in result.stderr
    assert not loaded
    assert run("detect", path, "cat", *BOX, "--save", "s.jsonl").exit_code == 0
