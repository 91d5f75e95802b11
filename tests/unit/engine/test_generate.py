"""The engine writes what `generate` writes, row by row, in as few passes as there are steps."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from vlm_fo1.engine.lists import ListRecorder, ListTokens
from vlm_fo1.engine.rows import repeats_itself
from vlm_fo1.errors import FO1Error, ImageError
from vlm_fo1.tasks import Request

DEMO = Path(str(files("vlm_fo1"))) / "assets" / "demo"
BOXES = json.loads((DEMO / "boxes.json").read_text())


@pytest.fixture
def passes(fo1, monkeypatch):
    """Rows and columns of every pass through the language model."""
    rows = []
    decode = type(fo1.model.host_adapter).decode

    def counting(self, host, embeds, *args, **options):
        rows.append(tuple(embeds.shape[:2]))
        return decode(self, host, embeds, *args, **options)

    monkeypatch.setattr(type(fo1.model.host_adapter), "decode", counting)
    return rows


def by_generate(fo1, scene, request):
    """What transformers' own greedy decoding writes, and the probability of each step."""
    (draft,) = scene.plan(request).drafts
    encoded = scene._shown(draft.window)
    ids = torch.tensor([[*scene._prefix(draft.window).ids, *draft.ids]])
    with torch.inference_mode():
        done = fo1.model.generate(
            ids,
            encoded=encoded,
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=fo1.processor.stop_token_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
    new = done.sequences[0, ids.shape[1] :].tolist()
    sure = [float(step[0].softmax(-1)[id_]) for step, id_ in zip(done.scores, new, strict=True)]
    return new, sure


@pytest.mark.parametrize(
    "request_",
    [
        Request(task="detection", labels=("orange", "apple")),
        Request(task="counting", labels=("orange",)),
        Request(task="grounded_caption"),
        Request(task="free", text="What is in the image?"),
    ],
    ids=lambda request: request.task,
)
def test_a_row_alone_is_what_generate_writes_bit_for_bit(fo1, request_):
    scene = fo1.open(DEMO / "photo.jpg", BOXES)
    plan = scene.plan(request_, max_new_tokens=64, constrain=request_.task != "free")
    (done,) = fo1.engine.generate(scene.prompts(plan))
    new, sure = by_generate(fo1, scene, request_)
    stop = fo1.processor.stop_token_id
    assert [*done.ids, *([stop] if done.ended else [])] == new
    tags = [p for p, id_ in zip(sure, new, strict=True) if id_ in fo1.engine.tag_ids]
    assert list(done.tag_probabilities) == pytest.approx(tags, abs=1e-4)


def test_each_step_of_a_list_says_how_likely_every_region_was_whatever_was_written(fo1):
    scene = fo1.open(DEMO / "photo.jpg", BOXES)
    plan = scene.plan(Request(task="detection", labels=("orange", "dog")), max_new_tokens=64)
    (prompt,) = scene.prompts(plan)
    (done,) = fo1.engine.generate([prompt])
    whole = torch.tensor([[*prompt.prefix.ids, *prompt.ids, *done.ids]])
    with torch.inference_mode():
        encoded = scene._shown(plan.drafts[0].window)
        logits = fo1.model(whole, torch.ones_like(whole), encoded=encoded).logits[0]
    truth = logits[len(prompt) - 1 :].softmax(-1)
    tags = list(fo1.engine.tag_ids[: len(BOXES)])
    there, absent = done.lists
    named = [id_ for id_ in done.ids[there.at :] if id_ in tags]
    assert there.tags_SN.shape == (len(named) + 1, len(BOXES))
    assert there.tags_SN.dtype == np.float32
    for step, row in enumerate(there.tags_SN):
        assert row == pytest.approx(truth[there.at + step, tags].numpy(), abs=1e-4)
    written = [row[tags.index(id_)] for id_, row in zip(named, there.tags_SN, strict=False)]
    assert written == pytest.approx(done.tag_probabilities, abs=1e-6)
    (none,) = fo1.engine.list_tokens.none
    assert there.none == pytest.approx(float(truth[there.at, none]), abs=1e-4)
    assert absent.tags_SN.shape == (1, len(BOXES))
    assert absent.none == pytest.approx(float(truth[absent.at, none]), abs=1e-4)
    assert absent.none > 0.5 > there.none


def test_a_forced_start_is_part_of_what_is_written_and_its_lists_are_followed(fo1):
    scene = fo1.open(DEMO / "photo.jpg", BOXES)
    plan = scene.plan(Request(task="detection", labels=("apple", "orange")), max_new_tokens=64)
    (prompt,) = scene.prompts(plan)
    text = "<ground>orange</ground><objects><region3><region2>"
    start = tuple(fo1.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    heard = []
    (done,) = fo1.engine.generate(
        [replace(prompt, start=start)], on_id=lambda _, id_: heard.append(id_)
    )
    assert done.ids[: len(start)] == start
    assert tuple(heard) == (*done.ids, None)
    first = done.lists[0]
    assert first.at == len(start) - 2
    assert done.tag_probabilities[0] == pytest.approx(float(first.tags_SN[0, 3]), abs=1e-6)
    assert done.tag_probabilities[0] < 0.5  # forced, not believed


def test_what_stands_between_regions_is_no_step_and_nothing_is_one():
    tokens = ListTokens(tags=(10, 11), start=1, end=2, none=(5,))
    lists = ListRecorder(tokens, regions=2)
    comma, said = 7, iter(range(100))

    def put(ids):
        for at, id_ in ids:
            step = torch.tensor([next(said), 0.0, at / 10]) if lists.wants_step else None
            lists.put(id_, at, step)

    put(enumerate([3, 1, 10, comma, 11, 2, 3, 1, 5, 6, 2, 4, 1]))
    first, second = lists.done()
    assert (first.at, first.tags_SN[:, 0].tolist()) == (2, [0, 2, 3])
    assert (second.at, second.tags_SN[:, 0].tolist()) == (8, [4])
    assert second.none == pytest.approx(0.8)


def test_rows_side_by_side_write_what_each_writes_alone(fo1):
    scene = fo1.open(DEMO / "photo.jpg", BOXES)
    other = fo1.open(np.zeros((64, 96, 3), np.uint8), [[4, 4, 40, 40]])
    prompts = [
        prompt
        for one, request in (
            (scene, Request(task="detection", labels=("orange",))),
            (other, Request(task="counting", labels=("a thing with a longer name",))),
            (scene, Request(task="brief_caption", regions=(2, 10))),
        )
        for prompt in one.prompts(one.plan(request, max_new_tokens=24))
    ]
    together = fo1.engine.generate(prompts)
    for prompt, done in zip(prompts, together, strict=True):
        (alone,) = fo1.engine.generate([prompt])
        assert (done.ids, done.ended) == (alone.ids, alone.ended)
        assert done.tag_probabilities == pytest.approx(alone.tag_probabilities, abs=1e-4)


def test_fifteen_boxes_are_described_in_one_batch_over_one_prefix(fo1, passes):
    scene = fo1.open(DEMO / "photo.jpg", BOXES)
    answer = scene.describe()
    longest = max(len(scene.processor.tokenizer(m.label)["input_ids"]) for m in answer.mentions)
    (prefix, questions, *steps) = passes
    assert prefix[0] == questions[0] == 1  # one lane over one prefix
    assert questions[1] < 15 * 20 < prefix[1] * 15  # all questions at once
    assert len(steps) <= longest
    assert all(lanes == 1 and tokens <= 15 for lanes, tokens in steps)
    assert [m.label for m in answer.mentions][:3] == ["background", "a pink guitar", "an orange"]


def test_eight_images_are_asked_side_by_side(fo1, passes):
    item = (DEMO / "photo.jpg", Request(task="counting", labels=("orange",)), BOXES)
    answers = list(fo1.answer_many([item] * 8, batch_size=8))
    assert [answer.count for answer in answers] == [3] * 8
    assert [rows for rows, _ in passes[:9]] == [
        *[1] * 8,
        8,
    ]  # eight prefixes, then one pass a step for all
    alone = len(passes) - 8
    del passes[:]
    fo1.answer(*item)
    assert len(passes) - 1 == alone


def test_a_broken_item_gives_its_error_and_the_others_their_answers(fo1):
    good = (DEMO / "photo.jpg", Request(task="counting", labels=("orange",)), BOXES)
    bad = ("nowhere.jpg", Request(task="counting", labels=("orange",)), BOXES)
    first, second, third = fo1.answer_many(iter([good, bad, good]), batch_size=2)
    assert isinstance(second, ImageError)
    assert not isinstance(first, FO1Error)
    assert not isinstance(third, FO1Error)
    assert first.count == third.count == 3


def test_a_batch_that_cannot_be_run_together_is_run_one_by_one(fo1, monkeypatch):
    item = (DEMO / "photo.jpg", Request(task="counting", labels=("orange",)), BOXES)
    run = type(fo1.engine).generate

    def little_memory(self, prompts, **options):
        if len(prompts) > 1:
            raise MemoryError("too many rows")
        return run(self, prompts, **options)

    monkeypatch.setattr(type(fo1.engine), "generate", little_memory)
    assert [answer.count for answer in fo1.answer_many([item] * 3)] == [3, 3, 3]


def test_what_a_scene_keeps_can_be_given_back(fo1):
    scene = fo1.open(DEMO / "photo.jpg", BOXES)
    before = scene.count("orange")
    prefix = scene._prefix(scene._best)
    assert prefix._known is not None
    scene.close()
    assert prefix._known is None
    assert scene.count("orange").to_json() == before.to_json()


def test_ids_that_do_not_fill_the_end_are_no_repetition():
    assert not repeats_itself([1] * 255)
    assert repeats_itself([1] * 256)
