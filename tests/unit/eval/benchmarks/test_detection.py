import pytest
from tests.helpers.benchmark_cases.detection import (
    A,
    B,
    write_coco17,
    write_lvis,
    write_odinw,
    write_ovdeval,
)
from tests.helpers.evaluation import answer_to, records_of, silent, truthful

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmarks import load_benchmark
from vlm_fo1.eval.benchmarks.odinw import SETS
from vlm_fo1.eval.benchmarks.ovdeval import SUBSETS
from vlm_fo1.images import image_size


def test_coco_is_asked_all_names_in_order_of_their_ids_in_the_official_words(tmp_path):
    items = list(load_benchmark("coco").items(write_coco17(tmp_path)))
    assert [item.id for item in items] == ["42", "43", "44"]
    assert items[1].request.to_dict() == {
        "task": "detection",
        "labels": ["person", "dog"],
        "template": "Please detect {} in the image and return the object indexes.",
    }
    assert items[0].boxes == {"xyxy": [A, B], "scores": [0.9, 0.5]}
    present = load_benchmark("coco", ["ask=present", "boxes=proposer"])
    items = list(present.items(tmp_path))
    assert [item.request.labels for item in items] == [("person", "dog"), ("person",), ("dog",)]
    assert items[0].boxes is None


def test_coco_is_scored_by_both_scores_and_by_the_published_rule_on_request(tmp_path):
    data = write_coco17(tmp_path)
    benchmark = load_benchmark("coco", ["published=true"])
    values = benchmark.judge(records_of(benchmark, data, truthful)).values
    for name in ("ap", "model-scored ap", "all f1_mean", "present f1@.95", "published f1@.5"):
        assert values[name] == pytest.approx(100), name
    nothing = benchmark.judge(records_of(benchmark, data, silent)).values
    assert nothing["ap"] == nothing["all f1_mean"] == 0


def test_an_image_without_official_proposals_is_an_error(tmp_path):
    data = write_coco17(tmp_path)
    path = data / "cocoVal2017_with_upn_score_0.3_0.8.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(EvaluationError, match="has no image 43: it holds 1 images; is it whole"):
        list(load_benchmark("coco").items(data))


def test_lvis_asks_the_names_that_its_scorer_can_see(tmp_path):
    item, *_ = load_benchmark("lvis").items(write_lvis(tmp_path))
    assert item.request.labels == ("baseball bat", "cat", "dog")
    assert item.image.is_file()
    assert item.truth["negative"] == ["dog"]
    assert item.truth["not_exhaustive"] == ["cat"]
    all_names, *_ = load_benchmark("lvis", ["ask=all"]).items(tmp_path)
    assert all_names.request.labels == ("baseball bat", "cat", "dog", "car (automobile)")


def test_lvis_drops_what_it_cannot_know_and_counts_negatives(tmp_path):
    data = write_lvis(tmp_path)
    benchmark = load_benchmark("lvis")
    values = benchmark.judge(records_of(benchmark, data, truthful)).values
    assert values["ap"] == values["ap_r"] == values["ap_c"] == pytest.approx(100)
    assert values["ap_f"] is None

    def extra(item):
        boxes = dict(item.truth["boxes"])
        if item.id == "9/0":
            boxes |= {"cat": [B, A], "car (automobile)": [A]}
        return answer_to(item.request, image_size(item.image), boxes)

    assert benchmark.judge(records_of(benchmark, data, extra)).values["ap"] == pytest.approx(100)


def test_an_image_of_lvis_that_is_asked_in_parts_is_scored_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr("vlm_fo1.eval.benchmarks.lvis._CHUNK", 2)
    data = write_lvis(tmp_path)
    benchmark = load_benchmark("lvis", ["ask=all"])
    records = records_of(benchmark, data, truthful)
    assert [record.id for record in records] == ["9/0", "9/1", "10/0", "10/1", "11/0", "11/1"]
    assert benchmark.judge(records).values["ap"] == pytest.approx(100)
    assert benchmark.judge(records).values["all f1_mean"] == pytest.approx(100)


def test_odinw_is_the_mean_of_thirteen_sets(tmp_path):
    data = write_odinw(tmp_path)
    benchmark = load_benchmark("odinw13", ["names=glip"])
    items = list(benchmark.items(data))
    assert len(items) == 13
    assert items[2].request.labels == ("rabbit", "other")  # absent names are asked too
    values = benchmark.judge(records_of(benchmark, data, truthful)).values
    assert values["mean ap"] == values["pistols"] == pytest.approx(100)
    some = benchmark.judge(records_of(benchmark, data, truthful)[:4])
    assert some.values["mean ap"] is None
    assert some.notes == ("4 of 13 sets have a score: there is no mean",)


def test_a_missing_set_of_odinw_is_an_error_and_no_smaller_mean(tmp_path):
    data = write_odinw(tmp_path, SETS[:-1])
    with pytest.raises(EvaluationError, match="lacks 1 of 13 sets: VehiclesOpenImages"):
        list(load_benchmark("odinw13").items(data))


def test_ovdeval_asks_hard_negatives_and_of_two_names_for_one_thing_the_surer_survives(tmp_path):
    data = write_ovdeval(tmp_path)
    benchmark = load_benchmark("ovdeval")
    items = list(benchmark.items(data))
    assert {item.request.labels for item in items} == {("red car", "blue car")}
    values = benchmark.judge(records_of(benchmark, data, truthful)).values
    assert values["five_aspect"] == pytest.approx(100)
    assert values["nine_mean"] is None  # COCO is not there

    def both(item):  # equal scores: the later name survives
        return answer_to(item.request, image_size(item.image), {"red car": [A], "blue car": [A]})

    assert benchmark.judge(records_of(benchmark, data, both)).values["five_aspect"] == 0


def test_a_missing_set_of_ovdeval_is_named(tmp_path):
    data = write_ovdeval(tmp_path, SUBSETS[1:])
    with pytest.raises(EvaluationError, match=r"lacks 1 of 8 sets: celebrity.json"):
        list(load_benchmark("ovdeval").items(data))
    some = load_benchmark("ovdeval", ["subsets=[color]"])
    assert some.judge(records_of(some, data, truthful)).values["color"] == pytest.approx(100)
