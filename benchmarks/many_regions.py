"""More regions than one question holds: detection F1 with windows against a single question.

Three kinds of images of many things, all of them offered as boxes in any order. In the dense ones
the bundled model sees each thing well enough in the whole image, so that only the number of
regions decides; in the crowded ones things are a little too small for it, and in the large ones
only tiles let the model see them. Asked for are an image's most frequent kinds and one that is not
in it.
Run: ``python -m benchmarks.many_regions --sprites FOLDER`` (plain shapes without a folder).
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.synthetic import SyntheticConfig
from recipes.synthetic.render import RenderedImage, available_kinds, render
from recipes.synthetic.sprites import load_sprites
from recipes.tiny.recipe import RECIPE, read_recipe
from vlm_fo1 import FO1, Answer
from vlm_fo1.fo1 import Tile
from vlm_fo1.regions import Regions

PATHS = ("sprites", "save_images")
"""Options that are nobody else's business."""


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """Many things in one image; sizes in pixels."""

    objects: int
    canvas: int
    smallest: int
    largest: int
    images: int


CROWDS = {
    "dense": Crowd(objects=60, canvas=300, smallest=28, largest=36, images=12),
    "crowded": Crowd(objects=64, canvas=400, smallest=30, largest=42, images=8),
    "large": Crowd(objects=250, canvas=1024, smallest=20, largest=44, images=4),
}

LABELS = 2
"""Kinds asked for in each image, one more that is absent not counted."""


def draw(options: argparse.Namespace, crowd: Crowd, number: int) -> tuple[RenderedImage, list[str]]:
    """An image of about so many things, none hiding another, and kinds that are not in it.

    The same for the same number.
    """
    config = SyntheticConfig(
        sprites=options.sprites,
        styles=tuple(options.style),
        width=(crowd.canvas, crowd.canvas),
        height=(crowd.canvas, crowd.canvas),
        objects=(crowd.objects, crowd.objects),
        object_size=(crowd.smallest, crowd.largest),
        kinds=tuple(read_recipe(RECIPE).images["kinds"]) if options.sprites else None,
        overlap=0.0,
        signs=(0, 0),
        effects=0.0,
    )
    sprites = load_sprites(options.sprites)
    rng = np.random.default_rng([options.seed, number])
    kinds = rng.permutation(available_kinds(config, sprites)).tolist()
    shown = min(options.kinds, len(kinds) - 1)
    rendered = render(replace(config, kinds=tuple(kinds[:shown])), sprites, rng)
    return rendered, kinds[shown:]


def question(rendered: RenderedImage, absent: list[str]) -> list[str]:
    """What is asked of an image: its most frequent kinds and one that is not there."""
    names, times = np.unique([thing.name for thing in rendered.objects], return_counts=True)
    present = [str(name) for name in names[np.argsort(-times, kind="stable")][:LABELS]]
    return [*present, absent[0]]


def shuffled(rendered: RenderedImage, rng: np.random.Generator) -> tuple[Regions, list[str]]:
    """Every thing as a region, in any order, and what each is."""
    order = rng.permutation(len(rendered.objects))
    names = [rendered.objects[int(index)].name for index in order]
    return Regions(rendered.boxes_xyxy[order], rendered.image.size), names


def hits(answer: Answer, names: list[str], labels: list[str]) -> tuple[int, int, int]:
    """Right, chosen and wanted pairs of label and region."""
    chosen = {(m.label, index) for m in answer.mentions for index in m.indices}
    wanted = {(name, index) for index, name in enumerate(names) if name in labels}
    return len(chosen & wanted), len(chosen), len(wanted)


def measure(options: argparse.Namespace, fo1: FO1, name: str) -> list[dict[str, Any]]:
    """F1, windows and seconds an image for each way."""
    crowd = CROWDS[name]
    most = fo1.processor.vocabulary.max_regions
    ways: dict[str, tuple[int, Tile]] = {  # most regions, side of a tile
        f"one question with {most} of them": (most, None),
        "windows over the whole image": (crowd.objects, None),
        "as FO1 does it by itself": (crowd.objects, "auto"),
    }
    totals = {way: np.zeros(3, np.int64) for way in ways}
    seconds = {way: list[float]() for way in ways}
    windows = dict.fromkeys(ways, 0)
    sides = {way: list[int]() for way in ways}
    offered = 0
    for number in range(crowd.images):
        rendered, absent = draw(options, crowd, number)
        labels = question(rendered, absent)
        regions, names = shuffled(rendered, np.random.default_rng([options.seed, number, 1]))
        offered += len(regions)
        if options.save_images and not number:
            options.save_images.mkdir(parents=True, exist_ok=True)
            rendered.image.save(options.save_images / f"{name}.png")
        for way, (limit, tile) in ways.items():
            start = time.perf_counter()
            opened = fo1.open(rendered.image, regions[:limit], tile=tile)
            answer = opened.detect(labels, max_new_tokens=options.max_new_tokens)
            seconds[way].append(time.perf_counter() - start)
            windows[way] += answer.windows
            sides[way] += [] if opened.tile is None else [opened.tile]
            totals[way] += hits(answer, names, labels)
    rows: list[dict[str, Any]] = []
    for way, (right, chosen, wanted) in totals.items():
        rows.append(
            {
                "images": name,
                "way": way,
                "f1": round(2 * right / max(chosen + wanted, 1), 4),
                "precision": round(right / max(chosen, 1), 4),
                "recall": round(right / max(wanted, 1), 4),
                "regions": round(offered / crowd.images, 1),
                "windows": round(windows[way] / crowd.images, 1),
                "tile": round(statistics.mean(sides[way])) if sides[way] else None,
                "seconds": round(statistics.median(seconds[way]), 3),
            }
        )
    return rows


def main() -> None:
    """Print rows for docs/proposers/many.md; with sprites, write the figures to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sprites", help="sprite folder; plain shapes without")
    parser.add_argument("--style", nargs="*", default=[], help="styles; all that train by default")
    parser.add_argument("--kinds", type=int, default=30, help="how many kinds an image has")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--seed", type=int, default=20260)
    parser.add_argument("--save-images", type=Path, help="where the first of each kind goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    fo1 = FO1.from_pretrained(options.model, device="cpu")
    rows = [row for name in CROWDS for row in measure(options, fo1, name)]
    if options.sprites:
        told = {key: value for key, value in vars(options).items() if key not in PATHS}
        told["crowds"] = {name: asdict(crowd) for name, crowd in CROWDS.items()}
        path = Path(__file__).parent / "results" / "many_regions.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**told, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print("| images | way | F1 | precision | recall | questions | tile | seconds an image |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['images']} | {row['way']} | {row['f1']:.3f} | {row['precision']:.3f} "
            f"| {row['recall']:.3f} | {row['windows']:g} | {row['tile'] or ''} "
            f"| {row['seconds']:.2f} |"
        )


if __name__ == "__main__":
    main()
