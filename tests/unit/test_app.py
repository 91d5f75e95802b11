"""The page without a browser: what its fields become, what its tables say, what it refuses."""

import importlib
import json
import re
import subprocess
import sys
import threading
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from tests.helpers_stub_proposer import Stub

from vlm_fo1 import FO1
from vlm_fo1.answer import Answer, Mention
from vlm_fo1.app import controls, views
from vlm_fo1.app.batch import TITLES, Row, ask_all, to_coco, write
from vlm_fo1.app.examples import examples
from vlm_fo1.app.follow import StillTracker
from vlm_fo1.app.jobs import Jobs, StoppedError, Watched
from vlm_fo1.app.limits import Limits, annotated
from vlm_fo1.app.models import AUTO, Choice, Loading, ModelPool
from vlm_fo1.app.question import labels_of, put, request_of, words_of
from vlm_fo1.app.views import AnswerState, ViewOptions
from vlm_fo1.errors import (
    BoxError,
    ConfigError,
    DataError,
    ImageError,
    MissingExtraError,
    PromptError,
)
from vlm_fo1.markup import Piece, pieces
from vlm_fo1.regions import Regions
from vlm_fo1.tasks import TASKS, Request, TaskSpec

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (84, 112, 3), np.uint8))
BOXES = [[2.0, 3.0, 40.0, 50.0], [30.0, 20.0, 100.0, 80.0], [60.0, 5.0, 110.0, 40.0]]
TEXT = (
    "There are <ground>cat</ground><objects><region0><region2></objects> and "
    "<ground><b>dog</b></ground><objects><region1></objects>."
)


def an_answer(scores: Any = (0.9, 0.5, 0.2), **fields: Any):
    known = None if scores is None else np.array(scores, np.float32)
    values: dict[str, Any] = {"problems": ("label 'cow': region 9 does not exist",), **fields}
    return Answer(
        text=TEXT,
        regions=Regions(np.array(BOXES, np.float32), IMAGE.size, known),
        mentions=(Mention("cat", (0, 2), (0.8, 0.7)), Mention("<b>dog</b>", (1,))),
        labels=("cat", "<b>dog</b>", "owl"),
        timing_s={"propose": 0.25, "encode": 0.5, "answer": 1.0},
        **values,
    )


@pytest.fixture(scope="module")
def fo1():
    loaded = FO1.from_pretrained("tiny")
    return FO1(loaded.model, loaded.processor)


# --- answers as HTML


def test_an_answer_links_its_words_its_image_and_its_list():
    html = views.result(AnswerState(an_answer(), IMAGE), ViewOptions())
    assert re.search(r'<mark [^>]*data-regions="0 2"[^>]*>cat<', html)
    assert re.findall(r'<rect data-regions="(\d)"', html) == ["1", "0", "2"]  # the largest below
    assert re.findall(r'<tr tabindex="0" data-regions="(\d)"', html) == ["0", "1", "2"]
    for said in ("38 x 47", "0.90", "0.80", "0.25 s", "1.75 s", "proposals", "region 9 does not"):
        assert said in html, said
    assert "Not found: owl" in html


def test_what_a_model_or_a_user_wrote_cannot_become_markup():
    html = views.result(AnswerState(an_answer(), IMAGE), ViewOptions())
    assert "<b>dog" not in html
    assert "&lt;b&gt;dog&lt;/b&gt;" in html
    assert "<script" not in views.note("<script>", "<script>", kind="error")
    assert "<i>" not in views.table(["<i>"], [["<i>"]])


def test_an_answer_fetches_nothing():
    html = views.result(AnswerState(an_answer(), IMAGE), ViewOptions(unchosen=True))
    assert all(
        source.startswith("data:image/jpeg;base64,") for source in re.findall(r'src="(.*?)"', html)
    )
    assert "http" not in html
    assert "url(" not in html


