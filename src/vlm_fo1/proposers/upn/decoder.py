"""The second stage: queries look at the memory and correct their boxes, layer after layer.

Shapes: B images, S cells of all levels, Q queries, D = 256 channels, L levels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrDecoderLayer,
    DeformableDetrMLPPredictionHead,
    inverse_sigmoid,
)

from vlm_fo1.proposers.upn.configuration import EPS, WIDTH, UPNConfig
from vlm_fo1.proposers.upn.levels import Geometry, sine
from vlm_fo1.proposers.upn.sampling import use_row_sampling

_CLAMP = 1e-3
"""Of the inverse sigmoid; Deformable DETR's own is 1e-5."""


class Decoded(NamedTuple):
    """What the last layer, or each one, gives."""

    hidden_BQD: Tensor
    """Rows to score, normed."""
    boxes_BQ4: Tensor
    """cx, cy, w, h from 0 to 1, float32."""
    next_references_BQ4: Tensor
    """Where the next layer would start, float32. Not the boxes: those are read after the norm."""


class Decoder(nn.Module):
    """Layers of transformers with one box head for all of them."""

    def __init__(self, config: UPNConfig) -> None:
        super().__init__()
        layers = (DeformableDetrDecoderLayer(config.detr()) for _ in range(config.decoder_layers))
        self.layers = use_row_sampling(nn.ModuleList(layers), "encoder_attn")
        self.norm = nn.LayerNorm(WIDTH, eps=EPS)
        self.content = nn.Parameter(torch.randn(config.queries, WIDTH))
        """What the queries start from, by rank: the best cell gets row 0."""
        self.reference_head = DeformableDetrMLPPredictionHead(2 * WIDTH, WIDTH, WIDTH, 2)
        self.box_head = DeformableDetrMLPPredictionHead(WIDTH, WIDTH, 4, 3)

    def forward(self, memory_BSD: Tensor, geometry: Geometry, references_BQ4: Tensor) -> Decoded:
        """Decode; `trace` gives every layer.

        Args:
            memory_BSD: The encoder's output.
            geometry: Where its cells are.
            references_BQ4: Logits of the boxes to start from, best first.

        Returns:
            The last layer's.
        """
        return self.trace(memory_BSD, geometry, references_BQ4)[-1]

    def trace(
        self, memory_BSD: Tensor, geometry: Geometry, references_BQ4: Tensor
    ) -> list[Decoded]:
        """As `forward`, of every layer."""
        batch, queries, _ = references_BQ4.shape
        hidden = self.content[:queries].expand(batch, -1, -1)
        references = references_BQ4.sigmoid()
        ratios_BL4 = geometry.ratios.repeat(1, 1, 2)
        traced: list[Decoded] = []
        for layer in self.layers:
            scaled_BQL4 = references[:, :, None] * ratios_BL4[:, None]
            hidden = layer(
                hidden,
                object_queries_position_embeddings=self.positions(scaled_BQL4[:, :, 0]),
                reference_points=scaled_BQL4,
                encoder_hidden_states=memory_BSD,
                encoder_attention_mask=geometry.valid_BS,
                **geometry.of_detr,
            )
            normed = self.norm(hidden)
            boxes, following = (self._refine(rows, references) for rows in (normed, hidden))
            traced.append(Decoded(normed, boxes, following))
            references = following
        return traced

    def positions(self, boxes_BQ4: Tensor) -> Tensor:
        """Of the queries, from their boxes on the first level: (B, Q, D)."""
        encoded = sine(boxes_BQ4[..., [1, 0, 2, 3]]).flatten(-2)  # y, x, w, h
        return self.reference_head(encoded.to(self.content.dtype))

    def _refine(self, rows_BQD: Tensor, references_BQ4: Tensor) -> Tensor:
        logits = self.box_head(rows_BQD).float() + inverse_sigmoid(references_BQ4, eps=_CLAMP)
        return logits.sigmoid()
