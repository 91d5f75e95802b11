"""Seconds and memory of scoring a file of 5,000 images with 100 answered boxes each.

From predictions on disk to the report: reading, F1 with intervals from 1000 resamples, COCO AP, the
best answer that the boxes allow, plots. Boxes are random, as in ``eval_speed``. Run: ``python -m
benchmarks.eval_report``; prints one line of JSON.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.eval_speed import LABELS, make_images
from vlm_fo1.answer import Mention
from vlm_fo1.config import plain
from vlm_fo1.eval.benchmarks import load_benchmark
from vlm_fo1.eval.files import Header, PredictionFile, read_run
from vlm_fo1.eval.predictions import Prediction, Record
from vlm_fo1.eval.report import make_report, write_report
from vlm_fo1.jsonl import line_of

NAMES = [f"label {number}" for number in range(LABELS)]


def record(index: int, image: dict[str, Any]) -> Record:
    """One image as a run would write it."""
    rng = np.random.default_rng(index)
    boxes = [box for own in image["answer"].values() for box in own]
    places = iter(range(len(boxes)))
    mentions = tuple(
        Mention(NAMES[label], tuple(next(places) for _ in own), tuple(rng.random(len(own))))
        for label, own in image["answer"].items()
    )
    prediction = Prediction(
        text="",
        boxes=np.array(boxes, np.float64).round(2),
        proposal_scores=tuple(rng.random(len(boxes)).round(4).tolist()),
        mentions=mentions,
    )
    return Record(
        index=index,
        id=str(index),
        image=f"{index}.jpg",
        size_wh=(640, 640),
        request={"task": "detection", "labels": NAMES},
        truth={"boxes": {NAMES[label]: own for label, own in image["truth"].items()}},
        group=str(index),
        answer=prediction,
    )


def write_predictions(folder: Path, count: int, objects: int) -> None:
    """A whole file of predictions, written at once."""
    benchmark = load_benchmark("folder")
    header = Header(
        benchmark="folder", options=plain(benchmark.options), items=count, digest="random",
        model={"model": "random"},
    )  # fmt: skip
    path = folder / "predictions.jsonl"
    with PredictionFile(path, header):
        run = json.loads(path.read_text())["run"]
    with path.open("a", encoding="utf-8") as file:
        for index, image in enumerate(make_images(count, objects)):
            file.write(line_of({"run": run, **record(index, image).to_dict()}) + "\n")


def main() -> None:
    """Write, score, and say what scoring took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--objects", type=int, default=8)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_predictions(folder, chosen.images, chosen.objects)
        start, cpu = time.perf_counter(), time.process_time()
        header, records = read_run(folder)
        report = make_report(load_benchmark("folder", header.options), header, records)
        write_report(report, folder)
    print(json.dumps({
        "images": report.items,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "ap": report.values["ap"],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
