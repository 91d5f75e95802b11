"""Rows that share passes, prefixes and memory get what each gets alone."""

import gc
import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from tests.helpers import hosts
from tests.helpers.hosts import Prompter

from vlm_fo1 import FO1
from vlm_fo1.engine import Limits, ListTokens, Prefix, Prompt, generate
from vlm_fo1.engine.generate import Decoder
from vlm_fo1.engine.lanes import Lanes, sharing_of
from vlm_fo1.tasks import Request

DEMO = Path(str(files("vlm_fo1"))) / "assets" / "demo"
BOXES = json.loads((DEMO / "boxes.json").read_text())
REGIONS = torch.tensor([[4.0, 4.0, 30.0, 28.0], [20.0, 8.0, 60.0, 40.0]])
RESTS = ["is this red", "what", "colour in this is blue green", "red", "what is this"]
STOP = 2


def photo(seed):
    return torch.randn(3, 48, 64, generator=torch.Generator().manual_seed(seed))


def make_prompter(kind="qwen3_vl", **text):
    config = hosts.CONFIGS[kind]["text_config"]
    tokenizer = hosts.make_tokenizer()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in text.items():
            patch.setitem(config, name, value)
        host = hosts.make_host(kind)
    return Prompter(hosts.make_graft(host, tokenizer), tokenizer)


def prompts_of(prompter, images=(0,), limit=6):
    """Questions on each image; the first two tokens of an image are the prefix's end."""
    found = []
    for seed in images:
        inputs = prompter.batch(["what"], [photo(seed)], [REGIONS])
        ids = inputs.pop("input_ids")[0].tolist()
        del inputs["attention_mask"]
        with torch.no_grad():
            encoded = prompter.model.encode_images(**{"image_grid_thw": None, **inputs})
        prefix = Prefix(prompter.model, encoded, ids[:-2])
        for rest in RESTS:
            own = prompter.tokenizer(f"{rest} :", add_special_tokens=False)["input_ids"]
            found.append((Prompt(prefix, tuple(own), limit), encoded))
    return found


