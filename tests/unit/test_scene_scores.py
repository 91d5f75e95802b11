"""Scores of a scene's answers: where they come from, and that nothing around them moves them."""

import json
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image
from tests.helpers.hundred_regions import with_a_hundred_numbers
from tests.helpers.scripted_model import say

from vlm_fo1 import FO1
from vlm_fo1.engine import LocalEngine
from vlm_fo1.errors import ConfigError, PromptError
from vlm_fo1.markup import RELEASED
from vlm_fo1.scores import Calibration
from vlm_fo1.tasks import Request

DEMO = files("vlm_fo1") / "assets" / "demo"
BOXES = json.loads((DEMO / "boxes.json").read_text())
PHOTO = (DEMO / "photo.jpg").read_bytes()
LABELS = ["orange", "dog", "apple"]
SMALL = Image.new("RGB", (112, 84), "red")
SMALL_BOXES = [[2, 3, 40, 50], [30, 20, 100, 80], [60, 5, 110, 40]]


@pytest.fixture(scope="module")
def fo1():
    return FO1.from_pretrained("tiny")


@pytest.fixture(scope="module")
def alone(fo1):
    return fo1.detect(PHOTO, LABELS, BOXES)


def words(fo1, prompt):
    return fo1.processor.tokenizer.decode(prompt)


def test_every_label_and_region_has_a_score_and_the_text_stays_as_it_was(fo1, alone):
    plain = fo1.detect(PHOTO, LABELS, BOXES, scores=None)
    assert plain.scores is None
    assert plain.presence == {}
    assert (alone.text, alone.mentions) == (plain.text, plain.mentions)
    assert alone.scores is not None
    assert alone.scores.shape == (3, len(BOXES))
    assert not np.isnan(alone.scores).any()
    for said in alone.mentions:
        row = alone.scores_of(said.label)
        others = np.delete(row, said.indices)
        assert all(row[list(said.indices)] > 0.5)
        assert all(others < 0.5)
        for index, sure in zip(said.indices, said.confidence or (), strict=True):
            assert row[index] >= sure - 1e-4  # the largest over steps, of which one named it
    assert alone.presence["dog"] < 0.1
    assert min(alone.presence["orange"], alone.presence["apple"]) > 0.9


def test_scores_do_not_move_with_the_batch_with_streaming_or_with_an_open_scene(fo1, alone):
    request = Request(task="detection", labels=tuple(LABELS))
    short = Request(task="detection", labels=("cat",))
    items = [(SMALL, short, SMALL_BOXES), (PHOTO, request, BOXES), (PHOTO, short, BOXES[:4])]
    together = [*fo1.answer_many(items, batch_size=3)][1]
    streamed = fo1.detect(PHOTO, LABELS, BOXES, on_text=lambda _: None)
    scene = fo1.open(PHOTO, BOXES)
    scene.count("orange")
    for answer in (together, streamed, scene.detect(LABELS)):
        assert answer.scores == pytest.approx(alone.scores, abs=1e-4)
        assert answer.presence == pytest.approx(alone.presence, abs=1e-4)


def test_branches_ask_about_each_label_with_its_list_begun(fo1, alone, monkeypatch):
    prompts = []
    generate = LocalEngine.generate

    def recorded(self, some, **options):
        prompts.extend(some)
        return generate(self, some, **options)

    monkeypatch.setattr(LocalEngine, "generate", recorded)
    answer = fo1.detect(PHOTO, LABELS, BOXES, scores="branches")
    starts = [words(fo1, prompt.start) for prompt in prompts]
    assert starts == [f"<ground>{label}</ground><objects>" for label in LABELS]
    assert ["Please detect dog in this" in words(fo1, p.ids) for p in prompts] == [
        False,
        True,
        False,
    ]
    assert answer.text.split("\n")[1] == RELEASED.mention("dog", []).replace(
        "<objects>", "<objects>None"
    )
    assert [said.label for said in answer.mentions] == LABELS
    assert answer.problems == ()
    assert answer.scores is not None
    assert answer.presence.keys() == alone.presence.keys()
    monkeypatch.undo()
    streamed: list[str] = []
    again = fo1.detect(PHOTO, LABELS, BOXES, scores="branches", on_text=streamed.append)
    assert "".join(streamed) == again.text == answer.text
    one = fo1.detect(PHOTO, ["apple"], BOXES, scores="branches")
    assert answer.scores_of("apple") == pytest.approx(one.scores_of("apple"), abs=1e-4)


