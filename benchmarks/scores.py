"""What the scores of an answer are worth: joint and branches, steps of a list, fusion, calibration.

Fresh synthetic images, boxes by the bundled proposer, four labels each, of which one is absent and
likely to be taken for another. A calibration is fitted on one set of images; all figures are of
another. Run ``python -m benchmarks.scores --sprites FOLDER`` (a folder that
``python -m recipes.synthetic.build --out FOLDER`` made). Average precision is COCO's at IoU 0.5, of
all labels of all images as one list, by faster-coco-eval.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from rich.progress import track

from benchmarks.proposers_on_synthetic import average_precision
from recipes.synthetic.kinds import SIGN
from recipes.synthetic.render import RenderedImage, render
from recipes.synthetic.sprites import load_sprites
from recipes.synthetic.view import category
from recipes.tiny.recipe import RECIPE, read_recipe
from vlm_fo1 import FO1, Answer
from vlm_fo1.boxes import iou, xyxy_to_xywh
from vlm_fo1.engine import Generation
from vlm_fo1.eval.calibration import TRUE_IOU, measured, pairs_of
from vlm_fo1.eval.metrics import expected_calibration_error as ece
from vlm_fo1.eval.recall import matches
from vlm_fo1.plan import Plan, Scoring
from vlm_fo1.regions import Offer
from vlm_fo1.scores import Calibration, Fusion, Pairs, fit, fuse
from vlm_fo1.tasks import Request, Task

ROOT = Path(__file__).parents[1]
FIT_SEED, TEST_SEED = 61_000, 62_000  # of no training and no other measurement
WAYS: tuple[Scoring, ...] = ("joint", "branches")
MANY, MANY_SEED, MANY_IMAGES = 24, 64_000, 10
"""Labels of the images that are asked for many, their seed, and how many they are."""
LEAST = 0.001
"""Of a dense table, pairs that score less are no detections."""


@dataclass
class Asked:
    """An image, what is true of it, and its answers."""

    truth: dict[str, np.ndarray]
    answers: dict[str, Answer] = field(default_factory=dict[str, Answer])
    """By way and steps: ``joint largest``, ``joint noisy_or``, ``joint first step``, ..."""
    seconds: dict[str, float] = field(default_factory=dict[str, float])


def make_images(sprites: str, seed: int, count: int) -> list[RenderedImage]:
    """Images of the styles that train."""
    recipe = read_recipe(RECIPE)
    config = recipe.image_config(sprites, styles=("google", "fluent"), variety={}, objects=(6, 22))
    loaded = load_sprites(sprites)
    return [
        render(config, loaded, np.random.default_rng([seed, number])) for number in range(count)
    ]


def labels_of(rendered: RenderedImage, rng: np.random.Generator) -> list[str]:
    """Three kinds that are there, or as many as are, and one like them that is not."""
    there = sorted({thing.name for thing in rendered.objects} - {SIGN})
    present = [str(name) for name in rng.permutation(there)[:3]]
    absent = sorted(set(rendered.kinds) - {thing.name for thing in rendered.objects})
    alike = [name for name in absent if category(name) in map(category, present)] or absent
    return [str(name) for name in rng.permutation([*present, str(rng.choice(alike))])]


def many_labels_of(rendered: RenderedImage, rng: np.random.Generator) -> list[str]:
    """`MANY` kinds, all that are there among them."""
    there = {thing.name for thing in rendered.objects} - {SIGN}
    others = [str(name) for name in rng.permutation(sorted(set(rendered.kinds) - there))]
    return [str(name) for name in rng.permutation([*sorted(there), *others][:MANY])]


def ask(
    fo1: FO1,
    rendered: RenderedImage,
    rng: np.random.Generator,
    labels_of: Callable[[RenderedImage, np.random.Generator], list[str]] = labels_of,
) -> Asked:
    """Ask both ways, and read each answer with every way to add up steps."""
    labels = labels_of(rendered, rng)
    names = np.array([thing.name for thing in rendered.objects])
    asked = Asked({label: rendered.boxes_xyxy[names == label] for label in labels})
    offer = fo1.propose(rendered.image)
    for way in WAYS:
        seconds, plan, done = run(fo1, rendered, offer, labels, way)
        asked.seconds[str(way)] = seconds
        for over in ("largest", "noisy_or"):
            asked.answers[f"{way} {over}"] = replace(plan, over=over).read(done)
        asked.answers[f"{way} first step"] = plan.read([first_steps(one) for one in done])
    return asked


def run(
    fo1: FO1, rendered: RenderedImage, offer: Offer, labels: Sequence[str], way: Scoring
) -> tuple[float, Plan, list[Generation]]:
    """A call from the image on, boxes known: what `Scene.answer` does, with what was written."""
    start = time.perf_counter()
    scene = fo1.open(rendered.image, offer)
    plan = scene.plan(Request(task=Task.DETECTION, labels=tuple(labels)), scores=way)
    done = fo1.engine.generate(scene.prompts(plan))
    plan, branches = scene.branches(plan, done)
    done += fo1.engine.generate(branches) if branches else []
    return time.perf_counter() - start, plan, done


def first_steps(done: Generation) -> Generation:
    """What was written, of each list the first step alone."""
    cut = tuple(replace(steps, tags_SN=steps.tags_SN[:1]) for steps in done.lists)
    return replace(done, lists=cut)


Score = Callable[[Answer, str], np.ndarray]
"""(N,) the number that ranks each region for a label."""


def figures(asked: Sequence[Asked], name: str, score: Score, dense: bool = False) -> float:
    """Average precision of one kind of answer, ranked by a number.

    Args:
        asked: Images.
        name: Which of their answers.
        score: What ranks.
        dense: Every pair that scores `LEAST` is a detection, else what the model named.
    """
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, one in enumerate(asked):
        answer = one.answers[name]
        for label, boxes in one.truth.items():
            about = {"question": number, "label": label}
            annotations += [{**about, "bbox": box} for box in xyxy_to_xywh(boxes).tolist()]
            ranks = np.nan_to_num(score(answer, label))
            kept = np.flatnonzero(ranks >= LEAST) if dense else named(answer, label)
            found = xyxy_to_xywh(answer.regions.xyxy[kept]).tolist()
            results += [
                {**about, "bbox": box, "score": float(ranks[index])}
                for box, index in zip(found, kept, strict=True)
            ]
    return average_precision(annotations, results, per_label=False)


def named(answer: Answer, label: str) -> list[int]:
    """The regions that are mentioned with a label."""
    found = [i for said in answer.mentions if said.label == label for i in said.indices]
    return list(dict.fromkeys(found))


def f1(asked: Sequence[Asked], name: str, **bounds: Any) -> float:
    """F1 at IoU 0.5 of what the model named, or of what is selected by bounds."""
    right = chosen = wanted = 0
    for one in asked:
        answer = one.answers[name].select(**bounds) if bounds else one.answers[name]
        for label, boxes in one.truth.items():
            found = answer.regions.xyxy[named(answer, label)]
            right += int(matches(iou(found, boxes), [TRUE_IOU]).sum())
            chosen, wanted = chosen + len(found), wanted + len(boxes)
    return round(2 * right / max(chosen + wanted, 1), 4)


def absent_rejected(asked: Sequence[Asked], name: str, least: float | None = None) -> float:
    """Share of absent labels with no region, by the text or by a bound on presence."""
    rejected = [
        not named(one.answers[name], label) if least is None
        else one.answers[name].presence[label] < least
        for one in asked for label, boxes in one.truth.items() if not len(boxes)
    ]  # fmt: skip
    return round(float(np.mean(rejected)), 4)


def confidence(answer: Answer, label: str) -> np.ndarray:
    """The model's probability of each region's token."""
    found = np.full(len(answer.regions), np.nan, np.float32)
    for said in answer.mentions:
        if said.label == label and said.confidence is not None:
            found[list(said.indices)] = said.confidence
    return found


def fused(how: Fusion, weight: float = 0.5, temperature: float = 1.0) -> Score:
    """Scores with the proposer's."""
    by = Calibration(temperature=temperature, fusion=how, weight=weight)
    return lambda answer, label: by.scores(answer.scores_of(label), answer.regions.scores)


