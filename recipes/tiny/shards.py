"""Images without their pixels, in files: what is in them and which regions they have.

Shapes: B images, M regions of all of them.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.render import RenderedImage, Thing
from recipes.synthetic.view import View
from vlm_fo1.config import plain
from vlm_fo1.data.regions import BuiltRegions


@lru_cache(maxsize=64)
def blank(size_wh: tuple[int, int]) -> Image.Image:
    """A picture that only knows its size; one for all images of that size."""
    return Image.new("L", size_wh)


def without_pixels(
    size_wh: tuple[int, int],
    objects: Sequence[Thing],
    background: str | None,
    kinds: Sequence[str],
) -> RenderedImage:
    """An image that knows its size only."""
    return RenderedImage(
        image=blank(size_wh), objects=tuple(objects), background=background, kinds=tuple(kinds)
    )


def write(path: Path, views: Sequence[View], tensors: Mapping[str, Tensor]) -> None:
    """Store images of one size and some tensors about them, at once or not at all."""
    regions = [view.regions for view in views]
    rendered = views[0].rendered
    facts = {
        "size_wh": list(rendered.image.size),
        "kinds": list(rendered.kinds),
        "images": [
            {"background": view.rendered.background, "objects": plain(view.rendered.objects)}
            for view in views
        ],
    }
    stored = {
        "regions_xyxy": torch.from_numpy(np.concatenate([item.xyxy for item in regions])),
        "regions_truth": torch.from_numpy(np.concatenate([item.truth for item in regions])),
        "regions_scores": torch.from_numpy(np.concatenate([item.scores for item in regions])),
        "regions_count": torch.tensor([len(item.truth) for item in regions]),
        **{name: value.contiguous() for name, value in tensors.items()},
    }
    part = path.with_suffix(".part")
    save_file(stored, part, metadata={"images": json.dumps(facts)})
    part.replace(path)


def read(path: Path) -> tuple[list[View], dict[str, Tensor]]:
    """Images and tensors as `write` took them; the views have a default `SyntheticConfig`."""
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["images"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    counts = tensors.pop("regions_count").tolist()
    parts = [
        [part.numpy() for part in tensors.pop(f"regions_{name}").split(counts)]
        for name in ("xyxy", "truth", "scores")
    ]
    config = SyntheticConfig()
    kinds, size_wh = tuple(facts["kinds"]), (facts["size_wh"][0], facts["size_wh"][1])
    views: list[View] = []
    for rendered, xyxy, truth, scores in zip(facts["images"], *parts, strict=True):
        objects = [
            Thing(**{**item, "box_xyxy": tuple(item["box_xyxy"])}) for item in rendered["objects"]
        ]
        rendered = without_pixels(size_wh, objects, rendered["background"], kinds)
        views.append(View(rendered, BuiltRegions(xyxy, truth, scores), config))
    return views, tensors
