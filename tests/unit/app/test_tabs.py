"""The callbacks of the page, called as Gradio calls them; a stand-in takes Gradio's place."""

import dataclasses
import json
import logging
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tests.helpers.stub_proposer import Stub

from vlm_fo1.app import views
from vlm_fo1.app.annotator import marked_boxes, offered, proposed_boxes, typed_boxes
from vlm_fo1.app.ask_tab import run_ask
from vlm_fo1.app.batch_tab import run_batch
from vlm_fo1.app.context import Context, Scratch, refusing
from vlm_fo1.app.events import run_job
from vlm_fo1.app.examples import captions, examples
from vlm_fo1.app.limits import Limits, annotated
from vlm_fo1.app.models import ModelPool
from vlm_fo1.app.question import request_of
from vlm_fo1.app.segment_tab import run_segment
from vlm_fo1.app.video_tab import frames_source, run_video
from vlm_fo1.errors import BoxError, ConfigError, ImageError, PromptError

IMAGE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (84, 112, 3), np.uint8))
VALUE = {
    "image": IMAGE,
    "boxes": [{"xmin": 2, "ymin": 3, "xmax": 40, "ymax": 50}],
    "orientation": 0,
}
NAMES = (None, None, None)
SKIPPED = "skipped"
LOOK = views.ViewOptions(unchosen=True)


class RefusedError(Exception):
    """What stands for the error of Gradio."""

    def __init__(self, text, print_exception=True):
        super().__init__(text)
        self.printed = print_exception


@pytest.fixture(autouse=True)
def gradio(monkeypatch):
    stand_in = ModuleType("gradio")
    vars(stand_in).update(skip=lambda: SKIPPED, Error=RefusedError)
    monkeypatch.setitem(sys.modules, "gradio", stand_in)


@pytest.fixture(scope="module")
def context(fo1):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlm_fo1.app.models.load_proposer", lambda name, **how: Stub())
        made = Context(pool=ModelPool(["tiny"], load_model=lambda name, **how: fo1))
        yield made
    made.scratch._home.cleanup()


def ask(context, value=VALUE, flag=None, proposing=False, words="cat"):
    asked = request_of("counting", words=words)
    flag = flag or threading.Event()
    scores = None if proposing else {}
    return run_ask(
        context, flag, value, asked, NAMES, scores=scores, max_new_tokens=4, options=LOOK
    )


def test_a_question_shows_that_it_works_and_then_view_values_files_and_state(context):
    *busy, last = ask(context)
    assert busy
    assert all(shown[1:6] == [None] * 5 for shown in busy)  # see `Updates`
    assert all("fo1-busy" in shown[0] for shown in busy)
    view, kept, values, json_file, coco_file, drawing, state = last
    assert "fo1-result" in view
    assert kept.answer.to_dict() == values
    assert json.loads(Path(json_file).read_text())["regions"]["xyxy"] == [[2, 3, 40, 50]]
    json.loads(Path(coco_file).read_text())
    with Image.open(drawing) as drawn:
        assert drawn.size == IMAGE.size
    assert 'data-state="ready"' in state


def test_the_proposer_is_asked_when_the_visitor_leaves_the_boxes_to_it(context):
    *_, last = ask(context, proposing=True)
    assert len(last[1].answer.regions) != 1


def test_an_expected_error_is_shown_and_raised_as_a_message_and_its_job_is_over(context):
    shown = run_job(context, "ask me", lambda flag: ask(context, words=" "), outputs=7)
    assert "the question is empty" in next(shown)[0]
    with pytest.raises(RefusedError, match="question is empty") as caught:
        next(shown)
    assert not caught.value.printed
    assert not context.jobs.stop("ask me")


def test_a_stroke_of_the_brush_becomes_the_box_around_it_in_pixels_of_the_image():
    layer = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    draw.ellipse((2, 2, 11, 13), outline=(213, 94, 0, 255))
    draw.line((25, 18, 35, 8), fill=(213, 94, 0, 255))
    assert marked_boxes({"layers": [layer]}, (80, 40)) == [[4, 4, 24, 28], [50, 16, 72, 38]]
    for nothing in (None, {"layers": []}, {"layers": [Image.new("RGBA", (4, 4))]}):
        with pytest.raises(BoxError, match="nothing is marked yet"):
            marked_boxes(nothing, (80, 40))


