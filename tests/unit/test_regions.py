"""Regions are plain, checked, read-only values."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from tests.helpers.answers import SIZE_WH, XYXY, answer, regions

from vlm_fo1.errors import BoxError
from vlm_fo1.regions import Regions

pytestmark = pytest.mark.filterwarnings("ignore:OpenCV .* is not installed:UserWarning")


def test_arrays_are_copies_and_read_only():
    source = XYXY.copy()
    made = Regions(
        source, SIZE_WH, scores=np.zeros(3, np.float32), masks=np.zeros((3, 60, 64), bool)
    )
    source[0, 0] = 99
    assert made.xyxy[0, 0] == 0
    arrays: list[Any] = [made.xyxy, made.scores, made.masks]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_fields_cannot_be_replaced():
    with pytest.raises(dataclasses.FrozenInstanceError):
        regions().scores = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer().text = ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros(2, np.float32)}, r"scores has shape \(2,\) for 3 boxes"),
        (
            {"confidence": np.zeros((3, 1), np.float32)},
            r"confidence has shape \(3, 1\) for 3 boxes",
        ),
        ({"scores": np.array([0, np.inf, 0], np.float32)}, "scores of box 1 is infinite"),
        ({"labels": ("a",)}, "1 labels for 3 boxes: pass one per box"),
        (
            {"masks": np.zeros((3, 64, 60), bool)},
            r"masks have shape \(3, 64, 60\), \(3, 60, 64\) is needed: one mask per box",
        ),
    ],
)
def test_a_field_needs_one_entry_per_box(changes, message):
    with pytest.raises(BoxError, match=message):
        regions(**changes)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([np.nan, 0, 1, 1], "box 1 = .* holds NaN or infinity"),
        ([9, 0, 1, 1], "box 1 = .* is reversed"),
    ],
)
def test_boxes_that_mean_nothing_are_refused(box, message):
    with pytest.raises(BoxError, match=message):
        Regions(np.array([[0, 0, 1, 1], box], np.float32), SIZE_WH)


def test_boxes_may_stick_out_of_the_image_or_have_no_area():
    assert len(Regions(np.array([[-5, 0, 99, 9], [3, 3, 3, 3]], np.float32), SIZE_WH)) == 2


@pytest.mark.parametrize(
    ("which", "kept"),
    [
        (1, [1]),
        (-1, [2]),
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        ([2, 0], [2, 0]),
        ((2, 0), [2, 0]),
        ((1,), [1]),
        ((), []),
        ([], []),
        ([True, False, True], [0, 2]),
        (np.array([1, 1]), [1, 1]),
        (np.array([False, False, True]), [2]),
    ],
)
def test_a_subset_keeps_every_field_in_step(which, kept):
    masks = np.zeros((3, 60, 64), bool)
    masks[1, 0, 0] = masks[2, 1, 1] = True
    full = regions(labels=("a", "b", "c"), masks=masks, confidence=np.arange(3, dtype=np.float32))
    part = full[which]
    np.testing.assert_array_equal(part.xyxy, XYXY[kept].reshape(-1, 4))
    np.testing.assert_array_equal(part.scores, full.scores[kept])
    np.testing.assert_array_equal(part.confidence, full.confidence[kept])
    np.testing.assert_array_equal(part.masks, masks[kept])
    assert part.labels == tuple("abc"[i] for i in kept)
    assert part.size_wh == SIZE_WH


def test_a_subset_of_regions_without_more_has_nothing_more():
    part = Regions(XYXY, SIZE_WH)[[0, 1]]
    assert (part.scores, part.confidence, part.labels, part.masks) == (None, None, None, None)


def test_an_index_beyond_the_regions_is_refused():
    with pytest.raises(IndexError):
        regions()[3]


def test_regions_can_be_walked_through_one_by_one():
    assert [float(one.scores[0]) for one in regions()] == pytest.approx([0.2, 0.9, 0.5])


def test_the_order_of_regions_is_best_first():
    assert regions().order().tolist() == [1, 2, 0]
    assert Regions.empty(SIZE_WH).order().tolist() == []


def test_without_scores_the_first_regions_are_the_best():
    assert Regions(XYXY, SIZE_WH).order().tolist() == [0, 1, 2]


def test_regions_of_equal_score_stay_in_order_and_of_unknown_score_come_last():
    assert regions(scores=np.ones(3, np.float32)).order().tolist() == [0, 1, 2]
    unknown = regions(scores=np.array([np.nan, 0.1, 0.2], np.float32))
    assert unknown.order().tolist() == [2, 1, 0]


def test_regions_as_plain_values():
    full = regions(labels=("a", "b", "c"), confidence=np.array([1, np.nan, 0.25], np.float32))
    assert full.to_dict() == {
        "xyxy": [[0, 0, 10, 10], [20, 0, 30.13, 15], [40, 40, 50, 50]],
        "scores": [0.2, 0.9, 0.5],
        "confidence": [1, None, 0.25],
        "labels": ["a", "b", "c"],
    }
    assert Regions.empty(SIZE_WH).to_dict() == {"xyxy": []}
