"""Every call of docs/app.md works against a page with the bundled model, and none is left out."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.helpers.page import serving

import vlm_fo1

gradio_client = pytest.importorskip(
    "gradio_client", reason="gradio_client is not installed: pip install 'vlm-fo1[app]'"
)
pytest.importorskip("gradio", reason="gradio is not installed: pip install 'vlm-fo1[app]'")
pytest.importorskip(
    "gradio_image_annotation",
    reason="gradio_image_annotation is not installed: pip install 'vlm-fo1[app]'",
)

TEXT = (Path(__file__).parents[2] / "docs" / "app.md").read_text(encoding="utf-8")
PHOTO = Path(vlm_fo1.__file__).parent / "assets" / "demo" / "photo.jpg"
BOX = [6, 55, 84, 132]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The names that the documented block leaves behind, after it ran."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(PHOTO, folder / "photo.jpg")
    make_video(folder / "match.mp4")
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    known: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch, serving(folder) as address:
        patch.chdir(folder)
        exec(block.replace("http://127.0.0.1:7860", address), known)
        yield known
        known["client"].close()


def make_video(path):
    """Four frames of the photo; without PyAV an empty file, and what needs it is skipped."""
    try:
        import av
    except ImportError:
        path.touch()
        return
    with Image.open(PHOTO) as photo, av.open(str(path), "w") as out:
        frame = av.VideoFrame.from_image(photo.convert("RGB").resize((160, 120)))
        stream = out.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for _ in range(4):
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def calls():
    """What the table says of each endpoint: its name and an expression."""
    rows = re.findall(r"^\| `/(\w+)` \| (.+?) \| (.+?) \|$", TEXT, re.MULTILINE)
    return {name: call.strip("`") for name, call, _ in rows}


def test_the_documented_question_is_answered(names):
    answer = names["answer"]
    assert answer["task"] == "detection"
    assert answer["labels"] == ["orange"]
    assert answer["regions"]["xyxy"] == [BOX]
    assert json.loads(Path(names["json_file"]).read_text())["labels"] == ["orange"]
    json.loads(Path(names["coco_file"]).read_text())
    with Image.open(names["drawing"]) as drawn, Image.open(PHOTO) as photo:
        assert drawn.size == photo.size
    assert 'class="fo1-result' in names["view"]


def test_every_endpoint_is_documented_and_no_other(names):
    named = names["client"].view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert {name.lstrip("/") for name in named} == set(calls())


def boxes_on(value):
    return [[box[side] for side in ("xmin", "ymin", "xmax", "ymax")] for box in value["boxes"]]


def check_example(got):
    value, task, labels, *_ = got
    assert (task, len(boxes_on(value)) > 3) == ("detection", True)
    assert labels["value"] == ["orange", "apple"]


def check_video(got):
    progress, clip, lines = got
    assert "4 frames" in progress
    path = clip["video"] if isinstance(clip, dict) else clip
    assert Path(path).stat().st_size > 100
    assert len(Path(lines).read_text().splitlines()) >= 4


def check_batch(got):
    progress, table, lines, coco = got
    assert "1 of 1 answered" in progress
    assert "photo.jpg" in table
    (record,) = map(json.loads, Path(lines).read_text().splitlines())
    assert (record["file"], record["task"]) == ("photo.jpg", "counting")
    assert len(json.loads(Path(coco).read_text())["images"]) == 1


def check_segment(got):
    view, *saved = got
    assert 'class="fo1-result' in view
    assert json.loads(Path(saved[0]).read_text())["task"] == "counting"


CHECKS = {
    "look": lambda got: 'class="fo1-result' in got,
    "look_segment": lambda got: 'class="fo1-result' in got,
    "propose": lambda got: len(boxes_on(got[0])) > 3,
    "boxes": lambda got: boxes_on(got[0]) == [[1, 2, 30, 40]],
    "clear": lambda got: boxes_on(got) == [],
    "example": check_example,
    "state": lambda got: "tiny" in str(got),
    "segment": check_segment,
    "video": check_video,
    "batch": check_batch,
}


@pytest.mark.parametrize(
    "name", [name for name, call in calls().items() if call.startswith("client.")]
)
def test_every_documented_call_works(names, name):
    if name == "video":
        pytest.importorskip("av", reason="av is not installed: pip install 'vlm-fo1[video]'")
    got = eval(calls()[name], names)
    if isinstance(got, gradio_client.client.Job):
        got = got.result(timeout=300)
    if name.startswith("stop"):
        assert got in (None, ())  # nothing was running, and that is no error
    else:
        assert CHECKS[name](got) in (None, True), got


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": []}, "no labels yet"),
        ({"image": None}, "no image yet"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_reason(names, change, reason):
    asked: dict[str, Any] = {
        "image": {**names["photo"], "boxes": names["boxes"]},
        "labels": ["orange"],
        **change,
    }
    with pytest.raises((gradio_client.exceptions.AppError, ValueError), match=reason):
        names["client"].predict(**asked, api_name="/ask")
