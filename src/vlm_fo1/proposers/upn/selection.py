"""The first stage: which cells of the memory become queries, and the boxes they start from.

Shapes: B images, S cells of all levels, Q queries, D = 256 channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrMLPPredictionHead,
)

from vlm_fo1.proposers.upn.configuration import EPS, WIDTH, UPNConfig
from vlm_fo1.proposers.upn.levels import Geometry

_BASE_SIDE = 0.05
_LOW, _HIGH = 0.01, 0.99


@dataclass(frozen=True)
class Chosen:
    """The best cells, best first."""

    indices_BQ: Tensor
    """Which cells."""
    scores_BQ: Tensor
    """How well they fit the prompt, float32, before any sigmoid."""
    references_BQ4: Tensor
    """Boxes to start from as logits of cx, cy, w, h, float32; infinite where a cell has none."""


class TwoStageSelection(nn.Module):
    """Scores every cell against the prompt and takes the best."""

    def __init__(self, config: UPNConfig) -> None:
        super().__init__()
        self.queries = config.queries
        self.output = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=EPS)
        self.box_head = DeformableDetrMLPPredictionHead(WIDTH, WIDTH, 4, 3)

    def forward(self, memory_BSD: Tensor, geometry: Geometry, prompt_D: Tensor) -> Chosen:
        """Choose; of fewer cells than queries all.

        Args:
            memory_BSD: The encoder's output.
            geometry: Where its cells are.
            prompt_D: What to look for.
        """
        proposals_BS4, allowed_BS = propose_cells(geometry)
        rows_BSD = self.rows(memory_BSD, allowed_BS)
        scores_BS = rows_BSD.float() @ prompt_D.float()
        scores, indices = scores_BS.topk(min(self.queries, scores_BS.shape[1]), dim=1)
        chosen = indices[..., None]
        # Only the chosen rows need a box; the logits of the others are never read.
        deltas = self.box_head(rows_BSD.gather(1, chosen.expand(-1, -1, WIDTH))).float()
        return Chosen(indices, scores, deltas + proposals_BS4.gather(1, chosen.expand(-1, -1, 4)))

    def rows(self, memory_BSD: Tensor, allowed_BS: Tensor) -> Tensor:
        """What is scored: (B, S, D). Cells that are not allowed all get the row of the bias."""
        return self.norm(self.output(memory_BSD.masked_fill(~allowed_BS[..., None], 0)))


def propose_cells(geometry: Geometry) -> tuple[Tensor, Tensor]:
    """A square-ish box at every cell, larger on coarser levels.

    Args:
        geometry: Where the cells are.

    Returns:
        (B, S, 4) float32 logits of cx, cy, w, h, infinite where a cell is padding or its box
        touches the image's border, and (B, S) bool, True where it does not.
    """
    centres_BS2 = geometry.centres()
    sides = [
        torch.full((height * width, 2), _BASE_SIDE * 2.0**level, device=centres_BS2.device)
        for level, (height, width) in enumerate(geometry.shapes_hw)
    ]
    boxes_BS4 = torch.cat([centres_BS2, torch.cat(sides).expand_as(centres_BS2)], -1)
    allowed_BS = ((boxes_BS4 > _LOW) & (boxes_BS4 < _HIGH)).all(-1)
    if geometry.valid_BS is not None:
        allowed_BS = allowed_BS & geometry.valid_BS
    logits = torch.log(boxes_BS4 / (1 - boxes_BS4))
    return logits.masked_fill(~allowed_BS[..., None], float("inf")), allowed_BS
