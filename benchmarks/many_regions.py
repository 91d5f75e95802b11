"""More regions than one question holds: detection F1 with windows against a single question.

Pictures of 250 small things on a large canvas; every thing is offered as a box. Compared are one
question with 100 of the boxes, windows of 100 on the whole picture, and windows in tiles. The
labels of a picture are its most frequent kinds and one that is not in it.
Run: ``python benchmarks/many_regions.py --sprites FOLDER`` (plain shapes without a folder).
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vlm_fo1 import FO1, Answer
from vlm_fo1.data.scenes import SceneConfig
from vlm_fo1.data.scenes.render import RenderedScene, available_kinds, render
from vlm_fo1.data.scenes.sprites import load_sprites
from vlm_fo1.structures import Regions
from vlm_fo1.train.tiny.recipe import read_recipe

PATHS = ("sprites", "save_picture")
"""Options that are nobody else's business."""

LABELS = 3
"""Kinds asked for in each picture, one more that is absent not counted."""

RECIPE = Path(__file__).parents[1] / "configs" / "train" / "tiny.yaml"  # what the model knows


def draw(options: argparse.Namespace, number: int) -> tuple[RenderedScene, list[str]]:
    """A picture of about so many things, none hiding another, and kinds that are not in it.

    The same for the same number.
    """
    config = SceneConfig(
        sprites=options.sprites,
        styles=tuple(options.style),
        width=(options.canvas, options.canvas),
        height=(options.canvas, options.canvas),
        objects=(options.objects, options.objects),
        object_size=(options.smallest, options.largest),
        kinds=tuple(read_recipe(RECIPE).scenes["kinds"]) if options.sprites else None,
        overlap=0.0,
        signs=(0, 0),
        effects=0.0,
    )
    sprites = load_sprites(options.sprites)
    rng = np.random.default_rng([options.seed, number])
    kinds = rng.permutation(available_kinds(config, sprites)).tolist()
    shown = min(options.kinds, len(kinds) - 1)
    scene = render(replace(config, kinds=tuple(kinds[:shown])), sprites, rng)
    return scene, kinds[shown:]


def question(scene: RenderedScene, absent: list[str]) -> list[str]:
    """What is asked of a picture: its most frequent kinds and one that is not there."""
    names, times = np.unique([thing.name for thing in scene.objects], return_counts=True)
    present = [str(name) for name in names[np.argsort(-times, kind="stable")][:LABELS]]
    return [*present, absent[0]]


def shuffled(scene: RenderedScene, rng: np.random.Generator) -> tuple[Regions, list[str]]:
    """Every thing as a region, in any order, and what each is."""
    order = rng.permutation(len(scene.objects))
    names = [scene.objects[int(index)].name for index in order]
    return Regions(scene.boxes_xyxy[order], scene.image.size), names


def hits(answer: Answer, names: list[str], labels: list[str]) -> tuple[int, int, int]:
    """Right, chosen and wanted pairs of label and region."""
    chosen = {(m.label, index) for m in answer.mentions for index in m.indices}
    wanted = {(name, index) for index, name in enumerate(names) if name in labels}
    return len(chosen & wanted), len(chosen), len(wanted)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """F1, windows and seconds a picture for each way."""
    fo1 = FO1.from_pretrained(options.model)
    ways: dict[str, tuple[int, int | None]] = {  # most regions, side of a tile
        "one question, 100 regions": (100, None),
        "windows of 100": (options.objects, None),
        f"tiles of {options.tile}": (options.objects, options.tile),
    }
    totals = {way: np.zeros(3, np.int64) for way in ways}
    seconds = dict.fromkeys(ways, 0.0)
    windows = dict.fromkeys(ways, 0)
    offered = 0
    for number in range(options.scenes):
        scene, absent = draw(options, number)
        labels = question(scene, absent)
        regions, names = shuffled(scene, np.random.default_rng([options.seed, number, 1]))
        offered += len(regions)
        for way, (most, tile) in ways.items():
            start = time.perf_counter()
            opened = fo1.open(scene.image, regions[:most], tile=tile)
            answer = opened.detect(labels, max_new_tokens=options.max_new_tokens)
            seconds[way] += time.perf_counter() - start
            windows[way] += answer.windows
            totals[way] += hits(answer, names, labels)
    rows: list[dict[str, Any]] = []
    for way, (right, chosen, wanted) in totals.items():
        rows.append(
            {
                "way": way,
                "f1": round(2 * right / max(chosen + wanted, 1), 4),
                "precision": round(right / max(chosen, 1), 4),
                "recall": round(right / max(wanted, 1), 4),
                "regions": round(offered / options.scenes, 1),
                "windows": round(windows[way] / options.scenes, 1),
                "seconds": round(seconds[way] / options.scenes, 3),
            }
        )
    return rows


def main() -> None:
    """Print rows for docs/proposers.md; with sprites, write the figures to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sprites", help="sprite folder; plain shapes without")
    parser.add_argument("--style", nargs="*", default=[], help="styles; all that train by default")
    parser.add_argument("--kinds", type=int, default=30, help="how many kinds a picture has")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--objects", type=int, default=250)
    parser.add_argument("--canvas", type=int, default=1024, help="side of the picture in pixels")
    parser.add_argument("--smallest", type=int, default=20, help="of the things, in pixels")
    parser.add_argument("--largest", type=int, default=44)
    parser.add_argument("--tile", type=int, default=320)
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--seed", type=int, default=20260)
    parser.add_argument("--save-picture", help="where the first picture goes")
    options = parser.parse_args()
    if options.save_picture:
        draw(options, 0)[0].image.save(options.save_picture)
    rows = measure(options)
    if options.sprites:
        told = {key: value for key, value in vars(options).items() if key not in PATHS}
        path = Path(__file__).parent / "results" / "many_regions.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**told, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print("| way | F1 | precision | recall | questions | seconds a picture |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['way']} | {row['f1']:.3f} | {row['precision']:.3f} | {row['recall']:.3f} "
            f"| {row['windows']:g} | {row['seconds']:.2f} |"
        )


if __name__ == "__main__":
    main()
