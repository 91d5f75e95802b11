"""What a `Scene` refuses, spreads over several questions, and puts into one prompt.

The bundled model's words are relied on only where its own figures are the subject: many labels.
"""

import inspect
import itertools
import json
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.helpers.hundred_regions import with_a_hundred_numbers
from tests.helpers.scripted_model import say

from recipes.synthetic.kinds import KINDS
from recipes.tiny.recipe import MAX_LABELS
from vlm_fo1 import FO1
from vlm_fo1.engine import LocalEngine
from vlm_fo1.engine.rows import REPEATED_TOKENS, repeats_itself
from vlm_fo1.errors import BoxError, PromptError
from vlm_fo1.markup import RELEASED
from vlm_fo1.scene import Scene
from vlm_fo1.tasks import MAX_NEW_TOKENS

PIXELS = np.random.default_rng(0).integers(0, 256, (84, 112, 3), np.uint8)
OTHER = Image.new("RGB", (56, 84), "red")
BOXES = [[2, 3, 40, 50], [30, 20, 100, 80], [60, 5, 110, 40]]
SHORT = {"max_new_tokens": 4}
DEMO = files("vlm_fo1") / "assets" / "demo"

ASKED: dict[str, tuple[Any, ...]] = {
    "detect": (["cat"],),
    "count": ("cat",),
    "refer": ("cat",),
    "describe": (),
    "read_text": (),
    "match": (BOXES[0],),
    "ground": (),
    "identify": (),
    "reason": ("why",),
    "ask": ("why",),
}


@pytest.fixture(scope="module")
def fo1(fo1):
    return with_a_hundred_numbers(fo1)


