"""An answer as HTML: the image with its regions, the words, the list, each pointing at the rest.

Everything that belongs to a region carries ``data-regions``; `static/page.js` lights all of it up
when one part is hovered or focused. All words of users and models are escaped.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from vlm_fo1.answer import Answer
from vlm_fo1.boxes import scale as scale_boxes
from vlm_fo1.errors import counted
from vlm_fo1.markup import RELEASED, Piece, Vocabulary, pieces
from vlm_fo1.parser import split_thought

SHOWN_PX = 1280
"""Longest side of the image in the page."""
SHARP_PX = 900
"""Smaller images are enlarged to this before they are drawn on, so that badges stay sharp."""
CROP_PX = 64
LISTED = 100
"""Most regions in the list."""
PARTS = {"propose": "proposals", "encode": "towers", "answer": "language model"}


@dataclass(frozen=True, eq=False)
class AnswerState:
    """An answer with what it takes to show it again, without the model."""

    answer: Answer
    image: Image.Image
    vocabulary: Vocabulary = RELEASED


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """How an answer is looked at."""

    min_score: float = 0.0
    """Regions whose proposal scores less are not shown."""
    unchosen: bool = False
    """Show regions that were not chosen, dimly."""


def result(kept: AnswerState, options: ViewOptions) -> str:
    """The whole answer.

    Args:
        kept: What was answered.
        options: What of it is wanted.

    Returns:
        One piece of HTML without anything that would be fetched.
    """
    answer = kept.answer
    visible = shown(answer, options)
    return (
        '<div class="fo1-result fo1-scope">'
        f"{_image(kept, options, visible)}"
        f'<div class="fo1-side">{_words(kept)}{_problems(answer)}'
        f"{_timing(kept)}{_raw(answer)}</div>"
        f"{_list(kept, options, visible)}"
        "</div>"
    )


def shown(answer: Answer, options: ViewOptions) -> list[int]:
    """Positions of the regions that are looked at, in order."""
    chosen = chosen_indices(answer)
    scores = answer.regions.scores
    return [
        index
        for index in range(len(answer.regions))
        if (options.unchosen or index in chosen)
        and (scores is None or not scores[index] < options.min_score)
    ]


def chosen_indices(answer: Answer) -> set[int]:
    """Positions of every mentioned region."""
    return {index for mention in answer.mentions for index in mention.indices}


def note(title: str, text: str = "", *, kind: str = "info") -> str:
    """A message in the place of an answer; ``kind`` is info, busy or error."""
    role = "alert" if kind == "error" else "status"
    spinner = '<span class="fo1-spinner" aria-hidden="true"></span>' if kind == "busy" else ""
    body = f"<pre>{escape(text)}</pre>" if text else ""
    return (
        f'<div class="fo1-note fo1-{kind}" role="{role}">'
        f"<p>{spinner}{escape(title)}</p>{body}</div>"
    )


def state(entries: Sequence[tuple[str, str, str]], device: str) -> str:
    """One line about what is loaded: kind, name and state of each."""
    parts = [
        f'<span class="fo1-state" data-state="{_word(where)}">'
        f"<b>{escape(kind)}</b> {escape(name)}: {escape(where)}</span>"
        for kind, name, where in entries
    ]
    parts.append(f'<span class="fo1-state"><b>device</b> {escape(device)}</span>')
    return f'<div class="fo1-states" role="status">{"".join(parts)}</div>'


def progress(done: int, total: int | None, text: str) -> str:
    """A bar with a line under it."""
    known = f' value="{done}" max="{total}"' if total else ""
    return (
        f'<div class="fo1-progress" role="status"><progress{known} aria-label="progress">'
        f"</progress><p>{escape(text)}</p></div>"
    )


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of plain text as a table that scrolls sideways on its own."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        '<div class="fo1-scroll" tabindex="0" role="region" aria-label="results">'
        f'<table class="fo1-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def data_url(image: Image.Image, *, quality: int = 88) -> str:
    """An image inside the page itself."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def words(shown_pieces: Sequence[Piece], offered: int) -> str:
    """Running text in which what points at regions can be hovered and focused."""
    parts: list[str] = []
    for piece in shown_pieces:
        numbers = [number for number in piece.numbers if number < offered]
        text = escape(piece.text)
        if not numbers:
            parts.append(text)
            continue
        named = ", ".join(map(str, numbers))
        parts.append(
            f'<mark tabindex="0" data-regions="{_attribute(numbers)}" '
            f'aria-label="{text}: regions {named}">{text}<sub>{named}</sub></mark>'
        )
    return "".join(parts)


def _word(where: str) -> str:
    return "failed" if where.startswith("could") else where.split(",")[0].split()[0]


