"""The bundled images are examples with questions of their own."""

import json

import pytest
from tests.helpers.page_answer import BOXES, IMAGE

from vlm_fo1.app.examples import examples
from vlm_fo1.app.limits import Limits
from vlm_fo1.app.question import request_of, words_of
from vlm_fo1.errors import (
    DataError,
)
from vlm_fo1.tasks import Request


def test_the_bundled_scenes_are_examples_that_can_be_asked(fo1):
    scenes = examples()
    assert scenes
    for scene in scenes:
        request = scene.request
        asked = request_of(request.task, request.labels, words_of(request))
        assert (asked.task, asked.labels) == (request.task, request.labels)
        image = Limits().image(scene.image)
        width, height = image.size
        assert len(scene.boxes_xyxy), scene.image
        assert all(x2 <= width and y2 <= height for _, _, x2, y2 in scene.boxes_xyxy)


def test_scenes_come_with_their_own_questions(tmp_path):
    IMAGE.save(tmp_path / "one.png")
    (tmp_path / "one.boxes.json").write_text(json.dumps(BOXES))
    request = Request(task="counting", labels=("dog",))
    entry = {"image": "one.png", "boxes": "one.boxes.json", "request": request.to_dict()}
    (tmp_path / "scenes.json").write_text(json.dumps([entry]))
    (scene,) = examples(tmp_path)
    assert (scene.request, scene.boxes_xyxy) == (request, BOXES)
    (tmp_path / "scenes.json").write_text("[1")
    with pytest.raises(DataError, match=r"scenes\.json"):
        examples(tmp_path)
