"""What an answer tells, as arrays, words and the files of other tools."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from tests.helpers.answers import SIZE_WH, XYXY, answer, regions

from vlm_fo1.answer import Mention
from vlm_fo1.errors import BoxError, MissingExtraError
from vlm_fo1.regions import Regions

pytestmark = pytest.mark.filterwarnings("ignore:OpenCV .* is not installed:UserWarning")


def test_the_chosen_regions_stand_mention_by_mention():
    chosen = answer().chosen
    assert chosen.labels == ("cat", "cat", "dog")
    assert chosen.xyxy.tolist() == [XYXY[2].tolist(), XYXY[0].tolist(), XYXY[0].tolist()]
    np.testing.assert_allclose(chosen.confidence, [0.75, np.nan, 0.5])
    np.testing.assert_allclose(chosen.scores, [0.5, 0.2, 0.2])


def test_a_region_chosen_twice_under_one_label_is_kept_once():
    again = answer(mentions=(Mention("cat", (1,), (0.4,)), Mention("cat", (1, 2), (0.9, 0.8))))
    assert again.chosen.labels == ("cat", "cat")
    assert again.chosen.confidence.tolist() == pytest.approx([0.4, 0.8])


def test_confidence_of_which_nothing_is_known_is_none():
    assert answer(mentions=(Mention("cat", (1,)),)).chosen.confidence is None
    assert answer(mentions=()).chosen.confidence is None


def test_a_label_gives_its_regions():
    assert answer()["cat"].xyxy[:, 0].tolist() == [40, 0]
    assert answer()["dog"].labels == ("dog",)


def test_a_label_that_was_asked_for_but_not_found_has_no_regions():
    assert len(answer()["bird"]) == 0
    assert len(answer(mentions=())["cat"]) == 0


def test_an_unknown_label_says_which_ones_there_are():
    with pytest.raises(KeyError) as caught:
        answer()["fish"]
    assert caught.value.args == (
        "'fish' was not asked for; this answer is about 'cat', 'bird', 'dog'",
    )
    with pytest.raises(KeyError, match="this answer is about nothing"):
        answer(labels=(), mentions=())["fish"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: answer(mentions=(Mention("cat", (3,)),)), "label 'cat' names region 3: 3 regions"),
        (lambda: answer(mentions=(Mention("cat", (-1,)),)), "label 'cat' names region -1"),
        (lambda: Mention("cat", (0, 1), (0.5,)), "label 'cat': 1 confidences for 2 regions"),
        (
            lambda: answer(scores=np.zeros((2, 3), np.float32)),
            r"scores have shape \(2, 3\), \(3, 3\) is needed: .* of 'cat', 'bird', 'dog'",
        ),
        (
            lambda: answer(scores=np.zeros((3, 2), np.float32)),
            r"scores have shape \(3, 2\), \(3, 3\) is needed",
        ),
    ],
)
def test_an_answer_cannot_speak_of_what_is_not_there(make, message):
    with pytest.raises(BoxError, match=message):
        make()


def test_an_answer_as_plain_values():
    said = answer(
        problems=("x",), count=2, plain="words", timing_s={"total": 1.0},
        scores=np.array([[0.1, np.nan, 1], [0, 0, 0], [0.5, 0.25, 0]], np.float32),
        presence={"cat": 0.75},
    )  # fmt: skip
    assert said.to_dict() == {
        "task": "detection",
        "text": "two cats and a dog",
        "plain": "words",
        "labels": ["cat", "bird"],
        "count": 2,
        "image": {"width": 64, "height": 60},
        "mentions": [
            {
                "label": "cat",
                "regions": [
                    {"index": 2, "xyxy": [40, 40, 50, 50], "confidence": 0.75, "score": 0.5},
                    {"index": 0, "xyxy": [0, 0, 10, 10], "confidence": None, "score": 0.2},
                ],
            },
            {
                "label": "dog",
                "regions": [{"index": 0, "xyxy": [0, 0, 10, 10], "confidence": 0.5, "score": 0.2}],
            },
        ],
        "regions": regions().to_dict(),
        "problems": ["x"],
        "scores": {"cat": [0.1, None, 1.0], "bird": [0, 0, 0], "dog": [0.5, 0.25, 0]},
        "presence": {"cat": 0.75},
    }


def test_json_is_the_same_for_the_same_answer_whatever_it_took():
    assert answer(timing_s={"total": 1.0}).to_json() == answer(timing_s={"total": 2.0}).to_json()
    assert list(json.loads(answer().to_json())) == list(answer().to_dict())


def test_json_is_valid_where_numbers_are_unknown_and_text_is_not_latin():
    unknown = regions(scores=np.full(3, np.nan, np.float32), labels=("é", "猫", '"'))
    text = answer(regions=unknown, text="猫 \n \x00").to_json(indent=1)
    assert "NaN" not in text
    read = json.loads(text)
    assert read["regions"]["scores"] == [None, None, None]
    assert read["text"] == "猫 \n \x00"


def test_a_tiny_negative_coordinate_is_written_as_zero():
    assert str(Regions(np.array([[-0.001, 0, 1, 1]], np.float32), SIZE_WH).to_dict()["xyxy"]) == (
        "[[0.0, 0.0, 1.0, 1.0]]"
    )


def test_coco_results_number_labels_in_the_order_of_the_answer():
    assert answer().to_coco(7) == [
        {"image_id": 7, "category_id": 1, "bbox": [40, 40, 10, 10], "score": 0.75},
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.2},
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.5},
    ]


def test_coco_results_can_carry_the_proposals_own_score():
    assert [one["score"] for one in answer().to_coco(7, score="proposal")] == [0.5, 0.2, 0.2]


def test_coco_results_without_any_score_carry_one():
    bare = answer(regions=Regions(XYXY, SIZE_WH), mentions=(Mention("cat", (1,)),))
    assert bare.to_coco(7)[0]["score"] == 1
    assert bare.to_coco(7)[0]["bbox"] == [20, 0, 10.13, 15]


def test_coco_results_leave_out_labels_without_a_category():
    assert [one["category_id"] for one in answer().to_coco(7, {"dog": 18})] == [18]
    assert answer(mentions=()).to_coco(7) == []


def test_an_answer_becomes_detections_of_supervision():
    detections = answer().to_supervision()
    assert detections.xyxy[:, 0].tolist() == [40, 0, 0]
    assert detections.class_id.tolist() == [0, 0, 2]
    assert detections["class_name"].tolist() == ["cat", "cat", "dog"]
    assert detections.confidence.tolist() == pytest.approx([0.75, 0.2, 0.5])
    assert detections.mask is None
    assert detections[detections.class_id == 2].xyxy.tolist() == [[0, 0, 10, 10]]


def test_masks_reach_supervision():
    masks = np.zeros((3, 60, 64), bool)
    masks[2, 40:50, 40:50] = True
    detections = answer(regions=regions(masks=masks)).to_supervision()
    assert detections.mask.sum(axis=(1, 2)).tolist() == [100, 0, 0]


@pytest.mark.parametrize("masks", [None, np.zeros((3, 60, 64), bool)])
def test_an_empty_answer_becomes_empty_detections(masks):
    detections = answer(mentions=(), regions=regions(masks=masks)).to_supervision()
    assert len(detections) == 0
    assert detections.xyxy.shape == (0, 4)


def test_without_supervision_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"vlm-fo1\[supervision\]"):
        answer().to_supervision()


def test_an_answer_draws_itself():
    image = answer().draw(Image.new("RGB", SIZE_WH), numbers=False)
    assert image.size == SIZE_WH
    assert image.getbbox() is not None
