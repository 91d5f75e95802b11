"""The bundled model with several proposers: the ceiling that each sets, and what comes of it.

Fresh images of the styles that train and of the one held out, the same for every proposer; two
labels that are there and one that is not. "given" are the boxes of the things, half of them shifted
a little, among up to six boxes of nothing: what training questions have. The others are used as
`FO1` uses them, with their own selection.
Run: ``python -m benchmarks.proposers_on_synthetic --sprites FOLDER`` (a folder that
``python -m recipes.synthetic.build --out FOLDER`` made; plain shapes, whose figures mean little,
without it). Average precision is COCO's, by faster-coco-eval; an answered box scores what the model
gave its token. With a folder the figures go to ``benchmarks/results/proposers_on_synthetic.json``.
``--proposers tiny@0.1 tiny@0.2 --seed 40000`` compares thresholds of the score on other images, and
writes nothing.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from recipes.synthetic.kinds import SIGN
from recipes.synthetic.render import RenderedImage, render
from recipes.synthetic.sprites import load_sprites
from recipes.tiny.recipe import RECIPE, read_recipe
from recipes.tiny_proposer import training
from recipes.tiny_proposer.training import ProposerTraining, style_groups
from vlm_fo1 import FO1, Answer, load_proposer
from vlm_fo1.boxes import iou, xyxy_to_xywh
from vlm_fo1.config import read
from vlm_fo1.data.regions import build_regions
from vlm_fo1.eval.recall import matches
from vlm_fo1.proposers.base import selection_of
from vlm_fo1.regions import Regions

ROOT = Path(__file__).parents[1]
SEED = 30_000  # of no training and no other measurement
GIVEN = "given"
IOU = 0.5


@dataclass
class Sums:
    """What adds up over the images of one way."""

    things: int = 0
    covered: int = 0
    boxes: int = 0
    wanted: int = 0
    chosen: int = 0
    right: int = 0
    absent: int = 0
    rejected: int = 0
    annotations: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    results: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    propose_s: list[float] = field(default_factory=list[float])
    total_s: list[float] = field(default_factory=list[float])

    def row(self, images: int) -> dict[str, Any]:
        """Figures of all images together."""
        return {
            "recall": round(self.covered / max(self.things, 1), 4),
            "boxes": round(self.boxes / images, 1),
            "f1": round(2 * self.right / max(self.chosen + self.wanted, 1), 4),
            "precision": round(self.right / max(self.chosen, 1), 4),
            "found": round(self.right / max(self.wanted, 1), 4),
            "absent_rejected": round(self.rejected / max(self.absent, 1), 4),
            "map50": average_precision(self.annotations, self.results, per_label=True),
            "ap50": average_precision(self.annotations, self.results, per_label=False),
            "propose_s": round(statistics.median(self.propose_s), 4),
            "total_s": round(statistics.median(self.total_s), 4),
        }


def labels_of(rendered: RenderedImage, rng: np.random.Generator) -> tuple[list[str], str]:
    """Two kinds that are there (or one), and one that is not."""
    there = sorted({thing.name for thing in rendered.objects} - {SIGN})
    absent = sorted(set(rendered.kinds) - {thing.name for thing in rendered.objects})
    present = rng.permutation(there)[:2].tolist()
    return present, absent[int(rng.integers(len(absent)))]


def given(rendered: RenderedImage, rng: np.random.Generator) -> Regions:
    """The things and some boxes of nothing, in any order."""
    built = build_regions(rendered.boxes_xyxy, rendered.image.size, rng)
    return Regions(built.xyxy, rendered.image.size, built.scores)


def average_precision(
    annotations: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]], per_label: bool
) -> float:
    """COCO's AP at IoU 0.5 of answered boxes: the mean over labels, or of all labels together.

    Args:
        annotations: Wanted boxes (xywh) with ``question`` and ``label``.
        results: Answered boxes with ``score`` as well.
        per_label: Mean over labels that something is wanted of, as COCO's mAP; otherwise every
            label of every image is a question of its own, and all answers are one list.
    """
    coco = import_module("faster_coco_eval")
    labels = sorted({str(box["label"]) for box in (*annotations, *results)})

    def entry(number: int, box: Mapping[str, Any]) -> dict[str, Any]:
        image, label = box["question"], labels.index(str(box["label"]))
        where = (image, label) if per_label else (image * len(labels) + label, 0)
        width, height = box["bbox"][2:]
        return {**box, "id": number, "iscrowd": 0, "area": width * height,
                "image_id": where[0] + 1, "category_id": where[1] + 1}  # fmt: skip

    truth = [entry(number, box) for number, box in enumerate(annotations, 1)]
    found = [entry(number, box) for number, box in enumerate(results, 1)]
    if not truth or not found:
        return 0.0
    images = {box["image_id"] for box in (*truth, *found)}
    categories = {box["category_id"] for box in (*truth, *found)}
    with redirect_stdout(StringIO()):
        known = coco.COCO({
            "images": [{"id": image, "width": 1000, "height": 1000} for image in sorted(images)],
            "categories": [{"id": number, "name": str(number)} for number in sorted(categories)],
            "annotations": truth,
        })  # fmt: skip
        scorer = coco.COCOeval_faster(known, known.loadRes(found), "bbox")
        scorer.params.iouThrs = np.array([IOU])
        scorer.evaluate()
        scorer.accumulate()
    precision_K = scorer.eval["precision"][0, :, :, 0, -1].mean(0)  # all sizes, most boxes
    return round(float(precision_K[precision_K >= 0].mean()), 4)


def score(
    sums: Sums, rendered: RenderedImage, answer: Answer, labels: list[str], number: int
) -> None:
    """Add the answer to question ``number``; every thing counts for one region of its label."""
    truth = rendered.boxes_xyxy
    names = np.array([thing.name for thing in rendered.objects])
    sums.things += len(truth)
    sums.boxes += len(answer.regions)
    sums.covered += int(matches(iou(answer.regions.xyxy, truth), [IOU]).sum())
    for label in labels:
        wanted = truth[names == label]
        chosen = [
            i for mention in answer.mentions if mention.label == label for i in mention.indices
        ]
        boxes = answer.regions.xyxy[list(dict.fromkeys(chosen))]
        sums.wanted += len(wanted)
        sums.chosen += len(boxes)
        sums.right += int(matches(iou(boxes, wanted), [IOU]).sum())
        about = {"question": number, "label": label}
        sums.annotations += [{**about, "bbox": box} for box in xyxy_to_xywh(wanted).tolist()]
        sums.results += [
            {**found, **about} for found in answer.to_coco(number, {label: 1}, score="confidence")
        ]
        if not len(wanted):
            sums.absent += 1
            sums.rejected += not len(boxes)


def asked_with(fo1: FO1, name: str) -> FO1:
    """The model with a proposer, ``name@0.2`` with this least score in place of its own."""
    if name == GIVEN:
        return FO1(fo1.model, fo1.processor)
    name, _, least = name.partition("@")
    proposer = load_proposer(name)
    selection = selection_of(proposer)
    if least:
        selection = replace(selection, min_score=float(least))
    return FO1(fo1.model, fo1.processor, proposer, selection=selection)


def main() -> None:
    """Measure, print the table's rows, write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sprites", help="sprite folder; plain shapes without")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--proposers", nargs="+", default=["tiny", "selective", GIVEN])
    parser.add_argument("--images", type=int, default=60, help="per group of styles")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--save-images", type=Path, help="folder for drawings of some answers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fo1 = FO1.from_pretrained(options.model, device="cpu")
    ways = {name: asked_with(fo1, name) for name in options.proposers}
    kind = read(training.RECIPE, ProposerTraining).image_configs(options.sprites)[0]
    sprites = load_sprites(options.sprites)
    known_kinds = tuple(read_recipe(RECIPE).images["kinds"])
    rows: list[dict[str, Any]] = []
    for group, styles in style_groups(sprites, kind).items():
        config = replace(kind, styles=styles, kinds=known_kinds if options.sprites else None)
        sums = {name: Sums() for name in ways}
        with Progress() as progress:
            for number in progress.track(range(options.images), description=group):
                rng = np.random.default_rng([options.seed, number])
                rendered = render(config, sprites, rng)
                present, absent = labels_of(rendered, rng)
                labels = rng.permutation([*present, absent]).tolist()
                boxes = given(rendered, rng)
                for name, asked in ways.items():
                    start = time.perf_counter()
                    opened = asked.open(rendered.image, boxes if name == GIVEN else None)
                    answer = opened.detect(labels, max_new_tokens=options.max_new_tokens)
                    sums[name].total_s.append(time.perf_counter() - start)
                    sums[name].propose_s.append(answer.timing_s["propose"])
                    score(sums[name], rendered, answer, labels, number)
                    if options.save_images and number < 2:
                        options.save_images.mkdir(parents=True, exist_ok=True)
                        drawn = answer.draw(rendered.image, show_unchosen=True)
                        drawn.save(options.save_images / f"{group}-{number}-{name}.png")
        rows += [
            {"proposer": name, "group": group, "styles": styles, **known.row(options.images)}
            for name, known in sums.items()
        ]
    for row in rows:
        print(
            f"| {row['proposer']} | {', '.join(row['styles'])} | {row['recall']:.3f} "
            f"| {row['boxes']:g} | {row['f1']:.3f} | {row['map50']:.3f} | {row['ap50']:.3f} "
            f"| {row['absent_rejected']:.3f} "
            f"| {row['propose_s']:.2f} | {row['total_s']:.2f} |"
        )
    if options.sprites and options.seed == SEED:
        told = {"images": options.images, "threads": options.threads, "torch": torch.__version__}
        path = ROOT / "benchmarks" / "results" / "proposers_on_synthetic.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**told, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
