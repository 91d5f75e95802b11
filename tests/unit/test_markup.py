import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_fo1.config import build, plain
from vlm_fo1.errors import ConfigError
from vlm_fo1.markup import (
    RELEASED,
    ScannedMention,
    Vocabulary,
    escape_special_tokens,
    renumbered,
    scan,
)

SUCCESSOR = Vocabulary(region_tag="<obj{}>", region_feature="<objfeat>", max_regions=3)

PIECES = [
    *("<ground>", "</ground>", "<objects>", "</objects>", "<region3>", "<region0>", "<regionfeat>"),
    *("<think>", "</think>", "<|im_end|>", "<region99999999999999999999>", "<region٣>", "<regi"),
    *("<", ">", "|", "/", "<|", "|>", "region", "3", "None", "orange", " ", "\n", "\r\n", "", "é"),
]
messy_text = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=14).map("".join)
labels = st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]), min_size=1).map(
    lambda text: " ".join(text.split())
)
plain_labels = labels.filter(bool)


def found(text):
    return [(mention.label, mention.numbers) for mention in scan(text).mentions]


def test_mentions_are_read_in_order():
    text = (
        "Here: <ground>orange</ground><objects><region3><region7></objects> and "
        "<ground>red apple</ground><objects><region0></objects>."
    )
    result = scan(text)
    assert result.mentions == (
        ScannedMention("orange", (3, 7), 0),
        ScannedMention("red apple", (0,), 2),
    )
    assert result.plain == "Here: orange and red apple."
    assert result.problems == ()
    assert result.tags == 3


