"""A photo that its file stores turned is answered as the upright one, wherever it enters."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.helpers.stub_proposer import Stub
from typer.testing import CliRunner

import vlm_fo1
from vlm_fo1.app.batch import ask_all
from vlm_fo1.app.limits import Limits
from vlm_fo1.app.question import request_of
from vlm_fo1.cli.main import app
from vlm_fo1.draw import draw_regions
from vlm_fo1.images import image_frame, image_size, read_image
from vlm_fo1.proposers import base
from vlm_fo1.regions import Regions
from vlm_fo1.video.frames import FrameFolder

DEMO = Path(vlm_fo1.__file__).parent / "assets" / "demo"
UPRIGHT = Image.open(DEMO / "photo.jpg").convert("RGB")
BOXES = json.loads((DEMO / "boxes.json").read_text())
ORIENTATIONS = range(1, 9)
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
INVERSE = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
"""The orientation that undoes each."""
DETECTED = {"orange": [2, 6, 12], "apple": [10, 13]}


def turned(folder, orientation, kind="JPEG"):
    """The demo image as a file that stores it so."""
    folder.mkdir(exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = INVERSE.get(orientation, 1)
    stored = UPRIGHT.copy()
    stored.info["exif"] = exif.tobytes()
    stored.getexif()[0x0112] = INVERSE.get(orientation, 1)
    stored = ImageOps.exif_transpose(stored)
    exif[0x0112] = orientation
    path = folder / f"photo{orientation}.{kind.lower()}"
    lossless = {"JPEG": {"quality": 97, "subsampling": 0}, "WEBP": {"lossless": True}}
    stored.save(path, kind, exif=exif, **lossless.get(kind, {}))
    return path


def found(answer):
    return {mention.label: sorted(mention.indices) for mention in answer.mentions}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_encoders_see_the_upright_image_in_every_format(tmp_path, fo1, orientation, kind):
    path = turned(tmp_path, orientation, kind)
    with Image.open(path) as opened:
        assert opened.getexif()[0x0112] == orientation
    stored = UPRIGHT.size if orientation < 5 else UPRIGHT.size[::-1]
    assert image_frame(path) == (UPRIGHT.size, stored, orientation)
    sent = fo1.processor.image_processor([path, read_image(path)], [BOXES, BOXES])
    right = fo1.processor.image_processor(UPRIGHT, BOXES)
    for index in (0, 1):
        difference = sent["aux_pixel_values"][index] - right["aux_pixel_values"][0]
        assert difference.abs().mean() < (0.02 if kind == "JPEG" else 1e-6)
        assert sent["region_boxes"][index].equal(right["region_boxes"][0])
    assert sent["image_grid_thw"].tolist() == right["image_grid_thw"].tolist() * 2


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_phone_photo_is_answered_as_the_upright_one(tmp_path, fo1, orientation):
    path = turned(tmp_path, orientation)
    scene = fo1.open(path, BOXES)
    assert found(scene.detect(["orange", "apple"])) == DETECTED
    answer = scene.count("orange")
    assert answer.count == 3
    assert answer.size_wh == UPRIGHT.size


@pytest.mark.parametrize("kind", FORMATS)
def test_every_way_to_pass_a_turned_photo_gives_the_same(tmp_path, fo1, kind):
    path = turned(tmp_path, 6, kind)
    with Image.open(path) as opened:
        for source in (path, str(path), path.read_bytes(), opened, read_image(path)):
            assert found(fo1.refer(source, "the largest orange", BOXES)) == {
                "the largest orange": [12]
            }


def test_tiles_of_a_turned_photo_are_those_of_the_upright_one(tmp_path, fo1):
    path = turned(tmp_path, 8, "PNG")
    upright, seen = (
        fo1.detect(one, ["orange", "apple"], BOXES, tile=200) for one in (UPRIGHT, path)
    )
    assert found(seen) == found(upright)
    assert seen.text == upright.text


def test_the_commands_answer_a_folder_of_turned_photos(tmp_path, fo1, monkeypatch):
    monkeypatch.setattr("vlm_fo1.fo1.FO1.from_pretrained", lambda *_, **__: fo1)
    for orientation in (1, 3, 6, 7, 8):
        turned(tmp_path / "in", orientation)

    def asked(command, *words):
        typed = [command, tmp_path / "in", *words, "--boxes", DEMO / "boxes.json", "--json"]
        result = CliRunner().invoke(app, [str(word) for word in typed])
        assert result.exit_code == 0, result.output
        answers = [json.loads(line) for line in result.stdout.splitlines()]
        assert len(answers) == 5
        return answers

    out = tmp_path / "out"
    for answer in asked("detect", "orange", "apple", "--out", out):
        mentions = {
            each["label"]: sorted(part["index"] for part in each["regions"])
            for each in answer["mentions"]
        }
        assert mentions == DETECTED
    assert {image_size(path) for path in out.iterdir()} == {UPRIGHT.size}
    assert [answer["count"] for answer in asked("count", "orange")] == [3] * 5
    for answer in asked("refer", "the largest orange"):
        (mention,) = answer["mentions"]
        assert [part["index"] for part in mention["regions"]] == [12]


class Demo(Stub):
    """Offers the boxes of the demo image, where the image is upright."""

    def propose(self, images, *, queries=None):
        assert {image.size for image in images} == {UPRIGHT.size}
        return [Regions(np.array(BOXES, np.float32), image.size) for image in images]


def test_segmenting_a_turned_photo_finds_what_the_upright_one_has(tmp_path, fo1, monkeypatch):
    monkeypatch.setattr("vlm_fo1.fo1.FO1.from_pretrained", lambda *_, **__: fo1)
    monkeypatch.setitem(base._CLASSES, "demo", f"{__name__}:Demo")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Demo.__module__])
    for orientation in (5, 6):
        turned(tmp_path / "in", orientation)
    typed = ["segment", str(tmp_path / "in"), "orange", "--proposer", "demo", "--json"]
    result = CliRunner().invoke(app, typed)
    assert result.exit_code == 0, result.output
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["count"] for answer in answers] == [3, 3]
    chosen = np.array([each["bbox"] for each in answers[0]["segments"]])
    right = np.array(BOXES)[DETECTED["orange"]]
    assert np.abs(np.sort(chosen[:, 0]) - np.sort(right[:, 0])).max() < 1


def test_the_page_takes_uploads_upright_one_by_one_and_in_batches(tmp_path, fo1, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", ModuleType("gradio"))
    paths = [turned(tmp_path / "in", orientation) for orientation in (6, 8)]
    limits = Limits()
    for path in paths:
        image = limits.image(path)
        assert image.size == UPRIGHT.size
        assert not image.info
    rows = []
    asked = request_of("counting", words="orange")
    boxes = {path.name: BOXES for path in paths}
    ask_all(fo1, paths, asked, limits, boxes=boxes, max_new_tokens=100, report=rows.append)
    assert [row.answer.count for row in rows if not isinstance(row, str)] == [3, 3]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_drawings_and_frames_are_upright(tmp_path, orientation):
    path = turned(tmp_path / "in", orientation, "PNG")
    regions = Regions(np.array(BOXES, np.float32), UPRIGHT.size)
    assert draw_regions(path, regions).tobytes() == draw_regions(UPRIGHT, regions).tobytes()
    shutil.copy(path, tmp_path / "in" / "photo9.png")
    for frame in FrameFolder(tmp_path / "in").read():
        assert frame.image is not None
        assert frame.image.tobytes() == UPRIGHT.tobytes()
