"""The bundled proposer on fresh images, beside boxes that need no training, and how fast it is.

Recall at IoU 0.5 and class-agnostic average precision at 50 boxes an image, on the styles it was
trained on and on the one held out. Run:
``python -m benchmarks.tiny_proposer --sprites DIR`` (a folder that
``python -m recipes.synthetic.build --out DIR`` made; without it the lines with figures for drawn
shapes mean little).
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.sprites import load_sprites
from recipes.tiny_proposer.data import fresh_images
from recipes.tiny_proposer.loss import recall_and_precision
from recipes.tiny_proposer.training import RECIPE, ProposerTraining, style_groups
from vlm_fo1 import load_proposer
from vlm_fo1.config import read
from vlm_fo1.draw import draw_regions
from vlm_fo1.proposers.base import select
from vlm_fo1.proposers.bundled import BundledProposer
from vlm_fo1.regions import Regions

ROOT = Path(__file__).parents[1]
LIMIT = 50
SEED = 20_000  # neither the seed of the pool nor that of the figures which training writes


def grid(image: Image.Image) -> Regions:
    """`LIMIT` boxes at fixed places: 36 of 0.22 of the image's sides, then 14 of 0.35."""
    parts: list[np.ndarray] = []
    for across, down, side in ((6, 6, 0.22), (7, 2, 0.35)):
        x, y = np.meshgrid(np.linspace(0, 1 - side, across), np.linspace(0, 1 - side, down))
        parts.append(np.stack([x, y, x + side, y + side], axis=-1).reshape(-1, 4))
    boxes = np.concatenate(parts) * np.array([*image.size, *image.size])
    return Regions(boxes.astype(np.float32), image.size)


def milliseconds(proposer: BundledProposer, kind: SyntheticConfig, runs: int = 20) -> float:
    """Median time of an image of 320 x 288 pixels with as many threads as torch now uses."""
    size = replace(kind, width=(320, 320), height=(288, 288))
    image = fresh_images(size, SEED, 1)[0][0]
    times: list[float] = []
    for _ in range(runs):
        start = time.perf_counter()
        proposer.propose([image])
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def measure(
    proposer: BundledProposer, config: ProposerTraining, sprites: str | None, selective: int
) -> list[dict[str, Any]]:
    """Figures of every way, for each group of styles; selective search is slow and sees fewer."""
    kind = config.image_configs(sprites)[0]
    rows: list[dict[str, Any]] = []
    for group, styles in style_groups(load_sprites(sprites), kind).items():
        images, truths = fresh_images(replace(kind, styles=styles), SEED, config.test)
        ways: dict[str, Sequence[Regions]] = {
            "bundled": proposer.propose(images),
            "grid": [grid(image) for image in images],
        }
        if selective:
            search = load_proposer("selective", keep=LIMIT)
            ways["selective search"] = search.propose(images[:selective])
        for way, found in ways.items():
            row = {"way": way, "group": group, "styles": styles, "images": len(found)}
            rows.append({**row, **recall_and_precision(found, truths[: len(found)], LIMIT)})
    return rows


def draw(proposer: BundledProposer, kind: SyntheticConfig, folder: Path) -> None:
    """Four images with the boxes that `FO1` would use."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(fresh_images(kind, SEED, 4)[0]):
        regions = select(proposer.propose([image])[0], proposer.selection)
        drawn = draw_regions(image, regions, show_scores=True)
        drawn.save(folder / f"{'-'.join(kind.styles)}-{number}.png")


def main() -> None:
    """Measure, print the table's rows, and write ``benchmarks/results/tiny_proposer.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", help="sprite folder; drawn shapes without it")
    parser.add_argument("--images", type=int, default=500, help="per group of styles")
    parser.add_argument("--weights", default="", help="folder of other weights")
    parser.add_argument("--save-images", type=Path, help="folder for drawings of some boxes")
    parser.add_argument(
        "--selective", type=int, default=50, help="images of selective search; 0 for none"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = read(
        RECIPE,
        ProposerTraining,
        [f"test={options.images}"],
    )
    proposer = BundledProposer.from_pretrained(options.weights)
    if options.save_images:
        kind = config.image_configs(options.sprites)[0]
        for styles in style_groups(load_sprites(options.sprites), kind).values():
            draw(proposer, replace(kind, styles=styles), options.save_images)
    result = {
        "images": options.images,
        "limit": LIMIT,
        "rows": measure(proposer, config, options.sprites, options.selective),
        "milliseconds": round(milliseconds(proposer, config.image_configs(options.sprites)[0]), 1),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    for row in result["rows"]:
        styles = ", ".join(row["styles"])
        print(f"| {row['way']} | {styles} | {row['recall']:.3f} | {row['ap']:.3f} |")
    print(f"{result['milliseconds']} ms for 320 x 288 pixels, one thread")
    if options.sprites:
        path = ROOT / "benchmarks" / "results" / "tiny_proposer.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
