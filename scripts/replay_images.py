"""Render ``src/vlm_fo1/assets/replay``: images as the bundled model was trained on, for replay.

Run ``python -m scripts.replay_images --sprites DIR --out src/vlm_fo1/assets/replay``.
"""

import argparse
import json
from pathlib import Path

from PIL import Image

from recipes.synthetic import SyntheticSource
from recipes.synthetic.export import write_images
from recipes.tiny.recipe import RECIPE, read_recipe

SEED, COUNT, TURNS = 4242, 300, 10
TASKS = {
    "detection": 2.0, "counting": 2.0, "referring": 4.0, "brief_caption": 4.0, "detailed_caption": 0.5,
    "region_ocr": 1.0, "visual_prompt": 1.0, "grounded_caption": 0.3, "reasoning": 0.7, "free": 1.0,
}  # fmt: skip
"""What is asked: most of what is forgotten first."""
STYLES = ("google", "fluent")


def main() -> None:
    """Render the images, and keep them small."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    config = read_recipe(RECIPE).image_config(
        str(options.sprites),
        styles=STYLES,
        variety={},
        tasks=TASKS,
        turns=(TURNS, TURNS),
        absent_style="none",
    )
    write_images(SyntheticSource(config, SEED), options.out, range(COUNT))
    records = options.out / "records.jsonl"
    lines = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        image = options.out / line["image"]
        line["image"] = str(Path(line["image"]).with_suffix(".webp"))
        line.pop("source", None)
        Image.open(image).convert("RGB").save(options.out / line["image"], quality=85, method=6)
        image.unlink()
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    records.write_text(text, encoding="utf-8")
    (options.out / "coco.json").unlink()


if __name__ == "__main__":
    main()
