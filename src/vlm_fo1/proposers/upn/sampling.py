"""Deformable attention's sampling as one weighted sum of rows, for all levels at once.

transformers samples level after level with `grid_sample` and sums afterwards. A sample is a
weighted sum of four cells, so a query's head is a weighted sum of levels x points x 4 rows of the
values: one `embedding_bag`, whose rows lie together in memory. No compiled op of our own.

Shapes: B images, S cells of all levels, Q queries, N heads, L levels, P points, d channels a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrMultiscaleDeformableAttention,
    MultiScaleDeformableAttention,
)


class RowSampling(MultiScaleDeformableAttention):
    """In the place of transformers' sampling; that one still serves graphs that are exported."""

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: list[tuple[int, int]],
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int = 64,
    ) -> Tensor:
        """Sample and sum.

        Args:
            value: (B, S, N, d).
            value_spatial_shapes: (L, 2) height and width.
            value_spatial_shapes_list: The same as numbers.
            level_start_index: (L,) first cell of each level.
            sampling_locations: (B, Q, N, L, P, 2) x and y, 0 to 1 over the padded map.
            attention_weights: (B, Q, N, L, P).
            im2col_step: Of the compiled op; not used.

        Returns:
            (B, Q, N * d) in the values' dtype.
        """
        if torch.compiler.is_compiling():
            return (
                super()
                .forward(
                    value.float(),
                    value_spatial_shapes,
                    value_spatial_shapes_list,
                    level_start_index,
                    sampling_locations.float(),
                    attention_weights.float(),
                    im2col_step,
                )
                .to(value.dtype)
            )
        return sample(value, value_spatial_shapes_list, sampling_locations, attention_weights).to(
            value.dtype
        )


def sample(
    value_BSNd: Tensor,
    shapes_hw: Sequence[tuple[int, int]],
    at_BQNLP2: Tensor,
    weight_BQNLP: Tensor,
) -> Tensor:
    """Bilinear samples of the maps, weighted and summed; zero outside the maps.

    Args:
        value_BSNd: Cells of all levels, level after level.
        shapes_hw: Height and width of each level.
        at_BQNLP2: x and y of the samples, 0 to 1 from edge to edge of a map; may lie outside.
        weight_BQNLP: What each sample counts.

    Returns:
        (B, Q, N * d) float32.
    """
    batch, cells, heads, width = value_BSNd.shape
    device = value_BSNd.device
    sizes = torch.tensor([(w, h) for h, w in shapes_hw], dtype=torch.int32, device=device)
    starts = torch.cumsum(sizes[:, 0] * sizes[:, 1], 0, dtype=torch.int32) - sizes.prod(1).int()
    columns = sizes[:, 0, None]  # (L, 1), against (..., L, P)
    x0, x1, left, right = _neighbours(at_BQNLP2[..., 0], columns)
    y0, y1, above, below = _neighbours(at_BQNLP2[..., 1], sizes[:, 1, None])
    weight = weight_BQNLP.float()
    above, below = above * weight, below * weight
    # Row of a cell in the table (B * S * N, d): ((image * S) + start + y * columns + x) * N + head.
    images = torch.arange(batch, dtype=torch.int32, device=device) * cells
    first = (images[:, None] + starts) * heads  # (B, L)
    head = torch.arange(heads, dtype=torch.int32, device=device)
    origin = first[:, None, None, :, None] + head[:, None, None]  # (B, 1, N, L, 1)
    row0, row1 = (origin + y * (columns * heads) for y in (y0, y1))
    x0, x1 = x0 * heads, x1 * heads
    rows = torch.stack([row0 + x0, row0 + x1, row1 + x0, row1 + x1], dim=3)
    shares = torch.stack([above * left, above * right, below * left, below * right], dim=3)
    summed = functional.embedding_bag(
        rows.flatten(3).flatten(0, 2),
        value_BSNd.float().reshape(-1, width),
        per_sample_weights=shares.flatten(3).flatten(0, 2),
        mode="sum",
    )
    return summed.view(batch, -1, heads * width)


def _neighbours(at: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Along one axis, the cells around each point and what they count: 0 if outside the map."""
    pixel = at.float() * size - 0.5
    low = pixel.floor()
    share = pixel - low
    first = low.int()
    second = first + 1
    inside0, inside1 = (torch.minimum(cell, size - 1).clamp_min_(0) for cell in (first, second))
    return (
        inside0,
        inside1,
        (1 - share).mul_(inside0 == first),
        share.mul_(inside1 == second),
    )


def values_of(
    attention: DeformableDetrMultiscaleDeformableAttention,
    rows_BSD: Tensor,
    valid_BS: Tensor | None,
) -> Tensor:
    """(B, S, N, d) of which to sample; padding, where there is some, is zero."""
    values = attention.value_proj(rows_BSD)
    if valid_BS is not None:
        values = values.masked_fill(~valid_BS[..., None], 0)
    return values.unflatten(-1, (attention.n_heads, -1))


def attend_cells(
    attention: DeformableDetrMultiscaleDeformableAttention,
    values_BSNd: Tensor,
    queries_BQD: Tensor,
    references_BQL2: Tensor,
    of_levels: dict[str, Any],
) -> Tensor:
    """What `attention` gives for some of its queries, from values made once for all of them.

    Args:
        attention: Its weights.
        values_BSNd: As `values_of` gives them.
        queries_BQD: Rows with their positions added.
        references_BQL2: Where each query stands on each level, float32.
        of_levels: `Geometry.of_detr`.

    Returns:
        (B, Q, D).
    """
    split = (attention.n_heads, attention.n_levels, attention.n_points)
    offsets = attention.sampling_offsets(queries_BQD).float().unflatten(-1, (*split, 2))
    weights = attention.attention_weights(queries_BQD).float().unflatten(-1, (split[0], -1))
    weights = weights.softmax(-1).unflatten(-1, split[1:])
    sizes_L2 = of_levels["spatial_shapes"].flip(1)
    at = references_BQL2[:, :, None, :, None] + offsets / sizes_L2[:, None]
    mixed = attention.attn(
        values_BSNd,
        sampling_locations=at,
        attention_weights=weights,
        value_spatial_shapes=of_levels["spatial_shapes"],
        value_spatial_shapes_list=of_levels["spatial_shapes_list"],
        level_start_index=of_levels["level_start_index"],
        im2col_step=attention.im2col_step,
    )
    return attention.output_proj(mixed)


def use_row_sampling(layers: nn.ModuleList, name: str) -> nn.ModuleList:
    """Put `RowSampling`, which has no weights, into every layer's deformable attention."""
    for layer in layers:
        getattr(layer, name).attn = RowSampling()
    return layers
