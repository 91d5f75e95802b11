"""More regions than a question holds: which go together, and how their answers become one.

`knowing` makes the model answer by truth, with everything around it real.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from tests.helpers_script import say
from tests.helpers_stub_proposer import painted
from tests.helpers_tiny import with_a_hundred_numbers

from vlm_fo1 import FO1
from vlm_fo1.answer import Answer, Mention
from vlm_fo1.engine import Generation, LocalEngine
from vlm_fo1.errors import ConfigError
from vlm_fo1.markup import RELEASED, renumbered
from vlm_fo1.merging import merge_answers, merge_tiles
from vlm_fo1.regions import Regions
from vlm_fo1.scene import Scene
from vlm_fo1.tiling import Window, best_first, best_of, cut_regions, fitting_tile, in_tiles, tiles

SIZE = (300, 200)
PIXELS = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
SHORT = {"max_new_tokens": 6}


def grid(count, side=8):
    """Boxes next to each other, row by row, none touching another."""
    columns = SIZE[0] // (side + 2)
    rows, places = np.divmod(np.arange(count), columns)
    corners = np.stack([places, rows], 1) * (side + 2)
    return np.concatenate([corners, corners + side], 1).astype(np.float32)


def regions(boxes, scores=None, size_wh=SIZE):
    known = None if scores is None else np.array(scores, np.float32)
    return Regions(np.array(boxes, np.float32).reshape(-1, 4), size_wh, known)


@pytest.fixture(scope="module")
def fo1():
    loaded = with_a_hundred_numbers(FO1.from_pretrained("tiny"))
    return FO1(loaded.model, loaded.processor)


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


# --- which regions go together -------------------------------------------------------------------


def test_windows_hold_as_many_regions_each_and_are_as_few_as_can_be():
    for count in (0, 1, 99, 100, 101, 250):
        sizes = [
            len(one.indices) for one in best_first(regions(grid(count)), np.arange(count), 100)
        ]
        assert sum(sizes) == count
        assert len(sizes) == max(1, -(-count // 100))
        assert max(sizes) - min(sizes) <= 1


def test_windows_by_score_take_the_best_first_and_keep_their_order_within():
    offered = regions(grid(5), [0.1, 0.9, np.nan, 0.5, 0.9])
    found = best_first(offered, np.arange(5), 2)
    assert [window.indices for window in found] == [(1, 4), (0, 3), (2,)]
    assert {window.area for window in found} == {(0, 0, *SIZE)}


def test_windows_without_scores_follow_the_order_and_no_regions_are_one_window():
    found = best_first(regions(grid(5)), np.arange(5), 2)
    assert [window.indices for window in found] == [(0, 1), (2, 3), (4,)]
    assert best_first(Regions.empty(SIZE), np.arange(0), 2) == [Window((0, 0, *SIZE), ())]
    assert in_tiles(Regions.empty(SIZE), 100, 2) == [Window((0, 0, *SIZE), ())]


def test_a_single_question_shows_the_best():
    scores = np.random.default_rng(3).random(250).astype(np.float32)
    offered = regions(grid(250), scores)
    shown = best_of(offered, 100)
    assert offered[shown.indices].xyxy.tolist() == offered.best(100).xyxy.tolist()
    assert shown.area == (0, 0, *SIZE)
    assert best_of(regions(grid(5)), 3).indices == (0, 1, 2)


@pytest.mark.parametrize("size_wh", [(300, 200), (1000, 64), (64, 64), (65, 500), (20, 90)])
def test_tiles_cover_the_image_and_overlap_by_a_quarter(size_wh):
    covered = np.zeros((size_wh[1], size_wh[0]), np.int64)
    found = tiles(size_wh, 64)
    for left, top, right, bottom in found:
        assert (right - left, bottom - top) == (min(64, size_wh[0]), min(64, size_wh[1]))
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1
    lefts = sorted({area[0] for area in found})
    assert all(second - first <= 48 for first, second in pairwise(lefts))


@pytest.mark.parametrize("tile", [0, -5, 31])
def test_a_tile_too_small_to_see_anything_is_refused(fo1, tile):
    with pytest.raises(ConfigError, match=f"tile = {tile}: the side of a tile in pixels, at least"):
        fo1.open(PIXELS, grid(3), tile=tile)


def seen_within_100(size_wh):
    """How a model sees images that it shrinks to at most 100 x 100 pixels in area."""
    factor = min(1.0, 100 / (size_wh[0] * size_wh[1]) ** 0.5)
    return round(size_wh[0] * factor), round(size_wh[1] * factor)


@pytest.mark.parametrize(
    ("side", "size_wh", "tile"),
    [
        (36, (400, 400), 180),  # seen with 9 pixels: tiles show it with 20
        (31, (200, 200), 155),  # seen with a little less than it takes
        (33, (200, 200), None),  # and with a little more
        (12, (400, 400), 100),  # no sharper than the image is
        (80, (400, 400), None),  # seen with 20 pixels
        (12, (120, 90), None),  # tiles would show hardly more
        (12, (90, 90), None),  # seen as it is
        (None, (400, 400), 200),  # nothing was found, perhaps for its size
        (None, (190, 190), None),
    ],
)
def test_tiles_are_as_large_as_lets_the_model_see_the_things_well(side, size_wh, tile):
    boxes = [] if side is None else [[0, 0, side, side]] * 3 + [[0, 0, *size_wh]]
    assert fitting_tile(regions(boxes, size_wh=size_wh), seen_within_100) == tile


def test_detection_takes_tiles_by_itself_where_things_would_be_too_small(fo1, knowing):
    pixels = np.zeros((800, 1000, 3), np.uint8)
    boxes = [[10, 10, 40, 40], [950, 700, 980, 730], [500, 30, 530, 60]]
    asked = knowing({0: 0.9, 1: 0.8, 2: 0.7})
    answer = fo1.detect(pixels, "cat", boxes)
    assert answer.windows == len(asked) == 3
    assert "the image is seen in tiles of" in answer.problems[0]
    assert "3 windows were asked" in answer.problems[0]
    assert sorted(answer.mentions[0].indices) == [0, 1, 2]
    assert fo1.detect(pixels, "cat", boxes, tile=None).windows == 1
    assert fo1.open(pixels, boxes).tile is not None
    large = [[10, 10, 400, 400], [500, 300, 980, 730]]
    assert fo1.detect(pixels, "cat", large).windows == 1
    assert fo1.refer(pixels, "cat", boxes).windows == 1


def test_every_region_is_in_one_tile_that_shows_it_whole_or_with_the_whole_image():
    rng = np.random.default_rng(1)
    sides = rng.uniform(4, 120, (200, 2))
    corners = rng.uniform(0, 1, (200, 2)) * (np.array(SIZE) - sides)
    offered = regions(np.concatenate([corners, corners + sides], 1))
    found = in_tiles(offered, 80, 20)
    assert sorted(i for window in found for i in window.indices) == list(range(200))
    for window in found:
        assert 0 < len(window.indices) <= 20
        width, height = window.area[2] - window.area[0], window.area[3] - window.area[1]
        boxes = cut_regions(offered, window)
        assert boxes.min() >= 0
        assert (boxes[:, 2:] <= (width, height)).all()
        small = (sides[list(window.indices)] <= 20).all(1)
        assert window.area != (0, 0, *SIZE) or not small.any()


def test_what_parts_of_an_image_showed_is_put_together_without_cut_pieces():
    left, right = (0, 0, 100, 200), (60, 0, 160, 200)
    seen = [
        (left, regions([[5, 0, 20, 30], [80, 10, 100, 40]], [0.5, 0.9], (100, 200))),
        (right, regions([[20, 10, 55, 40], [70, 5, 100, 20]], [0.8, 0.2], (100, 200))),
    ]
    found = merge_tiles(seen, (160, 200))
    assert found.xyxy.tolist() == [[80, 10, 115, 40], [5, 0, 20, 30], [130, 5, 160, 20]]
    assert found.scores is not None
    assert found.scores.tolist() == pytest.approx([0.8, 0.5, 0.2])
    assert merge_tiles([(left, Regions.empty((100, 200)))], (160, 200)).scores is None


def test_numbers_in_tags_change_and_nothing_else():
    text = "<ground>5</ground><objects><region0><region12></objects> <region x> 12 <region7"
    assert renumbered(text, lambda number: number + 100) == (
        "<ground>5</ground><objects><region100><region112></objects> <region x> 12 <region7"
    )


# --- one answer from several ---------------------------------------------------------------------

SAME = [[0, 0, 100, 100], [2, 0, 102, 100], [150, 0, 250, 100], [4, 0, 104, 100]]


def part(*mentions, offered, **fields):
    return Answer(text="t", regions=offered, mentions=mentions, labels=("cat", "dog"), **fields)


@pytest.mark.parametrize(
    ("scores", "confidence", "kept"),
    [
        (None, (None, None), [0, 2]),  # nothing known: the earlier window
        ([0.1, 0.9, 0.5, 0.2], (None, None), [2, 1]),  # the proposal's score
        ([0.1, 0.9, 0.5, 0.2], ((0.9, 0.8), (0.3,)), [0, 2]),  # the model's probability
        (None, ((np.nan, np.nan), (0.3,)), [2, 1]),
    ],
)
def test_of_two_windows_that_chose_the_same_thing_the_surer_one_counts(scores, confidence, kept):
    offered = regions(SAME, scores)
    first = part(Mention("cat", (0, 2), confidence[0]), offered=offered)
    second = part(Mention("cat", (1,), confidence[1]), offered=offered)
    answer = merge_answers([first, second], counting=True)
    assert [list(mention.indices) for mention in answer.mentions] == [kept]
    assert answer.count == 2
    assert answer.problems[0].startswith("1 regions overlap a surer one from another window")


def test_within_a_window_and_between_labels_nothing_is_dropped():
    offered = regions(SAME)
    first = part(Mention("cat", (0, 1)), Mention("dog", ()), offered=offered)
    second = part(Mention("dog", (3,)), Mention("bird", (2,)), offered=offered)
    answer = merge_answers([first, second], counting=True)
    assert [(m.label, m.indices) for m in answer.mentions] == [
        ("cat", (0, 1)), ("dog", (3,)), ("bird", (2,)),
    ]  # fmt: skip
    assert answer.count == 4
    assert answer.problems == ()


def test_a_merged_answer_holds_the_words_of_all_windows_and_says_whose_problems_they_are():
    offered = regions(SAME)
    texts = [
        part(Mention("cat", (2,), (0.5,)), offered=offered, plain="one", problems=("odd",)),
        part(Mention("cat", (0,)), offered=offered, plain="two"),
    ]
    answer = merge_answers(texts, notes=["two windows"])
    assert (answer.text, answer.plain) == ("t\nt", "one\ntwo")
    assert answer.problems == ("two windows", "window 1: odd")
    assert (answer.windows, answer.count) == (2, None)
    assert answer.mentions[0].indices == (2, 0)
    assert str(answer.mentions[0].confidence) == "(0.5, nan)"
    assert answer.to_dict()["windows"] == 2
    assert "windows" not in part(offered=offered).to_dict()


# --- with the model ------------------------------------------------------------------------------


@pytest.mark.parametrize("scored", [False, True])
def test_detection_of_250_regions_asks_three_windows_and_points_at_the_boxes_given(
    fo1, knowing, scored
):
    scores = np.random.default_rng(2).permutation(250) / 250 if scored else None
    truth = dict.fromkeys([3, 99, 100, 180, 249], 0.75)
    asked = knowing(truth)
    answer = fo1.detect(PIXELS, ["cat", "dog"], regions(grid(250), scores))
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
    encode = LocalEngine.encode
    monkeypatch.setattr(
        LocalEngine,
        "encode",
        lambda self, image, xyxy: seen.append((image.size, len(xyxy))) or encode(self, image, xyxy),
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
    encode = LocalEngine.encode

    def look(self, image, xyxy):
        shown.append((np.asarray(image), xyxy.astype(int).tolist()))
        return encode(self, image, xyxy)

    monkeypatch.setattr(LocalEngine, "encode", look)
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
    answer = scene.refer("the cat")
    assert asked == [list(range(30))]
    assert (answer.windows, answer.mentions[0].indices, answer.problems) == (1, (1,), ())


def test_an_image_smaller_than_a_tile_is_one_question(fo1, knowing):
    asked = knowing({1: 0.5})
    answer = fo1.detect(PIXELS, "cat", grid(30), tile=1024)
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
