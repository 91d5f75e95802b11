"""The backbone's maps brought to one width, and what is known of each level's cells.

Shapes: B images, H x W cells, D = 256 channels, S cells of all levels together, L levels.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlm_fo1.proposers.upn.configuration import EPS, LEVELS, WIDTH, UPNConfig

_GROUPS = 32
_MAP_TEMPERATURE = 20.0
_BOX_TEMPERATURE = 10000.0


class LevelProjection(nn.Module):
    """1 x 1 convolutions on the maps, and a strided 3 x 3 one that makes a fifth."""

    def __init__(self, config: UPNConfig) -> None:
        super().__init__()
        widths = [config.embed_dim * 2**stage for stage in range(LEVELS - 1)]
        self.convolutions = nn.ModuleList(nn.Conv2d(width, WIDTH, 1) for width in widths)
        self.convolutions.append(nn.Conv2d(widths[-1], WIDTH, 3, stride=2, padding=1))
        self.norms = nn.ModuleList(nn.GroupNorm(_GROUPS, WIDTH, eps=EPS) for _ in range(LEVELS))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Four maps (B, C, H, W) to five (B, 256, H, W); padding is seen, not masked."""
        sources = [*maps, maps[-1]]  # the fifth is made of the fourth before its projection
        layers = zip(sources, self.convolutions, self.norms, strict=True)
        return [norm(convolution(source)) for source, convolution, norm in layers]


@dataclass(frozen=True)
class Geometry:
    """Where the cells of all levels are, and which of them are image."""

    shapes_hw: tuple[tuple[int, int], ...]
    """Sides of each level's map."""
    masks_BHW: tuple[Tensor, ...]
    """Per level, bool, True where image."""
    valid_BS: Tensor | None
    """Bool, True where image; None if all cells are."""
    counts_BL2: Tensor
    """Columns and rows of each level that are image, float32."""

    @classmethod
    def of(cls, maps: list[Tensor], pixel_mask: Tensor | None) -> "Geometry":
        """From the projected maps and the pixels' mask.

        Args:
            maps: L maps (B, D, H, W).
            pixel_mask: (B, H, W) bool, True where image; None for no padding.
        """
        batch, device = maps[0].shape[0], maps[0].device
        shapes = tuple((map_.shape[2], map_.shape[3]) for map_ in maps)
        if pixel_mask is None:
            masks = tuple(
                torch.ones((batch, *hw), dtype=torch.bool, device=device) for hw in shapes
            )
        else:
            masks = tuple(_nearest(_nearest(pixel_mask, h, 1), w, 2) for h, w in shapes)
        counts = [torch.stack([mask[:, 0].sum(1), mask[:, :, 0].sum(1)], 1) for mask in masks]
        valid = None if pixel_mask is None else torch.cat([mask.flatten(1) for mask in masks], 1)
        return cls(shapes, masks, valid, torch.stack(counts, 1).float())

    @property
    def ratios(self) -> Tensor:
        """Share of each level's width and height that is image."""
        sides = [(width, height) for height, width in self.shapes_hw]
        return self.counts_BL2 / torch.tensor(sides, device=self.counts_BL2.device)

    @property
    def of_detr(self) -> dict[str, Any]:
        """What transformers' deformable attention wants to know of the levels."""
        device = self.counts_BL2.device
        cells = [height * width for height, width in self.shapes_hw]
        starts = [sum(cells[:level]) for level in range(len(cells))]
        return {
            "spatial_shapes": torch.tensor(self.shapes_hw, device=device),
            "spatial_shapes_list": list(self.shapes_hw),
            "level_start_index": torch.tensor(starts, device=device),
        }

    def positions(self) -> Tensor:
        """Sine encoding of every cell's place in its image, (B, S, D) float32, y before x.

        Cells are counted from 1 and divided by the last count; the temperature is 20.
        """
        encoded: list[Tensor] = []
        for mask in self.masks_BHW:
            if self.valid_BS is None:  # all columns and all rows are alike: encode one of each
                y, x = mask[:1, :, :1].cumsum(1).float(), mask[:1, :1].cumsum(2).float()
            else:
                y, x = mask.cumsum(1).float(), mask.cumsum(2).float()
            axes = (y / (y[:, -1:] + 1e-6), x / (x[:, :, -1:] + 1e-6))
            size = (*mask.shape, WIDTH // 2)
            rows = torch.cat([sine(axis, _MAP_TEMPERATURE).expand(size) for axis in axes], -1)
            encoded.append(rows.flatten(1, 2))
        return torch.cat(encoded, 1)

    def centres(self) -> Tensor:
        """Centre of every cell, (B, S, 2) x and y, 0 to 1 over the image without its padding."""
        centres: list[Tensor] = []
        for level, (height, width) in enumerate(self.shapes_hw):
            columns, rows = self.counts_BL2[:, level].unbind(1)
            x = (torch.arange(width, device=columns.device) + 0.5) / columns[:, None]
            y = (torch.arange(height, device=rows.device) + 0.5) / rows[:, None]
            grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
            centres.append(grid.flatten(1, 2))
        return torch.cat(centres, 1)


def _nearest(mask_BHW: Tensor, size: int, dim: int) -> Tensor:
    """A mask at another size along one side; an explicit index, so that every runtime agrees."""
    full = mask_BHW.shape[dim]
    source = torch.arange(size, dtype=torch.float32, device=mask_BHW.device) * (full / size)
    return mask_BHW.index_select(dim, source.floor().long().clamp(max=full - 1))


def sine(values: Tensor, temperature: float = _BOX_TEMPERATURE) -> Tensor:
    """Sines and cosines of 0 to 1 values, in turn: (...) to (..., 128) float32."""
    pairs = torch.arange(WIDTH // 4, dtype=torch.float32, device=values.device)
    periods = temperature ** (2 * pairs / (WIDTH // 2))
    angles = values.float()[..., None] * (2 * math.pi) / periods
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)
