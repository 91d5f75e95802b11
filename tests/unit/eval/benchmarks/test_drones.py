import pytest
from tests.helpers.benchmark_cases.drones import A, B, write_refdrone, write_visdrone
from tests.helpers.evaluation import answer_to, records_of, silent, truthful

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmarks import load_benchmark
from vlm_fo1.images import image_size


def test_visdrone_drops_what_is_ignored_and_knows_its_labels(tmp_path):
    data = write_visdrone(tmp_path)
    benchmark = load_benchmark("visdrone")
    item, *_ = benchmark.items(data)
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


def test_refdrone_counts_instances_and_images_and_expressions_without_a_target(tmp_path):
    data = write_refdrone(tmp_path)
    benchmark = load_benchmark("refdrone")
    assert [list(item.truth["boxes"].values()) for item in benchmark.items(data)] == [
        [[A, B]],
        [],
        [[A]],
    ]
    values = benchmark.judge(records_of(benchmark, data, truthful)).values
    assert all(values[name] == pytest.approx(100) for name in (
        "f1_instance", "acc_instance", "f1_image", "acc_image"))  # fmt: skip
    nothing = benchmark.judge(records_of(benchmark, data, silent)).values
    assert (nothing["f1_instance"], nothing["acc_image"]) == (0, pytest.approx(100 / 3))
