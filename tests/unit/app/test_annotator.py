"""Boxes that are drawn or typed on the page, in pixels of the image as it is shown."""

import numpy as np
import pytest
from PIL import Image
from tests.helpers.page_answer import IMAGE

from vlm_fo1.app.limits import Limits, annotated
from vlm_fo1.errors import (
    ImageError,
)


def test_boxes_are_read_in_the_image_as_it_was_turned():
    value = {
        "image": IMAGE,
        "orientation": 1,
        "boxes": [
            {"xmin": 50, "ymin": 60, "xmax": 10, "ymax": 20},  # drawn from the lower right corner
            {"xmin": 5, "ymin": 5, "xmax": 5, "ymax": 5},  # a click
            {"xmin": -9, "ymin": 100, "xmax": 20, "ymax": 999},
        ],
    }
    seen = annotated(value, Limits())
    assert seen.image.size == (84, 112)
    assert seen.boxes_xyxy == [[10, 20, 50, 60], [0, 100, 20, 112]]
    turned = IMAGE.transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(np.asarray(seen.image), np.asarray(turned))


def test_boxes_come_in_the_order_of_their_numbers_and_new_ones_last():
    corner = {"ymin": 0, "xmax": 90, "ymax": 80}
    boxes = [
        {**corner, "xmin": 1, "label": ""},
        {**corner, "xmin": 2, "label": "10"},
        {**corner, "xmin": 3, "label": "2"},
        {**corner, "xmin": 4},
    ]
    seen = annotated({"image": IMAGE, "boxes": boxes}, Limits())
    assert [box[0] for box in seen.boxes_xyxy] == [3, 2, 1, 4]


@pytest.mark.parametrize("value", [None, {}, {"image": None, "boxes": []}])
def test_no_image_is_said_plainly(value):
    with pytest.raises(ImageError, match="no image yet"):
        annotated(value, Limits())