def proposal(answer: Answer, label: str) -> np.ndarray:
    """The proposer's scores, whatever the label."""
    return fuse(answer.scores_of(label), answer.regions.scores, "proposal")


def likely(pairs: Pairs) -> Pairs:
    """Pairs that are not plainly wrong, on which a threshold decides."""
    kept = pairs.scores >= 0.01
    proposals = None if pairs.proposals is None else pairs.proposals[kept]
    return Pairs(pairs.scores[kept], pairs.true[kept], proposals)


def row_of(way: str, asked: Sequence[Asked]) -> dict[str, Any]:
    """Figures of one way to score."""
    name = f"{way} largest"
    return {
        "way": way, "labels": round(statistics.mean(len(one.truth) for one in asked), 1),
        "f1": f1(asked, name), "f1_score_0.5": f1(asked, name, min_score=0.5),
        "absent_rejected": absent_rejected(asked, name),
        "absent_rejected_presence_0.5": absent_rejected(asked, name, 0.5),
        "ap50": figures(asked, name, fused("none")),
        "ap50_dense": figures(asked, name, fused("none"), dense=True),
        "seconds": round(statistics.median(one.seconds[way] for one in asked), 3),
    }  # fmt: skip


def report(
    fitted_on: Sequence[Asked], test: Sequence[Asked], many: Sequence[Asked]
) -> dict[str, Any]:
    """All figures: ways to score of the last two sets, ranks and calibrations of the second."""
    ways = [row_of(str(way), asked) for asked in (test, many) for way in WAYS]
    ranks: dict[str, tuple[str, Score]] = {
        "proposal": ("joint largest", proposal),
        "confidence": ("joint largest", confidence),
        "first step": ("joint first step", fused("none")),
        "largest": ("joint largest", fused("none")),
        "noisy_or": ("joint noisy_or", fused("none")),
        "largest, geometric": ("joint largest", fused("geometric")),
        "noisy_or, geometric": ("joint noisy_or", fused("geometric")),
    }
    calibrations: list[dict[str, Any]] = []
    for way in map(str, WAYS):
        for over in ("largest", "noisy_or"):
            name = f"{way} {over}"
            known = pairs_of([o.answers[name] for o in fitted_on], [o.truth for o in fitted_on])
            fresh = pairs_of([o.answers[name] for o in test], [o.truth for o in test])
            for how in get_args(Fusion):
                made = fit(*known, fusion=how)
                some = likely(fresh[0])
                calibrations.append({
                    "way": way, "over": over, "fusion": how,
                    "temperature": round(made.temperature, 3), "weight": round(made.weight, 2),
                    "presence_temperature": round(made.presence_temperature, 3),
                    **measured(*fresh, made),
                    "likely_pairs": len(some.true),
                    "likely_ece_before": round(ece(some.scores, some.true), 4),
                    "likely_ece_after": round(ece(some.calibrated(made), some.true), 4),
                })  # fmt: skip
                if way == "joint" and how == "geometric":
                    ranks[f"{over}, geometric, fitted"] = (
                        name, fused(how, made.weight, made.temperature)
                    )  # fmt: skip
    rows = [
        {"rank": rank, "ap50": figures(test, name, score),
         **({} if rank in {"proposal", "confidence"}
            else {"ap50_dense": figures(test, name, score, dense=True)})}
        for rank, (name, score) in ranks.items()
    ]  # fmt: skip
    return {"ways": ways, "ranks": rows, "calibrations": calibrations}


def main() -> None:
    """Measure, print the table's rows, and write ``benchmarks/results/scores.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True, help="sprite folder")
    parser.add_argument("--images", type=int, default=30, help="of each of the two sets")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/scores.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fo1 = FO1.from_pretrained("tiny", calibration=Calibration())
    sets: list[list[Asked]] = []
    for seed in (FIT_SEED, TEST_SEED, MANY_SEED):
        some = seed == MANY_SEED
        images = make_images(options.sprites, seed, MANY_IMAGES if some else options.images)
        rng, choose = np.random.default_rng(seed), many_labels_of if some else labels_of
        sets.append([ask(fo1, image, rng, choose) for image in track(images, f"seed {seed}")])
    told = {
        "images": options.images, "threads": options.threads, "torch": torch.__version__,
        "machine": platform.machine(), **report(*sets),
    }  # fmt: skip
    for kind in ("ways", "ranks", "calibrations"):
        print("| " + " | ".join(told[kind][-1]) + " |")
        for row in told[kind]:
            print("| " + " | ".join(str(value) for value in row.values()) + " |")
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
