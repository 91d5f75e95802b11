import dataclasses

import pytest

from vlm_fo1.errors import ConfigError, EvaluationError
from vlm_fo1.eval.benchmarks import BENCHMARKS, load_benchmark, published


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_says_what_people_need_to_know(name):
    benchmark = load_benchmark(name)
    card = benchmark.card
    for field in ("title", "protocol", "metric", "layout", "source", "licence"):
        text = getattr(card, field)
        assert text, field
        assert "\n" not in text, field
    for table in published(name):
        assert table.source
        assert all(len(row) == len(table.columns) for row in table.rows.values())
    assert dataclasses.is_dataclass(benchmark.options)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_says_what_is_missing_in_an_empty_folder(name, tmp_path):
    with pytest.raises(EvaluationError, match=str(tmp_path)):
        next(load_benchmark(name).items(tmp_path))


def test_the_nearest_name_is_told():
    with pytest.raises(EvaluationError, match="did you mean 'countbench'"):
        load_benchmark("countbanch")


def test_options_are_read_strictly():
    assert load_benchmark("countbench", ["boxes=proposer"]).options.boxes == "proposer"
    with pytest.raises(ConfigError, match="did you mean 'boxes'"):
        load_benchmark("countbench", ["boxs=proposer"])
    with pytest.raises(ConfigError, match="must be one of 'file', 'proposer'"):
        load_benchmark("countbench", ["boxes=mine"])
    with pytest.raises(ConfigError, match="key=value"):
        load_benchmark("countbench", ["boxes"])
