import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_fo1 import boxes
from vlm_fo1.errors import BoxError

IMAGE_WH = (100, 50)
coordinates = st.floats(-500, 500, width=32)
well_formed = st.tuples(coordinates, coordinates, coordinates, coordinates).map(
    lambda c: [min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3])]
)
some_boxes = st.lists(well_formed, max_size=6)


@pytest.mark.parametrize("empty", [[], (), np.zeros((0, 4)), np.zeros(0)])
def test_no_boxes_are_an_array_of_no_rows(empty):
    array = boxes.as_boxes(empty)
    assert array.shape == (0, 4)
    assert array.dtype == np.float32


def test_one_bare_box_counts_as_a_list_of_one():
    assert boxes.as_boxes([1, 2, 3, 4]).tolist() == [[1, 2, 3, 4]]


def test_what_comes_out_is_a_copy():
    given_boxes = np.ones((2, 4), np.float32)
    boxes.as_boxes(given_boxes)[0, 0] = 9
    boxes.clip(given_boxes, (0, 0))
    assert given_boxes.max() == given_boxes.min() == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([[1, 2, 3]], r"shape \(N, 4\), got \(1, 3\)"),
        ([1, 2, 3], r"shape \(N, 4\), got \(3,\)"),
        ([[]], r"shape \(N, 4\), got \(1, 0\)"),
        (np.zeros((0, 5)), r"shape \(N, 4\), got \(0, 5\)"),
        (np.zeros((2, 1, 4)), r"got \(2, 1, 4\): pass one \(x1, y1, x2, y2\) per box"),
        ([[1, 2, 3, 4], [1, 2]], "rows of four numbers"),
        ([["1", "2", "3", "4"]], "four numbers .* got str"),
        (np.ones((1, 4), bool), "four numbers .* got bool values"),
        ([[1j, 2, 3, 4]], "four numbers .* got complex128 values"),
        ([[None, 2, 3, 4]], "four numbers .* got object values"),
        ("1,2,3,4", "four numbers .* got str"),
    ],
)
def test_what_is_not_four_numbers_a_row_is_refused(wrong, message):
    with pytest.raises(BoxError, match=message):
        boxes.as_boxes(wrong)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([30, 5, 20, 9], r"box 1 = \(30, 5, 20, 9\) is reversed: .*xywh_to_xyxy"),
        ([5, 30, 9, 20], r"box 1 = \(5, 30, 9, 20\) is reversed"),
        ([5, 5, 5, 9], r"box 1 = \(5, 5, 5, 9\) has no area: drop it or widen it"),
        ([5, 5, 9, 5], r"box 1 = \(5, 5, 9, 5\) has no area"),
        ([np.nan, 0, 1, 1], r"box 1 = \(nan, 0, 1, 1\) holds NaN or infinity"),
        ([0, 0, np.inf, 1], r"box 1 = \(0, 0, inf, 1\) holds NaN or infinity"),
        ([0, 0, 1e300, 1], r"box 1 = \(0, 0, inf, 1\) holds NaN or infinity"),
        ([-9, -9, -1, -1], r"box 1 = \(-9, -9, -1, -1\) lies outside the image of 100 x 50"),
        ([-9, 0, 0, 9], r"box 1 = .* lies outside the image"),
        ([100, 0, 120, 9], r"box 1 = .* lies outside the image .*EXIF applied"),
        ([0, 50, 9, 60], r"box 1 = .* lies outside the image"),
    ],
)
def test_a_box_that_cannot_be_used_is_refused_with_its_index(bad, message):
    with pytest.raises(BoxError, match=message):
        boxes.check([[0, 0, 9, 9], bad, [0, 0, 9, 9]], IMAGE_WH)


def test_a_box_that_sticks_out_is_clamped():
    assert boxes.check([[-5, -6, 200, 7], [1, 2, 3, 4]], IMAGE_WH).tolist() == [
        [0, 0, 100, 7],
        [1, 2, 3, 4],
    ]


