"""Images rendered ahead: pictures of one size a shard, with their truth.

Shapes: B pictures of a shard, H and W sides.
"""

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.render import render
from recipes.synthetic.sprites import SpriteSet
from recipes.synthetic.view import View
from recipes.tiny import shards
from recipes.tiny.recipe import PoolConfig, Recipe
from recipes.tiny.variants import training_styles, varied_sprites
from vlm_fo1.config import differences, plain
from vlm_fo1.data.regions import build_regions
from vlm_fo1.errors import CheckpointError

SIDES = (256, 288, 320)
"""Sides of the pictures in pixels, every pair of them."""
_APART = 1000  # image numbers between two shards


def fill(
    recipe: Recipe, pool: PoolConfig, sprites: str | None, folder: Path, workers: int = 1
) -> Iterator[int]:
    """Render the shards that are missing.

    Args:
        recipe: Says what images look like.
        pool: Which images, and how many.
        sprites: Sprite folder; None for drawn shapes.
        folder: Of the pool.
        workers: Processes that render.

    Yields:
        The number of shards that are there.

    Raises:
        CheckpointError: The folder holds other images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, {"seed": pool.seed, "images": plain({**recipe.images, **pool.images})})
    count = pool.count // pool.per_shard
    missing = [index for index in range(count) if not _path(folder, index).is_file()]
    yield count - len(missing)
    if workers == 1:
        for done, index in enumerate(missing, start=count - len(missing) + 1):
            render_shard(recipe, pool, sprites, folder, index)
            yield done
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        tasks = [
            executor.submit(render_shard, recipe, pool, sprites, folder, index) for index in missing
        ]
        try:
            for done, task in enumerate(as_completed(tasks), start=count - len(missing) + 1):
                task.result()
                yield done
        finally:
            executor.shutdown(cancel_futures=True)


def render_shard(
    recipe: Recipe, pool: PoolConfig, sprites: str | None, folder: Path, index: int
) -> None:
    """Render images of one size and store pixels and truth side by side."""
    sizes = np.random.default_rng([pool.seed, index])
    width, height = (int(side) for side in sizes.choice(SIDES, 2))
    pictures = varied_sprites(sprites)
    styles = {} if "styles" in pool.images else {"styles": training_styles(pictures)}
    values: dict[str, Any] = {**styles, **pool.images}
    values |= {"width": (width, width), "height": (height, height)}
    config = recipe.image_config(sprites, **values)
    views: list[View] = []
    number = index * _APART
    while len(views) < pool.per_shard:
        view = draw_view(config, pictures, pool.seed, number)
        number += 1
        if len(view.rendered.objects):
            views.append(view)
    pixels = np.stack([np.asarray(view.rendered.image) for view in views])
    shards.write(_path(folder, index), views, {"pixels_BHW3": torch.from_numpy(pixels)})


def draw_view(config: SyntheticConfig, sprites: SpriteSet, seed: int, index: int) -> View:
    """One image with its regions, the same for the same seed and index."""
    streams = [np.random.default_rng([seed, index, part]) for part in range(2)]
    rendered = render(config, sprites, streams[0])
    regions = build_regions(
        rendered.boxes_xyxy,
        rendered.image.size,
        streams[1],
        distractors=config.distractors,
        jitter=config.jitter,
        drop=config.drop,
        limit=config.region_limit,
    )
    return View(rendered, regions, config)


def list_shards(folder: Path) -> list[Path]:
    """The files of a pool, in order."""
    return sorted(folder.glob("*.safetensors"))


def load(path: Path) -> tuple[Tensor, list[View]]:
    """(B, H, W, 3) uint8 pixels of a shard, and its images."""
    views, tensors = shards.read(path)
    return tensors["pixels_BHW3"], views


def to_unit(pixels_BHW3: Tensor) -> Tensor:
    """Levels to (B, 3, H, W) float32 in [0, 1]."""
    return pixels_BHW3.permute(0, 3, 1, 2).float().div_(255).contiguous()


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.safetensors"


def _claim(folder: Path, facts: dict[str, Any]) -> None:
    """Note what a folder holds, or look that it holds the same.

    Raises:
        CheckpointError: It does not.
    """
    note = folder / "pool.json"
    if not note.is_file():
        note.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    known = json.loads(note.read_text(encoding="utf-8"))
    changes = differences(known, json.loads(json.dumps(facts)))
    if changes:
        raise CheckpointError(
            f"{folder} holds other images ({'; '.join(changes)}): give the run a new folder"
        )
