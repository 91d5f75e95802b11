"""Fields of the page become a question, and what cannot be asked is refused."""

from types import SimpleNamespace
from typing import Any

import pytest
from tests.helpers.page_answer import BOXES, IMAGE
from tests.helpers.stub_proposer import Stub

from vlm_fo1 import FO1
from vlm_fo1.app import controls
from vlm_fo1.app.question import labels_of, put, request_of
from vlm_fo1.errors import (
    BoxError,
    PromptError,
)
from vlm_fo1.tasks import TASKS, Request, TaskSpec


def test_a_task_that_is_added_as_a_row_is_offered_by_the_page_and_answered(fo1, monkeypatch):
    spec = TaskSpec(
        template="Which {} can be eaten?",
        takes="label",
        title="Find food",
        help="Find what can be eaten.",
        command="eat",
        hint="fruit",
    )
    monkeypatch.setattr("vlm_fo1.tasks.TASKS", {**TASKS, "food": spec})
    made: dict[str, Any] = {}
    stand_in = SimpleNamespace(
        Dropdown=lambda choices, **options: made.update({options["elem_id"]: choices}),
        Textbox=lambda **options: None,
        update=lambda **options: options,
    )
    monkeypatch.setattr("vlm_fo1.app.controls.gradio", lambda: stand_in)
    controls.question_fields("ask")
    assert made["ask-task"] == [
        *((spec.title, name) for name, spec in TASKS.items()),
        ("Find food", "food"),
    ]
    labels, words, box = controls.fields_of("food")
    assert (labels["visible"], words["visible"], box["visible"]) == (False, True, False)
    assert (words["label"], words["placeholder"]) == ("Find food", "fruit")
    with pytest.raises(PromptError, match=r"write it first, e\.g\. fruit"):
        request_of("food")
    answer = put(fo1, IMAGE, BOXES, request_of("food", words="fruit"), max_new_tokens=4)
    assert (answer.task, answer.labels) == ("food", ("fruit",))


@pytest.mark.parametrize(
    ("task", "request_made"),
    [
        ("detection", Request(task="detection", labels=("cat", "dog"))),
        ("counting", Request(task="counting", labels=("Why?",))),
        ("brief_caption", Request(task="brief_caption")),
        ("visual_prompt", Request(task="visual_prompt", regions=(2,))),
        ("identify", Request(task="identify")),
        ("free", Request(task="free", text="Why?")),
    ],
)
def test_a_task_takes_its_own_field_whatever_the_others_hold(task, request_made):
    assert request_of(task, "cat, dog", "Why?", 2) == request_made


@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_asked_and_answers_with_its_name(fo1, task):
    asked = request_of(task, ["cat"], "cat", 1)
    answer = put(fo1, IMAGE, BOXES, asked, max_new_tokens=4)
    assert answer.task == task
    assert len(answer.regions) == len(BOXES)


def test_boxes_come_from_the_proposer_when_none_are_given(fo1):
    proposing = FO1(fo1.model, fo1.processor, Stub(named=True))
    Stub.asked.clear()
    asked = request_of("detection", ["cat", "dog"])
    assert len(put(proposing, IMAGE, None, asked, max_new_tokens=4).regions) == 2
    assert Stub.asked == [["cat", "dog"]]
    why = request_of("free", words="Why?")
    put(proposing, IMAGE, None, why, look_for=("owl",), max_new_tokens=4)
    put(proposing, IMAGE, None, why, max_new_tokens=4)
    assert Stub.asked[1:] == [["owl"], ["Why?"]]


def test_where_nothing_offers_boxes_the_page_says_how_to_get_some(fo1):
    with pytest.raises(BoxError, match="start the page with --proposer"):
        put(fo1, IMAGE, None, request_of("identify"))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("detection",), "no labels"),
        (("detection", (" ",)), "no labels"),
        (("counting", (), " "), "question is empty"),
        (("dance",), "no task 'dance'"),
        (("visual_prompt", (), "", 3), "box 3 is the example"),
    ],
)
def test_a_question_with_an_empty_field_is_refused(fo1, asked, words):
    with pytest.raises(PromptError, match=words):
        put(fo1, IMAGE, BOXES, request_of(*asked))


def test_a_task_about_boxes_says_how_to_get_some(fo1):
    with pytest.raises(BoxError, match="Propose boxes"):
        put(fo1, IMAGE, [], request_of("grounded_caption"))
    free = request_of("free", words="Is this a kitchen?")
    put(fo1, IMAGE, [], free, max_new_tokens=2)


def test_labels_come_from_chips_or_commas_once_each():
    assert labels_of("cat, dog ,,cat") == labels_of(["cat", " dog", ""]) == ("cat", "dog")
    assert labels_of(None) == ()
