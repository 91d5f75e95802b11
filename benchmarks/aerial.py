"""What proposers find in four real photographs from the air, with and without tiles.

The photographs have 951 tree crowns that people drew, and come inside the package deepforest (MIT):
``pip download --no-deps deepforest==2.1.0``, unzip, then ``python -m benchmarks.aerial
--data .../deepforest/data``. One class without a name to tell apart, so recall is what is measured.
"""

import argparse
import json
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import torch

from vlm_fo1 import FO1, load_proposer
from vlm_fo1.eval.metrics import proposal_recall
from vlm_fo1.images import read_image
from vlm_fo1.proposals import Tile, propose
from vlm_fo1.proposers.base import selection_of
from vlm_fo1.tiling import tiles

ROOT = Path(__file__).parents[1]
WAYS: tuple[tuple[str, Tile], ...] = (
    ("tiny", None), ("tiny", 256), ("tiny", 128), ("selective", None),
)  # fmt: skip
"""Proposers that need no weights; selective search takes 3 s a look, so no tiles."""


def truths(folder: Path) -> list[tuple[Path, list[list[float]]]]:
    """Each photograph with its boxes as xyxy."""
    found: list[tuple[Path, list[list[float]]]] = []
    for file in sorted(folder.glob("*.xml")):
        boxes = [
            [float(box.findtext(key) or "nan") for key in ("xmin", "ymin", "xmax", "ymax")]
            for box in ElementTree.parse(file).getroot().iter("bndbox")
        ]
        found.append((file.with_suffix(".png"), boxes))
    return found


def measure(name: str, tile: Tile, data: list[tuple[Path, list[list[float]]]]) -> dict[str, Any]:
    """Recall, boxes, looks and seconds of a proposer on all photographs."""
    fo1 = FO1.from_pretrained("tiny")
    proposer = load_proposer(name)
    images: list[dict[str, Any]] = []
    looks = 0
    start = time.perf_counter()
    for path, boxes in data:
        image = read_image(path)
        offer = propose(
            proposer,
            image,
            selection=selection_of(proposer),
            queries=None,
            tile=tile,
            seen_by=fo1.processor.image_processor,
        )
        looks += 1 if offer.tile is None else 1 + len(list(tiles(image.size, offer.tile)))
        images.append({"truth": boxes, "proposals": offer.regions.xyxy.tolist()})
    seconds = time.perf_counter() - start
    row: dict[str, Any] = {"proposer": name, "tile": tile}
    row["boxes"] = sum(len(image["proposals"]) for image in images)
    row |= {"looks": looks, "seconds": round(seconds, 1)}
    recall = proposal_recall(images)
    row |= {key: None if value is None else round(value, 3) for key, value in recall.items()}
    return row


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "aerial.json"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = truths(options.data)
    rows = []
    for name, tile in WAYS:
        rows.append(measure(name, tile, data))
        print(json.dumps(rows[-1]), flush=True)
    content = {"photographs": len(data), "objects": sum(len(b) for _, b in data), "rows": rows}
    options.results.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
