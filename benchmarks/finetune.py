"""The documented start of training, measured: 100 images of ten unknown kinds, `finetune.yaml`.

Run ``python -m benchmarks.finetune --out FOLDER``. It renders images to train on and 40 others,
runs ``fo1 train``, and asks the model before and after about the others with given boxes: every
kind of the data (detection), and how many there are of each that is there (counting). With
``--sprites`` it also measures what of the bundled model's own ability is left, on images that did
not train. ``--shuffled`` gives the boxes of each training image to each other's names: whoever
learns from regions learns nothing then. ``--names several`` calls the kinds by two or three words.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from recipes.synthetic import SyntheticConfig, SyntheticSource
from recipes.synthetic.export import write_images
from recipes.synthetic.kinds import SIGN
from recipes.tiny.recipe import RECIPE, read_recipe
from vlm_fo1 import FO1
from vlm_fo1.data import read_examples
from vlm_fo1.eval.metrics import pooled_f1
from vlm_fo1.train.answers import ask, draw_records
from vlm_fo1.train.figures import figures_of

CONFIG = Path("configs/train/finetune.yaml")
SEVERAL = {
    "arrow": "pointing arrow", "circle": "round disc", "cross": "thick plus sign",
    "heart": "love heart", "hexagon": "six sided nut", "moon": "crescent moon",
    "square": "square tile", "star": "five pointed star", "triangle": "road triangle",
}  # fmt: skip
"""Names of two or three words for the kinds that are rendered."""


def main() -> None:
    """Render, train, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--sprites", type=Path, help="of recipes.synthetic.build")
    parser.add_argument("--shuffled", action="store_true", help="boxes under each other's names")
    parser.add_argument("--names", choices=("one", "several"), default="one", help="words a name")
    parser.add_argument("--set", action="append", default=[], help="for fo1 train")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    shapes = SyntheticConfig(turns=(6, 6))
    write_images(SyntheticSource(shapes, 0), options.out / "mine", range(100))
    write_images(SyntheticSource(shapes, 77), options.out / "new", range(40))
    for part in ("mine", "new"):
        change(
            options.out / part / "coco.json",
            SEVERAL if options.names == "several" else {},
            shuffled=options.shuffled and part == "mine",
        )
    before = measured(FO1.from_pretrained("tiny"), options)
    changes = [part for change in options.set for part in ("--set", change)]
    command = [str(Path(sys.executable).with_name("fo1")), "train", str(options.config.resolve())]
    began_s = time.perf_counter()
    subprocess.run([*command, "--out", "runs/mine", *changes], cwd=options.out, check=True)
    minutes = (time.perf_counter() - began_s) / 60
    after = measured(FO1.from_pretrained(options.out / "runs" / "mine" / "regions"), options)
    print(f"trained in {minutes:.1f} minutes")
    print("| figure | before | after |\n| --- | --- | --- |")
    for name, value in before.items():
        print(f"| {name} | {value:.3f} | {after[name]:.3f} |")


def change(path: Path, names: dict[str, str], *, shuffled: bool) -> None:
    """Other names for the kinds of a data set, and each image's boxes dealt out anew."""
    content = json.loads(path.read_text())
    for row in content["categories"]:
        row["name"] = names.get(row["name"], row["name"])
    rows: dict[int, list[Any]] = {}
    for row in content["annotations"]:
        rows.setdefault(row["image_id"], []).append(row)
    rng = np.random.default_rng(0)
    for some in rows.values() if shuffled else ():
        boxes = [row["bbox"] for row in some]
        for row, place in zip(some, rng.permutation(len(some)), strict=True):
            row["bbox"] = boxes[place]
    path.write_text(json.dumps(content))


def measured(fo1: FO1, options: argparse.Namespace) -> dict[str, float]:
    """Figures on new images, and on those of the bundled model's own kind."""
    figures = {
        f"new images, {name}": value for name, value in asked(fo1, options.out / "new").items()
    }
    if options.sprites is not None:
        own = options.out / "own"
        if not own.exists():
            config = read_recipe(RECIPE).image_config(
                str(options.sprites),
                styles=("google", "fluent"), variety={}, turns=(6, 6), absent_style="none",
            )  # fmt: skip
            write_images(SyntheticSource(config, 5151), own, range(120))
        records = draw_records(read_examples(own / "records.jsonl"), 120)
        counts = ask(records, fo1.model, fo1.processor).counts
        figures |= {f"own images, {name}": value for name, value in figures_of(counts).items()}
    return figures


def asked(fo1: FO1, folder: Path) -> dict[str, float]:
    """F1 of detection, absent labels answered with nothing, and exact counts."""
    content = json.loads((folder / "coco.json").read_text())
    names = {row["id"]: row["name"] for row in content["categories"] if row["name"] != SIGN}
    images: list[dict[str, Any]] = []
    silent, absent, exact, counted = 0, 0, 0, 0
    for row in content["images"]:
        truth: dict[str, list[list[float]]] = {name: [] for name in names.values()}
        boxes: list[list[float]] = []
        for annotation in content["annotations"]:
            if annotation["image_id"] == row["id"]:
                x, y, w, h = annotation["bbox"]
                boxes.append([x, y, x + w, y + h])
                if annotation["category_id"] in names:
                    truth[names[annotation["category_id"]]].append(boxes[-1])
        scene = fo1.open(folder / row["file_name"], np.array(boxes, np.float32))
        said = scene.detect(list(truth))
        images.append(
            {"truth": truth, "answer": {name: said[name].xyxy.tolist() for name in truth}}
        )
        for name, wanted in truth.items():
            absent += not wanted
            silent += not wanted and not len(said[name].xyxy)
            counted += bool(wanted)
            exact += bool(wanted) and scene.count(name).count == len(wanted)
        scene.close()
    f1 = pooled_f1(images)["f1@.5"] or 0.0
    return {"F1": f1, "absent": silent / absent, "counting exact": exact / counted}


if __name__ == "__main__":
    main()
