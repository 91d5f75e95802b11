"""More regions than a question holds: which go together, and in which part of the image."""

from itertools import pairwise

import numpy as np
import pytest
from tests.helpers.windows import SIZE, grid, regions

from vlm_fo1.regions import Regions
from vlm_fo1.tiling import Window, best_first, best_of, cut_regions, fitting_tile, in_tiles, tiles


def test_windows_hold_as_many_regions_each_and_are_as_few_as_can_be():
    for count in (0, 1, 99, 100, 101, 250):
        sizes = [
            len(one.indices) for one in best_first(regions(grid(count)), np.arange(count), 100)
        ]
        assert sum(sizes) == count
        assert len(sizes) == max(1, -(-count // 100))
        assert max(sizes) - min(sizes) <= 1


def test_windows_by_score_take_the_best_first_and_keep_their_order_within():
    offered = regions(grid(5), [0.1, 0.9, np.nan, 0.5, 0.9])
    found = best_first(offered, np.arange(5), 2)
    assert [window.indices for window in found] == [(1, 4), (0, 3), (2,)]
    assert {window.area for window in found} == {(0, 0, *SIZE)}


def test_windows_without_scores_follow_the_order_and_no_regions_are_one_window():
    found = best_first(regions(grid(5)), np.arange(5), 2)
    assert [window.indices for window in found] == [(0, 1), (2, 3), (4,)]
    assert best_first(Regions.empty(SIZE), np.arange(0), 2) == [Window((0, 0, *SIZE), ())]
    assert in_tiles(Regions.empty(SIZE), 100, 2) == [Window((0, 0, *SIZE), ())]


def test_a_single_question_shows_the_best():
    scores = np.random.default_rng(3).random(250).astype(np.float32)
    offered = regions(grid(250), scores)
    shown = best_of(offered, 100)
    assert (
        offered[shown.indices].xyxy.tolist()
        == offered[np.sort(np.argsort(-scores)[:100])].xyxy.tolist()
    )
    assert shown.area == (0, 0, *SIZE)
    assert best_of(regions(grid(5)), 3).indices == (0, 1, 2)


@pytest.mark.parametrize("size_wh", [(300, 200), (1000, 64), (64, 64), (65, 500), (20, 90)])
def test_tiles_cover_the_image_and_overlap_by_a_quarter(size_wh):
    covered = np.zeros((size_wh[1], size_wh[0]), np.int64)
    found = tiles(size_wh, 64)
    for left, top, right, bottom in found:
        assert (right - left, bottom - top) == (min(64, size_wh[0]), min(64, size_wh[1]))
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1
    lefts = sorted({area[0] for area in found})
    assert all(second - first <= 48 for first, second in pairwise(lefts))


def seen_within_100(size_wh):
    """How a model sees images that it shrinks to at most 100 x 100 pixels in area."""
    factor = min(1.0, 100 / (size_wh[0] * size_wh[1]) ** 0.5)
    return round(size_wh[0] * factor), round(size_wh[1] * factor)


@pytest.mark.parametrize(
    ("side", "size_wh", "tile"),
    [
        (36, (400, 400), 180),  # seen with 9 pixels: tiles show it with 20
        (31, (200, 200), 155),  # seen with a little less than it takes
        (33, (200, 200), None),  # and with a little more
        (12, (400, 400), 100),  # no sharper than the image is
        (80, (400, 400), None),  # seen with 20 pixels
        (12, (120, 90), None),  # tiles would show hardly more
        (12, (90, 90), None),  # seen as it is
        (None, (400, 400), 200),  # nothing was found, perhaps for its size
        (None, (190, 190), None),
    ],
)
def test_tiles_are_as_large_as_lets_the_model_see_the_things_well(side, size_wh, tile):
    boxes = [] if side is None else [[0, 0, side, side]] * 3 + [[0, 0, *size_wh]]
    assert fitting_tile(regions(boxes, size_wh=size_wh), seen_within_100) == tile


def test_every_region_is_in_one_tile_that_shows_it_whole_or_with_the_whole_image():
    rng = np.random.default_rng(1)
    sides = rng.uniform(4, 120, (200, 2))
    corners = rng.uniform(0, 1, (200, 2)) * (np.array(SIZE) - sides)
    offered = regions(np.concatenate([corners, corners + sides], 1))
    found = in_tiles(offered, 80, 20)
    assert sorted(i for window in found for i in window.indices) == list(range(200))
    for window in found:
        assert 0 < len(window.indices) <= 20
        width, height = window.area[2] - window.area[0], window.area[3] - window.area[1]
        boxes = cut_regions(offered, window)
        assert boxes.min() >= 0
        assert (boxes[:, 2:] <= (width, height)).all()
        small = (sides[list(window.indices)] <= 20).all(1)
        assert window.area != (0, 0, *SIZE) or not small.any()
