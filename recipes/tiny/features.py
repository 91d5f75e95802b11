"""Images as the towers see them, on disk: what is in each image, and its tokens.

A file is a batch, written at once or not at all. Shapes: n image tokens, N regions, D width of the
language model.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.render import RenderedImage, Thing
from recipes.synthetic.view import View
from recipes.tiny.network import make_processor
from recipes.tiny.recipe import Recipe
from recipes.tiny.towers import INPUTS, look_at, source
from recipes.tiny.words import build_tokenizer
from vlm_fo1.config import plain
from vlm_fo1.data.regions import BuiltRegions
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.train.loss import to_device

_STREAM = 1_000_003  # images that towers never trained on


class Seen(NamedTuple):
    """An image as the towers see it."""

    view: View
    """Without pixels."""
    grid_hw: tuple[int, int]
    """Patches of the primary image."""
    image_nD: Tensor
    regions_ND: Tensor


def load(folder: Path) -> list[Seen]:
    """What `fill` wrote, about 25 KB of memory an image; tokens are bfloat16."""
    found: list[Seen] = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            told = json.loads(file.metadata()["told"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        counts, images = tensors.pop("counts").tolist(), tensors.pop("image")
        parts = (tensors[name].split(counts) for name in ("xyxy", "truth", "scores", "regions"))
        kinds, facts = tuple(told["kinds"]), told["images"]
        for it, image_nD, *regions, regions_ND in zip(facts, images, *parts, strict=True):
            objects = [Thing(**{**o, "box_xyxy": tuple(o["box_xyxy"])}) for o in it["objects"]]
            rendered = RenderedImage(
                image=blank(*it["size_wh"]),
                objects=tuple(objects),
                background=it["background"],
                kinds=kinds,
            )
            built = BuiltRegions(*(part.numpy() for part in regions))
            view = View(rendered, built, SyntheticConfig())
            found.append(Seen(view, tuple(it["grid_hw"]), image_nD, regions_ND))
    return found


@torch.no_grad()
def fill(
    folder: Path, recipe: Recipe, towers: Path, sprites: str | None, device: torch.device
) -> Iterator[int]:
    """Look at the images that are missing; gives how many are there, batch by batch.

    Args:
        folder: Gets a file a batch.
        recipe: Says what images show, and how many there are.
        towers: Folder of the network.
        sprites: Sprite folder; None for drawn shapes.
        device: Where the towers run.
    """
    processor = make_processor(build_tokenizer())
    model = FO1ForConditionalGeneration.from_pretrained(towers, dtype=torch.float32)
    cast(Any, model).to(device).eval()
    draw = source(recipe, sprites, {"learns": "regions", "stream": _STREAM}, 0, 1).draw
    folder.mkdir(parents=True, exist_ok=True)
    size = recipe.towers[-1].batch_size
    for first in range(0, recipe.features, size):
        path = folder / f"{first:07d}.safetensors"
        end = min(first + size, recipe.features)
        if not path.is_file():
            views: list[View] = [draw(place, first // size)[1] for place in range(first, end)]
            given = to_device(look_at(processor, views), device)
            with torch.autocast(device.type, torch.bfloat16, recipe.precision == "bf16"):
                found = model.encode_images(*(given[name] for name in INPUTS))
            facts = [
                {
                    "size_wh": view.rendered.image.size,
                    "background": view.rendered.background,
                    "objects": plain(view.rendered.objects),
                    "grid_hw": grid[1:],
                }
                for view, grid in zip(views, given["image_grid_thw"].tolist(), strict=True)
            ]
            tensors = {
                "image": torch.stack(found.image_tokens).bfloat16().cpu(),
                "regions": torch.cat(found.region_tokens).bfloat16().cpu(),
                "counts": torch.tensor([len(view.regions.truth) for view in views]),
            } | {
                name: torch.from_numpy(np.concatenate([vars(view.regions)[name] for view in views]))
                for name in ("xyxy", "truth", "scores")
            }
            told = {"kinds": views[0].rendered.kinds, "images": facts}
            save_file(tensors, path.with_suffix(".part"), {"told": json.dumps(told)})
            path.with_suffix(".part").replace(path)
        yield end


@lru_cache(maxsize=64)
def blank(width: int, height: int) -> Image.Image:
    """An image that only knows its size; one for all of that size."""
    return Image.new("L", (width, height))
