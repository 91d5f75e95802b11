"""Deformable encoder: every cell of every level looks at a few places of all levels.

transformers' layers, run a slice of the cells at a time: between two products a slice stays in the
processor's cache, where a whole image's rows would need gigabytes.

Shapes: B images, S cells of all levels, D = 256 channels, L levels.
"""

import torch
from torch import Tensor, nn
from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrEncoderLayer

from vlm_fo1.proposers.upn.configuration import LEVELS, WIDTH, UPNConfig
from vlm_fo1.proposers.upn.levels import Geometry
from vlm_fo1.proposers.upn.sampling import attend_cells, use_row_sampling, values_of
from vlm_fo1.proposers.upn.slices import rows_per_slice


class Encoder(nn.Module):
    """Refines the projected maps into the memory that boxes are read from."""

    def __init__(self, config: UPNConfig) -> None:
        super().__init__()
        layers = (DeformableDetrEncoderLayer(config.detr()) for _ in range(config.encoder_layers))
        self.layers = use_row_sampling(nn.ModuleList(layers), "self_attn")
        self.level_embedding = nn.Parameter(torch.randn(LEVELS, WIDTH))

    def forward(self, maps: list[Tensor], geometry: Geometry) -> Tensor:
        """Memory of the maps.

        Args:
            maps: L projected maps (B, D, H, W).
            geometry: Where their cells are.

        Returns:
            (B, S, D), level after level, row after row; padding cells hold no meaning.
        """
        rows_BSD = torch.cat([map_.flatten(2).transpose(1, 2) for map_ in maps], 1)
        positions_BSD = self.positions(geometry).to(rows_BSD.dtype)
        references_BSL2 = geometry.centres()[:, :, None] * geometry.ratios[:, None]
        for layer in self.layers:
            assert isinstance(layer, DeformableDetrEncoderLayer)
            rows_BSD = _layer(layer, rows_BSD, positions_BSD, references_BSL2, geometry)
        return rows_BSD

    def positions(self, geometry: Geometry) -> Tensor:
        """Of every cell, in the image and among the levels: (B, S, D)."""
        levels = [
            row.expand(height * width, -1)
            for row, (height, width) in zip(self.level_embedding, geometry.shapes_hw, strict=True)
        ]
        return geometry.positions() + torch.cat(levels)


def _layer(
    layer: DeformableDetrEncoderLayer,
    rows_BSD: Tensor,
    positions_BSD: Tensor,
    references_BSL2: Tensor,
    geometry: Geometry,
) -> Tensor:
    """What the layer's own forward gives, slice by slice."""
    values = values_of(layer.self_attn, rows_BSD, geometry.valid_BS)
    of_levels = geometry.of_detr
    size = rows_per_slice(layer.mlp.fc1.out_features, rows_BSD.device) or rows_BSD.shape[1]
    slices = zip(
        *(whole.split(size, 1) for whole in (rows_BSD, positions_BSD, references_BSL2)), strict=True
    )
    done: list[Tensor] = []
    for rows, positions, references in slices:
        mixed = attend_cells(layer.self_attn, values, rows + positions, references, of_levels)
        rows = layer.self_attn_layer_norm(rows + mixed)
        done.append(layer.final_layer_norm(rows + layer.mlp(rows)))
    return torch.cat(done, 1)
