"""A report as Markdown."""

from vlm_fo1.eval.report.content import Report
from vlm_fo1.eval.report.tables import Table, tables_of


def as_markdown(report: Report) -> str:
    """The report without plots and images."""
    card = report.card
    parts = [
        f"# {card.title}",
        f"Protocol: {card.protocol}",
        *(f"Note: {note}" for note in report.notes),
        *map(_table, tables_of(report)),
        f"Data: {card.source}. Licence: {card.licence}.",
    ]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    lines = [f"## {table.title}", ""]
    lines += [table.note, ""] if table.note else []
    lines += [_row(table.columns), _row(["---"] * len(table.columns))]
    return "\n".join([*lines, *map(_row, table.rows)])


def _row(cells: object) -> str:
    assert isinstance(cells, list | tuple)
    clean = (" ".join(str(cell).split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(clean)} |"
