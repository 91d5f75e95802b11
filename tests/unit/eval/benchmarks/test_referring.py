import importlib.util
import json
import pickle
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from tests.helpers.benchmark_cases.refcoco import (
    LEFT,
    RIGHT,
    ROWS,
    mask_of_box,
    masked,
    write_refer,
)
from tests.helpers.evaluation import answer_to, records_of, silent, truthful

from vlm_fo1 import FO1
from vlm_fo1.answer import Mention
from vlm_fo1.errors import EvaluationError, ItemError
from vlm_fo1.eval.benchmarks import load_benchmark
from vlm_fo1.eval.files import Header, PredictionFile, read_run
from vlm_fo1.eval.masks import mask_areas
from vlm_fo1.eval.metrics import gres
from vlm_fo1.eval.predictions import Record
from vlm_fo1.eval.run import digest_of, items_of, predict
from vlm_fo1.images import image_size
from vlm_fo1.regions import Regions

needs_eval = pytest.mark.skipif(
    importlib.util.find_spec("faster_coco_eval") is None, reason="faster-coco-eval fills polygons"
)


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


class Segmenter:
    """Offers both men, each with its mask, and the sky with a mask of its own."""

    name, fingerprint, requires_labels = "segmenter", "1", False

    def propose(self, images, *, queries=None):
        boxes = [LEFT, RIGHT, [0, 20, 64, 48]]
        masks = np.array([mask_of_box(box) for box in boxes])
        scores = np.array([0.9, 0.8, 0.7], np.float32)
        return [Regions(np.array(boxes, np.float32), i.size, scores, masks=masks) for i in images]


@needs_eval
def test_masks_are_scored_where_the_offered_boxes_have_some(tmp_path):
    rows = [("val", [5, 6], ["both men"]), ("val", [-1], ["the dog"]), ("val", [5], ["left man"])]
    data = write_refer(tmp_path, "grefcoco", "grefs(unc)", rows, "json")
    benchmark = load_benchmark("grefcoco", ["split=val"])

    def values(says):
        written = [r.to_dict() for r in records_of(benchmark, data, says)]
        return benchmark.judge(
            [Record.from_dict(json.loads(json.dumps(w))) for w in written]
        ).values

    def one_of_both(item):
        answer = masked(item)
        return answer if item.id == "val/1/0" else replace(
            answer, mentions=(Mention(item.request.labels[0], (0,)),) if answer.mentions else ()
        )  # fmt: skip

    true = values(masked)
    assert true["val masks giou"] == true["val masks ciou"] == pytest.approx(100)
    assert true["val masks n_acc"] == true["val masks t_acc"] == pytest.approx(100)
    # "both men" gets 100 of 200 pixels, the other two items are right
    half = values(one_of_both)
    assert half["val masks giou"] == pytest.approx(100 * 2.5 / 3)
    assert half["val masks ciou"] == pytest.approx(100 * 200 / 300)
    assert half["val masks pr@.7"] == pytest.approx(50)
    # nothing: the expression without an object alone is right
    nothing = values(lambda item: replace(masked(item), mentions=()))
    assert nothing["val masks giou"] == pytest.approx(100 / 3)
    assert (nothing["val masks ciou"], nothing["val masks t_acc"]) == (0, 0)
    # failed: all wrong, and the objects stay in the sum of unions
    failed = values(lambda item: ItemError("broken") if item.id == "val/1/0" else masked(item))
    assert failed["val masks giou"] == pytest.approx(100 * 2 / 3)
    assert "val masks giou" not in values(truthful)


@needs_eval
def test_a_segmenter_beside_the_bundled_model_gets_its_masks_scored(tmp_path):
    rows = [("val", [5, 6], ["both men"]), ("val", [-1], ["the dog"]), ("val", [5], ["left man"])]
    data = write_refer(tmp_path, "grefcoco", "grefs(unc)", rows, "json")
    benchmark = load_benchmark("grefcoco", ["split=val"])
    items = items_of(benchmark, data)
    fo1 = FO1.from_pretrained("tiny", proposer=Segmenter())
    header = Header(benchmark="grefcoco", options={}, items=3, digest=digest_of(items), model={})
    with PredictionFile(tmp_path / "predictions.jsonl", header) as file:
        few = lambda asked: fo1.answer_many(asked, tile=None, max_new_tokens=60)  # noqa: E731
        list(predict(items, few, file, data=data))
    _, records = read_run(tmp_path)
    values = benchmark.judge(records).values
    assert [record.error for record in records] == [""] * 3
    areas = [mask_areas(record) for record in records]
    assert [row["truth_area"] for row in areas] == [200, 0, 100]
    for record, row in zip(records, areas, strict=True):
        assert record.answer is not None
        assert row["answer_area"] == 100 * sum(i < 2 for i in record.answer.regions) + (
            64 * 28 if 2 in record.answer.regions else 0
        )
    assert values["val masks giou"] == pytest.approx(100 * cast(float, gres(areas)["giou"]))


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
