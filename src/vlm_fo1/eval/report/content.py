"""A report as a value: scores, intervals, ceilings, failures, and what to draw."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from vlm_fo1.config import plain
from vlm_fo1.eval.benchmark import Benchmark, Card, Published
from vlm_fo1.eval.benchmarks import published
from vlm_fo1.eval.files import Header, uncollected
from vlm_fo1.eval.metrics import proposal_recall
from vlm_fo1.eval.metrics.tally import Score
from vlm_fo1.eval.predictions import Prediction, Record
from vlm_fo1.eval.report.outcomes import Outcomes, best_possible, finds_boxes, outcomes_of

GALLERY = 12
"""How many of the worst cases are shown."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that is known of a run."""

    header: Header
    card: Card
    published: Sequence[Published]
    """Figures in print."""
    values: Score
    """By name, shares in per cent; `Card.metric` names the main one."""
    intervals: Mapping[str, tuple[float, float] | None]
    """95 %, over images; a name that is missing cannot be resampled."""
    ceiling: Score
    """The values of the best answer that the offered boxes allow; none of those that words decide,
    and empty where boxes are not what is looked for."""
    proposals: Score
    """Recall of the offered boxes whatever things are called, in per cent; empty likewise."""
    boxes_per_item: float | None
    """Mean number of boxes offered."""
    items: int
    images: int
    failures: Sequence[Record]
    with_problems: int
    """Answers that the parser could not use in full, or that needed several questions."""
    problems: Mapping[str, int]
    """How many answers have each, numbers left out, the commonest first."""
    seconds: Mapping[str, float]
    """Mean seconds an item, by part."""
    notes: tuple[str, ...]
    outcomes: Outcomes | None
    counts: Sequence[tuple[int, int]]
    worst: Sequence[Record]
    """The records that are most wrong, those without a fault left out."""
    files: Mapping[str, str]

    @property
    def model_name(self) -> str:
        """What stands for us in tables."""
        model = self.header.model
        proposer = model.get("proposer")
        return f"{model.get('model', 'this run')}" + (f" + {proposer}" if proposer else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "benchmark": self.header.benchmark,
            "title": self.card.title,
            "protocol": self.card.protocol,
            "metric": self.card.metric,
            "values": dict(self.values),
            "intervals": {name: ends and list(ends) for name, ends in self.intervals.items()},
            "ceiling": dict(self.ceiling),
            "proposal_recall": dict(self.proposals),
            "boxes_per_item": self.boxes_per_item,
            "items": self.items,
            "images": self.images,
            "failed": [{"id": r.id, "image": r.image, "error": r.error} for r in self.failures],
            "answers_with_problems": self.with_problems,
            "problems": dict(self.problems),
            "by_label": {} if self.outcomes is None else dict(self.outcomes.by_label),
            "seconds_per_item": dict(self.seconds),
            "notes": list(self.notes),
            "published": plain(self.published),
            "run": plain(self.header),
        }


@uncollected()
def make_report(
    benchmark: Benchmark, header: Header, records: Sequence[Record], *, samples: int = 1000
) -> Report:
    """Judge a run.

    Args:
        benchmark: Whose items were asked.
        header: What was run.
        records: All of it, of `read_run`.
        samples: Resamples of each interval.
    """
    scores = benchmark.judge(records)
    boxes = finds_boxes(records)
    outcomes = outcomes_of(records) if boxes else None
    errors = scores.errors
    if errors is None:
        errors = (
            [float(r.answer is None) for r in records] if outcomes is None else outcomes.wrong_I
        )
    order = np.argsort(-np.asarray(errors, np.float64), kind="stable")
    answered = [record.answer for record in records if record.answer is not None]
    return Report(
        header=header,
        card=benchmark.card,
        published=published(header.benchmark),
        values=scores.values,
        intervals=scores.intervals([record.group for record in records], samples),
        ceiling=benchmark.judge(best_possible(records)).values_of_boxes if boxes else {},
        proposals=_proposals(records) if boxes else {},
        boxes_per_item=float(np.mean([len(a.boxes) for a in answered])) if answered else None,
        items=len(records),
        images=len({record.image for record in records}),
        failures=[record for record in records if record.answer is None],
        with_problems=sum(bool(answer.problems) for answer in answered),
        problems=_problems(answered),
        seconds=_seconds(records),
        notes=scores.notes,
        outcomes=outcomes,
        counts=scores.counts,
        worst=[records[i] for i in order[:GALLERY].tolist() if errors[i] > 0],
        files=scores.files,
    )


def _proposals(records: Sequence[Record]) -> Score:
    images: list[dict[str, Any]] = []
    for record in records:
        answer = record.answer
        offered = None
        if answer is not None:
            scores = [-np.inf if s is None else s for s in answer.proposal_scores or ()]
            order = np.argsort(-np.array(scores), kind="stable") if scores else slice(None)
            offered = answer.boxes[order]
        images.append({"truth": [*chain(*record.truth["boxes"].values())], "proposals": offered})
    recall = proposal_recall(images)
    return {name: None if value is None else 100 * value for name, value in recall.items()}


def _problems(answers: Sequence[Prediction]) -> Mapping[str, int]:
    kinds = ({re.sub(r"\d+", "N", text) for text in answer.problems} for answer in answers)
    return dict(Counter(chain.from_iterable(kinds)).most_common())


def _seconds(records: Sequence[Record]) -> dict[str, float]:
    timed = [record.seconds for record in records if record.seconds]
    names = list(dict.fromkeys(name for one in timed for name in one))
    return {name: float(np.mean([one.get(name, 0.0) for one in timed])) for name in names}