def test_the_score_filter_hides_regions_in_image_and_list_and_keeps_their_numbers():
    html = views.result(AnswerState(an_answer(), IMAGE), ViewOptions(min_score=0.4))
    assert re.findall(r'<rect data-regions="(\d)"', html) == ["1", "0"]
    assert re.findall(r'<tr tabindex="0" data-regions="(\d)"', html) == ["0", "1"]
    assert "1 score less than 0.40 and are hidden" in html


def test_without_scores_the_filter_hides_nothing():
    assert views.shown(an_answer(scores=None), ViewOptions(min_score=0.9)) == [0, 1, 2]


def test_unknown_scores_stay():
    assert views.shown(an_answer(scores=(np.nan, 0.5, 0.2)), ViewOptions(min_score=0.4)) == [0, 1]


def test_regions_that_were_not_chosen_show_only_when_asked_for():
    answer = an_answer()
    answer = Answer(text="", regions=answer.regions, mentions=answer.mentions[1:])
    assert views.shown(answer, ViewOptions()) == [1]
    assert views.shown(answer, ViewOptions(unchosen=True)) == [0, 1, 2]
    html = views.result(AnswerState(answer, IMAGE), ViewOptions(unchosen=True))
    assert html.count('class="fo1-dim"') == 2


def test_the_drawing_leaves_out_what_the_filter_hides():
    answer = an_answer()
    everything = np.asarray(answer.draw(IMAGE))
    filtered = np.asarray(answer.draw(IMAGE, min_score=0.4))
    only = Answer(text="", regions=answer.regions, labels=answer.labels, mentions=(
        Mention("cat", (0,), (0.8,)), answer.mentions[1]))  # fmt: skip
    assert not np.array_equal(everything, filtered)
    np.testing.assert_array_equal(filtered, np.asarray(only.draw(IMAGE)))


def test_thinking_is_shown_apart_from_the_answer():
    text = f"<think>look at {TEXT}</think><answer>the cat</answer>"
    html = views.result(AnswerState(an_answer(), IMAGE), ViewOptions())
    assert "Thinking" not in html
    answer = Answer(text=text, regions=an_answer().regions)
    html = views.result(AnswerState(answer, IMAGE), ViewOptions())
    assert "<summary>Thinking</summary>" in html
    assert re.search(r'fo1-answer"[^>]*>the cat<', html)


def test_numbers_of_regions_that_do_not_exist_are_not_linked():
    assert views.words([Piece("cow", (9,)), Piece(" and "), Piece("cat", (0, 9))], 3) == (
        'cow and <mark tabindex="0" data-regions="0" aria-label="cat: regions 0">cat<sub>0</sub>'
        "</mark>"
    )


def test_pieces_of_a_text_are_words_and_what_points():
    assert pieces(TEXT) == [
        Piece("There are "),
        Piece("cat", (0, 2)),
        Piece(" and "),
        Piece("<b>dog</b>", (1,)),
        Piece("."),
    ]
    assert pieces("<region3>: a cat") == [Piece("region3", (3,)), Piece(": a cat")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<ground>",
        "</objects><ground>a<ground>b</ground><objects>",
        "<objects><region1>",
        "<<>>",
    ],
)
def test_broken_markup_still_gives_words(text):
    said = "".join(piece.text for piece in pieces(text))
    assert "<ground>" not in said
    assert "objects>" not in said


def test_the_state_line_says_where_each_part_stands():
    html = views.state(
        [("model", "a<b", "ready, loaded in 1.0 s"), ("proposer", "p", "loading")], "cpu"
    )
    assert 'data-state="ready"' in html
    assert 'data-state="loading"' in html
    assert "a&lt;b" in html


# --- questions


