"""Passes over fixed memory, captured and replayed, write what plain passes write."""

import json
import logging
import threading
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.tape import Tape
from tests.unit.engine.test_generate import by_generate
from tests.unit.engine.test_lanes import RESTS, STOP, make_prompter, prompts_of

from vlm_fo1 import FO1
from vlm_fo1.engine import Limits, ListTokens, Steps, steps_for
from vlm_fo1.engine.generate import Decoder
from vlm_fo1.engine.steps import cuda_capture
from vlm_fo1.tasks import Request

DEMO = Path(str(files("vlm_fo1"))) / "assets" / "demo"
BOXES = json.loads((DEMO / "boxes.json").read_text())


def written(prompter, prompts, steps=None, stop_id=STOP, **limits):
    decoder = Decoder(
        prompter.model,
        tokens=ListTokens((15, 16)),
        stop_id=stop_id,
        matchers=None,
        limits=Limits(**limits),
        steps=steps,
    )
    return [done for _, done in sorted(decoder.run(prompts))]


def same(one, other):
    assert [done.ids for done in one] == [done.ids for done in other]
    assert [done.ended for done in one] == [done.ended for done in other]
    for first, second in zip(one, other, strict=True):
        assert first.tag_probabilities == pytest.approx(second.tag_probabilities, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "captured"), [("qwen2_5_vl", True), ("qwen3_vl", False), ("idefics3", True)]
)
def test_rows_that_join_and_leave_write_the_same_over_fixed_memory(kind, captured):
    prompter = make_prompter(kind)
    asked = [prompt for prompt, _ in prompts_of(prompter, images=(0, 1), limit=6)]
    asked[1] = replace(asked[1], max_new_tokens=20)
    asked[7] = replace(asked[7], start=(5, 15, 6))
    tape = Tape()
    steps = Steps(prompter.model, capture=tape if captured else None)
    for limits in ({"lanes": 2, "rows": 3}, {}):
        same(written(prompter, asked, steps, **limits), written(prompter, asked, **limits))
    assert captured == (tape.captured > 1)
    assert captured == (tape.replayed > 10)


def test_memory_of_a_fixed_capacity_grows_by_doubling_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr("vlm_fo1.engine.static._FEWEST_COLUMNS", 4)
    prompter = make_prompter()
    asked = [replace(one, max_new_tokens=60) for one, _ in prompts_of(prompter)[:2]]
    tape = Tape()
    steps = Steps(prompter.model, capture=tape)
    made = []
    cache = steps.cache
    monkeypatch.setattr(steps, "cache", lambda *sizes: made.append(sizes[1:]) or cache(*sizes))
    truth = written(prompter, asked, stop_id=-1)
    same(written(prompter, asked, steps, stop_id=-1), truth)
    assert len(made) > 2
    assert [columns for _, columns in made] == sorted({columns for _, columns in made})
    assert tape.captured >= len(made) - 1  # what was captured over other memory is not replayed
    before = steps.bytes
    same(written(prompter, asked, steps, stop_id=-1), truth)
    assert steps.bytes == before


def test_the_bundled_model_answers_byte_for_byte_as_generate_does_when_captured(tiny):
    fo1 = FO1(tiny.model, tiny.processor)
    tape = Tape()
    fo1.engine = replace(fo1.engine, steps=Steps(fo1.model, capture=tape))
    scene = fo1.open(DEMO / "photo.jpg", BOXES)
    request = Request(task="detection", labels=("orange", "apple"))
    for constrain in (True, False):
        plan = scene.plan(request, max_new_tokens=32, constrain=constrain)
        (done,) = fo1.engine.generate(scene.prompts(plan))
        new, _ = by_generate(fo1, scene, request)
        assert [*done.ids, *([fo1.processor.stop_token_id] if done.ended else [])] == new
    assert tape.replayed > 4


def test_tokens_that_nobody_has_to_look_at_are_fetched_some_passes_at_a_time():
    prompter = make_prompter()
    asked = [one for one, _ in prompts_of(prompter, limit=18)]
    looked = []
    decoder = Decoder(
        prompter.model,
        tokens=ListTokens((15, 16)),
        stop_id=-1,
        matchers=None,
        limits=Limits(),
        steps=Steps(prompter.model),
        on_id=lambda number, id_: looked.append(number),
    )
    done = [one for _, one in sorted(decoder.run(asked))]
    # The first token, twice eight and one more; each row is told of eight at once.
    assert looked[: len(RESTS)] == list(range(len(RESTS)))
    assert looked[len(RESTS) :][:16] == [0] * 8 + [1] * 8
    assert all(len(one.ids) == 18 for one in done)


