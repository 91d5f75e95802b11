"""Swin as UPN runs it: transformers' modules, every window of a kind attended to at once.

Shapes: B images, H x W cells, C channels, T = window x window cells of one window, N heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.swin.modeling_swin import (
    SwinAttention,
    SwinEmbeddings,
    SwinLayer,
    SwinPatchMerging,
    window_partition,
    window_reverse,
)

from vlm_fo1.proposers.upn.configuration import EPS, UPNConfig
from vlm_fo1.proposers.upn.slices import in_slices


class SwinBackbone(nn.Module):
    """Four feature maps of an image, at strides 4, 8, 16 and 32."""

    def __init__(self, config: UPNConfig) -> None:
        super().__init__()
        swin = config.swin()
        widths = [config.embed_dim * 2**stage for stage in range(len(config.depths))]
        self.embeddings = SwinEmbeddings(swin)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                SwinLayer(swin, width, (0, 0), heads, shift_size=index % 2 * (config.window // 2))
                for index in range(depth)
            )
            for width, depth, heads in zip(
                widths, config.depths, config.backbone_heads, strict=True
            )
        )
        self.merges = nn.ModuleList(SwinPatchMerging(width) for width in widths[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=EPS) for width in widths)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """Feature maps of normalised pixels.

        Args:
            pixel_values: (B, 3, H, W); padded here to a multiple of 4. Padding is not masked: the
                windows see it, as they did in training.

        Returns:
            Four maps (B, C, H/4, W/4), ..., each with its own norm; in memory channels come last.
        """
        embedded, (height, width) = self.embeddings(pixel_values)
        hidden_BHWC = embedded.unflatten(1, (height, width))
        maps: list[Tensor] = []
        for index, stage in enumerate(self.stages):
            assert isinstance(stage, nn.ModuleList)
            for layer in stage:
                assert isinstance(layer, SwinLayer)
                hidden_BHWC = _block(layer, hidden_BHWC)
            maps.append(self.norms[index](hidden_BHWC).permute(0, 3, 1, 2))
            if index < len(self.merges):
                height, width = hidden_BHWC.shape[1:3]
                merged = self.merges[index](hidden_BHWC.flatten(1, 2), (height, width))
                hidden_BHWC = merged.unflatten(1, ((height + 1) // 2, (width + 1) // 2))
        return maps


def _block(layer: SwinLayer, hidden_BHWC: Tensor) -> Tensor:
    """One pre-norm block. `SwinLayer.forward` itself would shrink the window on small maps."""
    _, height, width, _ = hidden_BHWC.shape
    padded, _ = layer.maybe_pad(layer.layernorm_before(hidden_BHWC), height, width)
    attended = _attend(layer, layer.cyclic_shift(padded))
    attended = layer.cyclic_shift(attended, reverse=True)[:, :height, :width]
    rows = (hidden_BHWC + attended).flatten(1, 2)
    hidden = layer.mlp.fc1.out_features
    rows = in_slices(lambda part: part + layer.mlp(layer.layernorm_after(part)), rows, hidden)
    return rows.unflatten(1, (height, width))


def _attend(layer: SwinLayer, map_BHWC: Tensor) -> Tensor:
    """Attention within windows of a map whose sides are multiples of the window.

    In a shifted block only the last row and the last column of windows hold cells that are not
    neighbours. So there are four kinds of windows, and no mask per window is ever built.
    """
    batch, height, width, channels = map_BHWC.shape
    window, attention = int(layer.window_size), layer.attention
    bias_1NTT = attention.relative_position_bias()
    windows = window_partition(map_BHWC, window).view(batch, height // window, width // window, -1)
    windows = windows.unflatten(-1, (window * window, channels))  # (B, rows, columns, T, C)
    if layer.shift_size == 0:
        attended = _attend_alike(attention, windows.flatten(0, 2), bias_1NTT)
        return window_reverse(attended, window, height, width)
    # Of a map of 2 x 2 windows the four masks are those of the four kinds.
    masks_4TT = layer.get_attn_mask(2 * window, 2 * window, map_BHWC.dtype, map_BHWC.device)
    assert masks_4TT is not None
    bands = []
    for row, rows in enumerate((windows[:, :-1], windows[:, -1:])):
        if rows.shape[1] == 0:
            continue
        kinds = []
        for column, alike in enumerate((rows[:, :, :-1], rows[:, :, -1:])):
            if alike.shape[2] == 0:
                continue
            mask = bias_1NTT if row + column == 0 else bias_1NTT + masks_4TT[2 * row + column]
            kinds.append(_attend_alike(attention, alike.flatten(0, 2), mask).view(alike.shape))
        bands.append(torch.cat(kinds, dim=2))
    return window_reverse(torch.cat(bands, dim=1), window, height, width)


def _attend_alike(attention: SwinAttention, windows_MTC: Tensor, mask_1NTT: Tensor) -> Tensor:
    """Attention in M windows that share a mask (added to the scores)."""
    split = (-1, attention.num_attention_heads, attention.head_dim)
    query, key, value = (
        project(windows_MTC).unflatten(-1, split[1:]).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask_1NTT)
    return attention.o_proj(mixed.transpose(1, 2).flatten(2))
