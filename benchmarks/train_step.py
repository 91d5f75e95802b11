"""A training step of the bundled model's alignment, with our separable pooling and without it.

Both ways run the recipe's own step (forward, backward, update) on the same rendered images, each
time from the same weights, in turn, so that a busy moment hits both; the processor's seconds count.
The other way pools as compiled RoIAligns do: maps resized to the finest, every bin sampled
adaptively box after box, then the mean. Losses must be equal.
Run ``python -m benchmarks.train_step``; with ``--run FOLDER`` of a run of the recipe it also tells
the rates that its stages were trained at.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.region_encoder import roi_mean
from recipes.synthetic.view import View
from recipes.tiny import pool, tower_training, towers
from recipes.tiny.align import Lesson
from recipes.tiny.network import build
from recipes.tiny.recipe import RECIPE, Recipe, read_recipe
from recipes.tiny.variants import varied_sprites
from vlm_fo1.train.metrics import read_log

ROOT = Path(__file__).parents[1]
IMAGE_SIDE = 288  # the recipe's sides are 256, 288 and 320


def direct_pool(
    map_BCHW: Tensor,
    cells_M4: Tensor,
    owner: list[int],
    bins: int,
    resized_hw: tuple[int, int] | None,
) -> Tensor:
    """`towers._pool` by resizing the map and sampling every bin of every box; (M, C)."""
    del bins  # 7, as `roi_mean` has it
    with torch.autocast("cpu", enabled=False):
        maps = map_BCHW.float()
        if resized_hw is not None and tuple(maps.shape[2:]) != resized_hw:
            maps = functional.interpolate(maps, size=resized_hw, mode="bilinear")
        found = [
            roi_mean(feature, boxes, 1.0, adaptive=True)
            for feature, boxes in zip(maps, cells_M4.split(owner), strict=True)
            if len(boxes)
        ]
    return torch.cat(found)


WAYS = {"separable": towers._pool, "direct": direct_pool}  # noqa: SLF001 - what is compared


@contextmanager
def pooled(way: str) -> Iterator[None]:
    """Let the towers pool in one of the ways."""
    before = towers._pool  # noqa: SLF001
    towers._pool = WAYS[way]  # noqa: SLF001
    try:
        yield
    finally:
        towers._pool = before  # noqa: SLF001


class Trainer:
    """The recipe's alignment from its first weights.

    Args:
        recipe: The recipe.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.seed = recipe.seed
        self.lesson = Lesson("regions", *build(recipe.seed, recipe.network))
        towers.attend_at_once(self.lesson.model)
        self.optimizers, self.others = tower_training._optimizers(  # noqa: SLF001
            self.lesson, recipe.towers[1]
        )
        self.lesson.model.train()
        self.steps = 0

    def step(self, pixels: Tensor, views: Sequence[View]) -> dict[str, float]:
        """One update; its figures and the processor's seconds."""
        start = time.process_time()
        figures = tower_training._step(  # noqa: SLF001
            self.lesson, self.optimizers, self.others, pixels, views, [self.seed, 1, self.steps]
        )
        self.steps += 1
        return {**figures, "seconds": time.process_time() - start}


def images(recipe: Recipe, sprites: str | None, count: int) -> tuple[Tensor, list[View]]:
    """(B, H, W, 3) uint8 images as the recipe renders them, and their truth."""
    side = (IMAGE_SIDE, IMAGE_SIDE)
    drawn = varied_sprites(sprites)
    config = recipe.image_config(sprites, width=side, height=side, styles=drawn.styles)
    views = [pool.draw_view(config, drawn, 77, number) for number in range(count)]
    return torch.from_numpy(np.stack([np.asarray(view.rendered.image) for view in views])), views


def measure(
    recipe: Recipe, sprites: str | None, batch: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Seconds and loss of a step in each way."""
    pixels, views = images(recipe, sprites, batch)
    trainers = {way: Trainer(recipe) for way in WAYS}
    steps: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds + 1):
        trainers["direct"].lesson.model.load_state_dict(
            trainers["separable"].lesson.model.state_dict()
        )
        for way, trainer in trainers.items():
            with pooled(way):
                steps[way].append(trainer.step(pixels, views))
    return {
        way: {
            "seconds": round(min(step["seconds"] for step in found[1:]), 3),
            "median_s": round(statistics.median(step["seconds"] for step in found[1:]), 3),
            "losses": [round(step["loss"], 4) for step in found],
        }
        for way, found in steps.items()
    } | {"images": {"images": batch, "regions": sum(len(v.regions.xyxy) for v in views)}}


def rates(run: Path) -> dict[str, dict[str, float]]:
    """Median and best rate of every stage of a run, in images or rows a second."""
    found: dict[str, list[float]] = {}
    for line in read_log(run):
        rate = line.get("images_per_s", line.get("rows_per_s"))
        if rate is not None:
            found.setdefault(line["stage"], []).append(rate)
    return {
        stage: {"median": round(statistics.median(values), 1), "best": max(values)}
        for stage, values in found.items()
    }


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--sprites", help="sprite folder; drawn shapes without")
    parser.add_argument("--run", type=Path, help="folder of a run, for the rates of its stages")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="after one to warm up")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "train_step.json"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    told: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "threads": 1,
        **measure(read_recipe(options.recipe), options.sprites, options.batch, options.rounds),
    }
    ours, theirs = told["separable"], told["direct"]
    told["ratio"] = round(theirs["seconds"] / ours["seconds"], 2)
    told["loss_difference"] = max(
        abs(one - other) for one, other in zip(ours["losses"], theirs["losses"], strict=True)
    )
    if options.run is not None:
        told["rates"] = rates(options.run)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    for way in WAYS:
        print(
            f"| {way} | {told[way]['seconds']:.2f} | {options.batch / told[way]['seconds']:.1f} |"
        )
    print(f"ratio {told['ratio']}, largest difference of losses {told['loss_difference']:.1e}")
    for stage, rate in told.get("rates", {}).items():
        print(f"| {stage} | {rate['median']:g} | {rate['best']:g} |")


if __name__ == "__main__":
    main()