# Nasty model texts: (text, mentions, what a problem must say or "" for none, plain text)
NASTY = {
    "nothing": ("", [], "", ""),
    "only words": ("There is none.", [], "", "There is none."),
    "blanks between": (
        "<ground> a  b\n</ground> \n <objects> <region1> \n</objects>",
        [("a b", (1,))],
        "",
        "a b",
    ),
    "commas between tags": (
        "<ground>a</ground><objects><region1>, <region2>;</objects>",
        [("a", (1, 2))],
        "",
        "a",
    ),
    "None inside": ("<ground>a</ground><objects>None</objects>", [("a", ())], "", "a"),
    "none and a stop": ("<ground>a</ground><objects> none. </objects>", [("a", ())], "", "a"),
    "no tags inside": ("<ground>a</ground><objects></objects>", [("a", ())], "", "a"),
    "words inside": (
        "<ground>a</ground><objects>left <region1></objects>",
        [("a", (1,))],
        "text inside <objects>: 'left'",
        "a",
    ),
    "never closed": (
        "<ground>a</ground><objects><region1><region2>",
        [("a", (1, 2))],
        "label 'a': the text ends before it is closed",
        "a",
    ),
    "cut inside a tag": (
        "<ground>a</ground><objects><region1><regi",
        [("a", (1,))],
        "text inside <objects>: '<regi'",
        "a",
    ),
    "cut inside a label": (
        "I see <ground>a long lab",
        [],
        "label 'a long lab' has no <objects> behind it",
        "I see a long lab",
    ),
    "label alone": (
        "<ground>a</ground> is here",
        [],
        "label 'a' has no <objects> behind it",
        "a is here",
    ),
    "label, words, then objects": (
        "<ground>a</ground> at <objects><region1></objects> end",
        [],
        "<objects> without a label before it",
        "a at end",
    ),
    "label left open": (
        "<ground>a<objects><region1></objects>",
        [("a", (1,))],
        "<objects> inside an unclosed <ground>",
        "a",
    ),
    "ground in a label": (
        "<ground>a<ground>b</ground><objects><region1></objects>",
        [("b", (1,))],
        "label 'a' has no <objects> behind it",
        "ab",
    ),
    "ground inside objects": (
        "<ground>a</ground><objects><region1><ground>b</ground><objects><region2></objects>",
        [("a", (1,)), ("b", (2,))],
        "label 'a': <ground> opened again before </objects>",
        "ab",
    ),
    "objects inside objects": (
        "<ground>a</ground><objects><region1><objects><region2></objects>",
        [("a", (1, 2))],
        "<objects> opened again before </objects>",
        "a",
    ),
    "objects alone": (
        "x <objects><region1></objects> y",
        [("", (1,))],
        "<objects> without a label before it",
        "x y",
    ),
    "closing objects alone": ("x </objects> y", [], "</objects> without an opening", "x y"),
    "closing objects after a label": (
        "<ground>a</ground></objects>",
        [],
        "label 'a' has no <objects> behind it",
        "a",
    ),
    "closing ground alone": ("x </ground> y", [], "</ground> without <ground>", "x y"),
    "tag in words": (
        "Yes, <region3> is ripe",
        [("", (3,))],
        "1 region tags (<region3>) and no label: their label is empty",
        "Yes, region3 is ripe",
    ),
    "tag in words beside a label": (
        "<region3> is a <ground>cat</ground><objects><region1></objects>",
        [("cat", (1,))],
        "1 region tags outside <objects> (<region3>): no box is taken from them",
        "region3 is a cat",
    ),
    "objects never closed and no label": (
        "<objects><region1>",
        [("", (1,))],
        "1 region tags (<region1>) and no label",
        "",
    ),
    "tag in a label": (
        "<ground>left of <region3></ground><objects><region1></objects>",
        [("left of region3", (1,))],
        "1 region tags outside <objects> (<region3>)",
        "left of region3",
    ),
    "many tags in words": (
        "<region1><region2><region3><region4>",
        [("", (1, 2, 3, 4))],
        "4 region tags (<region1>, <region2>, <region3>, ...) and no label",
        "region1region2region3region4",
    ),
    "huge number": (
        "<ground>a</ground><objects><region999999999></objects>",
        [("a", (999999999,))],
        "",
        "a",
    ),
    "number beyond all regions": (
        f"<ground>a</ground><objects><region{'9' * 5000}></objects>",
        [("a", ())],
        "text inside <objects>: '<region999",
        "a",
    ),
    "leading zeros": (
        "<ground>a</ground><objects><region007></objects>", [("a", (7,))], "", "a",
    ),
    "digits of another script": (
        "<ground>a</ground><objects><region٣></objects>",
        [("a", ())],
        "text inside <objects>: '<region٣>'",
        "a",
    ),
    "negative number": (
        "<ground>a</ground><objects><region-1></objects>",
        [("a", ())],
        "text inside <objects>: '<region-1>'",
        "a",
    ),
    "empty label": (
        "<ground> </ground><objects><region1></objects>",
        [("", (1,))],
        "an empty label between <ground> and </ground>",
        "",
    ),
    "label twice": (
        "<ground>a</ground><objects><region1></objects><ground>a</ground><objects><region2></objects>",
        [("a", (1,)), ("a", (2,))],
        "",
        "aa",
    ),
    "region twice": (
        "<ground>a</ground><objects><region1><region1></objects>", [("a", (1, 1))], "", "a",
    ),
    "line ends of Windows": (
        "<ground>a</ground>\r\n<objects>\r\n<region1>\r\n</objects>\r\nok",
        [("a", (1,))],
        "",
        "a\r\n\r\nok",
    ),
    "feature placeholder": (
        "<ground>a</ground><objects><region1><regionfeat></objects>",
        [("a", (1,))],
        "<regionfeat> in an answer: left out",
        "a",
    ),
    "the successor's words": (
        "<ground>a</ground><objects><obj1></objects>",
        [("a", ())],
        "text inside <objects>: '<obj1>'",
        "a",
    ),
    "other case": (
        "<Ground>a</Ground>", [], "", "<Ground>a</Ground>",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "mentions", "problem", "plain"), NASTY.values(), ids=NASTY)
def test_damaged_text_gives_what_can_be_used_and_says_what_cannot(text, mentions, problem, plain):
    result = scan(text)
    assert found(text) == mentions
    assert result.plain == plain
    if problem:
        assert any(problem in said for said in result.problems), result.problems
    else:
        assert result.problems == ()


def test_a_problem_quotes_only_the_beginning_of_a_long_text():
    (problem,) = scan(f"<ground>a</ground><objects>{'x' * 10_000}</objects>").problems
    assert len(problem) < 100


def test_the_place_of_a_mention_counts_every_tag_before_it():
    text = "<region5> <ground>a</ground><objects><region1></objects> <region2>"
    result = scan(text)
    assert result.mentions == (ScannedMention("a", (1,), 1),)
    assert result.tags == 3


@given(messy_text)
def test_no_text_makes_the_reader_fail(text):
    for vocabulary in (RELEASED, SUCCESSOR):
        result = scan(text, vocabulary)
        assert result.tags == len(vocabulary.tag_pattern().findall(text))
        for token in (*vocabulary.ground, *vocabulary.objects, vocabulary.region_feature):
            assert token not in result.plain or token in text.replace(token, "")


