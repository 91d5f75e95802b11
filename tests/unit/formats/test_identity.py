"""Ids, names and sizes that files state, against the image at hand."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from vlm_fo1.boxes import turn_upright
from vlm_fo1.errors import BoxError
from vlm_fo1.formats.identity import Ids, Names, name_parts, same_name, shown_boxes, stated_size
from vlm_fo1.images import Frame

# --- ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("id_", [42, "42", "0042", " 42", 42.0, np.int64(42), np.float64(42)])
def test_an_id_is_found_whatever_its_type_and_zero_padding(id_):
    for written in (42, "42", "0042", 42.0):
        assert Ids([7, written]).find(id_) == 1


@pytest.mark.parametrize("id_", [None, True, [1], {"id": 1}, float("nan"), 1.5, "a1", 2, ""])
def test_what_is_no_id_of_the_file_is_not_found(id_):
    assert Ids([1, "x", None]).find(id_) is None


def test_ids_that_differ_in_padding_only_are_told_apart_as_they_are_written():
    ids = Ids(["01", "1", "x", 1])
    assert [ids.find("01"), ids.find("1"), ids.find(1), ids.find("x")] == [0, 1, 1, 2]
    assert ids.find("001") is None  # either of two


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stated",
    [
        "photo.jpg",
        "day/photo.jpg",
        "./day//photo.jpg",
        "photo.JPG",
        "..\\..\\label-studio\\media\\upload\\4\\photo.jpg",
        "C:\\Users\\Me\\photo.jpg",
        "/home/someone/day/photo.jpg",
        "file:///C:/day/photo.jpg",
        "http://images.cocodataset.org/val2017/photo.jpg",
        "https://host/day/photo.jpg?X-Amz-Date=1&sig=a/b",
        "s3://bucket/photo.jpg",
        "photo.jpg?x=1",
        "/data/local-files/?d=day/photo.jpg",
        "/data/local-files/?d=day\\photo.jpg",
        "1a2b3c4d-photo.jpg",
        "upload/4/1a2b3c4d-photo.jpg",
        "photo",
    ],
)
def test_a_name_is_found_however_the_tool_wrote_it(stated):
    names = Names(["other.jpg", stated, "photo.png", "my photo.jpg"])
    assert names.find("/images/day/photo.jpg") == 1


@pytest.mark.parametrize(
    ("stated", "image"),
    [
        ("my%20photo.jpg", "my photo.jpg"),
        ("my photo.jpg", "my%20photo.jpg"),
        (unicodedata.normalize("NFC", "Çafé.jpg"), unicodedata.normalize("NFD", "Çafé.jpg")),
        (unicodedata.normalize("NFD", "Çafé.jpg"), unicodedata.normalize("NFC", "Çafé.jpg")),
        ("caf%C3%A9.jpg", "café.jpg"),
        ("what?.jpg", "what?.jpg"),
        ("42", "000042.jpg"),
        ("000042", "42.jpg"),
        ("a.b", "a.b.jpg"),
    ],
)
def test_escapes_accents_and_numbers_make_no_difference(stated, image):
    assert Names(["x.jpg", stated]).find(image) == 1
    assert same_name(stated, image)


@pytest.mark.parametrize("stated", ["other.jpg", "a/other", "photo2.jpg", "", "43", "\\"])
def test_another_name_is_not_the_same(stated):
    assert not same_name(stated, "a/photo.jpg")
    assert same_name("b\\1a2b3c4d-photo.JPEG", "a/photo.jpg")


def test_the_name_that_shares_most_of_the_path_is_meant():
    names = Names(["train/day/a.jpg", "train/night/a.jpg", "a.png", "a", "my%20a.jpg", "my a.jpg"])
    assert names.find("/data/night/a.jpg") == 1
    assert names.find("a.png") == 2
    assert names.find("a.webp") == 3
    assert names.find("my a.jpg") == 5
    assert names.find("my%20a.jpg") == 4
    with pytest.raises(BoxError, match=r"hold 2 images named 'a\.jpg': name each with the folders"):
        names.find("elsewhere/a.jpg")


def test_a_name_of_another_kind_of_file_is_not_that_of_the_image():
    with pytest.raises(BoxError, match=r"nothing for 'a\.jpg'; they are about 'a\.png'$"):
        Names(["a.png"]).find("a.jpg")


def test_an_image_that_is_not_there_is_refused_with_three_of_the_names_that_are():
    names = Names([f"{'x' * 99}.jpg", *(f"{number}.jpg" for number in range(4))])
    with pytest.raises(BoxError) as caught:
        names.find("photos/x.jpg")
    assert str(caught.value) == (
        f"the boxes hold nothing for 'x.jpg'; they are about '...{'x' * 53}.jpg', '0.jpg', '1.jpg'"
        " and 2 more"
    )
    with pytest.raises(BoxError, match=r"nothing for an image without a file name; .* no image"):
        Names([]).find(None)


def test_any_text_has_parts():
    for text in ("", "/", "..", "\\", "http://[", "%", "%ff", "\ud800", "?", "a?b=c", "://"):
        assert isinstance(name_parts(text), tuple)


# --- sizes ---------------------------------------------------------------------------------------

PHOTO = Frame((30, 40), (40, 30), 6)
"""Stored on its side, shown upright."""


@pytest.mark.parametrize(
    ("sides", "size_wh"),
    [
        ((40, 30), (40, 30)),
        (("40", 30.0), (40, 30)),
        ((None, 30), None),
        ((0, 0), None),
        ((-1, -1), None),
    ],
)
def test_a_stated_size_is_whole_pixels_or_none(sides, size_wh):
    assert stated_size(*sides) == size_wh


@pytest.mark.parametrize("side", ["wide", 1.5, float("nan"), float("inf"), [40], True, 10**400])
def test_what_is_no_size_is_refused(side):
    with pytest.raises(BoxError, match="whole pixels are needed"):
        stated_size(40, side)


def test_boxes_of_the_shown_size_and_of_no_size_stay():
    for stated in (None, (30, 40)):
        boxes, note = shown_boxes([[1, 2, 11, 22]], stated, PHOTO)
        assert boxes.tolist() == [[1, 2, 11, 22]]
        assert note is None


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_the_stored_size_are_turned_with_the_image_and_it_is_said(orientation):
    frame = Frame((30, 40), (40, 30), orientation)
    box = [1, 2, 11, 22]
    boxes, note = shown_boxes([box], (40, 30), frame)
    stored = Image.new("L", (40, 30))
    stored.paste(255, (1, 2, 11, 22))
    ways = {
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    assert tuple(boxes[0].tolist()) == stored.transpose(ways[orientation]).getbbox()
    assert note == (
        "the boxes state the size of the image as stored (40 x 30): they were turned upright with "
        f"it (EXIF orientation {orientation}) to 30 x 40"
    )


def test_boxes_that_fit_only_the_shown_image_were_drawn_on_it_whatever_size_is_stated():
    boxes, note = shown_boxes([[1, 2, 11, 39]], (40, 30), PHOTO)
    assert boxes.tolist() == [[1, 2, 11, 39]]
    assert note is not None
    assert "fit only the image as shown (30 x 40): they were taken as they are" in note
    turned, _ = shown_boxes([[1, 2, 11, 22], [30, 2, 40, 22]], (40, 30), PHOTO)
    np.testing.assert_array_equal(
        turned, turn_upright([[1, 2, 11, 22], [30, 2, 40, 22]], (40, 30), 6)
    )


def test_boxes_of_any_other_size_are_refused_with_both():
    with pytest.raises(BoxError, match=r"an image of \(60, 80\), this one is \(30, 40\)"):
        shown_boxes([[1, 2, 11, 22]], (60, 80), PHOTO)
    with pytest.raises(BoxError, match=r"an image of \(40, 30\), this one is \(30, 40\)"):
        shown_boxes(np.zeros((0, 4)), (40, 30), Frame((30, 40), (30, 40)))
