"""Draw the pictures of ``src/vlm_fo1/assets/demo``: the first seeds that show what is wanted.

Run ``python -m scripts.demo_images --sprites DIR --out src/vlm_fo1/assets/demo``.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.referring import distance, phrases
from recipes.synthetic.render import render
from recipes.synthetic.sprites import load_sprites
from recipes.synthetic.view import View
from recipes.tiny.recipe import RECIPE, read_recipe
from vlm_fo1.data.regions import build_regions
from vlm_fo1.tasks import Request, Task

SEED = 5005
COMMON: dict[str, Any] = {
    "width": (320, 320), "height": (288, 288), "object_size": (34, 84), "overlap": 0.0,
    "plain_background": 1.0, "effects": 0.0, "rotation_deg": 15.0, "letter_height": (14, 17),
}  # fmt: skip


def fruit(view: View) -> bool:
    """Oranges and two apples, one orange nearest to both."""
    oranges, apples = (view.by_name.get(name, ()) for name in ("orange", "apple"))
    if not (3 <= len(oranges) <= 5 and len(apples) == 2 and len(view.by_name) >= 5):
        return False
    nearest = [sorted(oranges, key=lambda item: distance(item, apple)) for apple in apples]
    clear = all(
        distance(near[1], apple) > 1.4 * distance(near[0], apple)
        for near, apple in zip(nearest, apples, strict=True)
    )
    return clear and nearest[0][0] is nearest[1][0]


SCENES: dict[str, tuple[dict[str, Any], Callable[[View], bool]]] = {
    "photo": (
        {"kinds": ("orange", "apple", "banana", "dog", "umbrella", "car", "guitar"),
         "objects": (10, 12), "signs": (1, 1), "coloured": 0.0},
        fruit,
    ),
    "count": (
        {"kinds": ("penguin", "fish", "snowman", "balloon", "cat"), "objects": (11, 13),
         "signs": (0, 0)},
        lambda view: len(view.by_name.get("penguin", ())) == 5,
    ),
    "refer": (
        {"kinds": ("dog", "cat", "tree", "house", "car", "bicycle"), "objects": (9, 11),
         "signs": (0, 0), "coloured": 0.6},
        lambda view: {"size", "end", "colour", "side", "near"} <= set(phrases(view)),
    ),
    "signs": (
        {"objects": (5, 7), "signs": (3, 3)},
        lambda view: len(view.by_name.get("sign", ())) == 3,
    ),
    "crowd": (
        {"objects": (20, 22), "signs": (1, 2), "overlap": 1.0, "object_size": (30, 80)},
        lambda view: len(view.items) >= 20,
    ),
    "match": (
        {"objects": (10, 12), "signs": (0, 1), "plain_background": 0.0},
        lambda view: max(map(len, view.by_name.values())) >= 4 and len(view.by_name) >= 4,
    ),
}  # fmt: skip


REQUESTS: dict[str, Request] = {
    "photo": Request(task=Task.DETECTION, labels=("orange", "apple")),
    "count": Request(task=Task.COUNTING, labels=("penguin",)),
    "refer": Request(task=Task.REFERRING, labels=("the largest dog",)),
    "signs": Request(task=Task.REGION_OCR),
    "match": Request(task=Task.VISUAL_PROMPT),
    "crowd": Request(task=Task.GROUNDED_CAPTION),
}
"""What the page asks of each, in the order of its examples."""


def main() -> None:
    """Command line.

    Raises:
        SystemExit: No seed gives an image that is wanted.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = read_recipe(options.recipe)
    sprites = load_sprites(options.sprites)
    told: list[dict[str, Any]] = []
    for name, request in REQUESTS.items():
        values, wanted = SCENES[name]
        styles = ("google", "fluent")
        known = {key: tuple(recipe.images[key]) for key in ("kinds", "words")}
        config = SyntheticConfig(**{**COMMON, **known, "styles": styles, **values})
        for index in range(20000):
            streams = [np.random.default_rng([SEED, index, part]) for part in range(2)]
            rendered = render(config, sprites, streams[0])
            regions = build_regions(
                rendered.boxes_xyxy, rendered.image.size, streams[1], distractors=(2, 4), jitter=0.0
            )
            view = View(rendered, regions, config)
            if view.by_name and wanted(view):
                break
        else:
            raise SystemExit(f"no seed gives the image {name!r}")
        rendered.image.save(options.out / f"{name}.jpg", quality=93, subsampling=0)
        boxes = [[round(v, 1) for v in box] for box in regions.xyxy.tolist()]
        boxes_name = "boxes.json" if name == "photo" else f"{name}.boxes.json"
        (options.out / boxes_name).write_text(json.dumps(boxes) + "\n", encoding="utf-8")
        scene = {
            "name": name,
            "image": f"{name}.jpg",
            "boxes": boxes_name,
            "request": request.to_dict(),
            "seed": [SEED, index],
            "things": {kind: len(group) for kind, group in view.by_name.items()},
            "phrases": {form: found[0][0] for form, found in phrases(view).items()},
        }
        told.append(scene)
    lines = ",\n".join(f" {json.dumps(scene)}" for scene in told)
    (options.out / "scenes.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
