"""RoIAlign and mean in one: two weight vectors a box instead of a grid of samples.

The mean over RoIAlign's bins is linear and separable: for box k it is ``wy_k^T F wx_k``, where the
weights depend on the box and the map's size only. A bilinear resize before it is one more matrix on
each side. So all boxes are pooled at the map's own resolution by matrix products, and the resized,
joined map (566 MB for a 768-pixel image at released sizes) is never built.

Shapes: N boxes, S samples an axis, C channels, H and W sides of the map, P = H x W cells, L length
of an axis.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def pool_mean(
    map_CHW: Tensor,
    boxes_N4: Tensor,
    scale: float,
    *,
    bins: int = 7,
    resized_hw: tuple[int, int] | None = None,
) -> Tensor:
    """Mean over the bins of an unaligned, adaptively sampled RoIAlign.

    Args:
        map_CHW: The features, any float type; pooling is done in float32.
        boxes_N4: (N, 4) xyxy in image pixels.
        scale: Cells of the (resized) map per image pixel.
        bins: RoIAlign output size per side.
        resized_hw: Pool as if the map had first been resized to these sides, bilinearly without
            corner alignment. None for the map's own size.

    Returns:
        (N, C) float32; (0, C) without boxes.

    Source: REFERENCE, "A fact worth using"; sampling as in torchvision's compiled kernel
    (``aligned=False``, ``sampling_ratio=0``).
    """
    height, width = map_CHW.shape[1:]
    sampled_h, sampled_w = resized_hw or (height, width)
    boxes = boxes_N4.to(device=map_CHW.device, dtype=torch.float32) * scale
    with torch.autocast(map_CHW.device.type, enabled=False):
        weights_NW = axis_weights(boxes[:, 0], boxes[:, 2], sampled_w, bins)
        weights_NH = axis_weights(boxes[:, 1], boxes[:, 3], sampled_h, bins)
        if sampled_w != width:
            weights_NW = weights_NW @ resize_matrix(width, sampled_w, map_CHW.device)
        if sampled_h != height:
            weights_NH = weights_NH @ resize_matrix(height, sampled_h, map_CHW.device)
        weights_NP = (weights_NH[:, :, None] * weights_NW[:, None, :]).flatten(1)
        return weights_NP @ map_CHW.float().flatten(1).T


def axis_weights(starts_N: Tensor, ends_N: Tensor, length: int, bins: int) -> Tensor:
    """How much each cell of one axis counts in the mean of each box.

    A box is at least one cell long. It is cut into bins, each sampled ``ceil(box / bins)`` times at
    even distances; a sample between two cells is shared bilinearly; one outside ``[-1, length]``
    weighs nothing but still counts in the mean.

    Args:
        starts_N: (N,) lower edges in cells.
        ends_N: (N,) upper edges in cells.
        length: Cells of the axis.
        bins: RoIAlign output size.

    Returns:
        (N, length) float32; rows sum to one for boxes well inside.
    """
    count = len(starts_N)
    weights_NL = starts_N.new_zeros(count, length)
    if not count:
        return weights_NL
    extent_N = (ends_N - starts_N).clamp(min=1.0)
    bin_N = extent_N / bins
    per_bin_N = torch.ceil(extent_N / bins)
    sample_S = torch.arange(int(per_bin_N.max()) * bins, device=starts_N.device)
    per_bin_N1 = per_bin_N[:, None]
    # The kernel's own order of operations, so that samples on the border fall on the same side.
    bin_NS = torch.div(sample_S[None], per_bin_N1, rounding_mode="floor")
    inner_NS = sample_S[None] - bin_NS * per_bin_N1
    at_NS = (
        starts_N[:, None] + bin_NS * bin_N[:, None] + (inner_NS + 0.5) * bin_N[:, None] / per_bin_N1
    )
    counted_NS = (bin_NS < bins) & (at_NS >= -1.0) & (at_NS <= length)
    at_NS = at_NS.clamp(min=0.0)
    low_NS = at_NS.long().clamp(max=length - 1)
    high_NS = (low_NS + 1).clamp(max=length - 1)
    fraction_NS = torch.where(low_NS == length - 1, 0.0, at_NS - low_NS)
    share_NS = counted_NS / (bins * per_bin_N1)
    weights_NL.scatter_add_(1, low_NS, share_NS * (1 - fraction_NS))
    weights_NL.scatter_add_(1, high_NS, share_NS * fraction_NS)
    return weights_NL


def resize_matrix(length: int, resized: int, device: torch.device) -> Tensor:
    """The (resized, length) matrix of a bilinear resize along one axis, no corner alignment."""
    identity = torch.eye(length, device=device)[None]
    return F.interpolate(identity, size=resized, mode="linear", align_corners=False)[0].T
