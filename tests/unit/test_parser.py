import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlm_fo1.answer import Mention
from vlm_fo1.markup import RELEASED, Vocabulary
from vlm_fo1.parser import parse
from vlm_fo1.regions import Regions
from vlm_fo1.tasks import Question, Task, ask_image, ask_labels, ask_text

REGIONS = Regions(np.array([[i, i, i + 10, i + 10] for i in range(8)], np.float32), (100, 100))
DETECT = ask_labels(Task.DETECTION, ["orange", "red apple"])


def mention(label, *numbers):
    return RELEASED.mention(label, numbers)


def counted(text, *labels):
    answer = parse(text, REGIONS, ask_labels(Task.COUNTING, list(labels or ["orange"])))
    return answer.count, list(answer.problems)


def test_mentions_become_positions_in_the_regions():
    answer = parse(f"{mention('orange', 3, 7)}, {mention('red apple', 0)}", REGIONS, DETECT)
    assert answer.mentions == (Mention("orange", (3, 7)), Mention("red apple", (0,)))
    assert answer["orange"].xyxy.tolist() == [[3, 3, 13, 13], [7, 7, 17, 17]]
    assert answer.plain == "orange, red apple"
    assert answer.labels == ("orange", "red apple")
    assert answer.task == "detection"
    assert answer.count is None
    assert answer.problems == ()


def test_an_empty_text_is_an_answer_without_mentions():
    answer = parse("", REGIONS, DETECT)
    assert answer.mentions == ()
    assert len(answer["orange"]) == 0
    assert answer.problems == ()


def test_a_region_beyond_the_list_is_reported_and_left_out():
    answer = parse(mention("orange", 2, 8, 99), REGIONS, DETECT)
    assert answer.mentions[0].indices == (2,)
    assert answer.problems == (
        "label 'orange': region 8 does not exist, 8 were offered",
        "label 'orange': region 99 does not exist, 8 were offered",
    )


def test_without_regions_every_number_is_reported():
    answer = parse(mention("orange", 0), Regions.empty((10, 10)), DETECT)
    assert answer.mentions == (Mention("orange", ()),)
    assert answer.problems == ("label 'orange': region 0 does not exist, 0 were offered",)


def test_a_region_named_twice_is_kept_once_and_reported():
    answer = parse(mention("orange", 2, 2), REGIONS, DETECT)
    assert answer.mentions[0].indices == (2,)
    assert answer.problems == ("label 'orange': region 2 named twice",)


def test_a_label_in_another_case_is_the_label_that_was_asked_for():
    answer = parse(mention("Red  Apple", 1), REGIONS, DETECT)
    assert len(answer["red apple"]) == 1
    assert list(answer) == ["orange", "red apple"]


def test_labels_that_differ_in_case_only_stay_apart():
    question = ask_labels(Task.DETECTION, ["Apple", "apple"])
    answer = parse(mention("apple", 1) + mention("APPLE", 2), REGIONS, question)
    assert [(m.label, m.indices) for m in answer.mentions] == [("apple", (1,)), ("Apple", (2,))]


def test_what_was_asked_is_the_key_whatever_article_or_number_the_text_gives_it():
    question = ask_labels(Task.DETECTION, ["an orange", "  red\n apples ", "<b|dog>"])
    text = mention("orange", 1) + mention("the red apple", 2) + mention("<b|dog>", 3)
    answer = parse(text, REGIONS, question)
    assert [len(answer[label]) for label in ("an orange", " an  orange ")] == [1, 1]
    assert len(answer["  red\n apples "]) == len(answer["red apples"]) == 1
    assert answer.problems == ()


def test_a_label_with_markup_is_found_under_what_was_asked():
    question = ask_labels(Task.DETECTION, ["the <region3>"])
    answer = parse(mention("the region3", 1), REGIONS, question)
    assert len(answer["the <region3>"]) == len(answer["the region3"]) == 1
    with pytest.raises(KeyError, match="'<region3>' was not asked for"):
        answer["<region3>"]