def test_a_task_that_is_added_as_a_row_is_offered_by_the_page_and_answered(fo1, monkeypatch):
    spec = TaskSpec(
        template="Which {} can be eaten?",
        takes="label",
        title="Find food",
        help="Find what can be eaten.",
        command="eat",
        hint="fruit",
    )
    monkeypatch.setattr("vlm_fo1.tasks.TASKS", {**TASKS, "food": spec})
    made: dict[str, Any] = {}
    stand_in = SimpleNamespace(
        Dropdown=lambda choices, **options: made.update({options["elem_id"]: choices}),
        Textbox=lambda **options: None,
        update=lambda **options: options,
    )
    monkeypatch.setattr("vlm_fo1.app.controls.gradio", lambda: stand_in)
    controls.question_fields("ask")
    assert made["ask-task"] == [
        *((spec.title, name) for name, spec in TASKS.items()),
        ("Find food", "food"),
    ]
    labels, words, box = controls.fields_of("food")
    assert (labels["visible"], words["visible"], box["visible"]) == (False, True, False)
    assert (words["label"], words["placeholder"]) == ("Find food", "fruit")
    with pytest.raises(PromptError, match=r"write it first, e\.g\. fruit"):
        request_of("food")
    answer = put(fo1, IMAGE, BOXES, request_of("food", words="fruit"), max_new_tokens=4)
    assert (answer.task, answer.labels) == ("food", ("fruit",))


@pytest.mark.parametrize(
    ("task", "request_made"),
    [
        ("detection", Request(task="detection", labels=("cat", "dog"))),
        ("counting", Request(task="counting", labels=("Why?",))),
        ("brief_caption", Request(task="brief_caption")),
        ("visual_prompt", Request(task="visual_prompt", regions=(2,))),
        ("identify", Request(task="identify")),
        ("free", Request(task="free", text="Why?")),
    ],
)
def test_a_task_takes_its_own_field_whatever_the_others_hold(task, request_made):
    assert request_of(task, "cat, dog", "Why?", 2) == request_made


@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_asked_and_answers_with_its_name(fo1, task):
    asked = request_of(task, ["cat"], "cat", 1)
    answer = put(fo1, IMAGE, BOXES, asked, max_new_tokens=4)
    assert answer.task == task
    assert len(answer.regions) == len(BOXES)


def test_boxes_come_from_the_proposer_when_none_are_given(fo1):
    proposing = FO1(fo1.model, fo1.processor, Stub(named=True))
    Stub.asked.clear()
    asked = request_of("detection", ["cat", "dog"])
    assert len(put(proposing, IMAGE, None, asked, max_new_tokens=4).regions) == 2
    assert Stub.asked == [["cat", "dog"]]
    why = request_of("free", words="Why?")
    put(proposing, IMAGE, None, why, look_for=("owl",), max_new_tokens=4)
    put(proposing, IMAGE, None, why, max_new_tokens=4)
    assert Stub.asked[1:] == [["owl"], ["Why?"]]


def test_where_nothing_offers_boxes_the_page_says_how_to_get_some(fo1):
    with pytest.raises(BoxError, match="start the page with --proposer"):
        put(fo1, IMAGE, None, request_of("identify"))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("detection",), "no labels"),
        (("detection", (" ",)), "no labels"),
        (("counting", (), " "), "question is empty"),
        (("dance",), "no task 'dance'"),
        (("visual_prompt", (), "", 3), "box 3 is the example"),
    ],
)
def test_a_question_with_an_empty_field_is_refused(fo1, asked, words):
    with pytest.raises(PromptError, match=words):
        put(fo1, IMAGE, BOXES, request_of(*asked))


def test_a_task_about_boxes_says_how_to_get_some(fo1):
    with pytest.raises(BoxError, match="Propose boxes"):
        put(fo1, IMAGE, [], request_of("grounded_caption"))
    free = request_of("free", words="Is this a kitchen?")
    put(fo1, IMAGE, [], free, max_new_tokens=2)


def test_labels_come_from_chips_or_commas_once_each():
    assert labels_of("cat, dog ,,cat") == labels_of(["cat", " dog", ""]) == ("cat", "dog")
    assert labels_of(None) == ()


# --- what comes in


def test_boxes_are_read_in_the_image_as_it_was_turned():
    value = {
        "image": IMAGE,
        "orientation": 1,
        "boxes": [
            {"xmin": 50, "ymin": 60, "xmax": 10, "ymax": 20},  # drawn from the lower right corner
            {"xmin": 5, "ymin": 5, "xmax": 5, "ymax": 5},  # a click
            {"xmin": -9, "ymin": 100, "xmax": 20, "ymax": 999},
        ],
    }
    seen = annotated(value, Limits())
    assert seen.image.size == (84, 112)
    assert seen.boxes_xyxy == [[10, 20, 50, 60], [0, 100, 20, 112]]
    turned = IMAGE.transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(np.asarray(seen.image), np.asarray(turned))


