"""What the bundled model answers on synthetic images, to compare two versions of the code.

``python -m benchmarks.same_answers IMAGES ANSWERS --sprites DIR`` renders images into a folder, if
they are not there, asks each every kind of question, and writes one line an answer: its text, what
it points at, its count and its problems. Run it before and after a change and compare the files
byte by byte.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from vlm_fo1 import FO1, Answer

SEED = 515_151


def make_images(folder: Path, count: int, sprites: str | None) -> None:
    """Render ``count`` images and note boxes and names of each."""
    from recipes.synthetic import SyntheticConfig, SyntheticSource
    from recipes.tiny.recipe import RECIPE, read_recipe

    recipe = read_recipe(RECIPE)
    config = (
        recipe.image_config(sprites, variety={}, objects=(3, 16), distractors=(0, 6))
        if sprites
        else SyntheticConfig(objects=(3, 16))
    )
    source = SyntheticSource(config, SEED)
    folder.mkdir(parents=True, exist_ok=True)
    listed: list[dict[str, Any]] = []
    for number in range(count):
        example, view = source.rendered(number)
        view.rendered.image.save(folder / f"{number:04d}.png")
        rng = np.random.default_rng([SEED, number])
        present = sorted(view.by_name)
        labels = [str(name) for name in rng.permutation(present)[:3]]
        absent = view.absent(rng)
        listed.append(
            {
                "image": f"{number:04d}.png",
                "boxes": example.regions_xyxy.tolist(),
                "labels": [*labels, *([absent] if absent else [])],
            }
        )
    (folder / "images.json").write_text(json.dumps(listed), encoding="utf-8")


def answers(fo1: FO1, image: Path, boxes: list[list[float]], labels: list[str]) -> Iterator[Answer]:
    """Every kind of question about one image, each asked once."""
    scene = fo1.open(image, boxes)
    label = labels[0] if labels else "star"
    yield scene.detect(labels or ["star"])
    yield scene.count(label)
    yield scene.refer(f"the largest {label}")
    yield scene.ground()
    yield scene.reason(f"Which is the largest {label}?", max_new_tokens=96)
    yield scene.ask("What is in the image?", max_new_tokens=64)
    if boxes:
        yield scene.describe()
        yield scene.describe([0], detail="detailed")
        yield scene.read_text([len(boxes) - 1])
        yield fo1.match(image, boxes[0], boxes[1:])


def line(number: int, answer: Answer) -> str:
    """An answer as JSON, times left out."""
    return json.dumps({"image": number, **answer.to_dict()}, ensure_ascii=False, sort_keys=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, help="folder of the images; made if it is missing")
    parser.add_argument("answers", type=Path, help="file to write")
    parser.add_argument("--sprites", help="sprite folder; drawn shapes without it")
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    if not (options.images / "images.json").is_file():
        make_images(options.images, options.count, options.sprites)
    listed = json.loads((options.images / "images.json").read_text(encoding="utf-8"))
    fo1 = FO1.from_pretrained("tiny")
    with options.answers.open("w", encoding="utf-8") as file:
        for number, entry in enumerate(track(listed, "asking")):
            for answer in answers(
                fo1, options.images / entry["image"], entry["boxes"], entry["labels"]
            ):
                file.write(line(number, answer) + "\n")


if __name__ == "__main__":
    main()
