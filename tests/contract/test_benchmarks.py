"""What every benchmark does, whatever is asked in it: see `tests/helpers/evaluation.py`."""

import importlib.util
import json
from dataclasses import replace
from html import escape

import pytest
from tests.helpers.evaluation import BenchmarkCase, all_cases, answering, records_of, silent

from vlm_fo1 import config
from vlm_fo1.errors import ItemError
from vlm_fo1.eval.benchmark import Benchmark
from vlm_fo1.eval.benchmarks import BENCHMARKS, load_benchmark, published
from vlm_fo1.eval.files import Header, PredictionFile, read_run
from vlm_fo1.eval.report import as_markdown, as_page, make_report
from vlm_fo1.eval.run import Shard, digest_of, items_of, predict

CASES = all_cases()


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request) -> BenchmarkCase:
    for package in load_benchmark(request.param.name).card.needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: {request.param.name} is not tested")
    return request.param


@pytest.fixture(scope="module")
def benchmark(case: BenchmarkCase) -> Benchmark:
    return load_benchmark(case.name, case.options)


@pytest.fixture(scope="module")
def data(case: BenchmarkCase, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    case.write(folder)
    return folder


def run(out, case, benchmark, data, says, shard=None, **options):
    shard = shard or Shard()
    items = items_of(benchmark, data)
    header = Header(
        benchmark=case.name, options=config.plain(benchmark.options), items=len(items),
        digest=digest_of(items), model={"model": "stand-in"},
    )  # fmt: skip
    with PredictionFile(out / shard.file_name, header, **options) as file:
        list(predict(items, answering(items, says), file, shard=shard, data=data))


def values_of(benchmark, data, says):
    return benchmark.judge(records_of(benchmark, data, says)).values


def test_every_benchmark_has_a_case():
    # Ferret-Bench is rated by a judge: see tests/unit/eval/benchmarks/test_words.py
    assert {case.name for case in CASES} == set(BENCHMARKS) - {"ferret-bench"}


def test_items_are_the_same_each_time_and_hold_plain_truth(benchmark, data):
    items = items_of(benchmark, data)
    assert len(items) >= 3
    assert items == items_of(benchmark, data)
    for item in items:
        truth = json.loads(json.dumps(item.truth))
        assert truth == item.truth, "the truth has to be what JSON gives back"
        assert item.image.is_file()


def test_the_truth_scores_the_maximum(case, benchmark, data):
    values = values_of(benchmark, data, case.says)
    assert benchmark.card.metric in values
    assert {name: values[name] for name in case.best} == pytest.approx(dict(case.best))


def test_silence_scores_what_the_formula_says(case, benchmark, data):
    values = values_of(benchmark, data, silent)
    assert {name: values[name] for name in case.nothing} == pytest.approx(dict(case.nothing))


def test_a_run_in_which_everything_failed_scores_no_more_than_one_that_is_right(
    case, benchmark, data
):
    values = values_of(benchmark, data, lambda item: ItemError("broken"))
    main = benchmark.card.metric
    assert main in case.best
    assert values[main] is not None
    assert values[main] != pytest.approx(case.best[main])


def test_a_run_killed_and_gone_on_with_and_one_in_shards_score_the_same(
    case, benchmark, data, tmp_path
):
    run(tmp_path / "whole", case, benchmark, data, case.says)
    left = [1]

    def dying(item):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return case.says(item)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", case, benchmark, data, dying)
    run(tmp_path / "killed", case, benchmark, data, case.says, resume=True)
    for number in (2, 1):
        run(tmp_path / "parts", case, benchmark, data, case.says, shard=Shard(number, 2))
    records = {
        name: [record.to_dict() for record in read_run(tmp_path / name)[1]]
        for name in ("whole", "killed", "parts")
    }
    assert records["whole"] == records["killed"] == records["parts"]


def test_its_report_has_the_main_score_and_an_interval(case, benchmark, data, tmp_path):
    run(tmp_path, case, benchmark, data, case.says)
    header, records = read_run(tmp_path)
    judge = load_benchmark(header.benchmark, header.options)
    report = make_report(judge, header, records, samples=20)
    assert benchmark.card.metric in report.intervals
    assert report.values == pytest.approx(values_of(benchmark, data, case.says), nan_ok=True)
    main = benchmark.card.metric
    for name, best in report.ceiling.items():
        if name == main and best is not None:
            assert best == pytest.approx(case.best[main])
    assert benchmark.card.protocol in as_markdown(report)
    assert escape(benchmark.card.title) in as_page(report, data)


def test_columns_in_print_are_names_of_scores_where_scores_have_them(case, benchmark, data):
    values = values_of(benchmark, data, case.says)
    for table in published(case.name):
        assert set(table.columns) & set(values), f"nothing of ours stands beside {table.source}"


def test_the_bundled_model_answers_its_questions(case, benchmark, data, tiny, tmp_path):
    items = items_of(benchmark, data)[:1]
    header = Header(
        benchmark=case.name, options={}, items=1, digest=digest_of(items), model={}
    )  # fmt: skip
    with PredictionFile(tmp_path / "predictions.jsonl", header) as file:
        few = lambda asked: tiny.answer_many(asked, tile=None, max_new_tokens=40)  # noqa: E731
        list(predict(items, few, file, data=data))
    ((record),) = read_run(tmp_path)[1]
    assert not record.error
    every = [replace(record, index=index) for index in range(3)]
    assert benchmark.card.metric in benchmark.judge(every).values