def test_a_foreign_error_is_one_sentence_for_visitors_and_a_traceback_in_the_log(context, caplog):
    def broken(flag):
        raise ZeroDivisionError("secret")
        yield

    shown = run_job(context, "ask me", broken, outputs=2, lasting=1)
    first = next(shown)
    assert "secret" not in first[0]
    assert first[1:] == [None, SKIPPED]
    with (
        caplog.at_level(logging.DEBUG, "vlm_fo1"),
        pytest.raises(RefusedError, match="the log of the server says what") as caught,
    ):
        next(shown)
    assert not caught.value.printed


def test_a_button_whose_work_fails_with_a_foreign_error_shows_the_same_sentence(caplog):
    def broken(value):
        return value["no such key"]

    with (
        caplog.at_level(logging.DEBUG, "vlm_fo1"),
        pytest.raises(RefusedError, match="the log of the server says what"),
    ):
        refusing(broken)({})
    assert "KeyError" in caplog.text
    assert "Traceback" in caplog.text


def test_a_stopped_question_says_so_and_is_no_error(context):
    def stopped(flag):
        assert context.jobs.stop("ask me")
        yield from ask(context, flag=flag)

    *_, last = run_job(context, "ask me", stopped, outputs=7)
    assert "Stopped" in last[0]


def test_a_stopped_batch_keeps_what_was_finished(context, tmp_path):
    paths = []
    for number in range(4):
        paths.append(str(tmp_path / f"{number}.png"))
        IMAGE.save(paths[-1])
    flag, rows = threading.Event(), []
    asked = request_of("counting", words="cat")
    for shown in run_batch(context, flag, paths, None, asked, NAMES, max_new_tokens=4):
        rows.append(shown)
        if "<td>0.png" in shown[1]:
            flag.set()
    progress, table, lines, coco = rows[-1]
    done = table.count("<tr>") - 1
    assert 1 <= done <= 4
    assert f"{done} of 4 answered" in progress
    assert ("what was finished is kept" in progress) == (done < 4)
    assert len(Path(lines).read_text().splitlines()) == done
    assert len(json.loads(Path(coco).read_text())["images"]) == done


def test_a_batch_takes_boxes_by_file_name(context, tmp_path):
    IMAGE.save(tmp_path / "a.png")
    (tmp_path / "boxes.json").write_text(json.dumps({"a.png": [[1, 2, 30, 40]]}))
    asked = request_of("brief_caption")
    paths, boxes = [str(tmp_path / "a.png")], str(tmp_path / "boxes.json")
    flag = threading.Event()
    *_, last = run_batch(context, flag, paths, boxes, asked, NAMES, max_new_tokens=4)
    (record,) = map(json.loads, Path(last[2]).read_text().splitlines())
    assert record["regions"]["xyxy"] == [[1, 2, 30, 40]]


def test_a_phrase_without_image_or_words_is_refused(context):
    asked = {"phrase": " ", "query": "", "max_new_tokens": 4}
    with pytest.raises(ImageError, match="no image yet"):
        next(run_segment(context, threading.Event(), None, asked, NAMES, options=LOOK))
    with pytest.raises(PromptError, match="phrase is empty"):
        next(run_segment(context, threading.Event(), IMAGE, asked, NAMES, options=LOOK))
    asked |= {"every": 1, "tokens": 4}
    with pytest.raises(PromptError, match="phrase is empty"):
        next(run_video(context, threading.Event(), [], asked, NAMES))


def test_a_phrase_is_answered_with_its_files(context):
    asked = {"phrase": "the left cat", "query": "cat", "max_new_tokens": 4}
    shown = run_segment(context, threading.Event(), IMAGE, asked, NAMES, options=LOOK)
    *_, (view, kept, *saved) = shown
    assert view == views.result(kept, LOOK)
    assert [Path(path).name for path in saved] == ["answer.json", "coco.json", "answer.jpg"]


def test_a_video_is_one_file_or_its_frames(context, tmp_path):
    with pytest.raises(ImageError, match="no video yet"):
        frames_source(context, [], tmp_path)
    with pytest.raises(ImageError, match="one at a time"):
        frames_source(context, ["a.mp4", "b.mp4"], tmp_path)
    frame = tmp_path / "0.png"
    IMAGE.save(frame)
    found = frames_source(context, [str(frame)], tmp_path)
    assert [path.name for path in found.iterdir()] == ["0.png"]


