"""A scene asks as many questions as its regions need, and gives one answer."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.helpers.hundred_regions import with_a_hundred_numbers
from tests.helpers.scripted_model import say
from tests.helpers.stub_proposer import painted
from tests.helpers.windows import PIXELS, SIZE, grid, regions

from vlm_fo1.engine import Generation, LocalEngine
from vlm_fo1.errors import ConfigError
from vlm_fo1.markup import RELEASED, renumbered
from vlm_fo1.scene import Scene

SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def fo1(fo1):
    return with_a_hundred_numbers(fo1)


@pytest.fixture
def knowing(monkeypatch, fo1):
    """Lets the model name the shown regions that are in a dict from region to probability."""
    asked: list[list[int]] = []

    def teach(truth, label="cat", after=""):
        plans = []
        plan = Scene.plan

        def planned(self, *args, **options):
            plans.append(plan(self, *args, **options))
            return plans[-1]

        def generate(self, prompts, *, on_id=None):
            done = []
            for place, draft in enumerate(plans[-1].drafts):
                numbers = list(draft.window.indices)
                asked.append(numbers)
                named = [own for own, number in enumerate(numbers) if number in truth]
                text = RELEASED.mention(label, named) + after
                ids = fo1.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
                if on_id is not None:
                    for id_ in [*ids, None]:
                        on_id(place, id_)
                sure = [truth[numbers[own]] for own in named]
                done.append(Generation(tuple(ids), tuple(sure), ended=True))
            return done

        monkeypatch.setattr(Scene, "plan", planned)
        monkeypatch.setattr(LocalEngine, "generate", generate)
        return asked

    return teach


@pytest.mark.parametrize("tile", [0, -5, 31])
def test_a_tile_too_small_to_see_anything_is_refused(fo1, tile):
    with pytest.raises(ConfigError, match=f"tile = {tile}: the side of a tile in pixels, at least"):
        fo1.open(PIXELS, grid(3), tile=tile)


def test_detection_takes_tiles_by_itself_where_things_would_be_too_small(fo1, knowing):
    pixels = np.zeros((800, 1000, 3), np.uint8)
    boxes = [[10, 10, 40, 40], [950, 700, 980, 730], [500, 30, 530, 60]]
    asked = knowing({0: 0.9, 1: 0.8, 2: 0.7})
    answer = fo1.detect(pixels, "cat", boxes, scores=None)
    assert answer.windows == len(asked) == 3
    assert "the image is seen in tiles of" in answer.problems[0]
    assert "3 windows were asked" in answer.problems[0]
    assert sorted(answer.mentions[0].indices) == [0, 1, 2]
    assert fo1.detect(pixels, "cat", boxes, tile=None).windows == 1
    assert fo1.open(pixels, boxes).tile is not None
    large = [[10, 10, 400, 400], [500, 300, 980, 730]]
    assert fo1.detect(pixels, "cat", large).windows == 1
    assert fo1.refer(pixels, "cat", boxes).windows == 1


@pytest.mark.parametrize("scored", [False, True])
def test_detection_of_250_regions_asks_three_windows_and_points_at_the_boxes_given(
    fo1, knowing, scored
):
    scores = np.random.default_rng(2).permutation(250) / 250 if scored else None
    truth = dict.fromkeys([3, 99, 100, 180, 249], 0.75)
    asked = knowing(truth)
    answer = fo1.detect(PIXELS, ["cat", "dog"], regions(grid(250), scores), scores=None)
    assert [len(numbers) for numbers in asked] == [84, 83, 83]
    assert answer.regions.xyxy.tolist() == grid(250).tolist()
    assert sorted(answer.mentions[0].indices) == sorted(truth)
    assert answer.mentions[0].confidence == (0.75,) * 5
    assert answer.windows == 3
    assert len(answer["dog"]) == 0
    assert answer.problems == (
        "250 regions were offered, the model has numbers for 100: "
        "3 windows were asked and their answers merged",
    )
    tags = [int(tag) for tag in RELEASED.tag_pattern().findall(answer.text)]
    assert tags == list(answer.mentions[0].indices)


def test_counting_adds_up_what_is_left_after_the_merge(fo1, knowing):
    boxes = grid(150)
    boxes[120] = boxes[5] + (0, 0, 1, 0)  # the same thing, offered twice
    knowing({5: 0.5, 7: 0.5, 120: 0.9, 149: 0.5}, after=" so 2 cats")
    answer = fo1.count(PIXELS, "cat", boxes)
    assert answer.count == 3
    assert answer.mentions[0].indices == (7, 120, 149)
    assert answer.problems[1].startswith("1 regions overlap a surer one")


def test_what_a_window_could_not_use_is_said_with_its_number(fo1, monkeypatch):
    say(monkeypatch, fo1, "<ground>cat</ground><objects><region75></objects>")
    answer = fo1.detect(PIXELS, "cat", grid(151))
    assert answer.mentions[0].indices == (75,)
    assert answer.problems[1:] == (
        "window 2: label 'cat': region 151 does not exist, 151 were offered",
    )


def test_the_towers_run_once_for_all_windows_of_an_image(fo1, knowing, monkeypatch):
    seen = []
    take = LocalEngine.preprocess
    monkeypatch.setattr(
        LocalEngine,
        "preprocess",
        lambda self, image, xyxy: seen.append((image.size, len(xyxy))) or take(self, image, xyxy),
    )
    knowing({})
    scene = fo1.open(PIXELS, grid(150))
    assert seen == []  # what cannot be asked is refused before
    for answer in (scene.detect("cat"), scene.refer("cat"), scene.detect("cat")):
        assert set(answer.timing_s) == {"propose", "encode", "answer"}
    assert seen == [(SIZE, 150)]


def test_tiles_show_each_thing_in_its_own_pixels_and_answers_come_back_in_those_of_the_image(
    fo1, knowing, monkeypatch
):
    boxes = np.array([[4, 4, 24, 24], [130, 90, 150, 110], [280, 180, 300, 200], [10, 8, 290, 190]])
    shown = []
    take = LocalEngine.preprocess

    def look(self, image, xyxy):
        shown.append((np.asarray(image), xyxy.astype(int).tolist()))
        return take(self, image, xyxy)

    monkeypatch.setattr(LocalEngine, "preprocess", look)
    knowing(dict.fromkeys([0, 2, 3], 0.5))
    pixels = painted(SIZE, boxes[:3])
    answer = fo1.detect(pixels, "cat", boxes, tile=100)
    assert [image.shape[:2] for image, _ in shown] == [(200, 300), *[(100, 100)] * 3]
    for number, (image, [(x1, y1, x2, y2)]) in enumerate(shown[1:], start=1):
        assert (image[y1:y2, x1:x2] == (number, 255 - number, 7)).all()
    assert sorted(answer.mentions[0].indices) == [0, 2, 3]
    assert answer["cat"].xyxy.tolist() == boxes[[3, 0, 2]].tolist()
    assert answer.windows == 4
    assert answer.problems == (
        "4 regions were offered, the image is seen in tiles of 100 pixels: "
        "4 windows were asked and their answers merged",
    )


def test_with_tiles_the_other_questions_see_the_whole_image(fo1, knowing):
    asked = knowing({1: 0.5})
    scene = fo1.open(PIXELS, grid(30), tile=64)
    answer = scene.refer("the cat", scores=None)
    assert asked == [list(range(30))]
    assert (answer.windows, answer.mentions[0].indices, answer.problems) == (1, (1,), ())


def test_an_image_smaller_than_a_tile_is_one_question(fo1, knowing):
    asked = knowing({1: 0.5})
    answer = fo1.detect(PIXELS, "cat", grid(30), tile=1024, scores=None)
    assert len(asked) == answer.windows == 1
    assert answer.problems == ()


def test_a_window_answers_as_if_its_regions_were_all_there_are(fo1):
    boxes = grid(130)
    together = fo1.detect(PIXELS, "cat", boxes, **SHORT).text.split("\n")
    halves = (boxes[:65], boxes[65:])
    alone = [fo1.detect(PIXELS, "cat", half, **SHORT).text for half in halves]
    assert together == [alone[0], renumbered(alone[1], lambda own: own + 65)]


@pytest.mark.parametrize("tile", [None, 128])
def test_the_same_question_gets_the_same_bytes_from_any_thread(fo1, tile):
    boxes = grid(130)
    alone = fo1.detect(PIXELS, "cat", boxes, tile=tile, **SHORT).to_json()
    assert json.loads(alone)["windows"] > 1
    scene = fo1.open(PIXELS, boxes, tile=tile)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda _: scene.detect("cat", **SHORT).to_json(), range(2)))
    assert together == [alone, alone]


def test_the_streamed_pieces_of_all_windows_are_the_text(fo1, monkeypatch):
    say(monkeypatch, fo1, "a <ground>cat</ground><objects><region3></objects> here")
    pieces: list[str] = []
    answer = fo1.detect(PIXELS, "cat", grid(130), on_text=pieces.append)
    assert "".join(pieces) == answer.text
    assert "<region68>" in answer.text