def run(prompter, prompts, monkeypatch, *, sharing=None, limits=None):
    """What is written, and the logits of every step of each row."""
    steps = {}
    choose = generate.choose

    def recorded(logits_RV, asked, *rest):
        logits_RV = logits_RV.clone()
        logits_RV[:, 1] = -torch.inf  # no placeholder is written
        places = [row.number for row, ahead in asked for _ in ahead.asked]
        for number, logits in zip(places, logits_RV, strict=True):
            steps.setdefault(number, []).append(logits)
        return choose(logits_RV, asked, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(generate, "choose", recorded)
        decoder = Decoder(
            prompter.model,
            tokens=ListTokens((15, 16)),
            stop_id=STOP,
            matchers=None,
            limits=limits or Limits(),
            sharing=sharing,
        )
        done = dict(decoder.run(prompts))
    return done, {number: torch.stack(logits) for number, logits in steps.items()}


def whole(prompter, prompt, encoded, done):
    """The logits of one pass over everything, at the steps of the answer."""
    ids = [*prompt.prefix.ids, *prompt.ids, *done.ids]
    given = torch.tensor([ids[: len(ids) - (not done.ended)]])
    with torch.no_grad():
        logits = prompter.model(given, torch.ones_like(given), encoded=encoded).logits[0]
    logits = logits[len(prompt) - 1 :].float()
    logits[:, 1] = -torch.inf
    return logits


@pytest.mark.parametrize("sharing", ["packed", "padded", "alone"])
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl", "idefics3"])
def test_questions_side_by_side_get_the_logits_that_each_gets_alone(kind, sharing, monkeypatch):
    prompter = make_prompter(kind)
    asked = prompts_of(prompter, images=(0, 1))
    prompts = [prompt for prompt, _ in asked]
    done, steps = run(prompter, prompts, monkeypatch, sharing=sharing)
    for number, (prompt, encoded) in enumerate(asked):
        truth = whole(prompter, prompt, encoded, done[number])
        torch.testing.assert_close(steps[number], truth, atol=3e-5, rtol=0)
        (alone,) = run(prompter, [prompt], monkeypatch, sharing="alone")[0].values()
        assert done[number].ids == alone.ids


def test_how_rows_share_is_decided_by_what_the_host_allows():
    assert sharing_of(make_prompter("qwen2_5_vl").model) == "packed"
    assert sharing_of(make_prompter("idefics3").model) == "packed"
    other = make_prompter("qwen3_vl").model
    other.config.get_text_config()._attn_implementation = "flash_attention_2"
    assert sharing_of(other) == "padded"


def test_a_host_with_a_sliding_window_is_asked_one_by_one_and_exactly(monkeypatch):
    prompter = make_prompter(
        "qwen2_5_vl", use_sliding_window=True, sliding_window=5, max_window_layers=1
    )
    assert "sliding_attention" in prompter.model.config.get_text_config().layer_types
    assert sharing_of(prompter.model) == "alone"
    asked = prompts_of(prompter)
    prompts = [prompt for prompt, _ in asked]
    done, steps = run(prompter, prompts, monkeypatch)
    for number, (prompt, encoded) in enumerate(asked):
        truth = whole(prompter, prompt, encoded, done[number])
        torch.testing.assert_close(steps[number], truth, atol=3e-5, rtol=0)


def test_rows_take_the_places_of_those_that_end_and_wait_for_nobody(monkeypatch):
    prompter = make_prompter()
    asked = [prompt for prompt, _ in prompts_of(prompter, images=(0, 1, 2), limit=4)]
    asked[1] = replace(asked[1], max_new_tokens=30)
    taken = []

    def given():
        for number, prompt in enumerate(asked):
            taken.append(number)
            yield prompt

    limits = Limits(lanes=2, rows=3)
    widest = []
    forward = type(prompter.model).forward

    def seen(self, *args, **options):
        widest.append(len(options["inputs_embeds"]))
        return forward(self, *args, **options)

    monkeypatch.setattr(type(prompter.model), "forward", seen)
    decoder = Decoder(
        prompter.model, tokens=ListTokens(()), stop_id=-1, matchers=None, limits=limits
    )
    order, taken_at_first = [], 0
    done = {}
    for number, generation in decoder.run(given()):
        taken_at_first = taken_at_first or len(taken)
        order.append(number)
        done[number] = generation
    assert sorted(order) == list(range(15))
    assert taken_at_first <= 4  # three rows, and one looked at
    assert order.index(1) > 8  # the long one held up nobody
    assert max(widest) <= 2
    for number, prompt in enumerate(asked):
        (alone,) = run_plain(prompter, [prompt])
        assert done[number].ids == alone.ids


def run_plain(prompter, prompts):
    decoder = Decoder(
        prompter.model, tokens=ListTokens(()), stop_id=-1, matchers=None, limits=Limits()
    )
    return [generation for _, generation in sorted(decoder.run(prompts))]


def test_gaps_are_closed_and_the_answer_stays(monkeypatch):
    prompter = make_prompter()
    asked = [prompt for prompt, _ in prompts_of(prompter, limit=3)] * 30
    asked[0] = replace(asked[0], max_new_tokens=40)
    monkeypatch.setattr("vlm_fo1.engine.lanes._SLACK", 8)
    columns = []
    decoder = Decoder(
        prompter.model, tokens=ListTokens(()), stop_id=-1, matchers=None, limits=Limits(rows=8)
    )
    done = {}
    for number, generation in decoder.run(asked):
        done[number] = generation
        assert isinstance(decoder.lanes, Lanes)
        columns.append(decoder.lanes.owners_BT.shape[1])
    assert isinstance(decoder.lanes, Lanes)
    assert max(columns) < 2 * (len(asked[0].prefix.ids) + 8 * 12 + 40)
    assert decoder.lanes.cache is None
    (alone,) = run_plain(prompter, [asked[0]])
    assert done[0].ids == alone.ids


# --- memory --------------------------------------------------------------------------------------


@pytest.fixture
def fo1(tiny):
    """The bundled model with nothing kept of earlier tests."""
    return FO1(tiny.model, tiny.processor)


def test_kept_prefixes_of_all_scenes_stay_within_a_budget_in_bytes(fo1):
    request = Request(task="counting", labels=("orange",))
    first = fo1.open(DEMO / "photo.jpg", BOXES)
    before = first.answer(request)
    one = fo1.engine.cache_bytes
    assert one > 100_000
    fo1.engine.prefixes.budget = int(2.5 * one)
    scenes = [first, *(fo1.open(DEMO / "photo.jpg", BOXES) for _ in range(4))]
    for place in range(len(scenes)):
        again = scenes[place].answer(request)
        assert again.to_dict()["mentions"] == before.to_dict()["mentions"]
        assert fo1.engine.cache_bytes <= 2.5 * one
    assert fo1.engine.cache_bytes == 2 * one
    assert [scene._prefix(scene._best)._known is not None for scene in scenes] == [
        *[False] * 3,
        *[True] * 2,
    ]
    scenes[-1].close()
    assert fo1.engine.cache_bytes == one
    scenes.clear()
    gc.collect()
    assert fo1.engine.cache_bytes == 0  # a scene that is gone keeps nothing
    fo1.engine.prefixes.budget = 0
    first.answer(request)
    assert fo1.engine.cache_bytes == 0


def test_a_request_that_is_cancelled_frees_its_rows_and_the_next_is_answered(fo1):
    scene = fo1.open(DEMO / "photo.jpg", BOXES)
    request = Request(task="grounded_caption")
    before = scene.answer(request)
    kept = fo1.engine.cache_bytes

    class StopError(BaseException):
        pass

    def stop(text):
        raise StopError

    with pytest.raises(StopError):
        scene.answer(request, on_text=stop)
    gc.collect()
    assert fo1.engine.cache_bytes == kept
    assert scene.answer(request).text == before.text


def test_the_same_model_seen_otherwise_shares_one_budget_and_one_set_of_grammars(fo1):
    other = fo1.seeing(256)
    assert other.engine.image_processor is other.processor.image_processor
    for engine in (other.engine, fo1.selecting(fo1.selection).engine):
        assert engine.prefixes is fo1.engine.prefixes
        assert engine.matchers is fo1.engine.matchers