def test_boxes_are_typed_as_json():
    for text in ("[1, 2, 30, 40]", "[[1, 2, 30, 40]]"):
        typed = typed_boxes(text, (112, 84))
        assert typed.regions.xyxy.tolist() == [[1, 2, 30, 40]]
        assert typed.notes == ()
    shares = typed_boxes("[0.1, 0.1, 0.5, 0.5]", (112, 84))
    assert "lie between 0 and 1 and were taken as pixels" in shares.notes[0]
    with pytest.raises(BoxError, match="no JSON"):
        typed_boxes("1 2 30 40", (112, 84))


def test_frames_and_videos_with_too_many_pixels_are_refused_under_their_own_names(
    context, tmp_path, monkeypatch
):
    small = dataclasses.replace(context, limits=Limits(pixels=100))
    frame, broken = tmp_path / "a.png", tmp_path / "b.png"
    IMAGE.save(frame)
    broken.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"a\.png has 112 x 84 pixels, at most 100"):
        frames_source(small, [str(frame)], tmp_path)
    clip = tmp_path / "clip.mp4"
    clip.touch()
    monkeypatch.setattr(
        "vlm_fo1.app.video_tab.VideoFile", lambda path: SimpleNamespace(size_wh=(20, 20))
    )
    with pytest.raises(ImageError, match=r"clip\.mp4 has 20 x 20 pixels"):
        frames_source(small, [str(clip)], tmp_path)
    (tmp_path / "other").mkdir()
    found = frames_source(small, [str(broken)], tmp_path / "other")
    assert [path.name for path in found.iterdir()] == ["b.png"]


def test_proposed_boxes_keep_their_scores_until_somebody_moves_them(context):
    value, scores = proposed_boxes(context, context.pool.choice(), VALUE, ())
    assert len(scores) == len(value["boxes"]) > 1
    seen = annotated(value, context.limits)
    regions = offered(seen, scores)
    assert regions.scores.tolist() == pytest.approx(list(scores.values()))
    value["boxes"][0]["xmax"] += 1
    moved = offered(annotated(value, context.limits), scores)
    assert np.isnan(moved.scores).tolist() == [True, *[False] * (len(scores) - 1)]
    assert offered(seen, {}) == seen.boxes_xyxy


def test_where_nothing_proposes_the_button_says_how_to_get_a_proposer(context):
    model = context.pool.fo1(context.pool.choice(), proposing=False)
    bare = Context(pool=ModelPool(["other"], load_model=lambda name, **how: model))
    with pytest.raises(ConfigError, match="start the page with --proposer"):
        proposed_boxes(bare, bare.pool.choice(), VALUE, ())
    bare.scratch._home.cleanup()


def test_an_image_is_put_back_as_it_was_uploaded_and_turned(context):
    turned = {**VALUE, "orientation": 1, "path": "upload.jpg"}
    value, _ = proposed_boxes(context, context.pool.choice(), turned, ())
    assert (value["image"], value["orientation"]) == ("upload.jpg", 1)


def test_files_for_download_go_when_they_are_too_old():
    scratch = Scratch(kept_s=-60.0)
    first = scratch.folder()
    assert first.exists()
    second = scratch.folder()
    assert second.exists()
    assert not first.exists()
    scratch._home.cleanup()


def test_every_example_says_what_is_asked():
    scenes = examples()
    assert len(scenes) >= 6
    assert len({scene.request.task for scene in scenes}) >= 6
    style = captions(scenes)
    assert ':nth-of-type(2)::after { content: "Count"; }' in style
    assert style.count("content:") == len(scenes)


def test_columns_with_nothing_to_say_are_left_out(context):
    *_, last = ask(context)
    assert "Score</th>" not in last[0]  # drawn boxes have none
    *_, last = ask(context, proposing=True)
    assert "Score</th>" in last[0]


def test_a_small_image_is_drawn_large_and_sharp(context):
    *_, last = ask(context)
    answer = last[1].answer
    assert answer.draw(IMAGE, min_side=900).size == (900, 675)
    assert answer.draw(IMAGE, min_side=50).size == IMAGE.size
    assert answer.draw(IMAGE, min_side=900, max_side=56).size == (56, 42)