def test_a_box_error_is_also_a_value_error():
    with pytest.raises(ValueError, match="shape"):
        boxes.check([1, 2], IMAGE_WH)


@given(some_boxes)
def test_checked_boxes_lie_inside_the_image_and_have_area(given_boxes):
    try:
        checked = boxes.check(given_boxes, IMAGE_WH)
    except BoxError:
        return
    assert len(checked) == len(given_boxes)
    assert (checked >= 0).all()
    assert (checked <= [*IMAGE_WH, *IMAGE_WH]).all()
    assert (checked[:, 2:] > checked[:, :2]).all()


@given(some_boxes)
def test_corners_survive_a_way_through_width_and_height(given_boxes):
    there_and_back = boxes.xywh_to_xyxy(boxes.xyxy_to_xywh(given_boxes))
    np.testing.assert_allclose(there_and_back, boxes.as_boxes(given_boxes), atol=1e-3)


def test_formats_are_converted():
    assert boxes.xywh_to_xyxy([[10, 20, 3, 4]]).tolist() == [[10, 20, 13, 24]]
    assert boxes.xyxy_to_xywh([[10, 20, 13, 24]]).tolist() == [[10, 20, 3, 4]]


def test_scaling_takes_each_axis_by_its_own_factor():
    assert boxes.scale([[10, 10, 20, 20]], (100, 50), (50, 100)).tolist() == [[5, 20, 10, 40]]


def test_the_area_of_a_reversed_box_is_zero():
    assert boxes.areas([[0, 0, 3, 4], [5, 0, 3, 4], [5, 5, 3, 4]]).tolist() == [12, 0, 0]


def test_overlap_of_known_boxes():
    table = boxes.iou(
        [[0, 0, 10, 10], [0, 0, 0, 0]], [[0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 0, 0]]
    )
    np.testing.assert_allclose(table, [[1, 1 / 3, 0], [0, 0, 0]], rtol=1e-6)


def test_overlap_with_no_boxes_has_the_right_shape():
    assert boxes.iou([], [[0, 0, 1, 1]]).shape == (0, 1)


@given(some_boxes, some_boxes)
def test_overlap_is_symmetric_and_between_zero_and_one(first, second):
    table = boxes.iou(first, second)
    assert table.shape == (len(first), len(second))
    assert ((table >= 0) & (table <= 1)).all()
    np.testing.assert_array_equal(table, boxes.iou(second, first).T)


def test_suppression_keeps_the_best_of_those_that_overlap():
    crowd = [[0, 0, 10, 10], [1, 0, 11, 10], [50, 0, 60, 10]]
    assert boxes.nms(crowd, [0.5, 0.9, 0.7], 0.5).tolist() == [1, 2]


def test_suppression_drops_only_what_is_strictly_above_the_threshold():
    pair = [[0, 0, 10, 10], [5, 0, 15, 10]]
    third = float(boxes.iou(pair[0], pair[1])[0, 0])
    assert boxes.nms(pair, [1, 1], third).tolist() == [0, 1]
    assert boxes.nms(pair, [1, 1], third - 1e-6).tolist() == [0]


def test_suppression_of_nothing_is_nothing():
    kept = boxes.nms([], [], 0.5)
    assert kept.shape == (0,)
    assert kept.dtype == np.int64


def test_suppression_needs_a_score_per_box():
    with pytest.raises(BoxError, match=r"scores have shape \(1,\) for 2 boxes: pass one per box"):
        boxes.nms([[0, 0, 1, 1], [2, 2, 3, 3]], [1.0], 0.5)


@given(some_boxes, st.floats(0, 1))
def test_boxes_that_survive_suppression_do_not_overlap_more_than_allowed(given_boxes, threshold):
    scores = np.arange(len(given_boxes), dtype=np.float32)
    kept = boxes.nms(given_boxes, scores, threshold)
    table = boxes.iou(boxes.as_boxes(given_boxes)[kept], boxes.as_boxes(given_boxes)[kept])
    np.fill_diagonal(table, 0)
    assert (table <= threshold).all()
    assert np.all(np.diff(scores[kept]) < 0)