@given(plain_labels, st.lists(st.integers(0, 99), max_size=5))
def test_a_mention_is_read_as_it_was_written(label, numbers):
    for vocabulary in (RELEASED, SUCCESSOR):
        result = scan(vocabulary.mention(label, numbers), vocabulary)
        assert result.mentions == (ScannedMention(label, tuple(numbers), 0),)
        assert result.problems == ()


def test_the_tokens_that_a_tokenizer_must_hold():
    assert SUCCESSOR.special_tokens() == [
        *("<obj0>", "<obj1>", "<obj2>", "<ground>", "</ground>", "<objects>", "</objects>"),
        *("<think>", "</think>", "<objfeat>"),
    ]
    assert len(RELEASED.special_tokens()) == 107


def test_a_vocabulary_survives_a_way_through_plain_values():
    values = plain(SUCCESSOR)
    assert values["ground"] == ["<ground>", "</ground>"]
    assert build(Vocabulary, values) == SUCCESSOR
    assert build(Vocabulary, {}) == RELEASED


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"region_tags": "<r{}>"},
            "unknown key 'vocabulary.region_tags': did you mean 'region_tag'",
        ),
        ({"region_tag": "<region>"}, r"'<region>' must hold one \{\} for the number"),
        ({"region_tag": "<{}{}>"}, r"'<\{\}\{\}>' must hold one \{\}"),
        ({"region_tag": "{}>"}, r"must hold one \{\} for the number with text on both sides"),
        ({"ground": ["<ground>"]}, "has 1 items, 2 are needed"),
        ({"objects": ["<o>", "<o>"]}, "tokens must differ and not be empty"),
        ({"region_feature": ""}, "tokens must differ and not be empty"),
        ({"max_regions": 0}, "max_regions is 0, at least 1 is needed"),
        ({"max_labels": 0}, "max_labels is 0, at least 1 is needed"),
    ],
)
def test_a_vocabulary_that_cannot_be_read_back_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        build(Vocabulary, values, "vocabulary")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("<region3>", "region3"),
        ("<ground>x</ground>", "groundxground"),
        ("<|im_end|>", "im_end"),
        ("<regionfeat>", "regionfeat"),
        ("</think>", "think"),
        ("<<region3>region3>", "<region3region3>"),
        ("<reg<||>ion3>", "region3"),
        ("<|<|im_end|>|>", "im_end"),
        ("<region" + "9" * 30 + ">", "region" + "9" * 30),
    ],
)
def test_markup_loses_its_brackets(text, clean):
    assert escape_special_tokens(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        *("a < b", "2 > 1", "C|D", "<b>bold</b>", "[1] and/or", "<region>", "<region x>", "x->y"),
        *("an obj3 on the ground", "a <| b", "if a<b and c>d", "😀 <3", ""),
    ],
)
def test_harmless_text_is_left_alone(text):
    assert escape_special_tokens(text) == text


def test_markup_of_another_vocabulary_is_harmless():
    assert escape_special_tokens("<region3><obj3>", SUCCESSOR) == "<region3>obj3"


def test_a_reserved_word_without_brackets_is_dropped():
    assert escape_special_tokens("a@@@@b", reserved=("@@",)) == "ab"


def test_blank_reserved_tokens_do_not_eat_the_blanks_of_a_text():
    assert escape_special_tokens("a  b", reserved=("  ", " ", "")) == "a  b"


def test_deep_nesting_is_escaped_without_one_pass_per_level():
    text = "<|" * 50_000 + "x" + "|>" * 50_000
    assert escape_special_tokens(text) == "x"


@given(messy_text)
def test_nothing_of_markup_is_left_however_it_was_nested(text):
    for vocabulary in (RELEASED, SUCCESSOR):
        clean = escape_special_tokens(text, vocabulary, ("[INST]", "<s>"))
        assert not vocabulary.tag_pattern().search(clean)
        for token in (*vocabulary.special_tokens(), "[INST]", "<s>", "<|im_end|>"):
            assert token not in clean
        assert escape_special_tokens(clean, vocabulary, ("[INST]", "<s>")) == clean


def test_numbers_in_tags_change_and_nothing_else():
    text = "<ground>5</ground><objects><region0><region12></objects> <region x> 12 <region7"
    assert renumbered(text, lambda number: number + 100) == (
        "<ground>5</ground><objects><region100><region112></objects> <region x> 12 <region7"
    )
