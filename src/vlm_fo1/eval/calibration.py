"""What answers whose truth is known say of a model's scores: pairs to fit to, and how well it went.

The formulas stand in `vlm_fo1.scores`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm_fo1.answer import Answer
from vlm_fo1.boxes import iou
from vlm_fo1.eval.metrics import expected_calibration_error, reliability_bins
from vlm_fo1.eval.recall import matches
from vlm_fo1.scores import Calibration, Floats, Pairs, Scores, best_first, log_loss

TRUE_IOU = 0.5
"""A region shows a thing when it overlaps its box at least this much."""


def pairs_of(
    answers: Sequence[Answer], truths: Sequence[Mapping[str, npt.ArrayLike]]
) -> tuple[Pairs, Pairs]:
    """Every label and region whose score is known, and every label whose presence is.

    Args:
        answers: With raw scores.
        truths: For each answer its labels, as they were asked for, with (M, 4) boxes in pixels of
            the image, xyxy, of everything that each names; M is 0 for what is not there. Labels
            that an answer lacks are no matter, and so are those that the truth lacks.

    Returns:
        The pairs of labels and regions, with the proposer's scores where every answer has some; and
        the labels, of which each is true that has a box. Of several regions that show one thing the
        best scored one is true, as in COCO's average precision: the others are doubles.
    """
    scores: list[npt.NDArray[np.float32]] = []
    true: list[npt.NDArray[np.bool_]] = []
    proposals: list[npt.NDArray[np.float32]] = []
    presences: list[float] = []
    present: list[bool] = []
    for answer, truth in zip(answers, truths, strict=True):
        for label, found in truth.items():
            asked = answer.spelt.get(label, label)
            if asked not in set(answer):
                continue
            boxes = np.asarray(found, np.float32).reshape(-1, 4)
            own = answer.scores_of(asked)
            known = ~np.isnan(own)
            ranked = best_first(own, known)
            shown = np.zeros(len(own), np.bool_)
            overlap = iou(answer.regions.xyxy[ranked], boxes)
            shown[ranked] = matches(overlap, [TRUE_IOU])[:, 0]
            scores.append(own[known])
            true.append(shown[known])
            if answer.regions.scores is not None:
                proposals.append(answer.regions.scores[known])
            if asked in answer.presence:
                presences.append(answer.presence[asked])
                present.append(len(boxes) > 0)
    whole = len(proposals) == len(scores) and bool(scores)
    return (
        Pairs(_joined(scores), np.concatenate([np.zeros(0, np.bool_), *true]),
              _joined(proposals) if whole else None),
        Pairs(np.array(presences, np.float32), np.array(present, np.bool_)),
    )  # fmt: skip


def _joined(parts: Sequence[Floats]) -> Floats:
    return np.concatenate([np.zeros(0, np.float32), *parts])


def measured(pairs: Pairs, presences: Pairs, calibration: Calibration) -> dict[str, Any]:
    """How well scores tell the truth, before and after a calibration.

    Args:
        pairs: Labels and regions of `pairs_of` that the calibration was not fitted to.
        presences: The labels.
        calibration: What is judged.

    Returns:
        Numbers of pairs and labels and how many are true, and of each kind the expected calibration
        error (``ece``) and the mean log loss in nats; None of no pairs.
    """
    after = calibration.scores(pairs.scores, pairs.proposals)
    of_labels = np.array([calibration.presence(p) for p in presences.scores.tolist()], np.float32)
    return {
        "pairs": len(pairs.true),
        "true_pairs": int(pairs.true.sum()),
        "labels": len(presences.true),
        "present_labels": int(presences.true.sum()),
        **_before_and_after("", pairs, after),
        **_before_and_after("presence_", presences, of_labels),
    }


def _before_and_after(kind: str, known: Pairs, after: Scores) -> dict[str, float | None]:
    told: dict[str, float | None] = {}
    counts = {"ece": expected_calibration_error, "log_loss": log_loss}
    for name, count in counts.items():
        for when, scores in (("before", known.scores), ("after", after)):
            some = len(known.true) > 0
            told[f"{kind}{name}_{when}"] = round(count(scores, known.true), 4) if some else None
    return told


SIDE, EDGE = 240, 40
"""Of the square of a reliability diagram and of the space around it, in pixels."""


def reliability_svg(pairs: Pairs, calibration: Calibration) -> str:
    """Two reliability diagrams side by side, before and after a calibration, as an SVG image.

    A dot is a bin of pairs, the larger the more it holds; on the diagonal scores are probabilities.
    """
    after = calibration.scores(pairs.scores, pairs.proposals)
    shown = (
        (title, [row for row in reliability_bins(scores, pairs.true) if row["count"]])
        for title, scores in (("before", pairs.scores), ("after", after))
    )
    width, height = 2 * SIDE + 3 * EDGE, SIDE + 2 * EDGE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for number, (title, bins) in enumerate(shown):
        left = EDGE + number * (SIDE + EDGE)
        parts += _diagram(left, title, bins)
    return "\n".join([*parts, "</svg>\n"])


def _diagram(left: int, title: str, bins: Sequence[Mapping[str, Any]]) -> list[str]:
    low, most = EDGE + SIDE, max((row["count"] for row in bins), default=1)
    dots = [
        f'<circle cx="{left + row["score"] * SIDE:.1f}" cy="{low - row["accuracy"] * SIDE:.1f}" '
        f'r="{3 + 7 * np.log1p(row["count"]) / np.log1p(most):.1f}" fill="#1f77b4" '
        f'fill-opacity="0.8"><title>{row["count"]} pairs, score {row["score"]:.3f}, true '
        f"{row['accuracy']:.3f}</title></circle>"
        for row in bins
    ]
    return [
        f'<rect x="{left}" y="{EDGE}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#888"/>',
        f'<line x1="{left}" y1="{low}" x2="{left + SIDE}" y2="{EDGE}" stroke="#bbb"/>',
        f'<text x="{left + SIDE / 2}" y="{EDGE - 12}" text-anchor="middle">{title}</text>',
        f'<text x="{left + SIDE / 2}" y="{low + 24}" text-anchor="middle">mean score</text>',
        f'<text x="{left - 8}" y="{EDGE + SIDE / 2}" text-anchor="middle" '
        f'transform="rotate(-90 {left - 8} {EDGE + SIDE / 2})">share true</text>',
        *dots,
    ]
