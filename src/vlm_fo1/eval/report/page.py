"""A report as one HTML page: tables, plots, and the worst cases with their boxes."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from vlm_fo1.draw import draw_mentions, draw_regions
from vlm_fo1.errors import FO1Error, item_errors
from vlm_fo1.eval.predictions import Record
from vlm_fo1.eval.report.content import Report
from vlm_fo1.eval.report.plots import plots_of
from vlm_fo1.eval.report.tables import Table, tables_of
from vlm_fo1.images import image_size, read_image
from vlm_fo1.regions import Regions

_SIDE = 420
"""Longest side of images of the gallery, in pixels."""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em;
  color: #222; background: #fff; font-variant-numeric: tabular-nums }
table { border-collapse: collapse; margin: .5em 0 } td, th { border: 1px solid #ccc;
  padding: .25em .6em; text-align: left; vertical-align: top; overflow-wrap: anywhere }
figure { display: inline-block; margin: .5em 1em .5em 0; vertical-align: top }
.case { border-top: 1px solid #ccc; padding: .8em 0 } .case img { max-width: 48%; height: auto }
.note { color: #555 } pre { white-space: pre-wrap; overflow-wrap: anywhere }
"""


def as_page(report: Report, data: Path | None = None) -> str:
    """The report as a page that needs no other file.

    Args:
        report: What is shown.
        data: Where images are; without it there is no gallery.
    """
    card = report.card
    scores, *others, run = tables_of(report)
    parts = [
        f"<h1>{escape(card.title)}</h1><p>Protocol: {escape(card.protocol)}</p>",
        *(f"<p>Note: {escape(note)}</p>" for note in report.notes),
        _table(scores),
        *(
            f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"
            for title, svg in plots_of(report.outcomes, report.counts).items()
        ),
        *map(_table, others),
        "" if data is None else _gallery(report.worst, data),
        _table(run),
        f'<p class="note">Data: {escape(card.source)}. Licence: {escape(card.licence)}.</p>',
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(card.title)}</title><style>{_STYLE}</style></head>\n<body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns if name)
    head = f"<tr>{head}</tr>" if head else ""
    rows = "".join(
        f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return f"<h2>{escape(table.title)}</h2>{note}<table>{head}{rows}</table>"


def _cell(cell: str) -> str:
    start, bold, rest = escape(cell).partition("**")
    inner, _, end = rest.partition("**")
    return f"{start}<b>{inner}</b>{end}" if bold else start


def _gallery(records: Sequence[Record], data: Path) -> str:
    if not records:
        return ""
    cases = "".join(_case(record, data) for record in records)
    return f"<h2>Worst cases</h2><p>Left the truth, right the answer.</p>{cases}"


def _case(record: Record, data: Path) -> str:
    asked = record.request
    words = asked.get("template") or asked.get("text") or ", ".join(asked.get("labels", ()))
    rest = {name: value for name, value in record.truth.items() if name not in _BOXES}
    said = record.error if record.answer is None else record.answer.text
    try:
        with item_errors(record.image):
            images = "".join(map(_tag, _drawn(record, data / record.image)))
    except FO1Error as error:
        images = f'<p class="note">{escape(str(error))}</p>'
    facts = f"; truth {escape(str(rest))}" if rest else ""
    return (
        f'<div class="case"><p><b>{escape(record.id)}</b> {escape(record.image)}: '
        f"{escape(_short(words))}{facts}</p>{images}<pre>{escape(_short(said))}</pre></div>"
    )


_BOXES = (
    "boxes", "crowd", "areas", "negative", "not_exhaustive", "segmentations", "mask_wh",
)  # fmt: skip


def _drawn(record: Record, path: Path) -> list[Image.Image]:
    """The image with the truth, where that has boxes, and with what was answered."""
    image = read_image(path)
    size_wh = image_size(image)
    drawn: list[Image.Image] = []
    if "boxes" in record.truth:
        pairs = [(label, box) for label, own in record.truth["boxes"].items() for box in own]
        boxes = np.array([box for _, box in pairs], np.float32).reshape(-1, 4)
        truth = Regions(boxes, size_wh, labels=tuple(label for label, _ in pairs))
        drawn.append(draw_regions(image, truth, numbers=False, max_side=_SIDE))
    if record.answer is not None:
        regions = Regions(record.answer.boxes.astype(np.float32), size_wh)
        said = [(m.label, m.indices, m.confidence) for m in record.answer.mentions]
        labels = list(dict.fromkeys(label for label, _, _ in said))
        drawn.append(draw_mentions(image, regions, said, labels, numbers=False, max_side=_SIDE))
    return drawn


def _tag(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{data}"> '


def _short(text: str, most: int = 400) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
