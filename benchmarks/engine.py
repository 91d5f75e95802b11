"""What the engine saves on a CPU: each figure is a ratio of two ways in one process.

``python -m benchmarks.engine`` asks the bundled model. The images are synthetic (``--sprites DIR``
for drawings in place of shapes). Each pair of ways takes turns, and the quicker of its rounds
counts.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from benchmarks.gpu_parts.official import OfficialWay
from benchmarks.same_answers import make_images
from vlm_fo1 import FO1, Answer, Request
from vlm_fo1.images import read_image
from vlm_fo1.model.generation import CACHE
from vlm_fo1.tasks import questions_of

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "src" / "vlm_fo1" / "assets" / "demo"
LABELS = 80


def ratio(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Quickest seconds of two ways that take turns."""
    seconds = [float("inf"), float("inf")]
    for _ in range(rounds):
        for place, way in enumerate((first, second)):
            start = time.perf_counter()
            way()
            seconds[place] = min(seconds[place], time.perf_counter() - start)
    return seconds[0], seconds[1]


@contextmanager
def counted(fo1: FO1) -> Iterator[list[int]]:
    """Counts the passes through the language model that go on from a prefix."""
    passes = [0]

    def note(_module: Any, _args: Any, inputs: dict[str, Any], _output: Any) -> None:
        passes[0] += inputs.get(CACHE) is not None

    hook = fo1.model.register_forward_hook(note, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


def open_scene(fo1: FO1, rounds: int) -> dict[str, Any]:
    """A question on an open scene beside a first call."""
    image, boxes = DEMO / "photo.jpg", DEMO / "boxes.json"
    scene = fo1.open(image, boxes)
    scene.detect("orange")
    first, second = ratio(
        lambda: fo1.detect(image, "apple", boxes), lambda: scene.detect("apple"), rounds
    )
    return _row("second question on an open scene / first call", second, first, "<= 0.35",
                second / first)  # fmt: skip


def many_labels(fo1: FO1, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """Many labels at once beside a call a label."""
    image, boxes = DEMO / "photo.jpg", DEMO / "boxes.json"

    def one_by_one() -> None:
        for name in names:
            fo1.detect(image, name, boxes, scores="branches")

    together, apart = ratio(
        lambda: fo1.detect(image, names, boxes, scores="branches"), one_by_one, rounds
    )
    title = f"{len(names)} labels on one image, listed and scored: one call a label / the engine"
    return _row(title, together, apart, ">= 8", apart / together)


def describing(fo1: FO1, rounds: int) -> dict[str, Any]:
    """All boxes described at once beside one after another on the same scene."""
    scene = fo1.open(DEMO / "photo.jpg", DEMO / "boxes.json")
    scene.describe([0])

    def one_by_one() -> None:
        for index in range(len(scene.regions)):
            scene.describe([index])

    together, apart = ratio(scene.describe, one_by_one, rounds)
    title = f"describe {len(scene.regions)} boxes: one after another / at once"
    return _row(title, together, apart, ">= 3", apart / together)


def batch(fo1: FO1, folder: Path, listed: Sequence[Any], rounds: int) -> dict[str, Any]:
    """Sixteen images side by side beside one by one."""
    items = [
        (folder / entry["image"], Request(task="detection", labels=tuple(entry["labels"][:3])),
         entry["boxes"])
        for entry in listed[:16]
    ]  # fmt: skip
    together, apart = ratio(
        lambda: list(fo1.answer_many(items, batch_size=16)),
        lambda: [fo1.answer(*item) for item in items],
        rounds,
    )
    return _row("16 images: one by one / in a batch", together, apart, ">= 1.8", apart / together)


def whole_call(fo1: FO1, rounds: int) -> dict[str, Any]:
    """A whole call beside the official way, for as many tokens."""
    image, boxes = DEMO / "photo.jpg", json.loads((DEMO / "boxes.json").read_text("utf-8"))
    request, way, opened = (
        Request(task="detection", labels=("orange", "apple")),
        OfficialWay(fo1),
        read_image(image),
    )
    text = fo1.answer(image, request, boxes, scores=None).text
    tokens = len(fo1.processor.tokenizer(text)["input_ids"])
    question = questions_of(request, len(boxes))[0].text
    assert way.answer(opened, boxes, question, tokens) == text
    ours, theirs = ratio(
        lambda: fo1.answer(image, request, boxes, scores=None),
        lambda: way.answer(opened, boxes, question, tokens),
        rounds,
    )
    title = f"a whole call of {tokens} tokens: the official way / ours"
    return _row(title, ours, theirs, ">= 3", theirs / ours)


def ahead(fo1: FO1, folder: Path, listed: Sequence[Any]) -> dict[str, Any]:
    """Passes with and without what is fed ahead, and whether answers are equal."""
    engines = {
        "ahead": fo1.engine,
        "plain": replace(fo1.engine, limits=replace(fo1.engine.limits, ahead=0)),
    }
    passes = dict.fromkeys(engines, 0)
    equal = clean = same_as_raw = answers = 0
    for entry in track(listed, "asking"):
        scene = fo1.open(folder / entry["image"], entry["boxes"])
        for ask in _questions(entry["labels"]):
            said: dict[str, Answer] = {}
            for name, engine in engines.items():
                scene.engine = engine
                with counted(fo1) as count:
                    said[name] = ask(scene)
                passes[name] += count[0]
            scene.engine = fo1.engine
            raw = ask(scene, constrain=False)
            answers += 1
            equal += said["ahead"].text == said["plain"].text
            if not raw.problems:
                clean += 1
                same_as_raw += raw.text == said["ahead"].text
    row = _row(
        f"passes through the language model, {answers} questions with labels: plain constrained / "
        "with what is fed ahead",
        passes["ahead"], passes["plain"], ">= 3", passes["plain"] / passes["ahead"],
    )  # fmt: skip
    with_prefix = (passes["plain"] + answers) / (passes["ahead"] + answers)
    return {**row, "ratio_if_each_question_reads_the_image_anew": round(with_prefix, 2),
            "answers": answers, "equal": equal, "raw_without_problems": clean,
            "of_these_equal_to_raw": same_as_raw}  # fmt: skip


def _questions(labels: Sequence[str]) -> list[Callable[..., Answer]]:
    names = list(labels) or ["star"]
    return [
        lambda scene, **how: scene.detect(names, scores=None, **how),
        lambda scene, **how: scene.count(names[0], scores=None, **how),
        lambda scene, **how: scene.refer(f"the largest {names[0]}", scores=None, **how),
    ]


def _row(figure: str, ours: float, other: float, bar: str, value: float) -> dict[str, Any]:
    row = {"figure": figure, "ours": round(ours, 3), "other": round(other, 3), "bar": bar,
           "ratio": round(value, 2)}  # fmt: skip
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, default=ROOT / "outputs" / "engine")
    parser.add_argument("--sprites", help="sprite folder; drawn shapes without it")
    parser.add_argument("--count", type=int, default=200, help="images whose passes are counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "engine.json"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not (options.images / "images.json").is_file():
        make_images(options.images, max(options.count, 16), options.sprites)
    listed = json.loads((options.images / "images.json").read_text(encoding="utf-8"))
    names = sorted({name for entry in listed for name in entry["labels"]})[:LABELS]
    fo1 = FO1.from_pretrained("tiny")
    rows = [
        open_scene(fo1, options.rounds),
        many_labels(fo1, names, 1),
        describing(fo1, options.rounds),
        batch(fo1, options.images, listed, options.rounds),
        whole_call(fo1, options.rounds),
        ahead(fo1, options.images, listed[: options.count]),
    ]
    options.results.parent.mkdir(parents=True, exist_ok=True)
    content = {"threads": options.threads, "torch": torch.__version__, "rows": rows}
    options.results.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