def test_boxes_come_in_the_order_of_their_numbers_and_new_ones_last():
    corner = {"ymin": 0, "xmax": 90, "ymax": 80}
    boxes = [
        {**corner, "xmin": 1, "label": ""},
        {**corner, "xmin": 2, "label": "10"},
        {**corner, "xmin": 3, "label": "2"},
        {**corner, "xmin": 4},
    ]
    seen = annotated({"image": IMAGE, "boxes": boxes}, Limits())
    assert [box[0] for box in seen.boxes_xyxy] == [3, 2, 1, 4]


@pytest.mark.parametrize("value", [None, {}, {"image": None, "boxes": []}])
def test_no_image_is_said_plainly(value):
    with pytest.raises(ImageError, match="no image yet"):
        annotated(value, Limits())


def test_too_many_boxes_are_refused():
    boxes = [{"xmin": 0, "ymin": 0, "xmax": 9, "ymax": 9}] * 3
    with pytest.raises(BoxError, match="at most 2"):
        annotated({"image": IMAGE, "boxes": boxes}, Limits(boxes=2))


@pytest.mark.parametrize(
    ("limits", "content", "words"),
    [
        (Limits(), b"no image at all", "photo.png cannot be used"),
        (Limits(), b"", "photo.png cannot be used"),
        (Limits(upload_mb=0.001), None, "at most 0.001 MB"),
        (Limits(pixels=100), None, "photo.png has 112 x 84 pixels, at most 100 are taken"),
    ],
)
def test_an_upload_that_cannot_be_used_is_named_without_its_path(tmp_path, limits, content, words):
    path = tmp_path / "upload.png"
    if content is None:
        IMAGE.save(path)
    else:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=words) as caught:
        limits.image(path, name="photo.png")
    assert str(tmp_path) not in str(caught.value)


def test_a_batch_without_images_or_with_too_many_is_refused():
    with pytest.raises(ImageError, match="no images yet"):
        Limits().images(["notes.txt"])
    with pytest.raises(ImageError, match="at most 1"):
        Limits(batch=1).images(["a.jpg", "b.PNG"])


def test_limits_that_let_nothing_in_are_refused():
    with pytest.raises(ConfigError, match="upload_mb"):
        Limits(upload_mb=0.0)


# --- models


def pool_of(*args, **options):
    loads = []

    def load(name, **how):
        loads.append((name, how["device"]))
        if name == "broken":
            raise ConfigError("no such weights")
        return name

    return ModelPool(*args, load_model=load, **options), loads


def test_what_is_loaded_on_a_page_gets_its_revision_token_and_strictness(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "vlm_fo1.app.models.load_proposer",
        lambda name, **how: asked.append((name, how)) or Stub(),
    )
    loading = Loading(dtype="bfloat16", revision="v1", token="hf_x", strict=True)
    pool = ModelPool(
        ["a"],
        ["upn:b"],
        loading=loading,
        load_model=lambda name, **how: asked.append((name, how)) or SimpleNamespace(),  # type: ignore[arg-type]
    )
    pool.fo1(pool.choice(), proposing=False)
    pool.proposer(pool.choice())
    both = {"device": None, "token": "hf_x", "strict": True}
    assert asked == [
        ("a", {**both, "dtype": "bfloat16", "revision": "v1"}),
        ("upn:b", both),
    ]
    assert "hf_x" not in repr(loading)


