"""COCO files as other tools write them, and what is told of them."""

import json

import numpy as np
import pytest

from vlm_fo1.errors import BoxError
from vlm_fo1.formats.boxes import given_regions, read_boxes
from vlm_fo1.images import Frame
from vlm_fo1.masks import encode_rle

SIZE = (320, 288)
IMAGE = {"id": 1, "file_name": "photo.jpg", "width": 320, "height": 288}
BOX = {"id": 1, "image_id": 1, "category_id": 5, "bbox": [10, 20, 30, 40], "iscrowd": 0}
ORANGE = {"id": 5, "name": "orange"}
XYXY = [[10.0, 20.0, 40.0, 60.0]]


def coco(image=None, annotation=None, category=None, **more):
    return {
        "images": [{**IMAGE, **(image or {})}],
        "annotations": [{**BOX, **(annotation or {})}],
        "categories": [{**ORANGE, **(category or {})}],
        **more,
    }


def offer_of(source, image: str | int = "photo.jpg", frame=SIZE):
    return given_regions(source, frame, image=image)


# --- ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_id", "owner", "category", "used"),
    [(1, "1", 5, "5"), ("1", 1, "5", 5), ("0042", 42, 5, 5.0), (42, "000042", "05", 5)],
)
def test_ids_are_joined_whatever_their_type_and_zero_padding(image_id, owner, category, used):
    offer = offer_of(
        coco({"id": image_id}, {"image_id": owner, "category_id": used}, {"id": category})
    )
    assert offer.regions.xyxy.tolist() == XYXY
    assert offer.regions.labels == ("orange",)
    assert offer.notes == ()


def test_annotations_of_no_image_are_counted_and_told():
    strays = [{**BOX, "image_id": id_} for id_ in (7, "x", None, [1], 7)]
    offer = offer_of(coco(annotations=[BOX, *strays]))
    assert offer.regions.xyxy.tolist() == XYXY
    assert offer.notes == (
        "5 of 6 annotations belong to no image of the file (image_id 7, 'x', None, ...): they were "
        "left out",
    )
    nothing = offer_of(coco(annotations=strays[:1]))
    assert len(nothing.regions) == 0
    assert nothing.notes == (
        "no regions were offered: the boxes that were given hold none of this image",
        "1 of 1 annotations belong to no image of the file (image_id 7): they were left out",
    )


def test_images_that_share_an_id_are_refused_when_asked_for():
    images = [IMAGE, {**IMAGE, "file_name": "other.jpg"}, {**IMAGE, "id": 2, "file_name": "b.jpg"}]
    merged = coco(images=images, annotations=[BOX, {**BOX, "image_id": 2}])
    with pytest.raises(BoxError, match=r"2 images of the data set have the id 1, 'photo\.jpg'"):
        offer_of(merged)
    assert offer_of(merged, "b.jpg").regions.xyxy.tolist() == XYXY
    twice = coco(images=[IMAGE, {**IMAGE, "id": "1"}])  # the same image listed again
    assert offer_of(twice).regions.xyxy.tolist() == XYXY


@pytest.mark.parametrize(
    "category", [{"name": None}, {"name": ["orange"]}, {"id": 6}, {"name": True}, {"id": None}]
)
def test_a_category_without_a_name_leaves_the_boxes_without_labels_and_it_is_said(category):
    offer = offer_of(coco(category=category))
    assert offer.regions.xyxy.tolist() == XYXY
    assert offer.regions.labels is None
    assert offer.notes == (
        "the categories of 1 of 1 boxes have no name in the file: the boxes have no labels",
    )


@pytest.mark.parametrize("categories", [None, [], {}, "x", [None, 5, "orange"]])
def test_categories_that_are_none_are_no_hindrance(categories):
    assert offer_of(coco(categories=categories)).regions.xyxy.tolist() == XYXY
    assert offer_of(coco(category={"name": 7})).regions.labels == ("7",)


# --- sizes ---------------------------------------------------------------------------------------


def test_a_file_about_another_size_is_refused_with_both():
    with pytest.raises(BoxError, match=r"an image of \(640, 576\), this one is \(320, 288\)"):
        offer_of(coco({"width": 640, "height": 576}))


def test_a_file_that_states_the_stored_size_of_a_turned_photo_has_its_boxes_turned(tmp_path):
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(coco()))
    turned = Frame((288, 320), (320, 288), 6)
    for source in (coco(), path, read_boxes(path)):
        offer = offer_of(source, frame=turned)
        assert offer.regions.xyxy.tolist() == [[228, 10, 268, 40]]
        assert "turned upright with it (EXIF orientation 6) to 288 x 320" in offer.notes[0]
    upright = offer_of(coco({"width": 288, "height": 320}), frame=turned)
    assert upright.regions.xyxy.tolist() == XYXY
    assert upright.notes == ()


