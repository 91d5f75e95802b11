"""What the towers learn: to put what they see into the frozen words of the language model.

Cells (stage 0) are the primary tower's and its connector's: the token of each says the word of what
stands there. Regions (stage 1) are the auxiliary tower's, the region encoder's and the region
connector's: the token of each becomes its `Code`. Images are rendered while the towers train.
Shapes: M regions of all images, B images, n cells of an image, D width of the language model.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.synthetic.render import render
from recipes.synthetic.sprites import load_sprites
from recipes.synthetic.view import View
from recipes.tiny.code import AT, IGNORED, LISTS, PLACE, Code, truth_of, word_ids
from recipes.tiny.drawing import Drawn
from recipes.tiny.muon import optimizers
from recipes.tiny.network import LOUD, build, make_processor
from recipes.tiny.recipe import LOUD_PLACES, Lesson, Recipe
from recipes.tiny.words import build_tokenizer
from vlm_fo1.config import build as build_config
from vlm_fo1.data.regions import build_regions
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.processing import FO1Processor
from vlm_fo1.train.components import RunComponents
from vlm_fo1.train.export import save_pretrained

_BACKGROUND = len(LISTS["names"]) - 1
_FEW = 16  # from so many regions on a part of the loss counts in full
INPUTS = ("pixel_values", "image_grid_thw", "aux_pixel_values", "region_boxes")


class TowerLesson(nn.Module):
    """The network with normalisations in front of its connectors, and sharpnesses.

    Args:
        model: The network.
        ids: Of the words that tokens are aligned to.
    """

    def __init__(self, model: FO1ForConditionalGeneration, ids: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self._ids = model, ids
        widths = {"region": model.config.region_width, "image": int(model.config.hidden_size)}
        self.norms = nn.ModuleDict({k: nn.BatchNorm1d(v, momentum=0.02) for k, v in widths.items()})
        self.sharpness = nn.Parameter(torch.full((len(LISTS),), 2.7))
        for name, norm in self.norms.items():
            connector = model.get_submodule(f"{name}_connector")
            connector.register_forward_pre_hook(partial(_normed, norm))

    def forward(
        self, learns: str, inputs: Mapping[str, Any], cells_Bn: Tensor, truth: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of a batch, and figures: parts of it and shares of right answers."""
        words: Any = self.model.get_input_embeddings().weight
        code = Code(self._ids, words)
        given = {name: inputs[name] for name in INPUTS}
        if learns == "cells":
            given = {name: inputs[name] for name in INPUTS[:2]}
        encoded = self.model.encode_images(**given)
        if learns == "cells":
            seen_BnD = torch.stack(encoded.image_tokens).float()
            return self._see(code, seen_BnD, cells_Bn, truth["papers"])
        return self._align(code, torch.cat(encoded.region_tokens).float(), truth)

    def _see(
        self, code: Code, seen_BnD: Tensor, cells_Bn: Tensor, papers_B: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        cells, right = self._named(code, "names", seen_BnD.flatten(0, 1), cells_Bn.flatten(), 0.2)
        paper, right_paper = self._named(code, "papers", seen_BnD.mean(1), papers_B)
        length = (seen_BnD.norm(dim=-1) - 1).square().mean()
        figures = {"cells_right": right, "papers_right": right_paper}
        return cells + 0.3 * paper + 0.1 * length, figures

    def _align(
        self, code: Code, tokens_MD: Tensor, truth: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        gap = (tokens_MD - code.tokens(truth)).square().sum(-1).mean()
        told = tokens_MD @ code.directions_5D.T / PLACE
        place = (told - code.place(truth["places"])).abs().mean()
        total, figures = gap + 2 * place, {"gap": gap, "place_error": place}
        for name, weight, background in (
            ("names", 1.0, 0.5), ("colours", 0.3, 1.0), ("texts", 1.5, 1.0),
        ):  # fmt: skip
            loss, right = self._named(code, name, tokens_MD, truth[name], background)
            chosen = (truth[name] != IGNORED).sum()
            total = total + weight * loss * (chosen / _FEW).clamp(max=1)
            figures[f"{name}_right"] = right
        return total, figures

    def _named(
        self, code: Code, name: str, tokens_MD: Tensor, target_M: Tensor, background: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Cross entropy over cosines to the words of a list, and the share of right ones.

        Nothing counts less than things, of which there are fewer, and is no right answer.
        """
        words = code.words[name]
        weight = torch.ones(len(words), device=words.device)
        if name == "names":
            weight[_BACKGROUND] = background
        sharp = self.sharpness[list(LISTS).index(name)].exp()
        logits = functional.normalize(tokens_MD, dim=-1) @ words.T * sharp
        known = target_M != IGNORED
        loss = functional.cross_entropy(logits, target_M, weight, reduction="sum")
        mass = weight[target_M.clamp(min=0)].masked_fill(~known, 0).sum()
        counted = known & ((target_M != _BACKGROUND) if name == "names" else known)
        right = (logits.argmax(-1) == target_M)[counted]
        return loss / mass.clamp(min=1e-6), right.sum() / counted.sum().clamp(min=1)


def _normed(norm: nn.Module, connector: nn.Module, given: tuple[Tensor]) -> Tensor:
    del connector
    return norm(given[0].float())


def components(recipe: Recipe, sprites: str | None) -> RunComponents:
    """What the library's loop needs to train the towers, with sprites or drawn shapes."""
    processor = make_processor(build_tokenizer())
    ids = word_ids(processor.tokenizer)

    def load(folder: Path | None) -> TowerLesson:
        if folder is None:
            return TowerLesson(build(recipe.seed, recipe.network)[0], ids)
        return TowerLesson(
            FO1ForConditionalGeneration.from_pretrained(folder, dtype="float32"), ids
        )

    def collate(drawn: Sequence[tuple[str, View]]) -> dict[str, Any]:
        views = [view for _, view in drawn]
        inputs = look_at(processor, views)
        _, rows, columns = inputs["image_grid_thw"][0].tolist()
        cells = cells_of(views, (rows // 2, columns // 2))
        return {
            "learns": drawn[0][0],
            "inputs": inputs,
            "cells_Bn": cells,
            "truth": truth_of(views),
        }

    def loss(lesson: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        found, figures = lesson(**batch)
        images = len(batch["cells_Bn"])  # the targets: a loss is a sum over them
        return images * found, {name: images * value for name, value in figures.items()}

    return RunComponents(
        load_model=load,
        make_source=lambda mixture, shard, shards: source(recipe, sprites, mixture, shard, shards),
        collate=collate,
        loss=loss,
        optimizers=optimizers,
        save_model=_save,
    )


def source(
    recipe: Recipe, sprites: str | None, mixture: Mapping[str, Any], shard: int, shards: int
) -> Drawn:
    """(what is learnt, image) without end; the images of a batch have one size."""
    lesson, pictures = build_config(Lesson, mixture), load_sprites(sprites)
    seed = [recipe.seed, 1, lesson.stream]

    def draw(place: int, turn: int) -> tuple[str, View]:
        size = np.random.default_rng([*seed, 0, turn]).choice(recipe.sides, 2).tolist()
        sides = {name: [side] * 2 for name, side in zip(("width", "height"), size, strict=True)}
        config = recipe.image_config(sprites, **{**lesson.images, **sides})
        streams = [np.random.default_rng([*seed, 1, place, part]) for part in range(2)]
        rendered = render(config, pictures, streams[0])
        regions = build_regions(
            rendered.boxes_xyxy, rendered.image.size, streams[1],
            distractors=config.distractors, jitter=config.jitter, drop=config.drop,
            limit=config.region_limit,
        )  # fmt: skip
        return lesson.learns, View(rendered, regions, config)

    return Drawn(draw, lesson.batch, shard, shards)


def look_at(processor: FO1Processor, views: Sequence[View]) -> dict[str, Any]:
    """Images and boxes as the network takes them."""
    images = [view.rendered.image for view in views]
    return dict(processor.image_processor(images, [view.regions.xyxy for view in views]))


def cells_of(views: Sequence[View], grid_hw: tuple[int, int]) -> Tensor:
    """(B, n) number in the names of `LISTS` of the smallest thing over the middle of each cell.

    A thing that covers no middle has the cell that its own middle is in.

    Args:
        views: Images of one size.
        grid_hw: Cells, which are image tokens.
    """
    rows, columns = grid_hw
    out = np.full((len(views), rows, columns), _BACKGROUND)
    for cells, view in zip(out, views, strict=True):
        width, height = view.rendered.image.size
        ys = (np.arange(rows)[:, None] + 0.5) / rows * height
        xs = (np.arange(columns) + 0.5) / columns * width
        boxes = view.rendered.boxes_xyxy
        sides = boxes[:, 2:] - boxes[:, :2]
        for index in np.argsort(-sides.prod(axis=1), kind="stable"):
            x1, y1, x2, y2 = boxes[index].tolist()
            number = AT["names"][view.rendered.objects[index].name]
            cells[(ys > y1) & (ys < y2) & (xs > x1) & (xs < x2)] = number
            row, column = int((y1 + y2) / 2 / height * rows), int((x1 + x2) / 2 / width * columns)
            cells[min(row, rows - 1), min(column, columns - 1)] = number
    return torch.from_numpy(out.reshape(len(views), -1))


def _save(lesson: TowerLesson, state: Mapping[str, Tensor], folder: Path) -> None:
    """Write the network with its normalisations taken into the connectors.

    A connector that has just been trained comes out as loud as words, and regions with loud places.
    """
    found = {name[len("model.") :]: v for name, v in state.items() if name.startswith("model.")}
    code = Code(lesson._ids, found["host.model.language_model.embed_tokens.weight"])  # noqa: SLF001
    for name, norm in lesson.norms.items():
        assert isinstance(norm, nn.BatchNorm1d)
        if not norm.num_batches_tracked:
            continue
        first, last = (f"{name}_connector.{number}" for number in (0, 2))
        gain, shift, mean, variance = (
            state[f"norms.{name}.{part}"]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gain * (variance + norm.eps).rsqrt()
        weight = found[f"{first}.weight"]
        found[f"{first}.bias"] = found[f"{first}.bias"] + weight @ (shift - mean * gain)
        found[f"{first}.weight"] = weight * gain
        by = LOUD_PLACES if name == "region" else 1.0
        found[f"{last}.weight"] = LOUD * code.stretched(found[f"{last}.weight"].T, by).T
        found[f"{last}.bias"] = LOUD * code.stretched(found[f"{last}.bias"], by)
    save_pretrained(lesson.model, found, folder)
