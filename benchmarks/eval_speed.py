"""Seconds and memory of scoring 5,000 images with 100 answered boxes each, metric by metric.

Boxes are random, about as many objects as COCO's (8 an image) or as crowded as a scene seen from
above (100 an image, the worst case of matching without labels). Each metric runs in a process of
its own, so that peak memory is its own and includes the boxes. Run: ``python
benchmarks/eval_speed.py``.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np

from vlm_fo1.eval import metrics

LABELS = 80
BOXES = 100


def make_images(count: int, objects: int) -> list[dict[str, Any]]:
    """Lists of plain numbers, as a file of predictions gives them."""
    rng = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    for _ in range(count):
        truth = _boxes(rng, objects)
        answer = np.vstack([truth + rng.normal(0, 3, truth.shape), _boxes(rng, BOXES)])[:BOXES]
        answer = np.hstack([answer[:, :2], np.maximum(answer[:, :2] + 1, answer[:, 2:])])
        named = rng.integers(0, LABELS, BOXES)
        named[:objects] = named[:objects] % 10
        sides = {"truth": (truth, named[:objects]), "answer": (answer, named)}
        image: dict[str, Any] = {
            kind: {int(k): boxes[labels == k].tolist() for k in np.unique(labels)}
            for kind, (boxes, labels) in sides.items()
        }
        image["scores"] = {k: [1.0] * len(boxes) for k, boxes in image["answer"].items()}
        images.append(image)
    return images


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.uniform(0, 500, (count, 2))
    return np.hstack([corners, corners + rng.uniform(8, 140, (count, 2))])


def _items(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {kind: list(chain(*image[kind].values())) for kind in ("truth", "answer")}
        for image in images
    ]


def _bootstrapped(images: list[dict[str, Any]]) -> dict[str, Any]:
    tally = metrics.pooled_f1_tally(images)
    return dict(metrics.bootstrap(tally.score, len(images)))


SCORES: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "nothing": lambda _: None,
    "pooled_f1 all": lambda images: metrics.pooled_f1(images, "all"),
    "pooled_f1 published": lambda images: metrics.pooled_f1(images, "published"),
    "pooled_f1 with intervals": _bootstrapped,
    "per_image_f1 aware": lambda images: metrics.per_image_f1(images, "aware"),
    "per_image_f1 blind": lambda images: metrics.per_image_f1(images, "blind"),
    "false_positives_per_truth": metrics.false_positives_per_truth,
    "humanref": lambda images: metrics.humanref(_items(images)),
    "grec": lambda images: metrics.grec(_items(images)),
    "refdrone": lambda images: metrics.refdrone(_items(images)),
    "surviving": lambda images: list(map(metrics.surviving, images)),
    "average_precision coco": metrics.average_precision,
    "average_precision lvis": lambda images: metrics.average_precision(images, "lvis"),
}


def measure(name: str, count: int, objects: int) -> dict[str, Any]:
    """Seconds of one metric, of the clock and of the processor, and peak memory in GiB."""
    images = make_images(count, objects)
    begin, begin_cpu = time.perf_counter(), time.process_time()
    SCORES[name](images)
    took, took_cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "metric": name,
        "objects": objects,
        "seconds": round(took, 1),
        "cpu_seconds": round(took_cpu, 1),
        "gib": round(peak, 2),
    }


def main() -> None:
    """Print one line a metric."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--objects", type=int, nargs="*", default=[8, 100])
    parser.add_argument("--metric", choices=SCORES, help="only this one, in this process")
    arguments = parser.parse_args()
    for objects in arguments.objects:
        for name in [arguments.metric] if arguments.metric else SCORES:
            if arguments.metric:
                print(json.dumps(measure(name, arguments.images, objects)))
                continue
            command = [sys.executable, __file__, "--images", str(arguments.images)]
            subprocess.run([*command, "--objects", str(objects), "--metric", name], check=True)


if __name__ == "__main__":
    main()
