"""Separable pooling against RoIAlign written out sample by sample."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlm_fo1.errors import ConfigError
from vlm_fo1.model.pyramid import FeaturePyramid
from vlm_fo1.model.region_encoder import box_position
from vlm_fo1.model.region_pooling import axis_weights, pool_mean


def roi_align_mean(feature: Tensor, box: list[float], scale: float, bins: int = 7) -> Tensor:
    """Unaligned adaptive RoIAlign and mean, sample by sample, as the compiled kernel does it."""
    channels, height, width = feature.shape
    x1, y1, x2, y2 = (torch.tensor(box) * scale).tolist()
    extent_w, extent_h = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    grid_w, grid_h = math.ceil(extent_w / bins), math.ceil(extent_h / bins)
    total = torch.zeros(channels, dtype=torch.float64)
    for row in range(bins * grid_h):
        y = y1 + (row + 0.5) * extent_h / (bins * grid_h)
        for column in range(bins * grid_w):
            x = x1 + (column + 0.5) * extent_w / (bins * grid_w)
            if not (-1 <= y <= height and -1 <= x <= width):
                continue
            yc, xc = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
            y0, x0 = int(yc), int(xc)
            y1_, x1_ = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            fy, fx = yc - y0, xc - x0
            total += (
                feature[:, y0, x0] * (1 - fy) * (1 - fx)
                + feature[:, y0, x1_] * (1 - fy) * fx
                + feature[:, y1_, x0] * fy * (1 - fx)
                + feature[:, y1_, x1_] * fy * fx
            )
    return (total / (bins**2 * grid_w * grid_h)).float()


def pool_one(feature: Tensor, boxes: Tensor, scale: float, **options: Any) -> Tensor:
    """One (C, H, W) map of one image."""
    return pool_mean([feature[None]], boxes[None], [scale], **options)[0]


sides = st.integers(1, 12)
corner = st.floats(-20, 90, width=32)
extent = st.floats(0.25, 120, width=32)


@settings(max_examples=60)
@given(sides, sides, corner, corner, extent, extent)
def test_any_box_on_any_map_equals_the_sampled_mean(h, w, x, y, box_w, box_h) -> None:
    torch.manual_seed(0)
    feature = torch.randn(3, h, w)
    box = [x, y, x + box_w, y + box_h]
    ours = pool_one(feature, torch.tensor([box]), 1 / 8)[0]
    torch.testing.assert_close(ours, roi_align_mean(feature, box, 1 / 8), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("size", [(5, 9), (10, 18), (3, 3), (17, 17)])
def test_pooling_a_map_as_if_resized_equals_resizing_it_first(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    feature = torch.randn(4, 5, 9)
    boxes = torch.tensor([[0.0, 0, 30, 30], [3, 5, 60, 41], [-4, 2, 9, 99], [70, 70, 71, 71]])
    resized = F.interpolate(feature[None], size=size, mode="bilinear")[0]
    torch.testing.assert_close(
        pool_one(feature, boxes, 0.25, resized_hw=size), pool_one(resized, boxes, 0.25)
    )


def test_weights_of_a_box_well_inside_sum_to_one() -> None:
    weights = axis_weights(torch.tensor([[2.0, 3.3]]), torch.tensor([[9.0, 3.4]]), [20], 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2))


def test_samples_beyond_the_map_weigh_nothing_but_count() -> None:
    weights = axis_weights(torch.tensor([[0.0]]), torch.tensor([[14.0]]), [7], 7)
    assert weights.sum() == pytest.approx(0.5)
    one_cell_beyond = axis_weights(torch.tensor([[0.0]]), torch.tensor([[14.0]]), [8], 7)
    assert one_cell_beyond.sum() == pytest.approx(8 / 14)  # 7.5 lies in [-1, 8]: it counts


def test_no_boxes_give_no_rows() -> None:
    assert pool_one(torch.randn(3, 4, 4), torch.zeros(0, 4), 1.0).shape == (0, 3)


def test_gradients_reach_the_map() -> None:
    feature = torch.randn(3, 6, 6, requires_grad=True)
    pool_one(feature, torch.tensor([[0.0, 0, 5, 5]]), 1.0).sum().backward()
    assert feature.grad is not None
    assert feature.grad.abs().sum() > 0


def test_half_precision_maps_are_pooled_in_float32() -> None:
    feature = torch.randn(3, 6, 6).to(torch.bfloat16)
    boxes = torch.tensor([[1.0, 1, 5, 5]])
    assert pool_one(feature, boxes, 1.0).dtype == torch.float32
    assert torch.equal(pool_one(feature, boxes, 1.0), pool_one(feature.float(), boxes, 1.0))


def test_levels_have_their_strides_and_sizes() -> None:
    pyramid = FeaturePyramid(32, 8, 32.0, (4.0, 8.0, 16.0, 32.0, 64.0))
    assert [tuple(level.shape) for level in pyramid(torch.randn(2, 32, 6, 4))] == [
        (2, 8, 48, 32), (2, 8, 24, 16), (2, 8, 12, 8), (2, 8, 6, 4), (2, 8, 3, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("stride", [3.0, 56.0, 0.1])
def test_a_stride_that_is_no_power_of_two_of_the_map_is_refused(stride: float) -> None:
    with pytest.raises(ConfigError, match="pyramid level of scale"):
        FeaturePyramid(32, 8, 14.0, (stride,))


def test_a_box_position_holds_a_quarter_for_each_of_y_x_width_height() -> None:
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5]])
    moved = torch.tensor([[0.5, 0.25, 0.75, 0.5]])
    first, second = (box_position(b, 64, 10000.0)[0] for b in (boxes, moved))
    changed = (first != second).view(4, 16).any(1).tolist()
    assert changed == [False, True, False, False]
    angle = 2 * math.pi * 0.375  # centre y
    assert first[0] == pytest.approx(math.sin(angle), abs=1e-6)
    assert first[1] == pytest.approx(math.cos(angle), abs=1e-6)
