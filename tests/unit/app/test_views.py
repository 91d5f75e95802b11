"""What the page shows of an answer: words, image and list, each escaped and linked."""

import re

import numpy as np
import pytest
from tests.helpers.page_answer import IMAGE, TEXT, an_answer

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.app import views
from vlm_fo1.app.views import AnswerState, ViewOptions
from vlm_fo1.markup import Piece, pieces


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
