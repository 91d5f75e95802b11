"""RoIAlign and mean in one: two weight vectors a box instead of a grid of samples.

The mean over RoIAlign's bins is linear and separable: for box k it is ``wy_k^T F wx_k``, where the
weights depend on the box and the map's size only. A bilinear resize before it is one more matrix on
each side. So all boxes are pooled at the map's own resolution by matrix products, and the resized,
joined map (566 MB for a 768-pixel image at released sizes) is never built.

The weights have a closed form too: samples lie at even distances, so how many fall between two
cells, and how far along on average, follows from where the first and the last of them lie. Nothing
depends on how large the boxes are, so a GPU is never waited for.

Shapes: I images of one size, N boxes of each, M = I x N, C channels, H and W sides of a map, P = H
x W cells, A axes, L cells of the longest, E = L + 2 edges between cells.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def pool_mean(
    maps: Sequence[Tensor],
    boxes_IN4: Tensor,
    scales: Sequence[float],
    *,
    bins: int = 7,
    resized_hw: tuple[int, int] | None = None,
) -> Tensor:
    """Mean over the bins of an unaligned, adaptively sampled RoIAlign, on several maps.

    Args:
        maps: (I, C, H, W) each, any float type; pooling is done in float32.
        boxes_IN4: xyxy in image pixels.
        scales: Cells of each (resized) map per image pixel.
        bins: RoIAlign output size per side.
        resized_hw: Pool as if every map had first been resized to these sides, bilinearly without
            corner alignment. None for each map's own size.

    Returns:
        (I, N, sum of C) float32, map after map, on the device of the first; (I, 0, sum of C)
        without boxes.

    Source: REFERENCE, "A fact worth using"; sampling as in torchvision's compiled kernel
    (``aligned=False``, ``sampling_ratio=0``).
    """
    device = maps[0].device
    sampled = [
        (scale, *(resized_hw or (feature.shape[2], feature.shape[3])))
        for feature, scale in zip(maps, scales, strict=True)
    ]
    kinds = list(dict.fromkeys(sampled))  # resized maps share theirs
    with torch.autocast(device.type, enabled=False):
        edges_4M = boxes_IN4.to(device, torch.float32, non_blocking=True).flatten(0, 1).T
        edges_A4M = torch.stack([edges_4M * scale for scale, _, _ in kinds])
        weights_AML = axis_weights(
            edges_A4M[:, :2].flatten(0, 1),
            edges_A4M[:, 2:].flatten(0, 1),
            [side for _, height, width in kinds for side in (width, height)],
            bins,
        )
        parts: list[Tensor] = []
        for feature, kind in zip(maps, sampled, strict=True):
            across_ML, down_ML = weights_AML[2 * kinds.index(kind) :][:2]
            _, height, width = kind
            parts.append(_pool(feature, down_ML[:, :height], across_ML[:, :width]).to(device))
    return torch.cat(parts, dim=-1)


def _pool(map_ICHW: Tensor, down_MH: Tensor, across_MW: Tensor) -> Tensor:
    """One map under weights of two axes, which may be longer or shorter than its own; (I, N, C)."""
    images, _, height, width = map_ICHW.shape
    down_MH, across_MW = (
        weights.to(map_ICHW.device)
        if weights.shape[1] == side
        else weights.to(map_ICHW.device) @ resize_matrix(side, weights.shape[1], map_ICHW.device)
        for weights, side in ((down_MH, height), (across_MW, width))
    )
    weights_MP = (down_MH[:, :, None] * across_MW[:, None, :]).flatten(1)
    cells_IPC = map_ICHW.float().flatten(2).transpose(1, 2)
    return weights_MP.unflatten(0, (images, -1)) @ cells_IPC


def axis_weights(starts_AM: Tensor, ends_AM: Tensor, lengths: Sequence[int], bins: int) -> Tensor:
    """How much each cell of an axis counts in the mean of each box.

    A box is at least one cell long. It is cut into bins, each sampled ``ceil(box / bins)`` times at
    even distances; a sample between two cells is shared bilinearly; one outside ``[-1, length]``
    weighs nothing but still counts in the mean.

    Args:
        starts_AM: Lower edges of the boxes on each axis, in its cells, float32.
        ends_AM: Upper edges.
        lengths: Cells of each axis.
        bins: RoIAlign output size.

    Returns:
        (A, M, L) float32, zero beyond an axis' own length; rows sum to one for boxes well inside.
    """
    device = starts_AM.device
    lengths_A11 = torch.tensor(lengths, dtype=torch.float32)[:, None, None]
    beyond_A11 = lengths_A11.nextafter(torch.tensor(torch.inf))  # a sample at the end counts
    lengths_A11 = lengths_A11.to(device, non_blocking=True)
    beyond_A11 = beyond_A11.to(device, non_blocking=True)
    edges_E = torch.arange(-1.0, max(lengths) + 1, device=device)
    edges_A1E = torch.where(edges_E < lengths_A11, edges_E, beyond_A11)

    starts_AM1 = starts_AM[..., None]
    extent_AM1 = (ends_AM - starts_AM).clamp(min=1.0)[..., None]
    bin_AM1 = extent_AM1 / bins
    per_bin_AM1 = torch.ceil(bin_AM1)
    count_AM1 = per_bin_AM1 * bins
    step_AM1 = extent_AM1 / count_AM1

    def sample(number: Tensor) -> Tensor:
        """Where a sample lies, by the kernel's own order of operations: borders decide alike."""
        which = torch.div(number, per_bin_AM1, rounding_mode="floor")
        inner = number - which * per_bin_AM1
        return starts_AM1 + which * bin_AM1 + (inner + 0.5) * bin_AM1 / per_bin_AM1

    guess_AME = torch.ceil((edges_A1E - starts_AM1) / step_AM1 - 0.5)  # to within one
    below_AME = (
        guess_AME - 1 + (sample(guess_AME - 1) < edges_A1E) + (sample(guess_AME) < edges_A1E)
    )
    below_AME = torch.minimum(below_AME.clamp(min=0), count_AM1)  # samples below each edge

    inside = below_AME.diff(dim=-1)  # samples between two edges, of which the first cell ...
    middle = starts_AM1 + (below_AME[..., 1:] + below_AME[..., :-1]) / 2 * step_AM1
    low = edges_E[:-1]
    along = (
        (middle - low).clamp(0, 1).masked_fill(low >= lengths_A11 - 1, 0).masked_fill(low < 0, 1)
    )
    to_high = inside * along  # ... leaves this to the second
    return (inside[..., 1:] - to_high[..., 1:] + to_high[..., :-1]) / count_AM1


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # training may use what answering made
def resize_matrix(length: int, resized: int, device: torch.device) -> Tensor:
    """The (resized, length) matrix of a bilinear resize along one axis, no corner alignment."""
    identity = torch.eye(length, device=device)[None]
    return F.interpolate(identity, size=resized, mode="linear", align_corners=False)[0].T
