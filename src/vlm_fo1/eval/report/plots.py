"""Plots as SVG text, drawn by hand: a page that shows them needs nothing else.

Shapes: N answered boxes, M objects.
"""

from collections.abc import Sequence
from html import escape

import numpy as np

from vlm_fo1.eval.metrics import expected_calibration_error, reliability_bins
from vlm_fo1.eval.metrics.matching import Bools
from vlm_fo1.eval.metrics.precision import SIZES
from vlm_fo1.eval.metrics.records import Array
from vlm_fo1.eval.report.outcomes import Outcomes

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 320, 240, 44, 40, 14
_INK, _FILL = "#1f4e79", "#7fa8d1"
_MOST = 10
"""Counts above this share a row."""


def plots_of(outcomes: Outcomes | None, counts: Sequence[tuple[int, int]]) -> dict[str, str]:
    """SVG by title, of what there is something to show of."""
    plots: dict[str, str] = {}
    if outcomes is not None and len(outcomes.found_M):
        if outcomes.score_N is not None and len(outcomes.score_N):
            plots["Precision and recall at IoU 0.5, all labels together"] = precision_recall(
                outcomes.score_N, outcomes.right_N, len(outcomes.found_M)
            )
            if ((outcomes.score_N >= 0) & (outcomes.score_N <= 1)).all():
                error = expected_calibration_error(outcomes.score_N, outcomes.right_N)
                title = f"Reliability: share that is right by score (ECE {error:.3f})"
                plots[title] = reliability(outcomes.score_N, outcomes.right_N)
        plots["Share of objects missed, by size"] = missed_by_size(
            outcomes.area_M, outcomes.found_M
        )
    if counts:
        plots["Counts: the truth (rows) and the answer (columns)"] = count_confusion(counts)
    return plots


def precision_recall(score_N: Array, right_N: Bools, objects: int) -> str:
    """Precision over recall as the least score falls; equal scores enter together."""
    order_N = np.argsort(-score_N, kind="stable")
    last_N = np.append(np.diff(score_N[order_N]) != 0, [True])
    sum_N = np.cumsum(right_N[order_N])
    precision = sum_N / np.arange(1, len(sum_N) + 1)
    points = zip((sum_N / objects)[last_N].tolist(), precision[last_N].tolist(), strict=True)
    line = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in points)
    body = f'<polyline points="{line}" fill="none" stroke="{_INK}" stroke-width="2"/>'
    first = line.split(" ", 1)[0].split(",")
    body += f'<circle cx="{first[0]}" cy="{first[1]}" r="3" fill="{_INK}"/>'
    return _chart(body, "recall", "precision")


def reliability(score_N: Array, right_N: Bools) -> str:
    """Share of right answers by bins of the score, beside the diagonal of a true score."""
    body = "".join(
        _bar(row["low"], row["high"], row["accuracy"], f"{row['count']} answers")
        for row in reliability_bins(score_N, right_N)
        if row["count"]
    )
    body += (
        f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" stroke="#888" '
        'stroke-dasharray="4"/>'
    )
    return _chart(body, "score", "share right")


def missed_by_size(area_M: Array, found_M: Bools) -> str:
    """Share of small, medium and large objects that no answer found."""
    body = ""
    for place, (name, (least, most)) in enumerate(list(SIZES.items())[1:]):
        name = name.strip("_")
        those_M = (area_M > least if least else area_M >= 0) & (area_M <= most)
        number = int(those_M.sum())
        if number:
            missed = 1 - float(found_M[those_M].mean())
            body += _bar((place + 0.2) / 3, (place + 0.8) / 3, missed, f"{number} objects")
        body += (
            f'<text x="{_x((place + 0.5) / 3):.0f}" y="{_y(0) + 14}" text-anchor="middle">'
            f"{name} ({number})</text>"
        )
    return _chart(body, "", "share missed", ticks_x=False)


def count_confusion(counts: Sequence[tuple[int, int]]) -> str:
    """How often each number was answered to each right one."""
    side = _MOST + 2
    table = np.zeros((side, side), np.int64)
    for truth, said in counts:
        table[min(max(truth, 0), side - 1), min(max(said, 0), side - 1)] += 1
    cell = 22
    names = [*map(str, range(_MOST + 1)), f">{_MOST}"]
    parts: list[str] = []
    for row in range(side):
        place = 30 + row * cell
        parts.append(f'<text x="24" y="{place + 15}" text-anchor="end">{escape(names[row])}</text>')
        parts.append(
            f'<text x="{place + cell // 2}" y="22" text-anchor="middle">{escape(names[row])}</text>'
        )
        for column in range(side):
            number = int(table[row, column])
            share = number / max(1, int(table[row].sum()))
            x, y = 30 + column * cell, place
            parts.append(
                f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" fill="{_INK}" '
                f'fill-opacity="{share:.2f}" stroke="#ccc"/>'
            )
            if number:
                ink = "#fff" if share > 0.5 else "#222"
                parts.append(
                    f'<text x="{x + cell // 2}" y="{y + 15}" text-anchor="middle" fill="{ink}">'
                    f"{number}</text>"
                )
    return _svg("".join(parts), 34 + side * cell, 34 + side * cell)


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - 12)


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _bar(low: float, high: float, height: float, hint: str) -> str:
    return (
        f'<rect x="{_x(low) + 1:.1f}" y="{_y(height):.1f}" width="{_x(high) - _x(low) - 2:.1f}" '
        f'height="{_y(0) - _y(height):.1f}" fill="{_FILL}"><title>{height:.3f} of {escape(hint)}'
        "</title></rect>"
    )


def _chart(body: str, x_name: str, y_name: str, *, ticks_x: bool = True) -> str:
    """A plot with both axes from 0 to 1."""
    lines: list[str] = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        lines.append(
            f'<line x1="{_x(0)}" y1="{_y(tick)}" x2="{_x(1)}" y2="{_y(tick)}" stroke="#ddd"/>'
            f'<text x="{_x(0) - 6}" y="{_y(tick) + 4}" text-anchor="end">{tick:g}</text>'
        )
        if ticks_x:
            lines.append(
                f'<text x="{_x(tick)}" y="{_y(0) + 14}" text-anchor="middle">{tick:g}</text>'
            )
    middle = (_y(0) + _y(1)) / 2
    names = (
        f'<text x="{_x(0.5)}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        f"{escape(y_name)}</text>"
    )
    return _svg("".join(lines) + body + names, _WIDTH, _HEIGHT)


def _svg(body: str, width: int, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">{body}</svg>'
    )
