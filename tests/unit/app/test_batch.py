"""Many images at once: what worked is kept, and what did not is said."""

import json
from typing import Any

import pytest
from PIL import ExifTags, Image
from tests.helpers.page_answer import BOXES, IMAGE, an_answer

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.app.batch import TITLES, Row, ask_all, write
from vlm_fo1.app.jobs import StoppedError
from vlm_fo1.app.limits import Limits
from vlm_fo1.app.question import request_of
from vlm_fo1.errors import ImageError
from vlm_fo1.images import image_frame


def test_a_batch_keeps_what_worked_and_says_what_did_not(fo1, tmp_path):
    for name in ("a.png", "b.png"):
        IMAGE.save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"no")
    rows = []
    ask_all(
        fo1,
        [tmp_path / name for name in ("a.png", "broken.png", "b.png")],
        request_of("detection", ["cat"]),
        Limits(),
        max_new_tokens=4,
        boxes={"a.png": BOXES, "b.png": BOXES[:1], "broken.png": []},
        report=lambda item: rows.append(item) if isinstance(item, Row) else None,
    )
    assert [row.file for row in rows] == ["a.png", "broken.png", "b.png"]
    assert [row.answer is None for row in rows] == [False, True, False]
    assert "broken.png cannot be used" in rows[1].cells()[-1]
    lines, coco = write(rows, tmp_path)
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["file"] for record in records] == ["a.png", "broken.png", "b.png"]
    assert "error" in records[1]
    assert len(json.loads(coco.read_text())["images"]) == 2


def test_a_batch_says_what_was_done_to_the_boxes(fo1, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    IMAGE.save(tmp_path / "a.png", exif=exif)  # 112 x 84, shown as 84 x 112
    image = {"id": 1, "file_name": "x\\a.png", "width": 112, "height": 84}
    rows = []
    ask_all(
        fo1,
        [tmp_path / "a.png"],
        request_of("detection", ["cat"]),
        Limits(),
        max_new_tokens=4,
        boxes={"images": [image], "annotations": [{"image_id": "1", "bbox": [30, 20, 70, 60]}]},
        report=lambda item: rows.append(item) if isinstance(item, Row) else None,
    )
    assert rows[0].answer.regions.xyxy.tolist() == [[4, 30, 64, 100]]
    assert "turned upright with it (EXIF orientation 6)" in rows[0].cells()[-1]


def test_a_foreign_exception_is_one_sentence_in_its_row_and_the_batch_goes_on(
    fo1, tmp_path, monkeypatch, caplog
):
    for name in ("a.png", "b.png", "c.png"):
        IMAGE.save(tmp_path / name)
    failures = {"a.png": ZeroDivisionError("/secret/path"), "b.png": MemoryError()}

    def broken(path):
        if path.name in failures:
            raise failures[path.name]
        return image_frame(path)

    monkeypatch.setattr("vlm_fo1.app.batch.image_frame", broken)
    rows: list[Any] = []
    asked = request_of("detection", ["cat"])
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    ask_all(
        fo1,
        paths,
        asked,
        Limits(),
        boxes=BOXES,
        max_new_tokens=4,
        report=lambda item: rows.append(item) if item else None,
    )
    assert [row.answer is None for row in rows] == [True, True, False]
    assert rows[0].error == "Something broke here that should not; the log of the server says what."
    assert "not enough memory" in rows[1].error
    assert "a.png failed: ZeroDivisionError: /secret/path" in caplog.text


def test_a_batch_that_is_stopped_while_it_writes_is_no_failure_of_its_images(fo1, tmp_path):
    IMAGE.save(tmp_path / "a.png")
    seen = []

    def stopped(item):
        seen.append(item)
        raise StoppedError

    asked = request_of("detection", ["cat"])
    with pytest.raises(StoppedError):
        ask_all(fo1, [tmp_path / "a.png"], asked, Limits(), boxes=BOXES, report=stopped)
    assert seen == [""]


def test_uploads_that_are_hidden_or_that_nothing_reads_are_no_images(tmp_path):
    found = Limits().images([tmp_path / "a.png", tmp_path / "._a.png", tmp_path / "b.heic"])
    assert found == [tmp_path / "a.png"]
    with pytest.raises(ImageError, match="1 HEIC image, which nothing here reads: save them as"):
        Limits().images([tmp_path / "b.heic"])


def test_rows_are_plain_text_under_their_titles():
    cells = Row(file="a.png", answer=an_answer(count=3, plain="x" * 300)).cells()
    assert len(cells) == len(TITLES)
    assert cells[0] == "a.png"
    assert len(cells[1]) == 200
    assert cells[2:4] == ["3", "cat: 0, 2; <b>dog</b>: 1"]


def test_the_coco_file_has_one_number_for_each_label_in_all_images(tmp_path):
    first = an_answer()
    second = Answer(text="", regions=first.regions, mentions=(Mention("owl", (0,)),))
    rows = [Row(file="a", answer=first), Row(file="x", error="no"), Row(file="b", answer=second)]
    data = json.loads(write(rows, tmp_path)[1].read_text())
    names = {entry["id"]: entry["name"] for entry in data["categories"]}
    assert [names[a["category_id"]] for a in data["annotations"]] == [
        "cat",
        "cat",
        "<b>dog</b>",
        "owl",
    ]
    assert [a["image_id"] for a in data["annotations"]] == [1, 1, 1, 2]
    assert len({a["id"] for a in data["annotations"]}) == 4
    pycocotools = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    found = pycocotools.COCO()
    found.dataset = data
    found.createIndex()
    assert len(found.getAnnIds()) == 4
