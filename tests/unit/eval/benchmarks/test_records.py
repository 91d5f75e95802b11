import numpy as np
import pytest
from tests.helpers.benchmark_cases.records import A, B, write_records
from tests.helpers.evaluation import answer_to, records_of, truthful

from vlm_fo1.data.example import Example, Turn, write_examples
from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmarks import load_benchmark
from vlm_fo1.tasks import ask_labels


def test_each_question_is_asked_by_itself_with_the_regions_of_its_record(tmp_path):
    items = list(load_benchmark("records").items(write_records(tmp_path)))
    assert [item.id for item in items] == ["0/0", "0/1", "0/2", "0/3"]
    assert (items[2].request.text, items[2].request.regions) == ("What is {}?", (0,))
    assert items[0].truth["boxes"] == {"cat": [B]}
    assert items[0].boxes["xyxy"] == [A, B]


def test_many_names_in_the_tasks_own_words_are_asked_as_the_model_takes_them(tmp_path):
    data = write_records(tmp_path)
    names = ["cat", "dog", "cup", "hat"]
    found = "<ground>cat</ground><objects><region1></objects>"
    wild = "<ground>cup, red</ground><objects><region1></objects>"
    turns = (
        Turn.asked(ask_labels("detection", names), found),
        Turn.asked(ask_labels("counting", "cat, the red one"), "1"),
        Turn.asked(ask_labels("detection", ["cat", "cup, red"]), wild),  # whose comma is it?
    )
    image = data / "images" / "a.png"
    example = Example(image=image, regions_xyxy=np.array([A, B], np.float32), turns=turns)
    write_examples(data / "records.jsonl", [example])
    asked, counted, unclear = (item.request for item in load_benchmark("records").items(data))
    assert (asked.task, asked.labels) == ("detection", tuple(names))
    assert (counted.task, counted.labels) == ("counting", ("cat, the red one",))
    assert (unclear.task, unclear.text) == ("free", turns[2].question)


def test_boxes_of_part_pixels_are_the_boxes_of_a_right_answer(tmp_path):
    data = write_records(tmp_path)
    found = "<ground>cat</ground><objects><region0></objects>"
    example = Example(
        image=data / "images" / "a.png",
        regions_xyxy=np.array([[0.123456, 1, 9.87654, 10]], np.float32),
        turns=(Turn.asked(ask_labels("detection", ["cat"]), found),),
    )
    write_examples(data / "records.jsonl", [example])
    benchmark = load_benchmark("records")
    scores = benchmark.judge(records_of(benchmark, data, truthful))
    assert scores.values["detection exact"] == pytest.approx(100)


def test_tasks_are_judged_each_by_what_it_is_for(tmp_path):
    benchmark = load_benchmark("records")
    data = write_records(tmp_path)

    def says(item):
        boxes, text = {"cat": [B]}, ""
        if item.truth["task"] == "counting":
            text = "There are 3"
        if item.truth["task"] == "brief_caption":
            boxes, text = {}, "a dog"
        if item.truth["task"] == "referring":
            boxes = {"cat": [A]}
        return answer_to(item.request, (64, 48), boxes, text)

    scores = benchmark.judge(records_of(benchmark, data, says))
    assert scores.values["detection f1_mean"] == pytest.approx(100)
    assert scores.values["detection exact"] == pytest.approx(100)
    assert scores.values["counting exact"] == 0
    assert scores.values["brief_caption exact"] == pytest.approx(100)
    assert scores.values["referring pr"] == 0
    assert scores.values["detection false positives per truth all"] == 0
    by_words = {"counting exact", "brief_caption exact"}
    assert scores.values.keys() - scores.values_of_boxes.keys() == by_words
    assert scores.errors == [0, 1, 0, 1]


def test_records_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "records.jsonl").write_text("{}\n")
    with pytest.raises(EvaluationError, match=r"records.jsonl"):
        list(load_benchmark("records").items(tmp_path))
