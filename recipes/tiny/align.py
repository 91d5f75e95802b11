"""What the towers learn: to put what they see into the frozen words of the language model.

Cells (stage 0) are the primary tower's and its connector's: the token of each says the word of what
stands there. Regions (stage 1) are the auxiliary tower's, the region encoder's and the region
connector's: the token of each becomes its `Code`.
Shapes: M regions, B pictures, n cells of a picture, D width of the language model, V words.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.synthetic.view import View
from recipes.tiny.code import IGNORED, NAMES, PLACE, Code, truth_of
from recipes.tiny.towers import BOTH, Tower, encode, encode_primary
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.processing import FO1Processor

_AT = {name: index for index, name in enumerate(NAMES)}
_BACKGROUND = len(NAMES) - 1


class Norms(nn.Module):
    """Normalisations in front of the connectors, taken into them at the end, and sharpnesses.

    Args:
        width: D.
        region_width: Of a region feature.
    """

    def __init__(self, width: int, region_width: int) -> None:
        super().__init__()
        self.region = nn.BatchNorm1d(region_width, affine=False, momentum=0.1)
        self.image = nn.BatchNorm1d(width, affine=False, momentum=0.1)
        self.scale = nn.Parameter(torch.full((4,), 2.7))


def fold(norm: nn.BatchNorm1d, connector: nn.Module) -> None:
    """Take a normalisation into the first layer of the connector after it."""
    linear = connector.get_submodule("0")
    assert isinstance(linear, nn.Linear)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        linear.weight.mul_((norm.running_var + norm.eps).rsqrt())
        linear.bias.sub_(linear.weight @ norm.running_mean)


class Lesson:
    """Pictures with their truth to a loss.

    Args:
        learns: What learns to speak.
        model: The network.
        processor: Its processor.
        towers: Whose maps regions are cut from.
    """

    def __init__(
        self,
        learns: Literal["cells", "regions"],
        model: FO1ForConditionalGeneration,
        processor: FO1Processor,
        towers: Sequence[Tower] = BOTH,
    ) -> None:
        self.learns, self.model, self.processor, self.towers = learns, model, processor, towers
        width = int(model.config.hidden_size)
        self.norms = Norms(width, model.config.region_width)
        self.code = Code(processor.tokenizer, width)
        table: Any = model.get_input_embeddings().weight
        self.words_VD: Tensor = table.detach().clone()

    def modules(self) -> list[nn.Module]:
        """What trains, beside the sharpnesses."""
        model = self.model
        if self.learns == "cells":
            return [model.host.model.visual, model.image_connector]
        return [model.auxiliary, model.region_encoder, model.region_connector]

    def norm(self) -> nn.BatchNorm1d:
        """The normalisation that this stage measures."""
        return self.norms.image if self.learns == "cells" else self.norms.region

    def __call__(
        self, pixels_B3HW: Tensor, views: Sequence[View], boxes: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss, and figures: parts of it and shares of right answers."""
        truth = truth_of(views)
        if self.learns == "cells":
            image_BnD, grid_hw = encode_primary(self.model, self.processor, pixels_B3HW)
            return self._see(image_BnD, cells_of(views, grid_hw), truth["papers"])
        found = encode(self.model, self.processor, pixels_B3HW, boxes, self.towers)
        return self._align(found.regions_MR, truth)

    def _see(
        self, image_BnD: Tensor, cells_Bn: Tensor, papers_B: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast("cpu", enabled=False):
            flat = self.norms.image(image_BnD.float().flatten(0, 1)).view_as(image_BnD)
        seen_BnD = self.model.image_connector(flat).float()
        target = cells_Bn.flatten()
        total, right = self._named("names", 0, seen_BnD.flatten(0, 1), target, background=0.2)
        figures = {"cells": total.item(), "cells_right": _mean(right[target < _BACKGROUND])}
        chosen = papers_B != IGNORED
        if chosen.any():
            paper, right = self._named("papers", 3, seen_BnD.mean(1)[chosen], papers_B[chosen])
            figures["papers_right"] = _mean(right)
            total = total + 0.3 * paper
        length = (seen_BnD.norm(dim=-1) - 1).square().mean()
        total = total + 0.1 * length
        return total, {**figures, "loss": total.item()}

    def _align(
        self, regions_MR: Tensor, truth: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast("cpu", enabled=False):
            regions_MR = self.norms.region(regions_MR.float())
        tokens_MD = self.model.region_connector(regions_MR).float()
        figures: dict[str, float] = {}
        total = torch.zeros(())
        for what, (name, weight) in enumerate((("names", 1.0), ("colours", 0.3), ("texts", 1.5))):
            chosen = truth[name] != IGNORED
            if not chosen.any():
                continue
            target = truth[name][chosen]
            background = 0.5 if name == "names" else None
            loss, right = self._named(name, what, tokens_MD[chosen], target, background=background)
            total = total + weight * loss * min(1.0, int(chosen.sum()) / 16)
            figures |= {name: loss.item(), f"{name}_right": _mean(right)}
            if name == "names":
                figures["things_right"] = _mean(right[target != _BACKGROUND])
        gap = (tokens_MD - self.code.tokens(self.words_VD, truth)).square().sum(-1).mean()
        told = tokens_MD @ self.code.directions_5D.T / PLACE
        place = (told - self.code.place(truth["places"])).abs().mean()
        total = total + gap + 2 * place
        figures |= {"gap": gap.item(), "place_error": place.item(), "loss": total.item()}
        return total, figures

    def _named(
        self,
        name: str,
        what: int,
        tokens_MD: Tensor,
        target_M: Tensor,
        background: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Cross entropy over cosines to the words of a list, and which are right."""
        weight = None
        if background is not None:  # cells and boxes around nothing are many
            weight = torch.ones(len(NAMES))
            weight[_BACKGROUND] = background
        words = functional.normalize(self.words_VD[self.code.ids[name]], dim=-1)
        logits = functional.normalize(tokens_MD, dim=-1) @ words.T * self.norms.scale[what].exp()
        return functional.cross_entropy(logits, target_M, weight), logits.argmax(-1) == target_M


def cells_of(views: Sequence[View], grid_hw: tuple[int, int]) -> Tensor:
    """(B, n) number in `NAMES` of the smallest thing over the middle of each merged cell.

    A thing that covers no middle has the cell that its own middle is in.

    Args:
        views: Images of one size.
        grid_hw: Patches of the primary picture; a merged cell is two by two.
    """
    rows, columns = grid_hw[0] // 2, grid_hw[1] // 2
    out = np.full((len(views), rows, columns), _BACKGROUND)
    for cells, view in zip(out, views, strict=True):
        width, height = view.rendered.image.size
        ys, xs = (
            (np.arange(rows) + 0.5) / rows * height,
            (np.arange(columns) + 0.5) / columns * width,
        )
        boxes = [thing.box_xyxy for thing in view.rendered.objects]
        areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
        for index in sorted(range(len(boxes)), key=lambda i: -areas[i]):
            x1, y1, x2, y2 = boxes[index]
            number = _AT[view.rendered.objects[index].name]
            cells[((ys > y1) & (ys < y2))[:, None] & ((xs > x1) & (xs < x2))[None]] = number
            row = int((y1 + y2) / 2 / height * rows)
            column = int((x1 + x2) / 2 / width * columns)
            cells[min(row, rows - 1), min(column, columns - 1)] = number
    return torch.from_numpy(out.reshape(len(views), -1))


def _mean(right: Tensor) -> float:
    return right.float().mean().item()