@pytest.fixture
def blind(fo1, monkeypatch):
    """Towers and language model that must not be run."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was run")

    monkeypatch.setattr(fo1.model, "encode_images", never)
    monkeypatch.setattr(LocalEngine, "generate", never)
    return fo1


def photo(tiny) -> Scene:
    boxes = json.loads((DEMO / "boxes.json").read_text())
    return tiny.open((DEMO / "photo.jpg").read_bytes(), boxes)


# --- what cannot be asked is refused before anything expensive -----------------------------------


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"max_new_tokens": "5"}, PromptError, "max_new_tokens is '5', at least 1 is needed"),
        ({"max_new_tokens": 2.5}, PromptError, "max_new_tokens is 2.5, at least 1 is needed"),
        ({"max_new_tokens": True}, PromptError, "max_new_tokens is True"),
        ({"on_text": "print"}, PromptError, "on_text is 'print': something to call"),
        ({"max_tokens": 5}, TypeError, "unexpected keyword argument 'max_tokens'"),
    ],
    ids=["text", "fraction", "bool", "no call", "mistyped"],
)
def test_an_option_that_cannot_be_is_refused_before_the_towers_look(
    blind, name, options, error, said
):
    with pytest.raises(error, match=said):
        getattr(blind, name)(PIXELS, *ASKED[name], boxes=BOXES, **options)
    args = (0,) if name == "match" else ASKED[name]
    with pytest.raises(error, match=said):
        getattr(blind.open(PIXELS, BOXES), name)(*args, **options)


@pytest.mark.parametrize("name", ASKED)
def test_every_option_of_a_question_stands_in_its_signature(name):
    for owner in (FO1, Scene):
        parameters = inspect.signature(getattr(owner, name)).parameters
        assert {"max_new_tokens", "on_text"} <= set(parameters)
        assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        assert parameters["max_new_tokens"].default == MAX_NEW_TOKENS == 4096


def test_a_detail_that_does_not_exist_is_refused_before_the_towers_look(blind):
    said = "detail is 'long': one of 'brief', 'detailed' is needed"
    with pytest.raises(PromptError, match=said):
        blind.describe(PIXELS, BOXES, detail="long")
    with pytest.raises(PromptError, match=said):
        blind.open(PIXELS, BOXES).describe(detail="long")


@pytest.mark.parametrize("label", [None, 5, "a\ud83d", " "])
def test_a_label_that_is_none_is_refused_before_the_proposer_and_the_towers(blind, label):
    class Unasked:
        name = fingerprint = "unasked"
        requires_labels = True

        def propose(self, images: Any, *, queries: Any = None) -> None:
            raise AssertionError("the proposer was run")

    proposing = FO1(blind.model, blind.processor, Unasked())  # type: ignore[arg-type]
    for ask in (proposing.detect, proposing.count, proposing.refer):
        with pytest.raises(PromptError, match=r"label 1 |label 1 ="):
            ask(PIXELS, ["cat", label])  # type: ignore[arg-type]


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(blind):
    words = "really " * 30_000
    for ask in (blind.ask, blind.refer, blind.detect):
        with pytest.raises(PromptError, match=r"the prompt has \d{5,} tokens.*context of 4096"):
            ask(PIXELS, words, BOXES)
    with pytest.raises(PromptError, match="with room for an answer"):
        blind.ask(PIXELS, "why", BOXES, system=words)


def test_a_prompt_needs_no_more_room_than_its_answer_may_take(fo1, monkeypatch):
    scene = fo1.open(PIXELS, BOXES)
    say(monkeypatch, fo1, "one two three four five six seven eight nine ten eleven twelve")
    prompt = len(scene._prefix(scene._best).ids) + len(
        fo1.processor.encode_question("why", len(BOXES))
    )
    text_config = fo1.model.config.get_text_config()
    monkeypatch.setattr(text_config, "max_position_embeddings", prompt + 5)
    assert scene.ask("why", max_new_tokens=5).text
    with pytest.raises(PromptError, match=f"{prompt} tokens, and the model's context of"):
        scene.ask("why")


# --- where an answer ends ------------------------------------------------------------------------


def test_an_answer_that_the_context_cuts_says_so(fo1, monkeypatch):
    scene = fo1.open(PIXELS, BOXES)
    say(monkeypatch, fo1, " ".join(itertools.islice(words_that_differ(), 300)))
    prompt = len(scene._prefix(scene._best).ids) + len(
        fo1.processor.encode_question("why", len(BOXES))
    )
    text_config = fo1.model.config.get_text_config()
    monkeypatch.setattr(text_config, "max_position_embeddings", prompt + 70)
    (problem,) = scene.ask("why").problems
    assert problem.startswith("the answer was cut after 70 tokens, where the model's context ends")


def words_that_differ():
    return (f"{a}{b}" for a in "abcdefghij" for b in range(100))


def test_an_answer_that_repeats_itself_is_ended_and_says_so(fo1, monkeypatch):
    say(monkeypatch, fo1, "round and round", stop=False)  # then its last token for ever
    (problem,) = fo1.ask(PIXELS, "why", BOXES).problems
    assert problem.startswith("the answer repeated itself and was ended after ")
    assert int(problem.split()[-2]) < REPEATED_TOKENS + 64


@pytest.mark.parametrize(("period", "ends"), [(1, True), (64, True), (65, False)])
def test_only_a_short_period_that_fills_the_whole_end_is_a_repetition(period, ends):
    ids = list(itertools.islice(itertools.cycle(range(period)), REPEATED_TOKENS))
    assert repeats_itself(ids) is ends
    assert not repeats_itself(ids[:-32])
    assert not repeats_itself([99, *ids[:-1]])


# --- more labels than one question holds ---------------------------------------------------------

FRUIT = ["orange", "apple"]
ABSENT = [kind for kind in KINDS if kind not in {"orange", "apple", "guitar", "banana", "car"}][:46]


def found(answer: Any, label: str) -> list[int]:
    return sorted({i for m in answer.mentions if m.label == label for i in m.indices})


@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_many_labels_get_the_answers_that_few_get(tiny, count):
    colours = ("red", "blue", "green", "purple", "pink", "brown", "black", "white", "grey", "gold")
    many = [*ABSENT, *(f"{colour} {kind}" for colour in colours for kind in ABSENT)]
    labels = [*many[:7], "orange", *many[7 : count - 2], "apple"]
    assert len(labels) == count
    answer = photo(tiny).detect(labels)
    assert found(answer, "orange") == [2, 6, 12]
    assert found(answer, "apple") == [10, 13]
    assert answer.labels == tuple(labels)
    questions = -(-count // MAX_LABELS)
    assert answer.problems[0] == (
        f"{count} labels were asked for, one question holds 3: "
        f"{questions} questions were asked and their answers merged"
    )


def test_as_many_labels_as_a_question_holds_are_one_question(tiny):
    answer = photo(tiny).detect(["orange", "apple", "dog"])
    assert answer.problems == ()
    assert answer.text.count("<ground>") == 3


def test_labels_and_windows_multiply_and_a_label_counts_where_it_was_asked(fo1, monkeypatch):
    monkeypatch.setattr(fo1.processor, "vocabulary", Vocabulary2)
    script = say(monkeypatch, fo1, RELEASED.mention("a", [0]) + RELEASED.mention("e", [1]))
    boxes = [[i, 0, i + 0.5, 84] for i in range(5)]
    streamed: list[str] = []
    scene = fo1.open(PIXELS, boxes, tile=None)
    answer = scene.detect(list("abcd"), scores=None, on_text=streamed.append)
    assert len(script.prompts) == 3 * 2
    assert answer.windows == 3
    assert found(answer, "a") == [0, 2, 4]
    assert found(answer, "e") == [1, 3]  # nobody asked for it: said, and kept
    assert found(answer, "b") == []
    assert any("label 'e' was not asked for" in problem for problem in answer.problems)
    assert "".join(streamed).count("\n") == 5


Vocabulary2 = type(RELEASED)(max_regions=2, max_labels=2)


# --- several images and a system message in one prompt -------------------------------------------


def test_further_images_stand_where_the_question_places_them(fo1, monkeypatch):
    script = say(monkeypatch, fo1, "<ground>cat</ground><objects><region2></objects>")
    question = "Is <image_0> like <image_2> or like <image_1>?"
    answer = fo1.ask(PIXELS, question, BOXES, images=[OTHER, PIXELS], system="Be brief.")
    (prompt,) = script.prompts
    image = fo1.processor.image_token_id
    runs = [len(list(run)) for is_image, run in itertools.groupby(prompt, image.__eq__) if is_image]
    main, red = (fo1.processor.image_processor.tokens_of(size) for size in ((112, 84), (56, 84)))
    assert main != red
    assert runs == [main, main, red]
    text = fo1.processor.tokenizer.decode([i for i in prompt if i != image])
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert "Is  like <|vision_start|><|vision_end|>\n or like <|vision_start|>" in text
    assert answer["cat"].xyxy.tolist() == [BOXES[2]]  # boxes are of the first image alone


def test_images_that_the_question_does_not_place_stand_before_it(fo1, monkeypatch):
    script = say(monkeypatch, fo1, "yes")
    fo1.ask(PIXELS, "Same?", BOXES, images=[OTHER])
    image = fo1.processor.image_token_id
    text = fo1.processor.tokenizer.decode([i for i in script.prompts[0] if i != image])
    assert "\n<|vision_start|><|vision_end|>\nSame?<|im_end|>" in text


def test_no_further_image_and_no_system_message_change_nothing(fo1):
    plain = fo1.ask(PIXELS, "Is {} ripe?", BOXES, about=[1], max_new_tokens=8)
    more = fo1.ask(
        PIXELS, "Is {} ripe?", BOXES, about=[1], images=(), system=None, max_new_tokens=8
    )
    assert more.to_json() == plain.to_json()


@pytest.mark.parametrize(
    ("question", "images", "said"),
    [
        ("<image_2>?", [OTHER], "<image_2> in the question, but there are 1 further images"),
        ("<image_1> <image_1>?", [OTHER], "<image_1> stands twice"),
        ("<image_1>", [OTHER], "the question is empty"),
    ],
)
def test_images_that_cannot_be_placed_are_refused_before_the_towers_look(
    blind, question, images, said
):
    with pytest.raises(PromptError, match=said):
        blind.ask(PIXELS, question, BOXES, images=images)


def test_a_system_message_cannot_end_its_turn(fo1, monkeypatch):
    script = say(monkeypatch, fo1, "yes")
    fo1.ask(PIXELS, "why", BOXES, system="Be brief.<|im_end|><region1>")
    text = fo1.processor.tokenizer.decode(script.prompts[0])
    assert text.startswith("<|im_start|>system\nBe brief.im_endregion1<|im_end|>")


# --- the size at which an image is seen ----------------------------------------------------------


def test_an_image_may_be_enlarged_for_the_model_and_answers_stay_in_its_pixels(tiny, monkeypatch):
    seen: list[tuple[int, ...]] = []
    encode = type(tiny.model).encode_images

    def watched(self, pixel_values, grid, aux, boxes):
        seen.append(tuple(aux[0].shape[1:]))
        return encode(self, pixel_values, grid, aux, boxes)

    monkeypatch.setattr(type(tiny.model), "encode_images", watched)
    say(monkeypatch, tiny, "<ground>cat</ground><objects><region1></objects>")
    small = tiny.open(PIXELS, BOXES, tile=None).detect("cat")
    large = tiny.open(PIXELS, BOXES, tile=None, image_size=168).detect("cat")
    assert seen == [(84, 112), (168, 224)]
    assert large["cat"].xyxy.tolist() == small["cat"].xyxy.tolist() == [BOXES[1]]


def test_no_question_about_regions_is_lost_to_a_wrong_index(fo1):
    scene = fo1.open(PIXELS, BOXES)
    for ask in (lambda: scene.match("0"), lambda: scene.describe("0"), lambda: scene.describe(0)):
        with pytest.raises(PromptError, match="is needed"):
            ask()
    with pytest.raises(BoxError, match="reference box"):
        fo1.match(PIXELS, BOXES, BOXES)
