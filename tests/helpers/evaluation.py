"""Images in true layouts for benchmarks, stand-ins for the model, and the cases of the contract.

A module of ``tests/helpers/benchmark_cases`` has a module-level ``CASES: list[BenchmarkCase]``;
every such module is found by itself. A case writes a small fixture in the true layout and says what
a model scores on it that answers with the truth, and one that answers nothing.
"""

import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.errors import FO1Error
from vlm_fo1.eval.benchmark import Benchmark, Item
from vlm_fo1.eval.predictions import Prediction, Record
from vlm_fo1.images import image_size
from vlm_fo1.regions import Regions
from vlm_fo1.tasks import Request


def write_image(path: Path, size_wh: tuple[int, int] = (64, 48), boxes: Iterable[Any] = ()) -> Path:
    """An image with filled rectangles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size_wh, (200, 210, 190))
    for number, box in enumerate(boxes):
        ImageDraw.Draw(image).rectangle([*box], fill=(40 * (number % 6), 90, 160))
    image.save(path)
    return path


def write_coco(folder: Path, objects: Mapping[str, Sequence[tuple[str, Sequence[float]]]]) -> Path:
    """``coco.json`` and images/ of 64 x 48 pixels.

    Args:
        folder: Where to.
        objects: Name of the image to labels with boxes as xyxy.
    """
    names = sorted({label for things in objects.values() for label, _ in things})
    ids = {name: number for number, name in enumerate(names, 1)}
    content: dict[str, Any] = {
        "images": [], "annotations": [],
        "categories": [{"id": id_, "name": name} for name, id_ in ids.items()],
    }  # fmt: skip
    for number, (name, things) in enumerate(objects.items(), 1):
        write_image(folder / "images" / name, boxes=[box for _, box in things])
        content["images"].append({"id": number, "file_name": name, "width": 64, "height": 48})
        for label, (x1, y1, x2, y2) in things:
            content["annotations"].append({
                "id": len(content["annotations"]) + 1, "image_id": number,
                "category_id": ids[label], "bbox": [x1, y1, x2 - x1, y2 - y1],
            })  # fmt: skip
    path = folder / "coco.json"
    path.write_text(json.dumps(content))
    return path


def answer_to(
    request: Request,
    size_wh: tuple[int, int],
    found: Mapping[str, Any],
    text: str = "",
    *,
    score: float = 0.9,
    beside: Iterable[Any] = (),
) -> Answer:
    """An answer that names these boxes, in this order, among them and others that are offered."""
    boxes = [box for boxes in found.values() for box in boxes]
    offered = [*boxes, *beside]
    places = iter(range(len(boxes)))
    mentions = tuple(
        Mention(label, tuple(next(places) for _ in own), (score,) * len(own))
        for label, own in found.items()
    )
    xyxy = np.array(offered, np.float32).reshape(-1, 4)
    regions = Regions(xyxy, size_wh, np.full(len(offered), score, np.float32))
    return Answer(text, regions, mentions, request.task, request.labels, plain=text)


Says = Callable[[Item], Answer | FO1Error]


def truthful(item: Item) -> Answer:
    """Answers with the boxes of the truth."""
    return answer_to(item.request, image_size(item.image), dict(item.truth.get("boxes", {})))


def silent(item: Item) -> Answer:
    """Answers nothing at all; the true boxes were offered."""
    boxes = [box for own in item.truth.get("boxes", {}).values() for box in own]
    return answer_to(item.request, image_size(item.image), {}, beside=boxes)


def records_of(benchmark: Benchmark, data: Path, says: Says) -> list[Record]:
    """The records that a run with such a model would write."""
    records = []
    for index, item in enumerate(benchmark.items(data)):
        answer = says(item)
        failed = isinstance(answer, FO1Error)
        records.append(
            Record(
                index=index,
                id=item.id,
                image=item.image.name,
                size_wh=None if failed else answer.size_wh,
                request=item.request.to_dict(),
                truth=item.truth,
                group=item.group or item.image.name,
                answer=None if failed else Prediction.of_answer(answer),
                error=str(answer) if failed else "",
            )
        )
    return records


def answering(items: Iterable[Item], says: Says) -> Callable[..., Iterator[Answer | FO1Error]]:
    """What stands in for ``FO1.answer_many``: answers each image and request as it is told."""
    known = {(str(item.image), json.dumps(item.request.to_dict())): item for item in items}

    def answer_many(asked: Iterable[tuple[Any, Request, Any]]) -> Iterator[Answer | FO1Error]:
        for image, request, _ in asked:
            yield says(known[str(image), json.dumps(request.to_dict())])

    return answer_many


@dataclass(frozen=True, kw_only=True)
class BenchmarkCase:
    """One benchmark under contract."""

    name: str
    """A key of `BENCHMARKS`."""
    write: Callable[[Path], object]
    """Writes at least three items in the true layout to a folder that is there and empty."""
    best: Mapping[str, float]
    """Values that answering with the truth scores, each the greatest there is."""
    nothing: Mapping[str, float | None]
    """Values of answering nothing."""
    says: Says = truthful
    """Answers with the truth."""
    options: tuple[str, ...] = ()
    """``key=value``, where it is not tested as it comes."""


def all_cases() -> list[BenchmarkCase]:
    """Cases of every ``tests/helpers/benchmark_cases/*.py``, in the order of file names."""
    files = (Path(__file__).parent / "benchmark_cases").glob("[!_]*.py")
    package = "tests.helpers.benchmark_cases"
    modules = [
        importlib.import_module(f"{package}.{name}") for name in sorted(f.stem for f in files)
    ]
    return [case for module in modules for case in module.CASES]