def test_a_model_is_loaded_once_however_many_ask():
    pool, loads = pool_of(["a", "b"], ["ocr"], ["cpu"])
    choice = pool.choice()
    assert pool.state(choice)[0] == ("model", "a", "loaded with the first question")
    threads = [threading.Thread(target=lambda: pool.fo1(choice, proposing=False)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == [("a", "cpu")]
    assert pool.ready(choice)
    assert pool.state(choice)[0][2].startswith("ready")
    pool.fo1(pool.choice("b"), proposing=False)
    assert loads == [("a", "cpu"), ("b", "cpu")]


def test_a_model_that_cannot_be_loaded_says_so_and_is_tried_again():
    pool, loads = pool_of(["broken"])
    for _ in range(2):
        with pytest.raises(ConfigError, match="no such weights"):
            pool.fo1(pool.choice(), proposing=False)
    assert pool.state(pool.choice())[0][2] == "could not be loaded: no such weights"
    assert len(loads) == 2


def test_the_bundled_model_brings_its_proposer_and_others_none():
    assert ModelPool().choice() == Choice(model="tiny", proposer="tiny", device=AUTO)
    pool, _ = pool_of(["elsewhere"])
    assert pool.choice().proposer is None
    with pytest.raises(ConfigError, match="--proposer"):
        pool.proposer(pool.choice())


def test_only_what_a_page_was_started_with_can_be_chosen():
    pool, _ = pool_of(["a"])
    with pytest.raises(ConfigError, match="no model '/etc'"):
        pool.choice("/etc")
    with pytest.raises(ConfigError, match="given twice"):
        pool_of(["a", "a"])


# --- long work


def test_news_come_as_they_are_and_then_the_result():
    def work(report):
        for number in range(5):
            report(number)
        return "done"

    watched: Watched = Watched(work)
    assert [item for news in watched.news() for item in news] == [0, 1, 2, 3, 4]
    assert watched.result() == "done"


def test_none_is_news_like_any_other():
    watched: Watched = Watched(lambda report: report(None))
    assert [item for news in watched.news() for item in news] == [None]


def test_stopped_work_ends_at_its_next_word():
    jobs = Jobs()
    flag = jobs.begin("me")
    started = threading.Event()

    def work(report):
        report(1)
        started.set()
        while True:
            report(2)

    watched: Watched = Watched(work, flag)
    seen = []
    for news in watched.news(0.01):
        seen += news
        assert jobs.stop("me") or flag.is_set()
    with pytest.raises(StoppedError):
        watched.result()
    assert seen[0] == 1
    jobs.end("me", flag)
    assert not jobs.stop("me")


def test_work_whose_reader_went_away_is_stopped():
    flag, over = threading.Event(), threading.Event()

    def work(report):
        try:
            while True:
                report(0)
        finally:
            over.set()

    news = Watched(work, flag).news(0.01)
    next(news)
    news.close()
    assert over.wait(5)


def test_errors_of_work_reach_who_reads_the_result():
    def work(report):
        raise PromptError("no")

    watched: Watched = Watched(work)
    assert list(watched.news()) == []
    with pytest.raises(PromptError, match="no"):
        watched.result()


# --- many images


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
    failures: list[BaseException] = [ZeroDivisionError("/secret/path"), MemoryError()]

    def broken(*_, **__):
        if failures:
            raise failures.pop(0)
        return an_answer()

    monkeypatch.setattr("vlm_fo1.app.batch.put", broken)
    rows: list[Any] = []
    asked = request_of("detection", ["cat"])
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    ask_all(fo1, paths, asked, Limits(), boxes=BOXES, report=rows.append)
    assert [row.answer is None for row in rows] == [True, True, False]
    assert rows[0].error == "Something broke here that should not; the log of the server says what."
    assert "not enough memory" in rows[1].error
    assert "a.png failed: ZeroDivisionError: /secret/path" in caplog.text


def test_a_batch_that_is_stopped_is_no_failure_of_its_image(fo1, tmp_path, monkeypatch):
    IMAGE.save(tmp_path / "a.png")

    def stopped(*_, **__):
        raise StoppedError

    monkeypatch.setattr("vlm_fo1.app.batch.put", stopped)
    asked = request_of("detection", ["cat"])
    with pytest.raises(StoppedError):
        ask_all(fo1, [tmp_path / "a.png"], asked, Limits(), boxes=BOXES, report=lambda _: None)


def test_uploads_that_are_hidden_or_that_nothing_reads_are_no_images(tmp_path):
    found = Limits().images([tmp_path / "a.png", tmp_path / "._a.png", tmp_path / "b.heic"])
    assert found == [tmp_path / "a.png"]
    with pytest.raises(ImageError, match="1 HEIC images, which nothing here reads: save them as"):
        Limits().images([tmp_path / "b.heic"])


def test_rows_are_plain_text_under_their_titles():
    cells = Row(file="a.png", answer=an_answer(count=3, plain="x" * 300)).cells()
    assert len(cells) == len(TITLES)
    assert cells[0] == "a.png"
    assert len(cells[1]) == 200
    assert cells[2:4] == ["3", "cat: 0, 2; <b>dog</b>: 1"]


def test_the_coco_file_has_one_number_for_each_label_in_all_images():
    first = an_answer()
    second = Answer(text="", regions=first.regions, mentions=(Mention("owl", (0,)),))
    data = to_coco(
        [Row(file="a", answer=first), Row(file="x", error="no"), Row(file="b", answer=second)]
    )
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


# --- examples and video


def test_the_bundled_scenes_are_examples_that_can_be_asked(fo1):
    scenes = examples()
    assert scenes
    for scene in scenes:
        request = scene.request
        asked = request_of(request.task, request.labels, words_of(request))
        assert (asked.task, asked.labels) == (request.task, request.labels)
        image = Limits().image(scene.image)
        width, height = image.size
        assert len(scene.boxes_xyxy), scene.image
        assert all(x2 <= width and y2 <= height for _, _, x2, y2 in scene.boxes_xyxy)


def test_scenes_come_with_their_own_questions(tmp_path):
    IMAGE.save(tmp_path / "one.png")
    (tmp_path / "one.boxes.json").write_text(json.dumps(BOXES))
    request = Request(task="counting", labels=("dog",))
    entry = {"image": "one.png", "boxes": "one.boxes.json", "request": request.to_dict()}
    (tmp_path / "scenes.json").write_text(json.dumps([entry]))
    (scene,) = examples(tmp_path)
    assert (scene.request, scene.boxes_xyxy) == (request, BOXES)
    (tmp_path / "scenes.json").write_text("[1")
    with pytest.raises(DataError, match=r"scenes\.json"):
        examples(tmp_path)


def test_without_sam3_things_stay_where_they_were():
    track = StillTracker().start(IMAGE, Regions(np.array(BOXES[:2], np.float32), IMAGE.size))
    masks, scores = track.follow(IMAGE)
    assert masks.shape == (2, 84, 112)
    assert masks[0].sum() == 38 * 47
    np.testing.assert_array_equal(scores, [1, 1])
    np.testing.assert_array_equal(track.follow(IMAGE)[0], masks)


# --- with Gradio, if it is there


BUILT = """
import json
from vlm_fo1.app.context import Context
from vlm_fo1.app.models import ModelPool
from vlm_fo1.app.page import build_page
def load(name, **how):
    raise SystemExit("a model was loaded")
blocks = build_page(Context(pool=ModelPool(["a", "b"], ["ocr"], load_model=load)))
named = [function.api_name for function in blocks.fns.values() if function.api_name]
print(json.dumps([named, blocks.analytics_enabled]))
"""


def test_every_action_has_a_name_and_building_the_page_loads_nothing():
    for package in ("gradio", "gradio_image_annotation"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'vlm-fo1[app]'")
    done = subprocess.run(  # aside: Gradio leaves an event loop open
        [sys.executable, "-c", BUILT], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    named, analytics = json.loads(done.stdout.splitlines()[-1])
    assert {
        *("ask", "stop", "look", "propose", "clear", "boxes", "example", "state", "batch"),
        *("stop_batch", "segment", "stop_segment", "video", "stop_video"),
    } <= set(named)
    assert not analytics


def test_without_gradio_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    context = importlib.import_module("vlm_fo1.app.context")
    with pytest.raises(MissingExtraError, match=r"vlm-fo1\[app\]"):
        context.gradio()
