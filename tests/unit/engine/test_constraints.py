"""Whatever a model thinks, a constrained answer can be read; what was whole already stays as it is.

Logits come from a stand-in, so that thousands of answers are written in seconds.
"""

import json
import logging
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.hosts import make_tokenizer
from tests.helpers.tokenizer import char_tokenizer

from vlm_fo1 import FO1ImageProcessor, FO1Processor
from vlm_fo1.engine import Grammar, Matchers, Prefix, Prompt
from vlm_fo1.engine.choice import choose
from vlm_fo1.engine.guesses import Guesses
from vlm_fo1.engine.lists import ListRecorder, ListTokens
from vlm_fo1.engine.rows import Row
from vlm_fo1.grammar import grammar_of, list_tokens
from vlm_fo1.markup import Vocabulary
from vlm_fo1.parser import parse
from vlm_fo1.regions import Regions
from vlm_fo1.tasks import Request, questions_of

DEMO = Path(str(files("vlm_fo1"))) / "assets" / "demo"
BOXES = json.loads((DEMO / "boxes.json").read_text())
VOCAB = 1120
LABELS = (
    "orange",
    "the glass",
    "Apple pies",
    "an a",
    "<region3>",
    "naïve café",
    "x-ray (old)",
    "s",
)
REQUESTS = (
    Request(task="detection", labels=LABELS[:3]),
    Request(task="detection", labels=LABELS[3:6]),
    Request(task="counting", labels=("orange",)),
    Request(task="referring", labels=LABELS[6:7]),
    Request(task="referring", labels=LABELS[7:]),
    Request(task="grounded_caption"),
    Request(task="identify"),
    Request(task="visual_prompt", regions=(0,)),
    Request(task="reasoning", text="why"),
    Request(task="free", text="what"),
    Request(task="region_ocr", regions=(0,)),
)
TOLD = ("the answer says", "no label: their label is empty", "outside <objects>")
"""What is no fault of markup: a number that differs from the regions, regions named in words."""


@pytest.fixture(scope="module")
def processor(tiny):
    return tiny.processor


@pytest.fixture(scope="module")
def matchers(processor):
    return Matchers(processor.tokenizer, VOCAB, list_tokens(processor), processor.stop_token_id)


