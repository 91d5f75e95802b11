"""The tables of a report as rows of text, which Markdown and the page both write."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlm_fo1.eval.report.content import Report

FAILURES = 20
"""How many failed items are named; the JSON file names all."""
LABELS = 30
"""How many labels are; likewise."""


@dataclass(frozen=True)
class Table:
    """Rows under a title."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def tables_of(report: Report) -> list[Table]:
    """Scores, figures in print, proposals, failures, and how it was run."""
    tables = [_scores(report), *_published(report)]
    if report.proposals:
        tables.append(_proposals(report))
    tables += _by_label(report)
    if report.problems:
        tables.append(_problems(report))
    if report.failures:
        tables.append(_failures(report))
    return [*tables, _run(report)]


def shown(value: float | None) -> str:
    """A value with two decimals; a dash where there is none."""
    return "-" if value is None else f"{value:.2f}"


def ends(both: tuple[float, float] | None) -> str:
    """An interval; a dash where there is none."""
    return "-" if both is None else f"{both[0]:.2f} to {both[1]:.2f}"


def _scores(report: Report) -> Table:
    columns = ["score", "value", "95 % interval"]
    if report.ceiling:
        columns.append("best with these boxes")
    rows: list[list[str]] = []
    for name, value in report.values.items():
        main = name == report.card.metric
        row = [f"**{name}**" if main else name, shown(value), ends(report.intervals.get(name))]
        rows.append([*row, shown(report.ceiling.get(name))] if report.ceiling else row)
    note = (
        "The main score is bold. Shares are in per cent. Intervals resample images; a dash: there "
        "is none."
    )
    return Table("Scores", columns, rows, note)


def _published(report: Report) -> list[Table]:
    tables: list[Table] = []
    for published in report.published:
        ours = [shown(report.values.get(name)) for name in published.columns]
        rows = [[f"**{report.model_name}** (this run)", *ours]]
        rows += [[name, *map(shown, figures)] for name, figures in published.rows.items()]
        tables.append(Table("In print", ["model", *published.columns], rows, published.source))
    return tables


def _proposals(report: Report) -> Table:
    rows = [[name, shown(value)] for name, value in report.proposals.items()]
    rows.append(["boxes an item", shown(report.boxes_per_item)])
    proposer = report.header.model.get("proposer") or "the boxes that were given"
    note = (
        f"Of {proposer}: share of the objects that an offered box covers, whatever it is called. "
        "What no box covers cannot be found."
    )
    return Table("Offered boxes", ["recall", "per cent"], rows, note)


def _by_label(report: Report) -> list[Table]:
    """What became of each label, where labels are names that recur and no expressions."""
    counts = {} if report.outcomes is None else report.outcomes.by_label
    if not counts or 2 * len(counts) > report.items:
        return []
    worst = sorted(counts.items(), key=lambda item: item[1]["found"] - item[1]["objects"])
    rows = [
        [name, *(str(own[key]) for key in ("objects", "found", "answered")),
         shown(_per_cent(own["found"], own["objects"])),
         shown(_per_cent(own["found"], own["answered"]))]
        for name, own in worst[:LABELS]
    ]  # fmt: skip
    more = len(worst) - len(rows)
    note = "At IoU 0.5, most missed first." + (f" {more} more stand in report.json." * (more > 0))
    columns = ["label", "objects", "found", "boxes answered", "recall", "precision"]
    return [Table("By label", columns, rows, note)]


def _per_cent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _problems(report: Report) -> Table:
    rows = [[text, str(count)] for text, count in [*report.problems.items()][:FAILURES]]
    return Table("Answers with problems", ["what the program says of them", "answers"], rows)


def _failures(report: Report) -> Table:
    rows = [[r.id, r.image, r.error] for r in report.failures[:FAILURES]]
    more = len(report.failures) - len(rows)
    note = "A failed item counts as wrong everywhere." + (
        f" {more} more stand in report.json." if more else ""
    )
    title = f"Failed: {len(report.failures)} of {report.items} items"
    return Table(title, ["item", "image", "error"], rows, note)


def _run(report: Report) -> Table:
    header = report.header
    rows: list[list[str]] = [
        ["items", str(report.items)],
        ["images", str(report.images)],
        ["answers with problems", str(report.with_problems)],
        *([f"seconds an item, {name}", f"{value:.3f}"] for name, value in report.seconds.items()),
        ["options", _said(header.options)],
        ["model", _said(header.model)],
        ["command", header.command or "-"],
        ["data", header.data or "-"],
        ["versions", _said(header.versions)],
    ]
    return Table("The run", ["", ""], rows)


def _said(values: Mapping[str, object]) -> str:
    known = {name: value for name, value in values.items() if value not in (None, "")}
    return ", ".join(f"{name} {value}" for name, value in known.items()) or "-"
