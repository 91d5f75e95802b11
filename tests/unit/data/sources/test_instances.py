"""Boxes with names become questions with true answers."""

import numpy as np
import pytest
from tests.helpers.annotations import coco, numbers_in, only, written

from vlm_fo1.boxes import iou
from vlm_fo1.data.sources import (
    CocoSource,
    CocoTextSource,
    ConversationsSource,
    InstanceConfig,
    Source,
)
from vlm_fo1.errors import ConfigError, DataError
from vlm_fo1.markup import scan


def labels_of(turn):
    return turn.question.removeprefix("Please detect ").split(" in this image")[0].split(", ")


# Readers


def test_coco_boxes_become_questions_with_true_answers(tmp_path, images):
    _, path = coco(tmp_path)
    truth = {"dog": [[10, 10, 50, 50], [100, 20, 150, 80]], "cat": [[20, 90, 80, 140]]}
    source = CocoSource(path, images, only("detection"))
    assert isinstance(source, Source)
    asked = set()
    for index in range(30):
        example = source.example(index)
        assert example.image == images / "1.jpg"
        (turn,) = example.turns
        found = {m.label: m.numbers for m in scan(turn.answer).mentions}
        for label in labels_of(turn):
            asked.add(label)
            boxes = example.regions_xyxy[list(found.get(label, ()))].tolist()
            assert sorted(boxes) == truth.get(label, [])
    assert asked == {"dog", "cat", "polar bear", "car"}


@pytest.mark.parametrize("task", ["counting", "brief_caption", "visual_prompt"])
def test_coco_boxes_are_counted_named_and_matched(tmp_path, images, task):
    _, path = coco(tmp_path)
    for index in range(12):
        (turn,) = CocoSource(path, images, only(task)).example(index).turns
        if task == "brief_caption":
            assert turn.answer in {"dog", "cat"}
        elif task == "visual_prompt":
            assert len(numbers_in(turn.answer)) == 1
        else:
            count = 2 if "many dog" in turn.question else 1 if "many cat" in turn.question else 0
            assert len(numbers_in(turn.answer)) == count
            assert f" {count} " in turn.answer


def test_hard_absent_labels_are_those_of_the_same_group(tmp_path, images):
    _, path = coco(tmp_path)
    image = CocoSource(path, images).annotated(0)
    assert list(image.absent) == ["polar bear", "car"]
    assert list(image.hard) == ["polar bear"]


def test_lvis_says_itself_what_is_absent_and_what_is_not_counted(tmp_path, images):
    row = {"neg_category_ids": [4], "not_exhaustive_category_ids": [1], "file_name": None}
    content, _ = coco(tmp_path, **row)
    content["images"][0].pop("file_name")
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/val2017/1.jpg"
    (images / "val2017").mkdir()
    (images / "1.jpg").rename(images / "val2017" / "1.jpg")
    source = CocoSource(written(tmp_path, content), images, only("detection"))
    image = source.annotated(0)
    assert image.image == images / "val2017" / "1.jpg"
    assert list(image.absent) == ["car"]
    assert image.partial == {"dog"}
    asked = {label for i in range(20) for t in source.example(i).turns for label in labels_of(t)}
    assert asked == {"cat", "car"}


def test_crowds_and_boxes_without_area_make_their_kind_uncountable(tmp_path, images):
    content, _ = coco(tmp_path)
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][2]["bbox"] = [500, 10, 20, 20]
    source = CocoSource(written(tmp_path, content), images)
    image = source.annotated(0)
    assert image.partial == {"dog", "cat"}
    assert image.names == ("dog",)
    (note,) = source.notes
    assert "1 of 3 annotations have no box of a pixel or more in their image" in note


def test_proposals_stand_among_the_regions_but_never_beside_their_own_truth(tmp_path, images):
    _, path = coco(tmp_path)
    given = np.array([[11, 10, 50, 50], [150, 100, 190, 150]], np.float32)
    config = InstanceConfig(jitter=0.0, distractors=(0, 0))
    regions = CocoSource(path, images, config, proposals={1: given}).example(0).regions_xyxy
    assert len(regions) == 4
    assert (iou(regions, given).max(axis=0) == 1).tolist() == [False, True]


def test_files_that_are_something_else_are_refused_by_name(tmp_path, images):
    with pytest.raises(DataError, match="does not exist"):
        CocoSource(tmp_path / "none.json", images)
    with pytest.raises(DataError, match="categories"):
        CocoSource(written(tmp_path, []), images)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad\.json"):
        CocoSource(tmp_path / "bad.json", images)
    with pytest.raises(DataError, match="list"):
        ConversationsSource(written(tmp_path, {}), images)
    with pytest.raises(DataError, match="no usable record"):
        ConversationsSource(written(tmp_path, []), images)
    with pytest.raises(DataError, match="imgs"):
        CocoTextSource(written(tmp_path, {}), images)
    with pytest.raises(ConfigError, match="region_ocr"):
        InstanceConfig(tasks={"region_ocr": 1.0})