def test_passes_too_large_to_be_captured_write_the_same(monkeypatch):
    monkeypatch.setattr("vlm_fo1.engine.static.CAPTURED_PLACES", 0)
    prompter = make_prompter()
    asked = [one for one, _ in prompts_of(prompter, images=(0, 1))]
    tape = Tape()
    same(written(prompter, asked, Steps(prompter.model, capture=tape)), written(prompter, asked))
    assert tape.captured == 0


def test_where_capturing_fails_the_reason_is_logged_once_and_answers_stay(caplog):
    prompter = make_prompter()
    asked = [one for one, _ in prompts_of(prompter)]

    def refused(run):
        run()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    steps = Steps(prompter.model, capture=refused)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            same(written(prompter, asked, steps), written(prompter, asked))
    (record,) = caplog.records
    assert "operation not permitted when stream is capturing" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert not steps.borrow()  # later answers go the plain way


def test_a_pass_whose_result_the_host_reads_cannot_be_captured():
    with pytest.raises(RuntimeError, match="capturing"):
        Tape()(lambda: torch.zeros(int(torch.ones(3).sum())))


def test_a_decoder_that_finds_the_memory_lent_writes_the_same_without():
    prompter = make_prompter()
    asked = [one for one, _ in prompts_of(prompter, images=(0, 1))]
    steps = Steps(prompter.model, capture=Tape())
    asked = asked[::2]
    truth = written(prompter, asked)
    found = {}

    def ask(number):
        for _ in range(2):
            found.setdefault(number, []).append(written(prompter, asked, steps))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    for answers in found.values():
        for one in answers:
            same(one, truth)
    assert steps.borrow()
    steps.give_back()


def test_an_answer_that_is_broken_off_gives_the_memory_back():
    prompter = make_prompter()
    asked = [one for one, _ in prompts_of(prompter, images=(0, 1))]
    steps = Steps(prompter.model)
    decoder = Decoder(
        prompter.model,
        tokens=ListTokens(()),
        stop_id=-1,
        matchers=None,
        limits=Limits(rows=2),
        steps=steps,
    )
    running: Any = decoder.run(asked)  # a generator
    next(running)
    assert not steps.borrow()
    running.close()
    assert steps.borrow()
    steps.give_back()


def test_memory_beyond_its_budget_is_let_go_when_nobody_writes():
    prompter = make_prompter()
    asked = [one for one, _ in prompts_of(prompter)]
    kept, small = Steps(prompter.model), Steps(prompter.model, budget=100)
    written(prompter, asked, kept)
    written(prompter, asked, small)
    # three layers of keys and values, two heads of eight numbers, 256 columns of 4 bytes
    assert kept.bytes == 3 * 2 * 2 * 8 * 256 * 4
    assert small.bytes == 0


def test_steps_are_captured_on_cuda_alone():
    assert steps_for(make_prompter().model) is None


def test_a_capture_warms_up_on_its_own_stream_and_replays_what_it_captured(monkeypatch):
    """The calls to torch.cuda, in order; a GPU does the rest."""
    told = []

    class Stream:
        def wait_stream(self, other):
            told.append("wait")

        def __enter__(self):
            told.append("side stream")

        def __exit__(self, *_):
            told.append("back")

    class Graph:
        def replay(self):
            told.append("replay")

    class Capturing:
        def __init__(self, graph, pool, stream, *, capture_error_mode):
            told.append((pool, capture_error_mode))

        __enter__, __exit__ = Stream.__enter__, Stream.__exit__

    class Device(Stream):
        def __init__(self, device):
            pass

        def __enter__(self):
            pass

        def __exit__(self, *_):
            pass

    for name, value in {
        "Stream": Stream, "CUDAGraph": Graph, "graph": Capturing, "device": Device,
        "stream": lambda stream: stream, "current_stream": Stream,
        "graph_pool_handle": lambda: "pool",
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    logits = torch.zeros(1)
    replay = cuda_capture(torch.device("cuda:1"))(lambda: told.append("run") or logits)
    assert told == ["wait", "side stream", "run", "back", "wait", ("pool", "thread_local"),
                    "side stream", "run", "back"]  # fmt: skip
    assert replay() is logits
    assert told[-1] == "replay"