class Bench:
    """Rows of one question without a model."""

    def __init__(self, processor, matchers, request, regions, *, limit=48, ahead=True):
        self.processor, self.matchers, self.regions = processor, matchers, regions
        self.limit, self.ahead = limit, ahead
        count = max(regions, 1)
        reserved = processor.reserved_tokens()
        (self.question,) = questions_of(request, count, processor.vocabulary, reserved)
        grammar = grammar_of(self.question, processor, regions)
        assert grammar is not None
        self.grammar = grammar
        self.tokens = list_tokens(processor)

    def row(self, start=()):
        prompt = Prompt(object.__new__(Prefix), (), self.limit, self.regions, start, self.grammar)
        recorder = ListRecorder(self.tokens, self.regions)
        constraint = self.matchers.constraint(self.grammar)
        assert constraint is not None
        guesses = Guesses(self.grammar, self.tokens) if self.ahead else None
        return Row(0, prompt, recorder, self.processor.stop_token_id, constraint, guesses)

    def write(self, rows, thoughts):
        """Let rows write; ``thoughts(row, at)`` is (V,) logits at a place of a row."""
        steps = 0
        while alive := [number for number, row in enumerate(rows) if not row.over]:
            fed = [(rows[number], rows[number].ahead(8 if self.ahead else 0)) for number in alive]
            logits = torch.stack(
                [
                    thoughts(number, len(row.ids) + place)
                    for number, (row, ahead) in zip(alive, fed, strict=True)
                    for place in ahead.asked
                ]
            )
            ids, sure, chances = choose(logits, fed, self.tokens)
            first = 0
            for row, ahead in fed:
                part = slice(first, first + len(ahead.asked))
                first = part.stop
                row.take(ahead, ids[part], sure[part], chances[part])
            steps += 1
        return steps

    def read(self, row):
        boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (self.regions, 1))
        return parse(
            self.processor.decode(row.ids),
            Regions(boxes, (9, 9)),
            self.question,
            vocabulary=self.processor.vocabulary,
            tag_confidence=row.done().tag_probabilities,
            cut="" if row.ended else "cut",
        )

    def allowed(self, text):
        """What may come after a text."""
        constraint = self.matchers.constraint(self.grammar)
        for id_ in self.ids(text):
            constraint.take(id_)
        assert not constraint.broken
        _, (bits,) = constraint.ahead([], 0)
        return {id_ for id_ in range(VOCAB) if bits[id_ // 32] >> (id_ % 32) & 1}

    def ids(self, text):
        return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def whims(processor, kind, seed):
    """Logits of a model that means no good: (row, place) to (V,)."""
    tokens = list_tokens(processor)
    special = [*tokens.tags, tokens.start, tokens.end, *range(1000, VOCAB)]
    forging = processor.tokenizer("<region/ground>objctsthink0123456789None,;\n ")["input_ids"]
    spread = 3.0

    def logits(row, place):
        generator = torch.Generator().manual_seed((seed * 1009 + row) * 4099 + place)
        found = torch.randn(VOCAB, generator=generator) * spread
        if kind == "markup":
            found[special] += 4 * spread
        elif kind == "forging":
            found[forging] += 4 * spread
        elif kind == "stubborn":
            fixed = torch.Generator().manual_seed(seed * 1009 + row)
            found = torch.randn(VOCAB, generator=fixed) * spread
            found[special] += 2 * spread
        found[processor.stop_token_id] += place - 20 + 4 * spread * (kind != "wild")
        return found

    return logits


def check_answers(processor, matchers, kind, seed, request, regions, ahead):
    bench = Bench(processor, matchers, request, regions, ahead=ahead)
    rows = [bench.row() for _ in range(20)]
    bench.write(rows, whims(processor, kind, seed))
    for row in rows:
        answer = bench.read(row)
        faults = [said for said in answer.problems if not any(told in said for told in TOLD)]
        if row.ended:
            assert faults == [], answer.text
        else:
            assert faults[-1] == "cut" or "cut" in faults
            wrong = ("not exist", "twice", "not asked", "without", "inside", "again", "left out")
            # "None" may be cut in the middle, which then reads as words inside a list.
            cut = {f"text inside <objects>: {'none'[:n]!r}" for n in range(1, 4)}
            faults = [said for said in faults if said.lower() not in cut]
            assert not [said for said in faults if any(word in said for word in wrong)], answer.text
    return sum(row.ended for row in rows)


WHIMS = st.tuples(
    st.sampled_from(["wild", "markup", "forging", "stubborn"]),
    st.integers(0, 2**20),
    st.sampled_from(REQUESTS),
    st.sampled_from([0, 1, 2, 7, 32]),
    st.booleans(),
)


@settings(max_examples=12, derandomize=True)
@given(WHIMS)
def test_whatever_a_model_thinks_its_answer_parses_with_no_problem(processor, matchers, whim):
    check_answers(processor, matchers, *whim)


@pytest.mark.slow
@settings(max_examples=500)
@given(WHIMS)
def test_ten_thousand_answers_of_models_that_mean_no_good_parse(processor, matchers, whim):
    check_answers(processor, matchers, *whim)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: f"{one.task} {one.labels[:1]}")
def test_every_region_can_be_named_and_every_label_be_absent(processor, matchers, request_):
    bench = Bench(processor, matchers, request_, 7)
    label = bench.question.labels[0] if bench.question.labels else "a thing"
    opened = f"<ground>{label}</ground><objects>"
    tags, (none,) = set(bench.tokens.tags[:7]), bench.tokens.none
    assert bench.allowed(opened) >= {*tags, none, bench.tokens.end}
    assert not bench.allowed(opened) & set(bench.tokens.tags[7:])
    used = {bench.tokens.tags[3], bench.tokens.tags[0]}
    after = bench.allowed(f"{opened}<region3><region0>")
    assert after >= {*(tags - used), bench.tokens.end}
    assert not after & used
    again = bench.allowed(f"{opened}<region3><region0></objects>\n{opened}")
    assert again >= tags  # in another list they may stand again


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (REQUESTS[0], "<ground>Apple pies</ground><objects><region2><region0></objects>"),
        (REQUESTS[0], "<ground>oranges</ground><objects><region1>, <region0></objects>"),
        (REQUESTS[0], "<ground>An ORANGE</ground> <objects>none.</objects>\nand no more"),
        (REQUESTS[0], "<ground>the glass</ground><objects></objects>"),
        (REQUESTS[0], "None"),
        (REQUESTS[0], ""),
        (REQUESTS[2], "There are 2 <ground>oranges</ground><objects><region1><region0></objects>."),
        (REQUESTS[1], "<ground>region3</ground><objects><region3></objects>"),
        (REQUESTS[1], "<ground>naïve café</ground><objects><region3></objects>"),
        (REQUESTS[3], "<ground>X-ray (Old)</ground><objects><region6></objects>"),
        (REQUESTS[5], "A <ground>cat</ground><objects><region1></objects> < a dog > 2"),
        (REQUESTS[8], "<think>It is <region1>.</think><answer>Yes</answer>"),
        (REQUESTS[9], "It is <region1>."),
        (REQUESTS[10], "EXIT 5 > 4"),
    ],
    ids=lambda one: one if isinstance(one, str) else one.task,
)
def test_what_is_whole_by_itself_stays_byte_for_byte(processor, matchers, request_, text):
    bench = Bench(processor, matchers, request_, 7)
    wanted = [*bench.ids(text), processor.stop_token_id]

    def says(_, place):
        found = torch.zeros(VOCAB)
        found[wanted[min(place, len(wanted) - 1)]] = 9.0
        return found

    row = bench.row()
    bench.write([row], says)
    assert processor.decode(row.ids) == text
    assert row.ended


