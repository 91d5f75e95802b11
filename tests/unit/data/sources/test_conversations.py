"""Conversations about an image, with boxes in their words or beside them."""

import numpy as np
import pytest
from tests.helpers.annotations import written

from vlm_fo1.data.sources import ConversationsSource
from vlm_fo1.errors import DataError


def conversation(*texts, **more):
    said = [
        {"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)
    ]
    return {"id": "c", "conversations": said, **more}


def test_boxes_in_a_conversation_become_regions(tmp_path, images):
    row = conversation(
        "<image>\nWhat is at [0.1, 0.25, 0.5, 0.5]?",
        "A dog beside a cat [0.6,0.5,0.9,1.0].",
        "And [0.1, 0.25, 0.5, 0.5] or [1, 2, 3, 4]?",
        "The dog again.",
        image="1.jpg",
    )
    example = ConversationsSource(written(tmp_path, [row]), images).example(0)
    assert np.allclose(example.regions_xyxy, [[20, 40, 100, 80], [120, 80, 180, 160]])
    assert [turn.question for turn in example.turns] == [
        "What is at <region0>?",
        "And <region0> or [1, 2, 3, 4]?",
    ]
    assert example.turns[0].answer == "A dog beside a cat <region1>."


def test_a_conversation_may_list_its_boxes_or_have_none(tmp_path, images):
    rows = [
        conversation("What is <region0>?", "A dog", image="1.jpg", regions=[[1, 2, 30, 40]]),
        conversation("What is two plus two?", "Four"),
    ]
    source = ConversationsSource(written(tmp_path, rows), images)
    examples = {example.image is None: example for example in map(source.example, range(2))}
    assert examples[False].regions_xyxy.tolist() == [[1, 2, 30, 40]]
    assert examples[True].turns[0].answer == "Four"
    thousand = conversation("<image> [100, 250, 500, 500]?", "dog", image="1.jpg")
    source = ConversationsSource(written(tmp_path, [thousand]), images, unit="thousand")
    assert np.allclose(source.example(0).regions_xyxy, [[20, 40, 100, 80]])


@pytest.mark.parametrize(
    "row",
    [
        conversation("only a question"),
        {"conversations": [{"from": "robot", "value": "x"}]},
        {"conversations": "none"},
        conversation("What is <region2>?", "a dog"),
    ],
)
def test_a_broken_conversation_names_file_and_record(tmp_path, images, row):
    source = ConversationsSource(written(tmp_path, [row]), images)
    with pytest.raises(DataError, match=r"file\.json: record 0"):
        source.example(0)