def test_regions_without_any_label_are_a_mention_with_an_empty_one():
    answer = parse("It is <region3>, not <region99>.", REGIONS, DETECT, tag_confidence=[0.5, 0.25])
    assert answer.mentions == (Mention("", (3,), (0.5,)),)
    assert answer[""].xyxy.tolist() == [[3, 3, 13, 13]]
    assert answer.chosen.labels == ("",)
    assert answer.problems == (
        "2 region tags (<region3>, <region99>) and no label: their label is empty",
        "label '': region 99 does not exist, 8 were offered",
    )
    assert [found["bbox"] for found in answer.to_coco(1)] == [[3.0, 3.0, 10.0, 10.0]]
    assert answer.to_supervision().data["class_name"].tolist() == [""]
    assert answer.to_dict()["mentions"][0]["label"] == ""
    assert answer.draw(Image.new("RGB", (100, 100))).size == (100, 100)


def test_a_region_named_in_words_and_again_is_one_region():
    answer = parse("<region3> or <region3>?", REGIONS, ask_text(Task.FREE, "which?"))
    assert answer.mentions == (Mention("", (3,)),)
    assert len(answer.problems) == 1


def test_a_label_that_was_not_asked_for_is_kept_and_reported():
    answer = parse(mention("pear", 4), REGIONS, DETECT)
    assert answer.problems == ("label 'pear' was not asked for",)
    assert list(answer) == ["orange", "red apple", "pear"]
    assert len(answer["pear"]) == 1


def test_truncation_is_reported():
    answer = parse("I see", REGIONS, DETECT, cut="the answer was cut")
    assert answer.problems == ("the answer was cut",)


def test_damage_in_the_text_is_reported():
    answer = parse("<ground>orange</ground><objects><region1>", REGIONS, DETECT)
    assert answer.mentions == (Mention("orange", (1,)),)
    assert answer.problems == ("label 'orange': the text ends before it is closed",)


def test_notes_of_the_question_come_first():
    question = ask_labels(Task.DETECTION, ["cat", "cat"])
    answer = parse("</ground>", REGIONS, question)
    assert answer.problems == (
        "label 'cat' given 2 times: asked once",
        "</ground> without <ground>",
    )


def test_every_kept_region_takes_the_score_of_its_own_tag():
    text = f"<region5> {mention('orange', 2, 99, 2, 4)} {mention('red apple', 1)}"
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    answer = parse(text, REGIONS, DETECT, tag_confidence=scores)
    assert answer.mentions == (
        Mention("orange", (2, 4), (0.2, 0.5)),
        Mention("red apple", (1,), (0.6,)),
    )


def test_scores_that_do_not_fit_the_tags_are_left_out_and_reported():
    answer = parse(mention("orange", 1, 2), REGIONS, DETECT, tag_confidence=[0.5])
    assert answer.mentions[0].confidence is None
    assert answer.problems == ("1 region scores for 2 region tags: scores left out",)


def test_another_vocabulary_is_read_with_its_own_words():
    successor = Vocabulary(region_tag="<obj{}>", region_feature="<objfeat>")
    text = successor.mention("orange", [1])
    assert parse(text, REGIONS, DETECT, vocabulary=successor).mentions[0].indices == (1,)
    assert parse(text, REGIONS, DETECT).mentions[0].indices == ()


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ("There are 3 oranges.", 3),
        ("3", 3),
        ("There are three oranges in this image.", 3),
        ("The left bowl holds 2, the right one 1, so 3 in all.", 3),
        ("There are three, the last one on the table.", 3),
        ("3 of them, one is green", 3),
        ("They are 3.", 3),
    ],
)
def test_the_number_an_answer_states_is_its_count(said, count):
    assert counted(f"{mention('orange', 0, 1, 2)} {said}") == (count, [])


@pytest.mark.parametrize(
    ("said", "count"),
    [
        *(("Twenty-five oranges", 25), ("ninety nine", 99), ("fourteen", 14), ("fifty", 50)),
        *(("There are 1,234 oranges", 1234), ("one orange", 1), ("zero", 0), ("12", 12)),
    ],
)
def test_a_stated_number_that_differs_from_the_regions_is_reported(said, count):
    assert counted(f"{mention('orange', 0, 1, 2)} {said}") == (
        count,
        [f"the answer says {count} but names 3 regions"],
    )