def test_a_label_that_the_answer_left_out_is_asked_again_for_its_scores_alone(fo1, monkeypatch):
    script = say(monkeypatch, fo1, RELEASED.mention("cat", [1]))
    answer = fo1.detect(SMALL, ["cat", "dog"], SMALL_BOXES)
    assert len(script.prompts) == 2
    assert "detect dog in this image" in words(fo1, script.prompts[1])
    assert answer.text == RELEASED.mention("cat", [1])
    assert [(said.label, said.indices) for said in answer.mentions] == [("cat", (1,))]
    assert answer.scores is not None
    assert answer.scores.shape == (2, 3)
    assert not np.isnan(answer.scores).any()
    assert set(answer.presence) == {"cat", "dog"}
    assert answer.problems == ()
    (both,) = fo1.answer_many(
        [(SMALL, Request(task="detection", labels=("cat", "dog")), SMALL_BOXES)]
    )
    assert both.to_dict() == answer.to_dict()


def test_a_label_that_an_answer_did_not_come_to_has_scores_too(fo1):
    cut = fo1.detect(PHOTO, LABELS, BOXES, max_new_tokens=7)
    assert "cut at max_new_tokens" in cut.problems[-1]
    assert cut.scores is not None
    assert not np.isnan(cut.scores).any()
    one = fo1.detect(PHOTO, ["apple"], BOXES, scores="branches")
    assert cut.scores_of("apple") == pytest.approx(one.scores_of("apple"), abs=1e-4)


def test_windows_keep_the_scores_that_each_gave_in_their_columns(fo1):
    many = with_a_hundred_numbers(fo1)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (130, 2))
    boxes = np.concatenate([corners, corners + 20], 1)
    whole = many.detect(SMALL, ["cat"], boxes, tile=None, scores="branches", max_new_tokens=4)
    halves = [
        many.detect(SMALL, ["cat"], half, tile=None, scores="branches", max_new_tokens=4)
        for half in (boxes[:65], boxes[65:])
    ]
    assert whole.windows == 2
    joined = np.concatenate([half.scores_of("cat") for half in halves])
    assert whole.scores_of("cat") == pytest.approx(joined, abs=1e-4)
    assert whole.presence["cat"] == pytest.approx(
        max(half.presence["cat"] for half in halves), abs=1e-4
    )


def test_without_regions_nothing_is_asked_again(fo1, monkeypatch):
    script = say(monkeypatch, fo1, "None")
    answer = fo1.detect(SMALL, ["cat", "dog"], [])
    assert len(script.prompts) == 1
    assert answer.scores is not None
    assert answer.scores.shape == (2, 0)


def test_a_calibrated_model_gives_calibrated_scores_and_another_selection_keeps_it(fo1, alone):
    by = Calibration(temperature=2, presence_temperature=3)
    warm = FO1(fo1.model, fo1.processor, fo1.proposer, calibration=by)
    answer = warm.detect(PHOTO, LABELS, BOXES)
    assert answer.scores == pytest.approx(alone.calibrated(by).scores, abs=1e-4)
    assert answer.presence["dog"] == pytest.approx(by.presence(alone.presence["dog"]), abs=1e-4)
    assert answer.mentions == alone.mentions
    assert warm.selecting(warm.selection).calibration == by
    assert warm.seeing(64).calibration == by


def test_a_calibration_that_cannot_be_read_is_refused_before_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "vlm_fo1.fo1.FO1ForConditionalGeneration.from_pretrained", lambda *_, **__: 1 / 0
    )
    with pytest.raises(ConfigError, match=r"nowhere\.json does not exist"):
        FO1.from_pretrained("tiny", calibration=tmp_path / "nowhere.json")


@pytest.mark.parametrize("scores", ["both", True, ""])
def test_a_way_to_score_that_does_not_exist_is_refused_before_the_towers_look(
    fo1, monkeypatch, scores
):
    monkeypatch.setattr(fo1.model, "encode_images", lambda *_, **__: 1 / 0)
    said = f"scores is {scores!r}: 'joint', 'branches' or None is needed"
    with pytest.raises(PromptError, match=said):
        fo1.detect("no-such-file.jpg", "cat", SMALL_BOXES, scores=scores)
    with pytest.raises(PromptError, match=said):
        fo1.open(SMALL, SMALL_BOXES).detect("cat", scores=scores)
    with pytest.raises(PromptError, match=said):
        next(iter(fo1.answer_many([], scores=scores)))
