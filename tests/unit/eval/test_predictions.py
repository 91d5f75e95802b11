import json

import numpy as np
import pytest
from tests.helpers.evaluation import answer_to

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.predictions import Prediction, Record
from vlm_fo1.masks import decode_rle
from vlm_fo1.regions import Regions
from vlm_fo1.tasks import Request

ASKED = Request(task="detection", labels=("cat", "dog"))
CAT, DOG, OTHER = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]


def record(prediction, **values):
    given = {
        "index": 3, "id": "7", "image": "a.jpg", "size_wh": (64, 48), "group": "a.jpg",
        "request": ASKED.to_dict(), "truth": {"boxes": {"cat": [CAT]}},
    }  # fmt: skip
    return Record(answer=prediction, **{**given, **values})


def test_an_answer_is_read_back_from_its_line():
    answer = answer_to(ASKED, (64, 48), {"cat": [CAT, DOG]}, "two", beside=[OTHER])
    line = json.dumps(record(Prediction.of_answer(answer), seconds={"answer": 0.5}).to_dict())
    again = Record.from_dict(json.loads(line))
    assert again.to_dict() == json.loads(line)
    assert again.answer is not None
    assert again.answer.by_label == {"cat": [CAT, DOG]}
    assert again.answer.scores_by_label("proposal") == {"cat": [0.9, 0.9]}
    assert again.answer.boxes.tolist() == [CAT, DOG, OTHER]
    assert again.labelled() == {"truth": {"cat": [CAT]}, "answer": {"cat": [CAT, DOG]}}
    assert again.unlabelled() == {"truth": [CAT], "answer": [CAT, DOG]}


def test_a_failed_item_is_none_and_not_an_empty_answer():
    again = Record.from_dict(json.loads(json.dumps(record(None, error="broken").to_dict())))
    assert again.error == "broken"
    assert again.labelled("proposal") == {"truth": {"cat": [CAT]}, "answer": None}
    assert again.unlabelled()["answer"] is None


def test_a_region_named_twice_for_a_label_counts_once_and_for_two_labels_twice():
    regions = Regions(np.array([CAT, DOG], np.float32), (64, 48))
    answer = Answer(
        "", regions, (Mention("cat", (1, 0, 1)), Mention("dog", (0,)), Mention("cat", (0,)))
    )
    said = Prediction.of_answer(answer)
    assert said.by_label == {"cat": [DOG, CAT], "dog": [CAT]}
    assert said.found == [DOG, CAT]


def test_labels_come_back_as_they_were_written():
    regions = Regions(np.array([CAT], np.float32), (64, 48))
    answer = Answer("", regions, (Mention("red cat", (0,)),), spelt={"red  cat": "red cat"})
    assert Prediction.of_answer(answer).by_label == {"red  cat": [CAT]}


def test_a_score_that_is_unknown_is_one():
    regions = Regions(
        np.array([CAT, DOG], np.float32), (64, 48), np.array([0.5, np.nan], np.float32)
    )
    said = Prediction.of_answer(Answer("", regions, (Mention("cat", (0, 1), (np.nan, 0.25)),)))
    assert said.scores_by_label("proposal") == {"cat": [0.5, 1.0]}
    assert said.scores_by_label("confidence") == {"cat": [1.0, 0.25]}
    assert said.scores_by_label("constant") == {"cat": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mentions": [{"label": "cat", "regions": [9], "confidence": None}]}, "9"),
        ({"regions": {"xyxy": [[1, 2, 3]], "scores": None}}, "none that this program wrote"),
        ({"mentions": None}, "none that this program wrote"),
    ],
)
def test_a_line_that_holds_something_else_is_refused(change, message):
    values = record(Prediction.of_answer(answer_to(ASKED, (64, 48), {"cat": [CAT]}))).to_dict()
    values["answer"] |= change
    with pytest.raises(EvaluationError, match=message):
        Record.from_dict(values)


def test_a_line_without_an_answer_field_is_no_record():
    values = record(None).to_dict()
    del values["answer"]
    with pytest.raises(EvaluationError, match="no record"):
        Record.from_dict(values)


def test_masks_of_what_is_pointed_at_are_kept():
    masks = np.zeros((2, 48, 64), np.bool_)
    masks[1, :10, 20:30] = True
    regions = Regions(np.array([CAT, DOG], np.float32), (64, 48), masks=masks)
    said = Prediction.of_answer(Answer("", regions, (Mention("dog", (1,)),)))
    again = Prediction.from_dict(json.loads(json.dumps(said.to_dict())))
    assert again.masks is not None
    assert list(again.masks) == [1]
    assert (decode_rle(again.masks[1]) == masks[1]).all()
