"""The sections that ask: what the device can do, loading, encoding, decoding, labels, batches, UPN.

Every section gives a row as soon as it has it, so that a failure costs the rows after it alone.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_parts.lab import QUESTION, Lab, detection_of
from benchmarks.gpu_parts.made import labels
from benchmarks.gpu_parts.report import Row
from benchmarks.gpu_parts.timing import host_peak_mb
from benchmarks.upn import make_network
from vlm_fo1 import FO1, Request
from vlm_fo1.engine import LocalEngine, Prompt, Steps, steps_for
from vlm_fo1.errors import FO1Error
from vlm_fo1.model.modeling import EncodedImages
from vlm_fo1.tasks import Task

ASKED_LABELS = 5
"""In a question of a batch."""
OFFICIAL_RUNS = 2
"""Calls of the official way, and of batches, are long and even; so many are timed."""
SCORES: dict[str, Any] = (
    {"scores": "branches"} if "scores" in signature(FO1.detect).parameters else {}
)
"""How labels are scored where many are asked for, in a library that scores them."""


def device(lab: Lab) -> Iterator[Row]:
    """The two ceilings of the machine, to judge the other figures by."""
    on_gpu = lab.device.type == "cuda"
    side, numbers = (8192, 2**30) if on_gpu else (64, 2**16)
    with torch.device(lab.device):
        source, target = (
            torch.randn(numbers, dtype=lab.dtype),
            torch.empty(numbers, dtype=lab.dtype),
        )
        left, right = (torch.randn(side, side, dtype=lab.dtype) for _ in range(2))
    seconds = lab.clock.median_s(lambda: target.copy_(source))
    yield Row(name="copy, read and written", value=2 * source.nbytes / seconds / 1e9, unit="GB/s")
    seconds = lab.clock.median_s(lambda: left @ right)
    name = f"matrix product, {side} x {side}, {lab.dtype}".replace("torch.", "")
    yield Row(name=name, value=2 * side**3 / seconds / 1e12, unit="TFLOP/s")


def load(lab: Lab) -> Iterator[Row]:
    """Loading from disk; the model that was loaded serves the sections after."""
    folder = lab.work / "saved"
    fo1 = lab.fo1
    numbers = sum(parameter.numel() for parameter in fo1.model.parameters())
    weights_mb = numbers * lab.dtype.itemsize / 2**20
    fo1.model.save_pretrained(folder)
    fo1.processor.save_pretrained(folder)
    del fo1
    lab.release()

    def again() -> None:
        device = str(lab.device)
        lab.fo1 = FO1.from_pretrained(folder, device=device, dtype=lab.dtype)

    found: dict[str, float] = {}
    peak_mb = lab.clock.peak_mb(lambda: found.update(seconds=lab.clock.once(again)[0]))
    yield Row(name="weights", value=weights_mb, unit="MB", note=f"{numbers / 1e9:.2f} G numbers")
    yield Row(name="load", value=found["seconds"], unit="s", note="from a warm disk")
    yield Row(name="load, memory at peak", value=peak_mb, unit="MB")
    note = "with what this process did before"
    yield Row(name="load, host memory at peak", value=host_peak_mb(), unit="MB", note=note)


@torch.inference_mode()
def encode(lab: Lab) -> Iterator[Row]:
    """The towers, the region encoder, and all of them together."""
    for size_wh in (lab.size.image_wh, *lab.size.other_wh):
        yield from _parts(lab, size_wh)
    model, official, clock = lab.fo1.model, lab.official, lab.clock
    batch, single = lab.size.batch, lab.inputs()
    theirs = clock.median_s(lambda: official.encode(single))
    inputs = lab.inputs(images=batch)
    part = clock.parts(
        {"auxiliary": model.auxiliary}, lambda: model.encode_images(**inputs), OFFICIAL_RUNS
    )["auxiliary"]
    name = f"auxiliary DaViT, {batch} images, each"
    yield Row(name=name, value=1e3 * part.seconds / batch, unit="ms")
    seconds = clock.median_s(lambda: model.encode_images(**inputs), OFFICIAL_RUNS)
    yield Row(
        name=f"encode, {batch} images, each", value=1e3 * seconds / batch, unit="ms",
        official=1e3 * theirs, bar=30, note="the official way: one image a call",
    )  # fmt: skip
    peak_mb = clock.peak_mb(lambda: model.encode_images(**inputs))
    yield Row(name=f"encode, {batch} images, memory at peak", value=peak_mb, unit="MB")
    image, boxes = lab.image(), lab.boxes()
    seconds = clock.median_s(lambda: lab.engine.encode(image, boxes))
    yield Row(name="prepare on the host and encode", value=1e3 * seconds, unit="ms")


@torch.inference_mode()
def _parts(lab: Lab, size_wh: tuple[int, int]) -> Iterator[Row]:
    """Rows for one size of image; the image that most figures are for has the bars."""
    model, official, clock = lab.fo1.model, lab.official, lab.clock
    main = size_wh == lab.size.image_wh
    at = f"{size_wh[0]} x {size_wh[1]}"
    inputs = lab.inputs(size_wh)
    pixel_values, grid = inputs["pixel_values"], inputs["image_grid_thw"]
    (pixels,), (boxes,) = inputs["aux_pixel_values"], inputs["region_boxes"]
    _, map_CHW = official.primary(pixel_values, grid)
    stages, auxiliary_wh = official.auxiliary(pixels), (pixels.shape[2], pixels.shape[1])

    def ours() -> EncodedImages:
        return model.encode_images(**inputs)

    def their_regions() -> Tensor:
        return official.regions(stages, map_CHW, boxes, auxiliary_wh)

    seconds = clock.median_s(
        lambda: model.host_adapter.encode_images(model.host, pixel_values, grid)
    )
    theirs = clock.median_s(lambda: official.primary(pixel_values, grid))
    name = f"primary ViT, {at}"
    yield Row(name=name, value=1e3 * seconds, unit="ms", official=1e3 * theirs)
    parts = clock.parts({"auxiliary": model.auxiliary, "regions": model.region_encoder}, ours)
    theirs = clock.median_s(lambda: official.auxiliary(pixels))
    name = f"auxiliary DaViT, {at}"
    yield Row(name=name, value=1e3 * parts["auxiliary"].seconds, unit="ms", official=1e3 * theirs)
    theirs = clock.median_s(their_regions)
    yield Row(
        name=f"region encoder, {len(boxes)} boxes, {at}", value=1e3 * parts["regions"].seconds,
        unit="ms", official=1e3 * theirs, bar=3 if main else None,
    )  # fmt: skip
    yield Row(
        name=f"region encoder, memory at peak, {at}", value=parts["regions"].peak_mb, unit="MB",
        official=clock.peak_mb(their_regions),
    )  # fmt: skip
    seconds = clock.median_s(ours)
    theirs = clock.median_s(lambda: official.encode(inputs))
    one, other = ours().region_tokens[0].float(), official.encode(inputs).region_tokens[0].float()
    difference = ((one - other).abs().max() / other.abs().max()).item()
    yield Row(
        name=f"encode, {at}", value=1e3 * seconds, unit="ms", official=1e3 * theirs,
        bar=50 if main else None,
        note=f"region tokens differ by {difference:.1e} of the largest at most",
    )  # fmt: skip


def decode(lab: Lab) -> Iterator[Row]:
    """The first token, the tokens after it, and a whole call."""
    clock, new = lab.clock, lab.size.new_tokens
    encoded = lab.engine.encode(lab.image(), lab.boxes())
    ids = lab.prompt_ids(encoded, QUESTION)
    theirs = clock.median_s(lambda: lab.official.generate(ids, encoded, 1))
    seconds = clock.median_s(lambda: _written(lab, lab.prompts(encoded, [QUESTION], 1)))
    yield Row(
        name="prefill and first token", value=1e3 * seconds, unit="ms", official=1e3 * theirs,
        note=f"{ids.shape[1]} tokens",
    )  # fmt: skip
    theirs = clock.median_s(lambda: lab.official.generate(ids, encoded, new), OFFICIAL_RUNS)
    note = f"mean over {new}, ours with the question's tokens, the official with the prompt's"
    plain = replace(lab.engine, steps=None)
    for rows in (1, lab.size.batch):
        prompts = lab.prompts(encoded, [QUESTION] * rows, new)
        seconds = clock.median_s(lambda prompts=prompts: _written(lab, prompts), 3)
        otherwise = clock.median_s(lambda prompts=prompts: _written(lab, prompts, plain), 3)
        step_ms, plain_ms = 1e3 * seconds / new, 1e3 * otherwise / new
        if rows == 1:
            yield Row(
                name="a decoded token", value=step_ms, unit="ms", official=1e3 * theirs / new,
                bar=5, note=note,
            )  # fmt: skip
            yield Row(
                name="a decoded token, not captured", value=plain_ms, unit="ms",
                official=1e3 * theirs / new, note=_capturing(lab, prompts),
            )  # fmt: skip
        else:
            yield Row(name=f"a step of {rows} rows", value=step_ms, unit="ms")
            yield Row(name=f"a step of {rows} rows, not captured", value=plain_ms, unit="ms")
    yield from _whole_calls(lab)


def compiled(lab: Lab) -> Iterator[Row]:
    """The same with fused steps, which take most of a minute to compile."""
    clock, new = lab.clock, lab.size.new_tokens
    encoded = lab.engine.encode(lab.image(), lab.boxes())
    steps = steps_for(lab.fo1.model, compiled=True) or Steps(lab.fo1.model, compiled=True)
    engine = replace(lab.engine, steps=steps)
    prompts = lab.prompts(encoded, [QUESTION], new)
    first_s, _ = clock.once(lambda: _written(lab, prompts, engine))
    yield Row(name="first answer, compiling", value=first_s, unit="s")
    seconds = clock.median_s(lambda: _written(lab, prompts, engine), 3)
    name, note = "a decoded token, compiled", _capturing(lab, prompts, engine)
    yield Row(name=name, value=1e3 * seconds / new, unit="ms", bar=5, note=note)


def _capturing(lab: Lab, prompts: list[Prompt], engine: LocalEngine | None = None) -> str:
    """Whether steps are captured, and whether they write what plain passes write."""
    engine = lab.engine if engine is None else engine
    if engine.steps is None:
        return "steps are captured on a GPU alone"
    ours, plain = (one.generate(prompts) for one in (engine, replace(engine, steps=None)))
    same = sum(
        left == right
        for one, other in zip(ours, plain, strict=True)
        for left, right in zip(one.ids, other.ids, strict=True)
    )
    total = sum(len(one.ids) for one in ours)
    return f"{engine.steps.told}; {same} of {total} tokens are those of plain passes"


def _whole_calls(lab: Lab) -> Iterator[Row]:
    """From an image in memory to an answer, with everything on the host."""
    clock, new, fo1 = lab.clock, lab.size.new_tokens, lab.fo1
    image, boxes = lab.image(), lab.boxes()
    official_s = clock.median_s(
        lambda: lab.official.answer(image, boxes, QUESTION, new), OFFICIAL_RUNS
    )
    seconds = clock.median_s(lambda: fo1.ask(image, QUESTION, boxes, max_new_tokens=new), 3)
    yield Row(
        name=f"a call, {new} new tokens", value=seconds, unit="s", official=official_s, bar=0.8,
        bar_ratio=5,
    )  # fmt: skip
    scene = fo1.open(image, boxes)
    scene.ask(QUESTION, max_new_tokens=1)
    seconds = clock.median_s(lambda: scene.ask(QUESTION, max_new_tokens=new), 3)
    yield Row(
        name=f"a further question on an open scene, {new} new tokens", value=seconds, unit="s",
        official=official_s,
    )  # fmt: skip
    scene.close()
    peak_mb = clock.peak_mb(lambda: fo1.ask(image, QUESTION, boxes, max_new_tokens=new))
    theirs_mb = clock.peak_mb(lambda: lab.official.answer(image, boxes, QUESTION, new))
    yield Row(
        name="a call, memory at peak above the weights", value=peak_mb, unit="MB",
        official=theirs_mb,
    )  # fmt: skip


def many_labels(lab: Lab) -> Iterator[Row]:
    """Every label its own question on one encoded image."""
    clock, tokens = lab.clock, lab.size.list_tokens
    image, boxes = lab.image(), lab.boxes()
    asked = [detection_of(label) for label in labels(lab.size.labels)]
    encoded = lab.engine.encode(image, boxes)
    theirs = clock.median_s(
        lambda: lab.official.answer(image, boxes, asked[0], tokens), OFFICIAL_RUNS
    )
    note = f"the official way: one call, {theirs:.3g} s, times {len(asked)}"
    # The prefix is kept: what is measured begins with an image that has been asked about before.
    prompts = {n: lab.prompts(encoded, asked, n) for n in (1, tokens)}
    seconds = clock.median_s(lambda: _written(lab, prompts[1]), 5)
    name = f"{len(asked)} labels on an open image, first token of each"
    yield Row(name=name, value=1e3 * seconds, unit="ms")
    seconds = clock.median_s(lambda: _written(lab, prompts[tokens]), 3)
    yield Row(
        name=f"{len(asked)} labels on an open image, {tokens} tokens each", value=seconds, unit="s",
        official=theirs * len(asked), bar=0.4, bar_ratio=8, note=note,
    )  # fmt: skip
    peak_mb = clock.peak_mb(lambda: _written(lab, prompts[tokens]))
    yield Row(name=f"{len(asked)} labels, memory at peak", value=peak_mb, unit="MB")
    if SCORES:
        scene, names = lab.fo1.open(image, boxes, tile=None), labels(lab.size.labels)
        seconds = clock.median_s(
            lambda: scene.detect(names, max_new_tokens=tokens, **SCORES), OFFICIAL_RUNS
        )
        scene.close()
        name = f"{len(asked)} labels listed and scored on an open image"
        yield Row(name=name, value=seconds, unit="s", bar=0.4, note="each its own branch")


def batches(lab: Lab) -> Iterator[Row]:
    """Many images through `FO1.answer_many`, preparation on the host included."""
    size, clock = lab.size, lab.clock
    boxes, names = lab.boxes(), labels(ASKED_LABELS)
    question = detection_of(", ".join(names))
    images = [lab.image(seed=seed) for seed in range(2 * size.batch)]
    theirs = clock.median_s(
        lambda: lab.official.answer(images[0], boxes, question, size.batch_tokens), OFFICIAL_RUNS
    )
    note = f"at most {size.batch_tokens} tokens an answer; official: exactly as many, one by one"
    for name, request in (
        ("a free question", Request(task=Task.FREE, text=QUESTION)),
        (f"detection of {len(names)} labels", Request(task=Task.DETECTION, labels=tuple(names))),
    ):
        items = [(image, request, boxes) for image in images]
        seconds = clock.median_s(lambda items=items: _answered(lab, items), OFFICIAL_RUNS)
        yield Row(
            name=f"{name}, batches of {size.batch}", value=len(items) / seconds, unit="images/s",
            official=1 / theirs, bar=12 if request.task == Task.DETECTION else None, note=note,
        )  # fmt: skip
        peak_mb = clock.peak_mb(lambda items=items: _answered(lab, items))
        yield Row(name=f"{name}, memory at peak above the weights", value=peak_mb, unit="MB")


@torch.inference_mode()
def upn(lab: Lab) -> Iterator[Row]:
    """The proposer; it needs none of the rest, which is let go of."""
    lab.release()
    size, clock = lab.size, lab.clock
    height, width = size.upn_hw
    for dtype in (torch.float32, torch.bfloat16):
        network = make_network(size.upn_small).to(clock.device, dtype)
        for count in (1, 4):
            pixels = torch.randn(count, 3, height, width, device=clock.device)
            call = partial(network, pixels)
            seconds = clock.median_s(call)
            kind = str(dtype).removeprefix("torch.")
            name = f"UPN, {width} x {height}, {kind}, batch of {count}, each"
            yield Row(name=name, value=1e3 * seconds / count, unit="ms")


def _written(lab: Lab, prompts: list[Prompt], engine: LocalEngine | None = None) -> None:
    """Answers of full length.

    Raises:
        RuntimeError: They are shorter: a mean over their tokens would be another figure.
    """
    engine = lab.engine if engine is None else engine
    found = sum(len(one.ids) for one in engine.generate(prompts))
    wanted = sum(prompt.max_new_tokens for prompt in prompts)
    if found != wanted:
        raise RuntimeError(f"{found} tokens were written instead of {wanted}")


def _answered(lab: Lab, items: list[Any]) -> int:
    """Answers to all items; how many."""
    found = list(
        lab.fo1.answer_many(
            items, batch_size=lab.size.batch, tile=None, max_new_tokens=lab.size.batch_tokens
        )
    )
    for one in found:
        if isinstance(one, FO1Error):
            raise one
    return len(found)
