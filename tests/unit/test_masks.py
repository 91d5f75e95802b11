"""Masks as COCO's run lengths, as pycocotools writes and reads them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.errors import BoxError
from vlm_fo1.masks import component_boxes, decode_rle, encode_rle, mask_boxes, mask_iou
from vlm_fo1.regions import Regions

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))
MASKS = SHAPES.flatmap(lambda shape: arrays(np.bool_, shape))


def disc(size_wh, centre, radius):
    width, height = size_wh
    y, x = np.mgrid[:height, :width]
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2


@settings(max_examples=60)
@given(MASKS)
def test_a_mask_comes_back_as_it_was(mask):
    assert np.array_equal(decode_rle(json.loads(json.dumps(encode_rle(mask)))), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
@settings(max_examples=60)
@given(MASKS)
def test_the_text_is_that_of_pycocotools(mask):
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = encode_rle(mask)
    assert ours == {"size": list(theirs["size"]), "counts": theirs["counts"].decode()}
    assert np.array_equal(coco.decode({**ours, "counts": ours["counts"].encode()}), mask)


def test_long_runs_take_several_characters():
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    mask = disc((1200, 900), (500, 300), 280) | disc((1200, 900), (1000, 800), 50)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_rle(mask)["counts"] == theirs["counts"].decode()
    assert np.array_equal(decode_rle(theirs), mask)


@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks(value):
    mask = np.full((3, 5), value)
    assert np.array_equal(decode_rle(encode_rle(mask)), mask)


def test_run_lengths_that_are_not_compressed_are_read():
    mask = decode_rle({"size": [2, 3], "counts": [1, 2, 3]})
    assert mask.tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"counts": "04"}, "a dict with size"),
        ({"size": [2, 2], "counts": None}, "a dict with size"),
        ({"size": [2, 2], "counts": "\x01"}, "stands for no run length"),
        ({"size": [2, 2], "counts": "`"}, "ends within a run length"),
        ({"size": [2, 2], "counts": [1, 2]}, "cover 3 pixels of an image of 2 x 2"),
        ({"size": [2, 2], "counts": [-1, 5]}, "cut, or are of another image"),
    ],
)
def test_broken_run_lengths_are_refused(rle, message):
    with pytest.raises(BoxError, match=message):
        decode_rle(rle)


def test_a_mask_has_two_axes():
    with pytest.raises(BoxError, match=r"shape \(1, 2, 2\): \(height, width\) is needed"):
        encode_rle(np.ones((1, 2, 2), bool))


def test_boxes_are_tight_and_those_of_empty_masks_zero():
    masks = np.zeros((2, 10, 20), bool)
    masks[0, 2:5, 7:9] = True
    assert mask_boxes(masks).tolist() == [[7, 2, 9, 5], [0, 0, 0, 0]]
    assert mask_boxes(np.zeros((0, 4, 4), bool)).shape == (0, 4)


def test_overlap_of_masks():
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :2], masks[1, 1:3] = True, True
    assert mask_iou(masks, masks).tolist() == pytest.approx(
        np.array([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]]), abs=1e-6
    )
    assert mask_iou(masks, masks[:0]).shape == (3, 0)


# --- what answers do with them --------------------------------------------------------------------


def answer_with_masks():
    masks = np.stack([disc((40, 30), (10, 10), 5), disc((40, 30), (30, 20), 6)])
    regions = Regions(mask_boxes(masks), (40, 30), np.array([0.9, 0.8], np.float32), masks=masks)
    return Answer("", regions, (Mention("cat", (1,)),), labels=("cat",))


def test_coco_results_have_the_mask_as_segmentation():
    answer = answer_with_masks()
    (result,) = answer.to_coco(7)
    assert answer.regions.masks is not None
    assert np.array_equal(decode_rle(result["segmentation"]), answer.regions.masks[1])
    assert result["bbox"] == [24, 14, 13, 13]


def test_pycocotools_loads_the_results():
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    (result,) = answer_with_masks().to_coco(7)
    rle = {**result["segmentation"], "counts": result["segmentation"]["counts"].encode()}
    assert coco.toBbox(rle).tolist() == result["bbox"]


def test_json_has_masks_only_when_asked():
    answer = answer_with_masks()
    assert "masks" not in answer.to_dict()["regions"]
    written = json.loads(answer.to_json(masks=True))["regions"]["masks"]
    assert answer.regions.masks is not None
    assert np.array_equal(np.stack([decode_rle(rle) for rle in written]), answer.regions.masks)
    plain = Regions(answer.regions.xyxy, (40, 30))
    assert "masks" not in plain.to_dict(masks=True)


@pytest.mark.parametrize(
    ("rows", "boxes"),
    [
        (["....", "...."], []),
        (["#..#", "...#", "#..."], [[0, 0, 1, 1], [3, 0, 4, 2], [0, 2, 1, 3]]),
        (["#.#.", ".#..", "...."], [[0, 0, 3, 2]]),  # corners touch
        (["#...#", "#...#", "#####"], [[0, 0, 5, 3]]),  # two arms that meet below
        (["#.#.#", "#.###", "###.."], [[0, 0, 5, 3]]),
    ],
)
def test_connected_parts_of_a_mask_get_a_box_each(rows, boxes):
    mask = np.array([[sign == "#" for sign in row] for row in rows])
    assert component_boxes(mask).tolist() == boxes
    assert component_boxes(mask).shape == (len(boxes), 4)
