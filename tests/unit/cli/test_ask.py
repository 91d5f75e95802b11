"""`fo1 detect|count|...`: what is typed is asked, answers come out, nothing finished is lost.

The commands run in this process on one loaded model, which `helpers.scripted_model` makes say what
is needed.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.helpers.scripted_model import say
from tests.helpers.stub_proposer import Stub
from typer.testing import CliRunner

from vlm_fo1 import FO1
from vlm_fo1.cli import images
from vlm_fo1.cli.main import app, overview
from vlm_fo1.proposers import base

BOXES = [[2, 3, 40, 50], [30, 20, 100, 80]]
BOX = ("--box", "2,3,40,50", "--box", "30,20,100,80")
SHORT = ("--max-new-tokens", "6")
FOUND = "<ground>cat</ground><objects><region1></objects>"

ASKING = {
    "detect": (["cat", "dog"], lambda s, **o: s.detect(["cat", "dog"], **o)),
    "count": (["cat"], lambda s, **o: s.count("cat", **o)),
    "refer": (["the cat"], lambda s, **o: s.refer("the cat", **o)),
    "describe": ([], lambda s, **o: s.describe(**o)),
    "read-text": ([], lambda s, **o: s.read_text(**o)),
    "match": (["1"], lambda s, **o: s.match(1, **o)),
    "ground": ([], lambda s, **o: s.ground(**o)),
    "reason": (["Why?"], lambda s, **o: s.reason("Why?", **o)),
    "ask": (["Is {} ripe?", "--about", "1"], lambda s, **o: s.ask("Is {} ripe?", about=[1], **o)),
}


@pytest.fixture
def loaded(fo1, monkeypatch):
    """How often a command loaded the model."""
    times = []
    monkeypatch.setattr("vlm_fo1.fo1.FO1.from_pretrained", lambda *_, **__: times.append(1) or fo1)
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


def photo(path, seed=0, size_hw=(84, 112)):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_bytes().split(b"\n") if line]


def images_in(path):
    return [record["file"] for record in lines_of(path)]


# --- one image ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ASKING)
def test_every_command_prints_the_answer_of_its_question_as_json(run, fo1, name):
    path = photo("a.png")
    words, ask = ASKING[name]
    typed = [name, path, *words, *BOX, *SHORT, "--json"]
    result = run(*typed)
    assert result.exit_code == 0, result.stderr
    expected = ask(fo1.open(path, BOXES), max_new_tokens=6)
    assert json.loads(result.stdout) == {"file": "a.png", **expected.to_dict()}
    assert run(*typed).stdout == result.stdout


@pytest.mark.parametrize("name", ASKING)
def test_every_command_prints_its_answer_for_people(run, fo1, name, monkeypatch):
    say(monkeypatch, fo1, f"a furry {FOUND} here")
    result = run(name, photo("a.png"), *ASKING[name][0], *BOX)
    assert result.exit_code == 0, result.stderr
    assert "a furry cat here" in result.stdout
    assert "region" in result.stdout


def test_a_table_gives_label_region_box_score_and_confidence(run, fo1, monkeypatch):
    say(monkeypatch, fo1, FOUND + "<ground>dog</ground><objects></objects> 3")
    result = run("count", photo("a.png"), "cat", *BOX)
    rows = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]
    assert ["label", "region", "box (x1, y1, x2, y2)", "score", "confidence"] in rows
    found = next(row for row in rows if row[0] == "cat" and len(row) > 2)
    assert found[1:3] == ["1", "30, 20, 100, 80"]
    assert re.fullmatch(r"0\.\d\d", found[3])
    assert ["dog", "none"] in rows
    assert ["count: 3"] in rows
    assert result.stderr.splitlines() == [
        "a.png: label 'dog' was not asked for",
        "a.png: the answer says 3 but names 1 regions",
    ]


def test_detail_asks_for_a_detailed_description(run, fo1, monkeypatch):
    script = say(monkeypatch, fo1, "a cat")
    run("describe", photo("a.png"), "--box", "2,3,40,50", "--detail", "detailed")
    prompt = fo1.processor.tokenizer.decode(script.prompts[0])
    assert "Provide a detailed description for <region0>." in prompt


def test_streamed_words_come_once_and_before_the_table(run, fo1, monkeypatch):
    say(monkeypatch, fo1, "it is a cat")
    result = run("ask", photo("a.png"), "What?", *BOX, "--stream")
    assert result.stdout == "it is a cat\n"


def test_streaming_and_json_do_not_mix(run, loaded):
    result = run("ask", photo("a.png"), "What?", "--stream", "--json")
    assert result.exit_code == 2
    assert result.stderr.strip() == (
        "error: --stream prints words and --json prints JSON: pass one of them"
    )
    assert not loaded


# --- boxes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "numbers"),
    [("1,2,30,40", [1, 2, 30, 40]), ("-5, 0.5,30,40 ", [0, 0.5, 30, 40])],
)
def test_a_box_is_four_numbers_in_pixels(run, box, numbers):
    result = run("ask", photo("a.png"), "What?", "--box", box, "--json", *SHORT)
    assert json.loads(result.stdout)["regions"]["xyxy"] == [numbers]


@pytest.mark.parametrize("box", ["1,2,3", "1,2,3,4,5", "a,b,c,d", "", "1 2 3 4"])
def test_a_box_that_is_not_four_numbers_is_refused_before_anything_is_loaded(run, loaded, box):
    result = run("ask", photo("a.png"), "What?", "--box", box)
    assert result.exit_code == 2
    assert result.stderr.strip() == f"error: --box {box!r}: four numbers are needed, x1,y1,x2,y2"
    assert not loaded


def test_boxes_come_from_a_file_for_many_images(run):
    photo("in/a.png")
    photo("in/b.png")
    Path("boxes.json").write_text(json.dumps({"a.png": BOXES, "b.png": BOXES[:1]}))
    result = run("detect", "in", "cat", "--boxes", "boxes.json", "--json", *SHORT)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [len(answer["regions"]["xyxy"]) for answer in answers] == [2, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--model", "mine"],
            "this question points at regions and none were given: pass --box x1,y1,x2,y2, --boxes "
            "FILE or --proposer NAME:ARG",
        ),
        ([*BOX, "--proposer", "ocr"], "both --box and --proposer were given: pass one of them"),
        (
            ["--boxes", "b.json", "--proposer", "ocr"],
            "both --boxes and --proposer were given: pass one of them",
        ),
        (
            [*BOX, "--min-score", "0.5"],
            "--min-score is about what a proposer offers, and --box gives boxes that are used as",
        ),
        (["--boxes", "b.json", "--nms", "0.5"], "--nms is about what a proposer offers"),
        ([*BOX, "--query", "cat"], "--query is about what a proposer offers"),
        ([*BOX, "--boxes", "b.json"], "both --box and --boxes were given: pass one of them"),
        (["--boxes", "b.json"], "b.json does not exist: check the path"),
    ],
)
def test_boxes_that_are_missing_are_refused_before_anything_is_loaded(run, loaded, words, message):
    result = run("detect", photo("a.png"), "cat", *words)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {message}")
    assert len(result.stderr.splitlines()) == 1
    assert not loaded


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("50,5,20,9", "box 0 = (50, 5, 20, 9) is reversed"),
        ("nan,0,5,5", "holds NaN or infinity"),
        ("500,0,600,5", "lies outside the image of 112 x 84 pixels"),
    ],
)
def test_a_box_that_does_not_fit_the_image_is_reported_with_it(run, box, message):
    result = run("ask", photo("a.png"), "What?", "--box", box)
    assert result.exit_code == 1
    assert result.stderr.startswith("a.png: box 0 = ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_results_of_one_image_are_not_used_for_every_image_of_a_folder(run):
    for name in ("a.png", "000042.png"):
        photo(f"in/{name}")
    results = [{"image_id": 42, "bbox": [2, 3, 38, 47], "score": 0.5}]
    Path("results.json").write_text(json.dumps(results))
    result = run("detect", "in", "cat", "--boxes", "results.json", "--json", *SHORT)
    assert result.exit_code == 1
    assert "in/a.png: the boxes hold nothing for 'a.png'; they are about '42'" in result.stderr
    assert [json.loads(line)["file"] for line in result.stdout.splitlines()] == ["in/000042.png"]
    alone = run("detect", "in/a.png", "cat", "--boxes", "results.json", *SHORT)
    assert alone.exit_code == 0
    assert "a.png: the boxes are of image_id 42, which does not say whether" in alone.stderr


def test_a_file_about_another_image_is_refused(run):
    photo("a.png")
    shape = {"label": "cat", "points": [[2, 3], [40, 50]], "shape_type": "rectangle"}
    size = {"imageWidth": 112, "imageHeight": 84}
    Path("other.json").write_text(json.dumps({"shapes": [shape], "imagePath": "b.png", **size}))
    result = run("detect", "a.png", "cat", "--boxes", "other.json", *SHORT)
    assert result.exit_code == 1
    assert "a.png: the boxes are of 'b.png', not of 'a.png'" in result.stderr


def test_annotations_of_no_image_are_told(run):
    photo("a.png")
    boxes = [{"image_id": id_, "bbox": [2, 3, 38, 47]} for id_ in ("1", 7)]
    data = {"images": [{"id": 1, "file_name": "C:\\x\\a.PNG"}], "annotations": boxes}
    Path("coco.json").write_text("\ufeff" + json.dumps(data))
    result = run("detect", "a.png", "cat", "--boxes", "coco.json", "--json", *SHORT)
    assert result.exit_code == 0
    record = json.loads(result.stdout)
    assert record["regions"]["xyxy"] == [[2, 3, 40, 50]]
    assert "1 of 2 annotations belong to no image of the file" in record["problems"][0]


def test_more_boxes_than_fit_are_said(run):
    boxes = [[number, 0, number + 5, 40] for number in range(101)]
    Path("boxes.json").write_text(json.dumps(boxes))
    result = run("detect", photo("a.png"), "cat", "--boxes", "boxes.json", *SHORT)
    assert result.exit_code == 0
    assert "101 regions were offered" in result.stderr
    assert "4 windows were asked" in result.stderr


# --- proposers -----------------------------------------------------------------------------------


@pytest.fixture
def stub(monkeypatch):
    """A proposer named "stub" that finds `BOXES` with scores 0.9 and 0.4; what it was asked."""
    monkeypatch.setattr(Stub, "asked", [])
    monkeypatch.setitem(base._CLASSES, "stub", "tests.helpers.stub_proposer:Stub")
    return Stub.asked


@pytest.fixture
def with_proposer(run, fo1, monkeypatch):
    """Loads the model that is there with the proposer that is asked for."""

    def load(name, *, proposer=None, **_):
        return FO1(fo1.model, fo1.processor, proposer and base.load_proposer(proposer))

    monkeypatch.setattr("vlm_fo1.fo1.FO1.from_pretrained", load)
    return run


@pytest.mark.parametrize("words", [["--token", "hf_x"], []], ids=["typed", "from HF_TOKEN"])
def test_token_revision_and_strictness_reach_the_loading(run, fo1, monkeypatch, words):
    asked = []
    monkeypatch.setattr(
        "vlm_fo1.fo1.FO1.from_pretrained", lambda *_, **how: asked.append(how) or fo1
    )
    monkeypatch.setenv("HF_TOKEN", "hf_y" if words else "hf_x")
    typed = ["--revision", "v1", "--strict", *words, *SHORT]
    assert run("ask", photo("a.png"), "Is it ripe?", *typed).exit_code == 0
    (how,) = asked
    assert (how["revision"], how["token"], how["strict"]) == ("v1", "hf_x", True)


@pytest.mark.parametrize("name", ASKING)
def test_every_command_takes_its_boxes_from_a_proposer(with_proposer, stub, name):
    words = [name, photo("a.png"), *ASKING[name][0], "--proposer", "stub", *SHORT, "--json"]
    result = with_proposer(*words)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["regions"]["xyxy"] == BOXES
    assert stub == [None]


@pytest.mark.parametrize(
    ("words", "kept"),
    [(["--min-score", "0.5"], 1), (["--min-score", "0.95"], 0), (["--nms", "0.01"], 1)],
)
def test_thresholds_choose_among_proposals(with_proposer, stub, words, kept):
    typed = ["detect", photo("a.png"), "cat", "--proposer", "stub", *SHORT, "--json", *words]
    assert len(json.loads(with_proposer(*typed).stdout)["regions"]["xyxy"]) == kept


def test_a_proposer_that_looks_for_named_things_gets_the_labels_or_the_queries(with_proposer, stub):
    typed = [photo("a.png"), "--proposer", "stub:named", *SHORT]
    with_proposer("detect", typed[0], "cat", "dog", *typed[1:])
    with_proposer("count", typed[0], "cat", *typed[1:], "--query", "animal", "--query", "pet")
    assert stub == [["cat", "dog"], ["animal", "pet"]]
    result = with_proposer("ask", typed[0], "What?", *typed[1:])
    assert result.exit_code == 1
    assert "stub looks for named things: pass queries=['orange', ...] (--query" in result.stderr


def test_tiles_reach_the_proposer_and_the_answer(with_proposer, stub):
    typed = ["detect", photo("a.png"), "cat", "--proposer", "stub", "--tile", "64", *SHORT]
    result = with_proposer(*typed, "--json")
    assert result.exit_code == 0, result.stderr
    assert len(stub) > 1
    whole = with_proposer(*typed, "--json", "--tile", "none")
    assert whole.exit_code == 0, whole.stderr


@pytest.mark.parametrize("tile", ["small", "-3", "64.5"])
def test_a_tile_that_is_no_number_of_pixels_is_one_line(with_proposer, tile):
    result = with_proposer("detect", photo("a.png"), "cat", "--tile", tile)
    assert result.exit_code == 2
    assert f"error: --tile {tile}: a number of pixels, 'auto' or 'none' is" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--proposer", "stubb"], "error: there is no proposer 'stubb', did you mean 'stub'?"),
        (["--min-score", "0.5"], "error: --min-score and --nms are about what a proposer offers"),
    ],
)
def test_a_proposer_that_is_not_there_is_one_line(with_proposer, stub, words, message):
    result = with_proposer("ask", photo("a.png"), "What?", *words)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == 1


def test_the_answers_of_another_proposer_are_another_run(with_proposer, stub):
    typed = ["detect", photo("a.png"), "cat", *SHORT, "--save", "s.jsonl", "--proposer"]
    assert with_proposer(*typed, "stub").exit_code == 0
    assert with_proposer(*typed, "stub:named").exit_code == 2
    assert with_proposer(*typed, "stub").exit_code == 0


# --- several images ----------------------------------------------------------------------------


@pytest.mark.parametrize("image", ["in", "in/**/*.png", "in/*"])
def test_a_folder_or_a_pattern_is_asked_image_by_image_in_order(run, image):
    for name in ("in/b.png", "in/a.png"):
        photo(name)
    if "*" not in image:
        Path("in/notes.txt").write_text("no image")
    result = run("detect", image, "cat", *BOX, *SHORT, "--json")
    assert result.exit_code == 0, result.stderr
    answers = [json.loads(line)["file"] for line in result.stdout.splitlines()]
    assert answers == ["in/a.png", "in/b.png"]
    assert "2 answered" in result.stderr


def test_answers_for_people_say_which_image_they_are_about(run, fo1, monkeypatch):
    say(monkeypatch, fo1, "nothing")
    for name in ("in/a.png", "in/b.png"):
        photo(name)
    expected = "in/a.png:\nnothing\nin/b.png:\nnothing\n"
    assert run("detect", "in", "cat", *BOX).stdout == expected
    assert run("ask", "in", "What?", "--stream").stdout == expected


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("empty", "error: the folder empty holds no images"),
        ("empty/*.png", "error: no image matches empty/*.png"),
        ("a**b/*.png", "error: a**b/*.png is no pattern: "),
        ("", "error: IMAGE is empty: name an image, a folder or a pattern"),
    ],
)
def test_where_there_are_no_images_nothing_is_loaded(run, loaded, image, message):
    Path("empty").mkdir()
    result = run("detect", image, "cat", *BOX)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == 1
    assert not loaded


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(run):
    result = run("ask", photo("photo[1].png"), "What?", "--json", *SHORT)
    assert json.loads(result.stdout)["file"] == "photo[1].png"


def test_one_broken_image_is_reported_and_the_others_are_done(run):
    photo("in/a.png")
    photo("in/c.png")
    Path("in/[b].png").write_bytes(b"no image")
    result = run("detect", "in", "cat", *BOX, *SHORT, "--json")
    assert result.exit_code == 1
    answers = [json.loads(line)["file"] for line in result.stdout.splitlines()]
    assert answers == ["in/a.png", "in/c.png"]
    assert "in/[b].png: the image file 'in/[b].png' is not an image" in result.stderr
    assert "2 answered, 1 failed: in/[b].png" in result.stderr


def test_a_missing_image_is_one_line_and_no_traceback(run):
    result = run("ask", "no.jpg", "What?")
    assert result.exit_code == 1
    assert result.stderr.strip() == "no.jpg: image file 'no.jpg' does not exist: check the path"
    assert result.stdout == ""


def test_the_answers_of_a_batch_are_on_disk_before_the_next_is_asked(run, fo1, monkeypatch):
    for number in range(5):
        photo(f"in/{number}.png", number)
    seen = []
    generate = type(fo1.engine).generate

    def look(self, prompts, **options):
        saved = Path("s.jsonl")
        seen.append((len(prompts), len(lines_of(saved)) if saved.exists() else 0))
        return generate(self, prompts, **options)

    monkeypatch.setattr(type(fo1.engine), "generate", look)
    result = run("ask", "in", "What?", "--batch-size", "2", "--save", "s.jsonl", *SHORT)
    assert result.exit_code == 0, result.stderr
    assert sum(asked for asked, _ in seen) == 5
    saved = [lines for _, lines in seen]
    assert saved[0] == 0
    assert saved == sorted({*saved})  # more of them before each batch, whichever was ready first
    assert images_in("s.jsonl") == [f"in/{number}.png" for number in range(5)]


def test_running_out_of_memory_on_one_image_does_not_stop_the_others(run, fo1, monkeypatch):
    photo("in/a.png")
    photo("in/b.png", size_hw=(56, 56))
    real = type(fo1.engine).preprocess

    def short_of_memory(self, image, boxes):
        if image.size == (112, 84):
            raise MemoryError
        return real(self, image, boxes)

    monkeypatch.setattr(type(fo1.engine), "preprocess", short_of_memory)
    result = run("ask", "in", "What?", *SHORT)
    assert result.exit_code == 1
    assert "in/a.png failed: MemoryError" in result.stderr
    assert "1 answered, 1 failed" in result.stderr


# --- --out ---------------------------------------------------------------------------------------


def drawn(path, original):
    with Image.open(path) as one, Image.open(original) as other:
        assert one.size == other.size
        difference = np.asarray(one.convert("RGB")) != np.asarray(other.convert("RGB"))
    return bool(difference.any())


@pytest.mark.parametrize("out", ["out.png", "new/folder/out.png"])
def test_out_is_the_image_with_the_answer(run, fo1, monkeypatch, out):
    say(monkeypatch, fo1, FOUND)
    path = photo("a.png")
    assert run("detect", path, "cat", *BOX, "--out", out).exit_code == 0
    assert drawn(out, path)


def test_out_without_a_suffix_or_an_existing_folder_takes_images(run):
    photo("a.png")
    Path("there.is").mkdir()
    for out in ("new", "there.is"):
        assert run("ask", "a.png", "What?", "--out", out, *SHORT).exit_code == 0
        assert [p.name for p in Path(out).iterdir()] == ["a.jpg"]


def test_out_keeps_images_of_one_name_apart(run):
    for name in ("in/a.png", "in/a.bmp", "in/b.png", "in/sub/a.png"):
        photo(name)
    assert run("ask", "in", "What?", "--out", "in/found", *SHORT).exit_code == 0
    found = sorted(str(p.relative_to("in/found")) for p in Path("in/found").rglob("*.jpg"))
    assert found == ["a.bmp.jpg", "a.png.jpg", "b.jpg", "sub/a.jpg"]
    again = run("ask", "in", "What?", "--out", "in/found", *SHORT)
    assert "4 answered" in again.stderr  # the drawings are not asked about


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("out.xyz", "error: --out out.xyz: no image can be written as .xyz; one of "),
        ("out.txt", "error: --out out.txt: no image can be written as .txt"),
        ("a.png", "error: --out a.png would put a drawing of a.png over a.png: "),
        ("a.png/out.png", "error: "),
    ],
)
def test_an_out_that_cannot_be_written_is_refused_before_anything_is_loaded(
    run, loaded, out, message
):
    before = photo("a.png").read_bytes()
    result = run("detect", "a.png", "cat", *BOX, "--out", out)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == 1
    assert Path("a.png").read_bytes() == before
    assert not loaded


def test_out_for_several_images_is_a_folder_other_than_theirs(run, loaded):
    photo("in/a.png")
    photo("in/b.jpg")
    for out, message in (
        ("out.jpg", "--out out.jpg is one file for 2 images: name a folder that exists"),
        ("in", "--out in would put a drawing of in/b.jpg over in/b.jpg: name another place"),
    ):
        result = run("detect", "in", "cat", *BOX, "--out", out)
        assert result.exit_code == 2
        assert message in result.stderr
    assert not loaded


def test_a_drawing_that_cannot_be_saved_is_refused_before_anything_is_loaded(run, loaded):
    photo("in/a.png")
    photo("in/b.png")
    Path("out/a.jpg").mkdir(parents=True)
    result = run("ask", "in", "What?", "--out", "out", "--save", "s.jsonl", *SHORT)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: out/a.jpg cannot be written: it is a folder")
    assert not loaded


# --- --save --------------------------------------------------------------------------------------


@pytest.fixture
def saved(run):
    """Asks of three images, the second of them broken; returns how to ask again."""
    for name in ("in/a.png", "in/c.png"):
        photo(name)
    Path("in/b.png").write_bytes(b"no image")

    def ask(*more, label="cat"):
        return run("detect", "in", label, *BOX, *SHORT, "--save", "out/s.jsonl", *more)

    assert ask().exit_code == 1
    assert [("error" in record) for record in lines_of("out/s.jsonl")] == [False, True, False]
    return ask


def test_each_line_is_an_answer_with_its_image(saved, fo1):
    first, failed, _ = lines_of("out/s.jsonl")
    expected = fo1.open("in/a.png", BOXES).detect("cat", max_new_tokens=6).to_dict()
    assert first == {"run": first["run"], "file": "in/a.png", **expected}
    assert failed.keys() == {"run", "file", "error"}
    assert "is not an image" in failed["error"]


def test_a_second_run_skips_what_is_finished_and_tries_failures_again(saved):
    before = lines_of("out/s.jsonl")
    photo("in/b.png")
    photo("in/d.png")
    result = saved()
    assert result.exit_code == 0
    assert "2 answered, 2 were already in out/s.jsonl" in result.stderr
    assert images_in("out/s.jsonl") == ["in/a.png", "in/c.png", "in/b.png", "in/d.png"]
    assert lines_of("out/s.jsonl")[:2] == [before[0], before[2]]


def test_a_run_with_nothing_left_to_do_loads_nothing(saved, loaded):
    photo("in/b.png")
    saved()
    before = Path("out/s.jsonl").read_bytes()
    del loaded[:]
    result = saved()
    assert result.exit_code == 0
    assert "0 answered, 3 were already in out/s.jsonl" in result.stderr
    assert Path("out/s.jsonl").read_bytes() == before
    assert not loaded


@pytest.mark.parametrize("left", [1, 5, 12, 60, -1])
def test_a_last_line_that_was_cut_off_is_asked_again(saved, left):
    photo("in/b.png")
    whole = Path("out/s.jsonl").read_bytes().splitlines(keepends=True)
    Path("out/s.jsonl").write_bytes(whole[0] + whole[1] + whole[2][:left])
    assert saved().exit_code == 0
    assert images_in("out/s.jsonl") == ["in/a.png", "in/b.png", "in/c.png"]
    assert Path("out/s.jsonl").read_bytes().splitlines(keepends=True)[0] == whole[0]


def test_a_line_cut_inside_a_letter_and_odd_file_names_are_survived(run):
    names = ["in/a\u2028b.png", "in/c\x85d.png", "in/é.png"]
    for name in names:
        photo(name)
    typed = ("ask", "in", "What?", *SHORT, "--save", "s.jsonl")
    assert run(*typed).exit_code == 0
    assert images_in("s.jsonl") == names
    whole = Path("s.jsonl").read_bytes()
    cut = whole.index("é".encode()) + 1
    Path("s.jsonl").write_bytes(whole[:cut])
    assert "1 answered, 2 were already in" in run(*typed).stderr
    assert Path("s.jsonl").read_bytes() == whole


def test_a_file_name_that_is_no_text_is_survived(run):
    name = b"in/\xff.png".decode("utf-8", "surrogateescape")
    photo("in/a.png").rename(name)
    typed = ("ask", "in", "What?", *SHORT, "--save", "s.jsonl", "--json")
    result = run(*typed)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["file"] == name
    assert images_in("s.jsonl") == [name]
    assert "0 answered, 1 were already in" in run(*typed).stderr


def test_the_file_of_another_question_is_refused_and_kept(saved, loaded):
    before = Path("out/s.jsonl").read_bytes()
    del loaded[:]
    result = saved(label="dog")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: out/s.jsonl holds the answers of another request")
    assert Path("out/s.jsonl").read_bytes() == before
    assert not loaded


def test_fresh_starts_the_file_anew(saved):
    photo("in/b.png")
    result = saved("--fresh", label="dog")
    assert result.exit_code == 0
    assert [record["labels"] for record in lines_of("out/s.jsonl")] == [["dog"]] * 3


def test_other_boxes_are_another_command_even_in_a_file_of_the_same_name(run):
    photo("a.png")
    typed = ("detect", "a.png", "cat", "--boxes", "b.json", "--save", "s.jsonl", *SHORT)
    Path("b.json").write_text(json.dumps(BOXES))
    assert run(*typed).exit_code == 0
    assert "1 were already in s.jsonl" in run(*typed).stderr
    Path("b.json").write_text(json.dumps(BOXES[:1]))
    result = run(*typed)
    assert result.exit_code == 2
    assert "holds the answers of another request" in result.stderr


@pytest.mark.parametrize("content", ["my notes", "my notes\nmore\n", "5\n", '{"file": "a"}\n'])
def test_a_file_that_is_not_ours_is_refused_and_kept(run, loaded, content):
    Path("notes.txt").write_text(content)
    result = run("ask", photo("a.png"), "What?", "--save", "notes.txt")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: line 1 of notes.txt is no answer of this program")
    assert Path("notes.txt").read_text() == content
    assert not loaded


@pytest.mark.parametrize("save", ["/dev/null", "folder", "a.png/s.jsonl"])
def test_a_save_that_is_no_file_is_refused(run, loaded, save):
    photo("a.png")
    Path("folder").mkdir()
    result = run("ask", "a.png", "What?", "--save", save)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert not loaded


# --- the program ---------------------------------------------------------------------------------


def test_the_overview_lists_every_command_with_its_line(run):
    text = run("--help").stdout
    for name, line in overview().items():
        assert re.search(rf"{name}\s+{re.escape(line)}", text), name
    assert run().stderr.strip() == text.strip()


@pytest.mark.parametrize("name", ASKING)
def test_the_help_of_a_command_shows_its_options_and_an_example_that_parses(run, name):
    text = run(name, "--help").stdout
    for option in ("--box", "--boxes", "--proposer", "--min-score", "--nms", "--tile"):
        assert option in text
    for option in ("--out", "--json", "--save", "--fresh", "--model"):
        assert option in text
    assert re.search(rf"fo1 {name} \S+\.jpg", text)


def test_an_unknown_command_is_refused(run):
    result = run("fly")
    assert result.exit_code == 2
    assert "No such command 'fly'" in result.stderr


def test_an_answer_needs_room(run):
    result = run("ask", photo("a.png"), "What?", "--max-new-tokens", "0")
    assert result.exit_code == 2
    assert "--max-new-tokens" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "/no/model"], "error: /no/model is neither a folder nor a Hub id of the form"),
        (["--model", "[/b]"], "error: [/b] is neither a folder nor a Hub id of the form"),
        (["--dtype", "float31"], "error: dtype 'float31' is none that weights can have"),
        (["--device", "gpu"], "error: device 'gpu' cannot be used here"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_line_and_no_traceback(
    monkeypatch, tmp_path, words, message
):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["ask", str(photo("a.png")), "What?", *words])
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == 1


def test_the_program_that_pip_installs_is_the_command_line():
    found = importlib.metadata.entry_points(group="console_scripts", name="fo1")
    if not found:
        pytest.skip("vlm-fo1 is not installed here, so there is no program fo1: pip install -e .")
    assert {point.value for point in found} == {"vlm_fo1.cli.main:main"}


def test_the_program_ends_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "vlm_fo1", "detect", "a.png", "cat", "--box", "1,2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: --box '1,2': four numbers are needed, x1,y1,x2,y2\n"


def test_drawings_of_a_pattern_keep_the_folders_that_tell_them_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [Path("x/1/a.png"), Path("x/2/a.png")]
    planned = images.plan_drawings(Path("out"), found)
    assert list(planned.values()) == [Path("out/1/a.jpg"), Path("out/2/a.jpg")]
