"""Referring expressions point at their box."""

import pytest
from tests.helpers.annotations import coco, numbers_in, written

from vlm_fo1.boxes import iou
from vlm_fo1.data.sources import ReferencesSource
from vlm_fo1.errors import DataError


def test_references_point_at_their_box(tmp_path, images):
    _, path = coco(tmp_path)
    references = [
        {
            "ref_id": 7,
            "image_id": 1,
            "ann_id": 1,
            "split": "train",
            "sentences": [{"sent": "big dog"}],
        },
        {"ref_id": 8, "image_id": 1, "ann_id": 2, "split": "train", "sentences": [{"sent": "cat"}]},
        {"ref_id": 9, "image_id": 1, "ann_id": 2, "split": "val", "sentences": [{"sent": "it"}]},
    ]
    source = ReferencesSource(written(tmp_path, references), path, images)
    example = source.example(0)
    assert {turn.question.split(" in this")[0] for turn in example.turns} == {
        "Please detect big dog",
        "Please detect cat",
    }
    for turn in example.turns:
        truth = [100, 20, 150, 80] if "big dog" in turn.question else [20, 90, 80, 140]
        (number,) = numbers_in(turn.answer)
        assert iou(example.regions_xyxy[number], truth)[0, 0] > 0.7
    references[0]["ann_id"] = 99
    broken = ReferencesSource(written(tmp_path, references), path, images)
    with pytest.raises(DataError, match="reference 7"):
        broken.example(0)
