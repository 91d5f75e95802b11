"""What a run came to: one value, written as Markdown, JSON and a page that needs nothing else."""

import json
from pathlib import Path

from vlm_fo1.eval.report.content import Report, make_report
from vlm_fo1.eval.report.markdown import as_markdown
from vlm_fo1.eval.report.page import as_page
from vlm_fo1.jsonl import write_whole

__all__ = ["Report", "as_markdown", "as_page", "make_report", "write_report"]


def write_report(report: Report, folder: Path, data: Path | None = None) -> list[Path]:
    """Write ``report.md``, ``report.json``, ``report.html`` and what the judge hands out.

    Args:
        report: What is written.
        folder: Where to; files of these names are replaced.
        data: Where images are, for the gallery of the page; without it there is none.

    Returns:
        The files.

    Raises:
        OutputError: The disk refuses one.
    """
    contents = {
        "report.md": as_markdown(report),
        "report.json": json.dumps(report.to_dict(), ensure_ascii=False, indent=1) + "\n",
        "report.html": as_page(report, data),
        **report.files,
    }
    for name, content in contents.items():
        write_whole(folder / name, content.encode(errors="replace"))
    return [folder / name for name in contents]
