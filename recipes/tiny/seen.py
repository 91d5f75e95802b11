"""Images as the towers see them: tokens and truth, kept on disk once the towers stand still.

Shapes: n image tokens of a picture, N regions of a picture, D width of the language model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recipes.synthetic.view import View
from recipes.tiny import shards, states
from recipes.tiny.align import Lesson, fold
from recipes.tiny.network import build
from recipes.tiny.pool import list_shards, load, to_unit
from recipes.tiny.recipe import TowerStage
from recipes.tiny.run import Run
from recipes.tiny.tower_training import put_back
from recipes.tiny.towers import attend_at_once, encode, encode_primary
from vlm_fo1.errors import TrainingError
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.processing import FO1Processor


@dataclass
class Seen:
    """Images with their tokens, one entry an image."""

    views: list[View]
    image: list[Tensor]
    """(n, D) each."""
    regions: list[Tensor]
    """(N, D) each; empty where only the primary tower has looked."""
    grids: list[tuple[int, int]]
    """Patches of the primary picture."""

    def __len__(self) -> int:
        return len(self.views)


def read(folder: Path, most: int | None = None) -> Seen:
    """What `keep` wrote: all of it, or so many shards."""
    found = Seen([], [], [], [])
    for path in list_shards(folder)[:most]:
        views, tensors = shards.read(path)
        rows, columns = tensors["grid_hw"].tolist()
        found.views += views
        found.image += list(tensors["image_BnD"])
        found.grids += [(rows, columns)] * len(views)
        if "regions_MD" in tensors:
            counts = [len(view.regions.truth) for view in views]
            found.regions += list(tensors["regions_MD"].split(counts))
    return found


def aligned_model(run: Run, stage: TowerStage) -> tuple[FO1ForConditionalGeneration, FO1Processor]:
    """The network with the towers of a stage, normalisations taken into the connectors.

    Raises:
        TrainingError: The stage has not run.
    """
    lesson = Lesson(stage.learns, *build(run.recipe.seed, run.recipe.network))
    saved = states.load(run.checkpoint(stage.name))
    if saved is None:
        raise TrainingError(
            f"{run.checkpoint(stage.name)} does not exist: run stage {stage.name!r} first"
        )
    put_back(lesson, saved.parts)
    fold(lesson.norms.image, lesson.model.image_connector)
    if stage.learns == "regions":
        fold(lesson.norms.region, lesson.model.region_connector)
    return lesson.model.eval(), lesson.processor


@torch.no_grad()
def keep(run: Run, stage: TowerStage) -> Iterator[int]:
    """Write the tokens of the stage's share of its pool; what is there is kept.

    Yields:
        The number of shards that are there.
    """
    torch.set_num_threads(run.recipe.threads)
    paths = list_shards(run.pool(stage.pool))[: stage.keep]
    folder = run.seen(stage.name)
    missing = [path for path in paths if not (folder / path.name).is_file()]
    done = len(paths) - len(missing)
    yield done
    if not missing:
        return
    model, processor = aligned_model(run, stage)
    attend_at_once(model)
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        pixels, views = load(path)
        shards.write(folder / path.name, views, look(model, processor, pixels, views, stage))
        done += 1
        yield done


def look(
    model: FO1ForConditionalGeneration,
    processor: FO1Processor,
    pixels_BHW3: Tensor,
    views: list[View],
    stage: TowerStage,
) -> dict[str, Tensor]:
    """Tokens of a shard, as long as words: of the image, and of regions where they are learnt."""
    pixels_B3HW = to_unit(pixels_BHW3)
    regions: dict[str, Tensor] = {}
    with torch.autocast("cpu", torch.bfloat16):
        if stage.learns == "cells":
            image_BnD, grid_hw = encode_primary(model, processor, pixels_B3HW)
        else:
            boxes = [torch.from_numpy(view.regions.xyxy) for view in views]
            found = encode(model, processor, pixels_B3HW, boxes)
            image_BnD, grid_hw = found.image_BnD, found.grid_hw
            regions["features"] = found.regions_MR
    tokens = {"image_BnD": model.image_connector(image_BnD.float()).bfloat16()}
    if regions:
        tokens["regions_MD"] = model.region_connector(regions["features"].float()).bfloat16()
    return {**tokens, "grid_hw": torch.tensor(grid_hw)}
