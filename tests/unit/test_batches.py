"""Many items: prepared in threads, answered side by side, told in order; nothing grows or leaks."""

import gc
import itertools
import random
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.stub_proposer import Painted, Stub, painted

from vlm_fo1 import FO1, Answer, batches
from vlm_fo1.batches import AHEAD, THREAD_NAME, WINDOW
from vlm_fo1.errors import FO1Error, ImageError, ItemError, PromptError
from vlm_fo1.scene import Scene
from vlm_fo1.tasks import Request

WIDE, TALL = (64, 48), (48, 64)
BOXES = [[2, 3, 40, 30], [10, 12, 46, 46]]
COUNT = Request(task="counting", labels=("cat",))
MIXED = [
    COUNT,
    Request(task="detection", labels=("cat", "dog")),
    Request(task="brief_caption"),
    Request(task="free", text="What is it?"),
]
SHORT: dict[str, Any] = {"max_new_tokens": 3}


def image_file(folder, number=0, size_wh=WIDE):
    path = folder / f"{number}.png"
    pixels = np.random.default_rng(number).integers(0, 256, (*size_wh[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def threads():
    return [one for one in threading.enumerate() if one.name.startswith(THREAD_NAME)]


def are_gone(found, seconds=20):
    """Whether there is none left of what a function finds, soon."""
    end = time.monotonic() + seconds
    while found() and time.monotonic() < end:
        gc.collect()
        time.sleep(0.05)
    return not found()


def tensor_bytes():
    gc.collect()
    return sum(one.nbytes for one in gc.get_objects() if issubclass(type(one), torch.Tensor))


@pytest.fixture
def scenes(monkeypatch):
    """The scenes that are alive."""
    alive = weakref.WeakSet()
    init = Scene.__init__

    def noted(self, *args, **options):
        init(self, *args, **options)
        alive.add(self)

    monkeypatch.setattr(Scene, "__init__", noted)
    return alive


@pytest.fixture
def on_generate(fo1, monkeypatch):
    """Calls what a test puts here with the prompts of each batch, before they are run."""
    hooks = []
    run = type(fo1.engine).generate

    def hooked(self, prompts, **options):
        for hook in hooks:
            hook(prompts)
        return run(self, prompts, **options)

    monkeypatch.setattr(type(fo1.engine), "generate", hooked)
    return hooks


def test_answers_come_in_order_and_are_those_of_each_alone(fo1, tmp_path, monkeypatch):
    sizes = []
    encode = type(fo1.engine).encode_inputs

    def noted(self, inputs):
        sizes.append([tuple(one["image_grid_thw"][0].tolist()) for one in inputs])
        return encode(self, inputs)

    items = [
        (image_file(tmp_path, number, (WIDE, TALL)[number % 2]), MIXED[number % 4], BOXES)
        for number in range(8)
    ]
    alone = [fo1.answer(*item, **SHORT) for item in items]
    monkeypatch.setattr(type(fo1.engine), "encode_inputs", noted)
    monkeypatch.setattr(batches, "PATIENCE_S", 60)
    together = list(fo1.answer_many(iter(items), batch_size=4, **SHORT))
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.task for answer in together] == [answer.task for answer in alone]
    assert [len(one) for one in sizes] == [4, 4]  # the even ones, then the odd ones
    assert [len(set(one)) for one in sizes] == [1, 1]


def test_the_proposer_is_asked_in_the_threads(fo1, tmp_path):
    seen = set()

    class Watching(Stub):
        def propose(self, images, *, queries=None):
            seen.add(threading.current_thread().name.split("_")[0])
            return super().propose(images, queries=queries)

    asked = FO1(fo1.model, fo1.processor, Watching())
    (answer,) = asked.answer_many([(image_file(tmp_path, size_wh=(112, 84)), COUNT)], **SHORT)
    assert isinstance(answer, Answer)
    assert len(answer.regions) == 2
    assert seen == {THREAD_NAME}


def test_an_endless_iterator_is_read_no_further_than_a_few_batches(fo1, tmp_path):
    drawn = itertools.count()
    path = image_file(tmp_path)
    answers = fo1.answer_many(((path, COUNT, BOXES) for _ in drawn), batch_size=2, **SHORT)
    assert are_gone(threads)
    for number in range(5):
        assert next(answers).task == "counting"
        ahead = int(repr(drawn)[6:-1]) - number - 1
        assert ahead <= WINDOW * 2
    answers.close()
    assert are_gone(threads)


def test_a_slow_item_holds_up_nobody_but_those_who_wait_behind_it(fo1, tmp_path, on_generate):
    path, others_are_done = image_file(tmp_path), threading.Event()

    def slow():
        assert others_are_done.wait(60)
        return path, COUNT, BOXES

    rows = []
    on_generate.append(lambda prompts: rows.append(len(prompts)))
    on_generate.append(lambda _: others_are_done.set() if len(rows) == 3 else None)
    item = (path, COUNT, BOXES)
    answers = list(fo1.answer_many([slow, *[item] * 6], batch_size=2, scores=None, **SHORT))
    assert rows[:3] == [2, 2, 2]
    assert sum(rows) == 7
    assert len({answer.text for answer in answers}) == 1


def test_the_slow_at_the_end_do_not_hold_up_a_batch_for_long(fo1, tmp_path, on_generate):
    path, first_is_done = image_file(tmp_path), threading.Event()

    def slow():
        assert first_is_done.wait(60)
        return path, COUNT, BOXES

    on_generate.append(lambda _: first_is_done.set())
    answers = list(fo1.answer_many([(path, COUNT, BOXES), slow], batch_size=8, **SHORT))
    assert [answer.task for answer in answers] == ["counting"] * 2


def test_what_is_broken_stands_in_its_place_and_names_its_item(fo1, tmp_path, on_generate):
    good = image_file(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"no image")

    def broken():
        raise ZeroDivisionError("no")

    def poisoned(prompts):
        if any(len(prompt) > longest for prompt in prompts):
            raise RuntimeError("device-side assert")

    longest = len(fo1.open(good, BOXES).prompts(fo1.open(good, BOXES).plan(COUNT))[0])
    on_generate.append(poisoned)
    items = [
        (good, COUNT, BOXES),
        (tmp_path / "bad.png", COUNT, BOXES),
        (good, Request(task="counting", labels=("a very long poisoned name of a thing",)), BOXES),
        broken,
        good,
        (good, "how many?"),
        (np.zeros((4, 4, 7)), COUNT, BOXES),
        (good, COUNT, [[1, 2, 3]]),
        (good, COUNT, BOXES),
    ]
    first, bad, poison, zero, bare, words, array, box, last = fo1.answer_many(
        items, batch_size=9, **SHORT
    )
    assert first.text == last.text
    assert isinstance(bad, ImageError)
    assert str(poison) == f"{good} failed: RuntimeError: device-side assert"
    assert str(zero) == "item 3 failed: ZeroDivisionError: no"
    assert isinstance(zero, ItemError)
    assert isinstance(bare, PromptError)
    assert "(image, request) or (image, request, boxes)" in str(bare)
    assert "'how many?': a Request is needed" in str(words)
    assert isinstance(array, ImageError)
    assert isinstance(box, FO1Error)


def test_a_batch_that_memory_does_not_suffice_for_is_split_and_the_run_goes_on_smaller(
    fo1, tmp_path, on_generate, caplog
):
    tried = []

    def little_memory(prompts):
        tried.append(len(prompts))
        if len(prompts) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    on_generate.append(little_memory)
    item = (image_file(tmp_path), COUNT, BOXES)
    answers = list(fo1.answer_many([item] * 8, batch_size=4, scores=None, **SHORT))
    assert [answer.task for answer in answers] == ["counting"] * 8
    assert tried == [4, 2, 2, 2, 2]
    assert "going on with batches of 2" in caplog.text


def test_closing_early_ends_the_threads_and_frees_what_was_prepared(fo1, tmp_path, scenes):
    item = (image_file(tmp_path), COUNT, BOXES)
    answers = fo1.answer_many([item] * 12, batch_size=2, **SHORT)
    next(answers)
    assert threads()
    answers.close()
    assert are_gone(threads)
    assert are_gone(lambda: list(scenes))


@pytest.mark.parametrize("raised", [KeyboardInterrupt, OSError])
def test_what_is_raised_while_answers_are_written_ends_all(fo1, tmp_path, scenes, raised):
    steps = []

    def on_step():
        steps.append(1)
        if len(steps) == 4:
            raise raised("enough")

    item = (image_file(tmp_path), COUNT, BOXES)
    answers = fo1.answer_many([item] * 12, batch_size=2, on_step=on_step, **SHORT)
    with pytest.raises(raised, match="enough"):
        list(answers)
    assert len(steps) == 4
    assert are_gone(threads)
    assert are_gone(lambda: list(scenes))


def test_what_the_iterator_raises_comes_after_the_answers_to_those_before(fo1, tmp_path):
    item = (image_file(tmp_path), COUNT, BOXES)

    def items():
        yield from [item] * 3
        raise OSError("the database is gone")

    answers, seen = fo1.answer_many(items(), batch_size=2, **SHORT), []
    with pytest.raises(OSError, match="the database is gone"):
        seen.extend(answers)
    assert [answer.task for answer in seen] == ["counting"] * 3
    assert are_gone(threads)


def test_an_array_may_change_once_the_next_item_is_drawn(fo1):
    asked = FO1(fo1.model, fo1.processor, Painted())
    where = [[[4 * n, 4, 4 * n + 12, 30]] for n in range(6)]

    def camera():
        buffer = np.zeros((48, 64, 3), np.uint8)
        for boxes in where:
            buffer[:] = painted((64, 48), boxes)
            yield buffer, COUNT
            buffer[:] = 0

    answers = list(asked.answer_many(camera(), batch_size=2, **SHORT))
    offered = [answer.regions for answer in answers if isinstance(answer, Answer)]
    assert [regions.xyxy.tolist() for regions in offered] == where


def test_one_lazy_image_for_many_questions_is_read_by_one_thread_at_a_time(fo1, tmp_path):
    path = image_file(tmp_path, size_wh=(640, 480))
    with Image.open(path) as image:
        items = [(image, COUNT, BOXES)] * 6
        answers = list(fo1.answer_many(items, batch_size=6, **SHORT))
    assert [answer.text for answer in answers] == [fo1.answer(path, COUNT, BOXES, **SHORT).text] * 6


@pytest.mark.parametrize("size", [0, -1, True, 2.0, "8"])
def test_a_batch_size_that_cannot_be_is_refused_before_anything_is_drawn(fo1, size):
    with pytest.raises(PromptError, match=r"batch_size is .*, at least 1 is needed"):
        fo1.answer_many(iter(()), batch_size=size)


def test_an_error_that_is_kept_keeps_no_image(fo1, tmp_path, scenes, on_generate):
    def broken(_):
        raise RuntimeError("no kernel")

    on_generate.append(broken)
    kept = list(fo1.answer_many([(image_file(tmp_path), COUNT, BOXES)] * 3, **SHORT))
    assert all(isinstance(error, ItemError) for error in kept)
    assert are_gone(lambda: list(scenes))


def answers_with_broken_ones(fo1, tmp_path, scenes, *, items, broken, huge_wh):
    """The most scenes that were alive between two answers, and the most bytes of tensors."""
    good, huge = image_file(tmp_path), image_file(tmp_path, 1, huge_wh)
    bad = tmp_path / "bad.png"
    bad.write_bytes(good.read_bytes()[:40])
    paths = [bad if number % (items // broken) == 1 else good for number in range(items)]
    paths[items // 2] = huge
    found, most_scenes, most_bytes = [], 0, 0
    answers = fo1.answer_many(((path, COUNT, BOXES) for path in paths), batch_size=4, **SHORT)
    for number, answer in enumerate(answers):
        found.append(answer)
        most_scenes = max(most_scenes, len(scenes))
        if number % 20 == 0:
            most_bytes = max(most_bytes, tensor_bytes())
    wrong = [number for number, answer in enumerate(found) if isinstance(answer, FO1Error)]
    assert wrong == [number for number, path in enumerate(paths) if path is bad]
    assert len(wrong) == broken
    texts = {answer.text for answer, path in zip(found, paths, strict=True) if path is good}
    assert len(texts) == 1
    assert found[items // 2].regions.size_wh == huge_wh
    return most_scenes, most_bytes


def test_of_sixty_images_six_are_broken_and_one_is_huge_and_few_are_held(fo1, tmp_path, scenes):
    most_scenes, _ = answers_with_broken_ones(
        fo1, tmp_path, scenes, items=60, broken=6, huge_wh=(900, 700)
    )
    assert most_scenes <= AHEAD * 4
    assert are_gone(lambda: list(scenes))


@pytest.mark.slow
def test_a_thousand_images_take_the_memory_of_a_hundred(fo1, tmp_path, scenes):
    how = {"broken": 10, "huge_wh": (3000, 2000)}
    few = answers_with_broken_ones(fo1, tmp_path, scenes, items=100, **how)
    many = answers_with_broken_ones(fo1, tmp_path, scenes, items=1000, **how)
    assert max(few[0], many[0]) <= AHEAD * 4
    assert many[1] <= few[1] * 1.2


def asked_from_threads(fo1, tmp_path, count):
    """Mixed requests from 8 threads, compared with the serial answers; bytes half-way and after."""
    paths = [image_file(tmp_path, 0, WIDE), image_file(tmp_path, 1, TALL)]
    kinds = [(path, request, BOXES) for path in paths for request in MIXED]
    serial = [fo1.answer(*kind, **SHORT).to_json() for kind in kinds]
    chosen = random.Random(0).choices(range(len(kinds)), k=count)
    held = []
    with ThreadPoolExecutor(8) as pool:
        for some in (chosen[: count // 2], chosen[count // 2 :]):
            answers = pool.map(lambda number: fo1.answer(*kinds[number], **SHORT).to_json(), some)
            assert list(answers) == [serial[number] for number in some]
            held.append(tensor_bytes())
    return held


def test_sixteen_mixed_requests_from_eight_threads_get_the_serial_answers(fo1, tmp_path):
    before, after = asked_from_threads(fo1, tmp_path, 16)
    assert after <= before


@pytest.mark.slow
def test_two_thousand_mixed_requests_from_eight_threads_hold_no_more_memory(fo1, tmp_path):
    before, after = asked_from_threads(fo1, tmp_path, 2000)
    assert after <= before


def test_a_request_that_is_cancelled_gives_its_memory_back(fo1, tmp_path, scenes):
    path = image_file(tmp_path)
    fo1.answer(path, MIXED[3], BOXES, max_new_tokens=12)  # what is made once is made
    before = tensor_bytes()

    def enough(_):
        raise TimeoutError("the client is gone")

    with pytest.raises(TimeoutError):
        fo1.answer(path, MIXED[3], BOXES, max_new_tokens=12, on_text=enough)
    assert are_gone(lambda: list(scenes))
    assert tensor_bytes() <= before
    assert getattr(fo1.engine, "cache_bytes", 0) == 0