def test_a_label_that_looks_like_a_tag_is_text_and_names_no_region(processor, matchers):
    bench = Bench(processor, matchers, Request(task="referring", labels=("<region3>",)), 7)
    assert bench.question.labels == ("region3",)
    assert bench.tokens.tags[3] not in bench.allowed("<ground>")
    assert bench.ids("</ground>")[0] in bench.allowed("<ground>region3")


def test_guesses_change_no_token_and_save_most_passes(processor, matchers):
    request = Request(task="detection", labels=("orange", "apple", "dog"))
    text = (
        "<ground>orange</ground><objects><region3><region1></objects>\n"
        "<ground>apple</ground><objects>None</objects>\n<ground>dog</ground><objects>None</objects>"
    )
    steps = {}
    for ahead in (True, False):
        bench = Bench(processor, matchers, request, 7, ahead=ahead)
        wanted = [*bench.ids(text), processor.stop_token_id]

        def says(_, place, wanted=wanted):
            found = torch.zeros(VOCAB)
            found[wanted[min(place, len(wanted) - 1)]] = 9.0
            return found

        row = bench.row()
        steps[ahead] = bench.write([row], says)
        assert processor.decode(row.ids) == text
        one, *absent = row.done().lists
        assert [len(part.tags_SN) for part in (one, *absent)] == [3, 1, 1]
        assert one.tags_SN.argmax(1).tolist()[:2] == [3, 1]
        assert all(part.none > 0.8 for part in absent)
    assert steps[False] == len(wanted)
    assert steps[True] * 3 <= steps[False]


def test_a_start_outside_the_grammar_stands_and_the_rest_is_free(processor, matchers):
    bench = Bench(processor, matchers, REQUESTS[0], 7)
    start = tuple(bench.ids("<ground>zebra</ground><objects><region1><region1>"))
    row = bench.row(start)
    bench.write([row], whims(processor, "markup", 1))
    assert tuple(row.ids[: len(start)]) == start


@pytest.mark.parametrize("make", [char_tokenizer, lambda: make_tokenizer()], ids=["chars", "words"])
def test_a_tokenizer_that_cannot_be_constrained_is_told_once_and_leaves_answers_free(
    make, processor, caplog
):
    tokenizer = make()
    tokens = list_tokens(processor)
    matchers = Matchers(tokenizer, len(tokenizer), tokens, 0)
    grammar = Bench(processor, None, REQUESTS[0], 3).grammar
    with caplog.at_level(logging.WARNING):
        assert matchers.constraint(grammar) is None
        assert matchers.constraint(grammar) is None
    assert len(caplog.records) == 1
    assert "constrain=False" in caplog.text


def test_where_markup_is_not_one_token_each_there_is_no_grammar():
    spelt_otherwise = char_tokenizer(Vocabulary(ground=("<name>", "</name>")))
    processor = FO1Processor(FO1ImageProcessor(), spelt_otherwise)
    (question,) = questions_of(REQUESTS[0], 3, processor.vocabulary, ())
    assert grammar_of(question, processor, 3) is None


def test_constrain_false_gives_what_the_model_writes_by_itself(fo1):
    scene = fo1.open(DEMO / "photo.jpg", BOXES)
    request = Request(task="free", text="What is in the image?")
    raw = scene.answer(request, constrain=False)
    assert raw.text == "<region11></objects>"
    assert "</objects> without an opening" in raw.problems
    kept = scene.answer(request, max_new_tokens=8)
    assert not any("opening" in said for said in kept.problems)


def test_a_grammar_beyond_the_library_frees_its_own_question_alone(processor, caplog):
    tokens = list_tokens(processor)
    matchers = Matchers(processor.tokenizer, VOCAB, tokens, processor.stop_token_id)
    good = Bench(processor, matchers, REQUESTS[0], 3).grammar
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert matchers.constraint(Grammar("start: /(/")) is None
    (record,) = caplog.records
    assert "constrain=False" in record.getMessage()
    assert matchers.constraint(good) is not None


def test_a_tail_that_is_worded_otherwise_is_guessed_again_where_it_comes_back():
    tokens = ListTokens(tags=(10, 11), start=1, end=2)
    guesses = Guesses(Grammar("", tails=((), (20, 21, 22, 23, 24))), tokens)
    for id_ in (1, 10, 2):
        guesses.put(id_)
    assert guesses.after((), 9) == [20, 21, 22, 23, 24]
    assert guesses.after((20, 30), 9) == []
    assert guesses.after((20, 30, 22), 9) == [23, 24]
    assert guesses.after((20, 21, 22, 23, 24), 9) == []