def test_masks_of_the_stored_size_are_turned_with_their_boxes():
    frame = Frame((30, 40), (40, 30), 8)
    mask = np.zeros((30, 40), np.bool_)
    mask[2:22, 1:11] = True
    record = {"bbox": [1, 2, 10, 20], "segmentation": encode_rle(mask)}
    stated = coco({"width": 40, "height": 30}, record)
    for source in (stated, [record], coco({"width": None}, record)):
        offer = offer_of(source, frame=frame)
        assert offer.regions.xyxy.tolist() == [[2, 29, 22, 39]]
        assert offer.regions.masks is not None
        rows, columns = np.nonzero(offer.regions.masks[0])
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (2, 29, 22, 39)


@pytest.mark.parametrize(
    "size", [{"width": None}, {"width": None, "height": None}, {"width": 0, "height": 0}]
)
def test_a_size_of_null_or_nothing_is_none(size):
    assert offer_of(coco(size)).regions.xyxy.tolist() == XYXY
    assert offer_of(coco({"width": "320", "height": 288.0})).regions.xyxy.tolist() == XYXY


def test_a_size_that_is_none_is_refused_with_its_image():
    with pytest.raises(
        BoxError, match=r"image 1 \('photo\.jpg'\) of the data set: the size 'wide'"
    ):
        offer_of(coco({"width": "wide"}))


# --- names and boxes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "named",
    [
        {"file_name": "..\\..\\label-studio\\media\\upload\\4\\photo.jpg"},
        {"file_name": "images/1a2b3c4d-photo.jpg"},
        {"file_name": None, "coco_url": "http://images.cocodataset.org/val2017/photo.jpg"},
        {"file_name": "https://host/bucket/photo.jpg?x=1"},
    ],
)
def test_an_image_is_found_by_the_name_that_the_tool_gave_it(named):
    assert offer_of(coco(named)).regions.xyxy.tolist() == XYXY


def test_an_image_that_is_not_there_is_refused_with_names_that_are():
    with pytest.raises(BoxError, match=r"nothing for 'x\.jpg'; they are about 'photo\.jpg'$"):
        offer_of(coco(), "x.jpg")
    with pytest.raises(BoxError, match="holds 1 image, none has the id 3"):
        offer_of(coco(), 3)


@pytest.mark.parametrize("bbox", [None, []])
@pytest.mark.parametrize(
    "outline", [[[10, 20, 40, 20, 25, 60]], [10, 20, 40, 20, 25, 60], [[10, 20, 40, 20, 9 + 1, 60]]]
)
def test_an_annotation_with_an_outline_alone_has_the_box_around_it(bbox, outline):
    assert (
        offer_of(coco(annotation={"bbox": bbox, "segmentation": outline})).regions.xyxy.tolist()
        == XYXY
    )


@pytest.mark.parametrize(
    "bbox", [None, [], "10,20,30,40", [10, 20, 30], [1, 2, 3, 4, 5], ["1", "2", "3", "4"], {}]
)
def test_an_annotation_without_a_box_is_refused_with_its_id(bbox):
    with pytest.raises(BoxError, match=r"box 0 \(annotation 1\) is .*: four numbers are needed"):
        offer_of(coco(annotation={"bbox": bbox, "segmentation": [[1, 2], ["x"]]}))


def test_what_is_no_data_set_is_refused_with_what_is_wrong():
    for source, words in (
        ({"annotations": [BOX]}, r"\('images' is no list\)"),
        (coco(images=[IMAGE, 5]), r"\(number 1 of 'images' has no 'id'\)"),
        (coco(annotations={"1": BOX}), r"\('annotations' is no list\)"),
        (coco(annotations=[BOX, {"bbox": [1, 2, 3, 4]}]), "number 1 of 'annotations' has no"),
    ):
        with pytest.raises(BoxError, match=words):
            offer_of(source)


def test_what_was_read_is_plain_and_serves_many_images(tmp_path):
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(3)]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(coco(images=images, annotations=[{**BOX, "image_id": "2"}])))
    boxes = read_boxes(path)
    assert json.loads(json.dumps(boxes)) == boxes
    assert [len(offer_of(boxes, f"{number}.jpg")) for number in range(3)] == [0, 0, 1]
