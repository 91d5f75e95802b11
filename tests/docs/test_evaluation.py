"""The table of benchmarks in docs/evaluation.md says what their cards say."""

from pathlib import Path

import pytest

from vlm_fo1.eval.benchmarks import BENCHMARKS, load_benchmark, published

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def row_of(name: str) -> str:
    """The row of the table, as it has to stand there."""
    card = load_benchmark(name).card
    figures = [
        f"{row[table.columns.index(card.metric)]:g} ({model})"
        for table in published(name)
        if card.metric in table.columns
        for model, row in table.rows.items()
        if model.startswith("FO1") and row[table.columns.index(card.metric)] is not None
    ]
    cells = (
        f"`{name}`", card.title, card.layout, card.source, card.licence,
        card.size or "-", f"{card.metric} {figures[0]}" if figures else "-",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_its_row(name):
    assert row_of(name) in PAGE, f"docs/evaluation.md lacks this row:\n{row_of(name)}"
