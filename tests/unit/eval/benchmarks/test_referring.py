import json
import pickle

import pytest
from tests.helpers.benchmark_cases.refcoco import LEFT, RIGHT, ROWS, write_refer
from tests.helpers.evaluation import answer_to, records_of, silent, truthful

from vlm_fo1.errors import EvaluationError, ItemError
from vlm_fo1.eval.benchmarks import load_benchmark
from vlm_fo1.images import image_size


@pytest.mark.parametrize("ending", ["p", "json"])
def test_every_sentence_of_the_splits_is_asked_in_the_tasks_own_words(tmp_path, ending):
    data = write_refer(tmp_path, "refcoco", "refs(unc)", ROWS, ending)
    items = list(load_benchmark("refcoco").items(data))
    assert [item.request.labels for item in items] == [
        ("left man",), ("man at the left",), ("right man",), ("the other man",),
    ]  # fmt: skip
    assert [item.id for item in items] == ["val/1/0", "val/1/1", "testA/2/0", "testB/3/0"]
    assert items[2].truth == {"boxes": {"right man": [RIGHT]}, "split": "testA"}
    assert items[0].request.template == ""
    assert items[0].image == tmp_path / "train2014" / "COCO_9.jpg"


def test_the_first_box_counts_and_the_mean_is_that_of_splits_not_of_sentences(tmp_path):
    data = write_refer(tmp_path, "refcoco", "refs(unc)", ROWS)

    def says(item):
        if item.id.startswith("testB"):
            return ItemError("broken")
        (phrase,) = item.request.labels
        boxes = [RIGHT, LEFT] if item.id.endswith("/1") else item.truth["boxes"][phrase]
        return answer_to(item.request, image_size(item.image), {phrase: boxes})

    benchmark = load_benchmark("refcoco")
    scores = benchmark.judge(records_of(benchmark, data, says))
    values = scores.values
    assert values["val accuracy"] == pytest.approx(50)
    assert values["val oracle"] == pytest.approx(100)
    assert values["val several"] == pytest.approx(50)
    assert values["testA accuracy"] == pytest.approx(100)
    assert values["testB accuracy"] == 0  # it failed
    assert values["mean accuracy"] == pytest.approx(50)
    assert scores.errors == [0, 1, 0, 1]


def test_one_split_may_be_chosen_and_an_unknown_one_names_those_there_are(tmp_path):
    data = write_refer(tmp_path, "refcocog", "refs(umd)", ROWS)
    assert len(list(load_benchmark("refcocog", ["split=testA"]).items(data))) == 1
    with pytest.raises(EvaluationError, match="'test'; it has testA, testB, train, val"):
        list(load_benchmark("refcocog").items(data))


def test_expressions_for_several_things_or_none_are_right_when_exact(tmp_path):
    rows = [("val", [5, 6], ["both men"]), ("val", [-1], ["the dog"]), ("val", [5], ["left man"])]
    data = write_refer(tmp_path, "grefcoco", "grefs(unc)", rows, "json")
    benchmark = load_benchmark("grefcoco", ["split=val"])
    items = list(benchmark.items(data))
    assert [list(item.truth["boxes"].values()) for item in items] == [[[LEFT, RIGHT]], [], [[LEFT]]]
    truth = benchmark.judge(records_of(benchmark, data, truthful)).values
    assert truth["val pr"] == truth["val n_acc"] == truth["val t_acc"] == pytest.approx(100)
    nothing = benchmark.judge(records_of(benchmark, data, silent)).values
    assert nothing["val pr"] == pytest.approx(100 / 3)
    assert (nothing["val n_acc"], nothing["val t_acc"]) == (pytest.approx(100), 0)


def test_a_pickle_that_would_run_something_is_refused_and_not_run(tmp_path):
    data = write_refer(tmp_path, "refcoco", "refs(unc)", ROWS)

    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'owned')!r}, 'w')",))

    (data / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(EvaluationError, match=r"it names builtins.exec.*It is not run"):
        list(load_benchmark("refcoco").items(data))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 3}, "is about image 3"),
        ({"ann_id": 77}, "image 9 has no 77"),
        ({"sentences": []}, "has no 'sentences'"),
    ],
)
def test_references_that_do_not_fit_their_instances_are_named(tmp_path, change, message):
    data = write_refer(tmp_path, "refcoco", "refs(unc)", ROWS, "json")
    path = data / "refcoco" / "refs(unc).json"
    rows = json.loads(path.read_text())
    rows[1].update(change)
    path.write_text(json.dumps(rows))
    with pytest.raises(EvaluationError, match=message):
        list(load_benchmark("refcoco").items(data))
