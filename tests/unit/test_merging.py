"""Answers of several questions about one image become one."""

import numpy as np
import pytest
from tests.helpers.windows import regions

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.merging import merge_answers, merge_tiles
from vlm_fo1.regions import Regions


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