def _attribute(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _image(kept: AnswerState, options: ViewOptions, visible: Sequence[int]) -> str:
    answer = kept.answer
    image = answer.draw(
        kept.image,
        show_unchosen=options.unchosen,
        max_side=SHOWN_PX,
        min_side=SHARP_PX,
        min_score=options.min_score or None,
    )
    boxes = scale_boxes(answer.regions.xyxy, answer.size_wh, image.size)
    named = _labels(answer)
    by_area = sorted(visible, key=lambda i: -float(np.prod(boxes[i][2:] - boxes[i][:2])))
    rects = "".join(
        f'<rect data-regions="{i}" x="{boxes[i][0]:.1f}" y="{boxes[i][1]:.1f}" '
        f'width="{boxes[i][2] - boxes[i][0]:.1f}" height="{boxes[i][3] - boxes[i][1]:.1f}">'
        f"<title>{escape(_name(i, named))}</title></rect>"
        for i in by_area
    )
    width, height = image.size
    return (
        f'<figure class="fo1-image"><img src="{data_url(image)}" width="{width}" '
        f'height="{height}" alt="The image with {counted(len(visible), "region")} drawn on it">'
        f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{rects}</svg></figure>'
    )


def _words(kept: AnswerState) -> str:
    answer = kept.answer
    text, thought = split_thought(answer.text, kept.vocabulary)
    offered = len(answer.regions)
    said = words(pieces(text, kept.vocabulary), offered)
    html = f'<div class="fo1-answer" aria-live="polite">{said.strip() or "(no words)"}</div>'
    if answer.count is not None:
        html = f'<div class="fo1-count"><b>{answer.count}</b> counted</div>{html}'
    if thought:
        inside = words(pieces(thought, kept.vocabulary), offered)
        html += f"<details open><summary>Thinking</summary><div>{inside}</div></details>"
    missing = [label for label in answer.labels if not len(answer[label])]
    if missing:
        html += f'<p class="fo1-none">Not found: {escape(", ".join(missing))}</p>'
    return html


def _problems(answer: Answer) -> str:
    if not answer.problems:
        return ""
    items = "".join(f"<li>{escape(problem)}</li>" for problem in answer.problems)
    return f'<div class="fo1-problems"><b>To be aware of</b><ul>{items}</ul></div>'


def _timing(kept: AnswerState) -> str:
    spent: Mapping[str, float] = kept.answer.timing_s
    if not spent:
        return ""
    cells = "".join(
        f"<span><b>{seconds:.2f} s</b> {escape(PARTS.get(part, part))}</span>"
        for part, seconds in spent.items()
    )
    total = f"<span><b>{sum(spent.values()):.2f} s</b> in all</span>"
    return f'<div class="fo1-timing">{cells}{total}</div>'


def _raw(answer: Answer) -> str:
    return (
        "<details><summary>What the model wrote, word for word</summary>"
        f"<pre>{escape(answer.text)}</pre></details>"
    )


def _labels(answer: Answer) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for mention in answer.mentions:
        for index in mention.indices:
            if mention.label not in found.setdefault(index, []):
                found[index].append(mention.label)
    return found


def _confidence(answer: Answer) -> dict[int, float]:
    found: dict[int, float] = {}
    for mention in answer.mentions:
        for index, value in zip(mention.indices, mention.confidence or (), strict=False):
            if not math.isnan(value):
                found.setdefault(index, value)
    return found


def _name(index: int, named: Mapping[int, Sequence[str]]) -> str:
    return f"region {index}" + (f": {', '.join(named[index])}" if index in named else "")


def _list(kept: AnswerState, options: ViewOptions, visible: Sequence[int]) -> str:
    answer = kept.answer
    named, sure = _labels(answer), _confidence(answer)
    order = sorted(visible, key=lambda index: (index not in named, index))
    rows = "".join(_row(kept, index, named, sure) for index in order[:LISTED])
    offered = len(answer.regions)
    said = f"{len(named)} of {offered} regions chosen"
    if options.min_score > 0 and answer.regions.scores is not None:
        low = int((answer.regions.scores < options.min_score).sum())
        said += f"; {low} score less than {options.min_score:.2f} and are hidden"
    if len(order) > LISTED:
        said += f"; the first {LISTED} of {len(order)} are listed"
    if not rows:
        return f'<div class="fo1-list"><p>{said}</p></div>'
    scored = answer.regions.scores is not None
    titles = ["", "Region", "Label", "Size and place", *["Score"] * scored, *["Sure"] * bool(sure)]
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    return (
        f'<div class="fo1-list"><p>{said}</p><div class="fo1-scroll"><table class="fo1-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></div>"
    )


def _row(
    kept: AnswerState, index: int, named: Mapping[int, Sequence[str]], sure: Mapping[int, float]
) -> str:
    answer = kept.answer
    x1, y1, x2, y2 = answer.regions.xyxy[index].tolist()
    score = None if answer.regions.scores is None else float(answer.regions.scores[index])
    label = ", ".join(named.get(index, ()))
    dim = "" if index in named else ' class="fo1-dim"'
    cells = (
        f'<td><img src="{_crop(kept.image, (x1, y1, x2, y2))}" alt=""></td>'
        f"<td>{index}</td><td>{escape(label)}</td>"
        f'<td class="fo1-size">{x2 - x1:.0f} x {y2 - y1:.0f}'
        f"<small>at {x1:.0f}, {y1:.0f}</small></td>"
    )
    if score is not None:
        cells += f"<td>{'' if math.isnan(score) else f'{score:.2f}'}</td>"
    if sure:
        cells += f"<td>{f'{sure[index]:.2f}' if index in sure else ''}</td>"
    return f'<tr tabindex="0" data-regions="{index}"{dim}>{cells}</tr>'


def _crop(image: Image.Image, box: tuple[float, float, float, float]) -> str:
    left, top = math.floor(box[0]), math.floor(box[1])
    right, bottom = max(left + 1, math.ceil(box[2])), max(top + 1, math.ceil(box[3]))
    crop = image.crop((left, top, right, bottom))
    crop.thumbnail((CROP_PX, CROP_PX))
    return data_url(crop, quality=80)
