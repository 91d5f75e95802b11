import json

import pytest
from tests.helpers_eval import answer_to, records_of, silent, truthful, write_image

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmarks import load_benchmark
from vlm_fo1.images import image_size

A, B = [0, 0, 10, 10], [20, 0, 30, 10]


def write_visdrone(data):
    write_image(data / "images" / "0001.jpg", boxes=[A, B])
    (data / "annotations").mkdir()
    (data / "annotations" / "0001.txt").write_text(
        "0,0,10,10,1,4,0,0\n20,0,10,10,1,6,0,0,\n"  # a car, a truck
        "0,0,60,40,1,0,0,0\n5,5,3,3,1,11,0,0\n7,7,3,3,0,4,0,0\n"  # ignored, others, score 0
    )
    return data


def test_visdrone_drops_what_is_ignored_and_knows_its_labels(tmp_path):
    data = write_visdrone(tmp_path)
    benchmark = load_benchmark("visdrone")
    (item,) = benchmark.items(data)
    assert item.truth == {"boxes": {"car": [A], "truck": [B]}}
    assert len(item.request.labels) == 10

    def mixed_up(item):
        return answer_to(item.request, image_size(item.image), {"truck": [A], "car": [B]})

    values = benchmark.judge(records_of(benchmark, data, mixed_up)).values
    assert (values["published f1@.5"], values["aware f1@.5"]) == (pytest.approx(100), 0)
    assert benchmark.judge(records_of(benchmark, data, silent)).values["aware f1_mean"] == 0


def test_a_row_of_another_form_is_named(tmp_path):
    data = write_visdrone(tmp_path)
    (data / "annotations" / "0001.txt").write_text("1,2,3\n")
    with pytest.raises(EvaluationError, match=r"0001.txt, line 1 is '1,2,3'"):
        list(load_benchmark("visdrone").items(data))


def write_refdrone(data):
    write_image(data / "images" / "a.jpg", boxes=[A, B])
    images = [
        {"id": n, "file_name": "a.jpg", "caption": caption, "height": 48, "width": 64}
        for n, caption in enumerate(["the cars", "the red bus"], 1)
    ]
    annotations = [
        {"id": 1, "image_id": 1, "bbox": [0, 0, 10, 10], "category_id": 0},
        {"id": 2, "image_id": 1, "bbox": [20, 0, 10, 10], "category_id": 0},
        {"id": 3, "image_id": 2, "bbox": [0, 0, 0, 0], "category_id": -1},
    ]
    (data / "RefDrone_test_mdetr.json").write_text(
        json.dumps({
            "images": images, "annotations": annotations,
            "categories": [{"id": 0, "name": "object"}],
        })
    )  # fmt: skip
    return data


def test_refdrone_counts_instances_and_images_and_expressions_without_a_target(tmp_path):
    data = write_refdrone(tmp_path)
    benchmark = load_benchmark("refdrone")
    assert [list(item.truth["boxes"].values()) for item in benchmark.items(data)] == [[[A, B]], []]
    values = benchmark.judge(records_of(benchmark, data, truthful)).values
    assert all(values[name] == pytest.approx(100) for name in (
        "f1_instance", "acc_instance", "f1_image", "acc_image"))  # fmt: skip
    nothing = benchmark.judge(records_of(benchmark, data, silent)).values
    assert (nothing["f1_instance"], nothing["acc_image"]) == (0, pytest.approx(50))
