"""Legible text is read, and other text is not."""

from tests.helpers.annotations import written

from vlm_fo1.boxes import iou
from vlm_fo1.data.sources import CocoTextSource
from vlm_fo1.markup import RELEASED


def test_legible_text_is_read_and_other_text_is_not(tmp_path, images):
    content = {
        "imgs": {"1": {"id": 1, "file_name": "1.jpg", "width": 200, "height": 160, "set": "train"}},
        "anns": {
            "5": {
                "image_id": 1,
                "bbox": [5, 5, 50, 20],
                "utf8_string": "EXIT",
                "legibility": "legible",
            },
            "6": {"image_id": 1, "bbox": [90, 5, 50, 20], "legibility": "illegible"},
        },
    }
    example = CocoTextSource(written(tmp_path, content), images).example(0)
    (turn,) = example.turns
    assert turn.answer == "EXIT"
    number = int(RELEASED.tag_pattern().findall(turn.question)[0])
    assert iou(example.regions_xyxy[number], [5, 5, 55, 25])[0, 0] > 0.7
    assert len(example.regions_xyxy) >= 2