@pytest.mark.parametrize(
    "said", ["", "No number here.", "Phone region7", "3D oranges", "version 2.5", "someone else"]
)
def test_without_a_stated_number_the_regions_are_counted(said):
    assert counted(f"{mention('orange', 0, 1)} {said}") == (2, [])


@pytest.mark.parametrize(
    ("label", "said", "count"),
    [
        ("7 up can", "There are 2 7 up cans.", 2),
        ("2", "There are 2 2s.", 2),
        ("1", "There are 12.", 12),
        ("two-wheeled cart", "I see 2 Two-wheeled carts", 2),
        ("one", "Someone counted 2", 2),
    ],
)
def test_digits_of_the_label_are_not_the_count(label, said, count):
    assert counted(f"{mention(label, 0, 1)} {said}", label)[0] == count


def test_with_several_labels_the_regions_are_counted():
    text = f"{mention('orange', 0, 1)} {mention('apple', 2)} There are 2 oranges and 1 apple."
    assert counted(text, "orange", "apple") == (3, [])


def test_a_region_under_two_labels_counts_once():
    assert counted(mention("orange", 0) + mention("fruit", 0), "orange", "fruit") == (1, [])


def test_free_questions_and_captions_have_mentions_too():
    for question in (ask_image(Task.GROUNDED_CAPTION), ask_text(Task.FREE, "what?")):
        assert parse(mention("cup", 1), REGIONS, question).mentions == (Mention("cup", (1,)),)


PIECES = [
    *(
        "<ground>",
        "</ground>",
        "<objects>",
        "</objects>",
        "<region3>",
        "<region99>",
        "<regionfeat>",
    ),
    *(
        "<region99999999999999999999>",
        "<region٣>",
        "<regi",
        "None",
        "orange",
        "12",
        "three",
        "\r\n",
    ),
]


@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=14).map("".join),
    st.sampled_from([DETECT, ask_labels(Task.COUNTING, "a+(b"), ask_image(Task.GROUNDED_CAPTION)]),
    st.none() | st.lists(st.floats(0, 1), max_size=4),
    st.sampled_from(["", "cut"]),
)
def test_no_text_makes_the_parser_or_its_results_fail(text, question, scores, cut):
    answer = parse(text, REGIONS, question, tag_confidence=scores, cut=cut)
    assert answer.text == text
    assert len(answer.chosen) <= sum(len(m.indices) for m in answer.mentions)
    answer.to_json()
    answer.to_coco(1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["orange", "red apple", "STOP: 2"]),
            st.lists(st.integers(0, 7), unique=True),
        ),
        max_size=4,
    )
)
def test_well_formed_mentions_come_back_whole(written):
    text = " and ".join(RELEASED.mention(label, numbers) for label, numbers in written)
    answer = parse(text, REGIONS, ask_labels(Task.DETECTION, [*DETECT.labels, "STOP: 2"]))
    assert [(m.label, list(m.indices)) for m in answer.mentions] == written
    assert answer.problems == ()


@pytest.mark.parametrize(
    ("text", "plain", "thought"),
    [
        ("just an answer", "just an answer", ""),
        ("<think> it is round </think><answer> an orange </answer>", "an orange", "it is round"),
        ("<think>cut in the mid", "", "cut in the mid"),
        ("So: <think>a</think> b", "So: b", "a"),
        ("<answer>kept as it is</answer>", "<answer>kept as it is</answer>", ""),
    ],
)
def test_what_was_thought_is_kept_apart_from_the_answer(text, plain, thought) -> None:
    answer = parse(text, Regions.empty((10, 10)), Question(task=Task.REASONING, text="why?"))
    assert (answer.plain, answer.thought) == (plain, thought)


def test_regions_named_while_thinking_are_mentions_too() -> None:
    regions = Regions(np.array([[0, 0, 5, 5]], np.float32), (10, 10))
    text = "<think>I see <ground>a cat</ground><objects><region0></objects></think><answer>1"
    answer = parse(text, regions, Question(task=Task.REASONING, text="why?"))
    assert [mention.label for mention in answer.mentions] == ["a cat"]
    assert answer.thought == "I see a cat"
