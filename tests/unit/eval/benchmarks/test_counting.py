import json

import pytest
from tests.helpers.benchmark_cases.counting import QUESTION, write_questions
from tests.helpers.evaluation import answer_to, records_of

from vlm_fo1.errors import EvaluationError, ItemError
from vlm_fo1.eval.benchmarks import load_benchmark
from vlm_fo1.images import image_size

BOXES = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
ROWS = [("dogs", 3, BOXES), ("light bulbs", 2, BOXES), ("cats", 3, BOXES), ("owls", 3, BOXES)]


def test_the_official_question_is_asked_word_for_word_with_the_official_boxes(tmp_path):
    items = list(load_benchmark("countbench").items(write_questions(tmp_path, ROWS)))
    assert items[1].request.to_dict() == {
        "task": "counting", "labels": ["light bulbs"], "template": QUESTION.format("light bulbs"),
    }  # fmt: skip
    assert items[1].boxes == {"xyxy": BOXES, "scores": [0.5] * 3}
    assert items[1].truth == {"answer": 2}
    assert items[1].image == tmp_path / "images" / "image_1.jpg"


def test_the_boxes_of_the_runs_proposer_may_be_used(tmp_path):
    items = load_benchmark("countbench", ["boxes=proposer"]).items(write_questions(tmp_path, ROWS))
    assert [item.boxes for item in items] == [None] * 4


def test_the_first_number_of_the_answer_counts_and_regions_are_told_beside(tmp_path):
    texts = {
        "dogs": ("There are 3 in total.", BOXES),
        "light bulbs": ("There are 3.", BOXES[:2]),
        "cats": ("2 door car. There are 3", BOXES),
    }

    def says(item):
        (label,) = item.request.labels
        if label == "owls":
            return ItemError("broken")
        text, boxes = texts[label]
        return answer_to(item.request, image_size(item.image), {label: boxes}, text)

    benchmark = load_benchmark("countbench")
    scores = benchmark.judge(records_of(benchmark, write_questions(tmp_path, ROWS), says))
    assert scores.values == {
        "accuracy": pytest.approx(25.0),  # dogs alone; the failed item is wrong
        "regions accuracy": pytest.approx(75.0),
        "number and regions differ": pytest.approx(50.0),
    }
    assert scores.counts == [(3, 3), (2, 3), (3, 2)]
    assert scores.errors == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [([], "no list of records"), ([{"question": "How many?"}], "record 0 has no .*'image'")],
)
def test_a_file_of_another_form_is_refused(tmp_path, content, message):
    (tmp_path / "countbench_with_upn_score_0.3_0.8.json").write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match=message):
        list(load_benchmark("countbench").items(tmp_path))
