"""Lists of regions as sets: any order is right, none is right twice."""

import numpy as np
import pytest
import torch
from PIL import Image

from vlm_fo1 import FO1
from vlm_fo1.data.answers import label_answer
from vlm_fo1.data.collate import IGNORED
from vlm_fo1.data.example import Example, Turn
from vlm_fo1.tasks import Task, ask_labels
from vlm_fo1.train.assemble import make_collator
from vlm_fo1.train.loss import answer_loss
from vlm_fo1.train.sets import SetCollate, alternatives, runs_of_tags, set_answer_loss, set_loss

TAGS = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def fo1():
    return FO1.from_pretrained("tiny")


def record(**labels):
    boxes = np.array([[4 + 20 * i, 8, 18 + 20 * i, 30] for i in range(4)], np.float32)
    turn = Turn.asked(ask_labels(Task.DETECTION, list(labels)), label_answer(labels))
    return Example(image=Image.new("RGB", (96, 64), "navy"), regions_xyxy=boxes, turns=(turn,))


def test_any_order_of_tags_is_right_and_a_tag_is_not_right_twice():
    labels = torch.tensor([[IGNORED, IGNORED, 5, 6, 3]])
    logits = torch.zeros(3, 10)
    logits[0, 6] = logits[1, 5] = logits[2, 3] = 20.0
    _, right = set_loss(logits, alternatives(labels, TAGS))
    assert right.tolist() == [True, False, True]  # in the row, 5 stands there already
    labels[0, 2:4] = torch.tensor([6, 5])
    loss, right = set_loss(logits, alternatives(labels, TAGS))
    assert right.all()
    assert loss.max() < 1e-3


def test_the_loss_of_a_set_is_its_formula():
    logits = torch.tensor([[1.0, 2.0, 3.0, 0.5]])
    loss, right = set_loss(logits, torch.tensor([[0, 1]]))
    wanted = logits.exp().sum().log() - (torch.tensor(1.0).exp() + torch.tensor(2.0).exp()).log()
    assert loss.item() == pytest.approx(wanted.item())
    assert right.tolist() == [False]


def test_lists_are_found_one_by_one():
    assert runs_of_tags(np.array([1, 5, 6, 2, 8, 3, 7]), TAGS) == [(1, 3), (4, 5), (6, 7)]
    assert runs_of_tags(np.array([1, 2]), TAGS) == []


def test_a_batch_has_its_lists_in_another_order_and_is_the_same_when_it_comes_again():
    collator = make_collator("tiny", 2048)
    examples = [record(dog=[0, 1, 2, 3], cat=[]), record(dog=[3], car=[0, 1])]
    plain, mixed = collator(examples), SetCollate(collator)(examples)
    assert not torch.equal(plain["labels"], mixed["labels"])
    tags = collator.processor.region_tag_ids()
    for row, was in zip(mixed["labels"].numpy(), plain["labels"].numpy(), strict=True):
        runs = runs_of_tags(row, tags)
        assert runs == runs_of_tags(was, tags)
        for start, end in runs:
            assert sorted(row[start:end]) == sorted(was[start:end])
    learnt = mixed["labels"] != IGNORED
    assert torch.equal(mixed["input_ids"][learnt], mixed["labels"][learnt])
    assert torch.equal(mixed["input_ids"][~learnt], plain["input_ids"][~learnt])
    again = SetCollate(collator)(examples)
    assert all(torch.equal(mixed[name], again[name]) for name in ("labels", "choices_SK"))


def test_where_lists_have_one_region_it_is_the_loss_of_answers_and_else_it_is_less(fo1):
    collator = make_collator("tiny", 2048)
    for labels, same in (({"dog": [1], "cat": []}, True), ({"dog": [0, 1, 2]}, False)):
        batch = SetCollate(collator)([record(**labels)])
        plain = {name: value for name, value in batch.items() if name != "choices_SK"}
        with torch.no_grad():
            ours = set_answer_loss(fo1.model, batch).item()
            theirs = answer_loss(fo1.model, plain).item()
        assert (ours == pytest.approx(theirs, rel=1e-4)) == same
        assert ours <= theirs * (1 + 1e-4)


def test_a_batch_without_answers_costs_nothing(fo1):
    batch = SetCollate(make_collator("tiny", 2048))([record(dog=[1])])
    batch["labels"][:] = IGNORED
    batch["choices_SK"] = batch["choices_SK"][:0]
    assert set_answer_loss(fo1.model, batch).item() == 0
