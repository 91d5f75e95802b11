"""Boxes in every form a user has them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vlm_fo1.errors import BoxError
from vlm_fo1.proposers.given import given_regions, read_boxes
from vlm_fo1.structures import Regions

SIZE = (100, 80)
XYXY = [[1.0, 2.0, 30.0, 40.0], [10.0, 20.0, 90.0, 70.0]]
XYWH = [[1, 2, 29, 38], [10, 20, 80, 50]]
COCO = {
    "images": [
        {"id": 7, "file_name": "day/a.jpg"},
        {"id": 8, "file_name": "night/a.jpg"},
        {"id": 9, "file_name": "b.jpg"},
        {"id": 10, "file_name": "empty.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 9, "bbox": XYWH[0]},
        {"id": 2, "image_id": 7, "bbox": XYWH[1]},
        {"id": 3, "image_id": 9, "bbox": XYWH[1]},
        {"id": 4, "image_id": 8, "bbox": XYWH[0]},
    ],
}
RESULTS = [
    {"image_id": 139, "bbox": XYWH[0], "score": 0.5},
    {"image_id": 285, "bbox": XYWH[1], "score": 0.25},
    {"image_id": 139, "bbox": XYWH[1], "score": 0.75},
]


def boxes_of(source, image=None):
    return given_regions(source, SIZE, image=image).xyxy.tolist()


@pytest.mark.parametrize(
    "source",
    [
        XYXY,
        tuple(map(tuple, XYXY)),
        np.array(XYXY),
        np.array(XYXY, np.float16),
        torch.tensor(XYXY),
        [{"xyxy": box} for box in XYXY],
        [{"bbox": box} for box in XYWH],
        [{"bbox": np.array(box)} for box in XYWH],
        [{"bbox": torch.tensor(box)} for box in XYWH],
        {"xyxy": XYXY},
        {"regions": {"xyxy": XYXY}, "task": "detection"},
        {"annotations": COCO["annotations"][::2], "images": COCO["images"][2:3]},
        Regions(np.array(XYXY, np.float32), SIZE),
    ],
    ids=[
        "lists", "tuples", "array", "half", "tensor", "records", "coco boxes",
        "arrays in records", "tensors in records",
        "regions as dict", "answer as dict", "data set of one image", "Regions",
    ],
)  # fmt: skip
def test_the_same_boxes_come_out_of_every_form(source):
    regions = given_regions(source, SIZE)
    assert regions.xyxy.tolist() == XYXY
    assert regions.size_wh == SIZE
    assert regions.scores is None


@pytest.mark.parametrize("source", [[], (), np.zeros((0, 4)), {"xyxy": []}])
def test_nothing_is_no_regions(source):
    assert len(given_regions(source, SIZE)) == 0


@pytest.mark.parametrize(
    "source",
    [
        [{"xyxy": XYXY[0], "score": 0.5}, {"xyxy": XYXY[1], "score": 0.75}],
        [{"bbox": XYWH[0], "score": 0.5}, {"bbox": XYWH[1], "score": 0.75}],
        {"xyxy": XYXY, "scores": [0.5, 0.75]},
        Regions(np.array(XYXY, np.float32), SIZE, np.array([0.5, 0.75], np.float32)),
    ],
)
def test_scores_stay_with_their_boxes(source):
    regions = given_regions(source, SIZE)
    assert regions.scores is not None
    assert regions.scores.tolist() == [0.5, 0.75]
    assert regions.xyxy.tolist() == XYXY


def test_a_score_of_null_is_unknown():
    scores = given_regions({"xyxy": XYXY, "scores": [0.5, None]}, SIZE).scores
    assert scores is not None
    assert scores[0] == 0.5
    assert np.isnan(scores[1])


def test_what_regions_write_is_read_back():
    regions = Regions(
        np.array(XYXY, np.float32), SIZE, np.array([0.5, np.nan], np.float32), labels=("a", "b")
    )
    again = given_regions(json.loads(json.dumps(regions.to_dict())), SIZE)
    assert again.to_dict()["xyxy"] == regions.to_dict()["xyxy"]
    assert again.to_dict()["scores"] == regions.to_dict()["scores"]


def test_regions_keep_their_labels_and_are_clipped_like_all_boxes():
    wide = np.array([[-9, 2, 300, 40]], np.float32)
    regions = given_regions(Regions(wide, SIZE, labels=("cat",)), SIZE)
    assert regions.labels == ("cat",)
    assert regions.xyxy.tolist() == [[0, 2, 100, 40]]
    assert boxes_of(wide) == [[0, 2, 100, 40]]


def test_regions_of_an_image_of_another_size_are_refused():
    other = Regions(np.array(XYXY, np.float32), (200, 160))
    with pytest.raises(BoxError, match=r"of an image of \(200, 160\), this one is \(100, 80\)"):
        given_regions(other, SIZE)


# --- files and collections -----------------------------------------------------------------------


def test_a_file_holds_any_of_these_forms(tmp_path):
    path = tmp_path / "boxes.json"
    for source in (XYXY, {"xyxy": XYXY}, [{"bbox": box} for box in XYWH], {"x.jpg": XYXY}):
        path.write_text(json.dumps(source))
        assert boxes_of(path, "x.jpg") == boxes_of(str(path), Path("x.jpg")) == XYXY


@pytest.mark.parametrize("key", ["photos/a.b.jpg", "a.b.jpg", "a.b"])
def test_a_dict_from_file_name_is_looked_up_by_path_name_or_stem(key):
    assert boxes_of({"other.jpg": [], key: XYXY}, "photos/a.b.jpg") == XYXY


def test_each_file_may_have_its_own_form():
    source = {"a.jpg": [{"bbox": box, "score": 1} for box in XYWH], "b.jpg": {"xyxy": XYXY[:1]}}
    assert boxes_of(source, "a.jpg") == XYXY
    assert boxes_of(source, "b.jpg") == XYXY[:1]


def test_a_file_name_that_is_not_in_the_dict_is_refused_with_those_that_are():
    source = {f"{number}.jpg": XYXY for number in range(7)}
    with pytest.raises(BoxError) as caught:
        given_regions(source, SIZE, image="photos/x.jpg")
    assert str(caught.value) == (
        "the boxes hold nothing for 'x.jpg'; they are about 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, ..."
    )
    with pytest.raises(BoxError, match=r"nothing for an image without a file name; .* 0\.jpg"):
        given_regions(source, SIZE)
    with pytest.raises(BoxError, match="they are about no image"):
        given_regions({}, SIZE, image="x.jpg")


def test_a_data_set_gives_the_boxes_of_the_named_image_in_its_order():
    assert boxes_of(COCO, "b.jpg") == boxes_of(COCO, Path("/data/b.jpg")) == XYXY
    assert boxes_of(COCO, 9) == XYXY
    assert boxes_of(COCO, "empty.jpg") == []


def test_a_data_set_tells_images_of_one_name_apart_by_their_folder():
    assert boxes_of(COCO, "photos/day/a.jpg") == [XYXY[1]]
    assert boxes_of(COCO, "photos/night/a.jpg") == [XYXY[0]]
    with pytest.raises(BoxError, match=r"2 images named 'a\.jpg': give their file names with the"):
        given_regions(COCO, SIZE, image="elsewhere/a.jpg")


def test_an_image_that_is_not_in_the_data_set_is_refused_even_if_there_is_only_one():
    with pytest.raises(BoxError, match=r"holds 4 images, none named 'x\.jpg'"):
        given_regions(COCO, SIZE, image="x.jpg")
    one = {"images": COCO["images"][:1], "annotations": COCO["annotations"][1:2]}
    with pytest.raises(BoxError, match=r"holds 1 images, none named 'x\.jpg'"):
        given_regions(one, SIZE, image="x.jpg")
    assert boxes_of(one) == [XYXY[1]]


@pytest.mark.parametrize(
    "broken",
    [
        {"images": [{"file_name": "a.jpg"}], "annotations": []},
        {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"bbox": XYWH[0]}]},
        {"images": 3, "annotations": []},
        {"images": ["a.jpg"], "annotations": []},
        {"images": [], "annotations": None},
    ],
)
def test_a_broken_data_set_is_refused_with_what_it_needs(broken):
    words = "each of 'images' needs an 'id' and a 'file_name', each of 'annotations' an 'image_id'"
    with pytest.raises(BoxError, match=words):
        given_regions(broken, SIZE, image="a.jpg")


@pytest.mark.parametrize("image", ["139.jpg", "coco/000000000139.jpg", 139])
def test_results_about_many_images_are_picked_by_the_id_in_the_file_name(image):
    regions = given_regions(RESULTS, SIZE, image=image)
    assert regions.xyxy.tolist() == XYXY
    assert regions.scores is not None
    assert regions.scores.tolist() == [0.5, 0.75]


def test_results_about_one_image_are_about_this_one():
    assert boxes_of(RESULTS[::2], "holiday.jpg") == XYXY


@pytest.mark.parametrize("image", ["holiday.jpg", None, 140])
def test_results_about_other_images_are_refused(image):
    with pytest.raises(BoxError, match=r"about 2 images, none of them .*e\.g\. 139\.jpg"):
        given_regions(RESULTS, SIZE, image=image)


# --- what cannot be used -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([[1, 2, 3]], r"shape \(N, 4\), got \(1, 3\)"),
        ([[1, 2, 3, 4], [1, 2]], "rows of four numbers"),
        ("nothing.json", "boxes file nothing.json cannot be read: No such file or directory"),
        (None, "got object values"),
        (3, r"got \(\)"),
        (torch.tensor(XYXY, requires_grad=True), "boxes cannot be read as an array: Can't call"),
        ([["a", "b", "c", "d"]], "got str"),
        ([XYXY[0], [50, 5, 20, 9]], r"box 1 = \(50, 5, 20, 9\) is reversed"),
        ([{"xyxy": XYXY[0]}, {"box": XYXY[0]}], "box 1 has neither 'xyxy' .* it has box"),
        ([{"xyxy": XYXY[0]}, {}], "box 1 has neither .* it has nothing"),
        ([{"xyxy": XYXY[0]}, XYXY[1]], r"box 1 is \[10.* but box 0 is a dict: give all in one"),
        ([{"bbox": XYWH[0]}, {"bbox": []}], r"box 1 is \[\]: four numbers are needed"),
        ([{"bbox": XYWH}], r"box 0 is \[\[1, 2, 29, 38\].*: four numbers are needed"),
        ([{"bbox": "1234"}], "box 0 is '1234': four numbers are needed"),
        ([{"xyxy": None}], "box 0 is None: four numbers are needed"),
        ([{"xyxy": [1, 2, 3]}], r"box 0 is \[1, 2, 3\]: four numbers are needed"),
        (
            [{"xyxy": XYXY[0], "score": 1}, {"xyxy": XYXY[1]}],
            "1 of 2 boxes have a score: give all or none",
        ),
        ([{"xyxy": XYXY[0], "score": "high"}], "scores must be numbers, one per box"),
        ({"xyxy": XYXY, "scores": [0.5]}, r"scores has shape \(1,\) for 2 boxes"),
        ({"xyxy": XYXY, "scores": ["x", "y"]}, "scores must be numbers, one per box"),
        ({"xyxy": XYXY, "scores": [0.5, float("inf")]}, "scores of box 1 is infinite"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_index(source, words):
    with pytest.raises(BoxError, match=words):
        given_regions(source, SIZE)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[[1, 2,", r"boxes file .*b\.json is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"null", "holds None: a list or a dict is needed"),
        (b'"other.json"', "holds 'other.json': a list or a dict is needed"),
    ],
)
def test_a_file_that_holds_no_boxes_is_refused_by_name(tmp_path, content, words):
    path = tmp_path / "b.json"
    path.write_bytes(content)
    with pytest.raises(BoxError, match=words):
        read_boxes(path)
