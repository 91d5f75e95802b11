"""What a model said of one item, as a line of JSON and as a judge reads it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.errors import BoxError, EvaluationError
from vlm_fo1.eval.metrics.records import Array
from vlm_fo1.masks import encode_rle
from vlm_fo1.regions import rounded, rounded_score

Scored = Literal["proposal", "confidence", "constant"]
"""Which number ranks answered boxes: the proposal's score, the model's probability of the region,
or 1. Where the first two are unknown it is 1."""

RANKINGS: Mapping[str, Scored] = MappingProxyType({"": "confidence", "proposal-scored": "proposal"})
"""By which score an AP is told, under which prefix."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """An answer as plain values: what scoring needs of an `Answer`."""

    text: str
    """The model's words, markup kept."""
    plain: str = ""
    """Without markup."""
    boxes: Array
    """(N, 4) xyxy of everything that was offered, in pixels of the image as shown."""
    proposal_scores: tuple[float | None, ...] | None = None
    """(N,) where the proposer gave them."""
    mentions: tuple[Mention, ...] = ()
    """Labels, as they were asked for, and the offered boxes that each points at."""
    count: int | None = None
    presence: Mapping[str, float] | None = None
    """Probability that there is something of a label, where the model says so."""
    problems: tuple[str, ...] = ()
    masks: Mapping[int, Any] | None = None
    """Masks of the offered boxes that the answer points at, as COCO's run lengths, by number; None
    where the boxes have none."""

    @classmethod
    def of_answer(cls, answer: Answer) -> "Prediction":
        """What a model answered; labels are again as the request wrote them."""
        written = {asked: label for label, asked in answer.spelt.items()}
        regions = answer.regions
        scores = regions.scores
        return cls(
            text=answer.text,
            plain=answer.plain,
            boxes=np.array([[rounded(v) for v in box] for box in regions.xyxy.tolist()]).reshape(
                -1, 4
            ),
            proposal_scores=None if scores is None else tuple(map(rounded_score, scores.tolist())),
            mentions=tuple(
                Mention(
                    written.get(said.label, said.label),
                    said.indices,
                    said.confidence and tuple(round(value, 6) for value in said.confidence),
                )
                for said in answer.mentions
            ),
            count=answer.count,
            presence=getattr(answer, "presence", None) or None,
            problems=answer.problems,
            masks=None
            if regions.masks is None
            else {
                i: encode_rle(regions.masks[i]) for said in answer.mentions for i in said.indices
            },
        )

    @cached_property
    def chosen(self) -> list[tuple[str, int, float | None]]:
        """Label, region and probability in the order of the answer; repeats are kept once."""
        first: dict[tuple[str, int], float | None] = {}
        for said in self.mentions:
            known = said.confidence or (np.nan,) * len(said.indices)
            for index, value in zip(said.indices, known, strict=True):
                first.setdefault((said.label, index), None if value != value else value)  # NaN
        return [(label, index, value) for (label, index), value in first.items()]

    @property
    def regions(self) -> list[int]:
        """The offered boxes that the answer points at under any label, each once, in order."""
        return list(dict.fromkeys(index for _, index, _ in self.chosen))

    @property
    def found(self) -> list[list[float]]:
        """The boxes of `regions`."""
        return self.boxes[self.regions].tolist()

    @cached_property
    def by_label(self) -> dict[str, list[list[float]]]:
        """Answered boxes by label, in the order of the answer."""
        boxes = self.boxes.tolist()
        return boxes_by_label((label, boxes[index]) for label, index, _ in self.chosen)

    def scores_by_label(self, kind: Scored) -> dict[str, list[float]]:
        """A score for each box of `by_label`."""
        result: dict[str, list[float]] = {}
        for label, index, confidence in self.chosen:
            known = confidence if kind == "confidence" else None
            if kind == "proposal" and self.proposal_scores is not None:
                known = self.proposal_scores[index]
            result.setdefault(label, []).append(1.0 if known is None else known)
        return result

    @property
    def words(self) -> dict[int, str]:
        """What was said about each box, for tasks that describe or read boxes."""
        return {index: said.label for said in self.mentions for index in said.indices}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a line of a file."""
        scores = None if self.proposal_scores is None else list(self.proposal_scores)
        return {
            "text": self.text,
            "plain": self.plain,
            "regions": {"xyxy": self.boxes.tolist(), "scores": scores},
            "mentions": [
                {
                    "label": said.label,
                    "regions": list(said.indices),
                    "confidence": None
                    if said.confidence is None
                    else [rounded_score(value) for value in said.confidence],
                }
                for said in self.mentions
            ],
            "count": self.count,
            "presence": None if self.presence is None else dict(self.presence),
            "problems": list(self.problems),
            **({} if self.masks is None
               else {"masks": {str(i): rle for i, rle in self.masks.items()}}),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Prediction":
        """The prediction that `to_dict` wrote.

        Raises:
            EvaluationError: Something else.
        """
        try:
            regions = values["regions"]
            boxes = np.array(regions["xyxy"], np.float64).reshape(-1, 4)
            mentions = tuple(_mention(said, len(boxes)) for said in values["mentions"])
            scores, masks = regions["scores"], values.get("masks")
            return cls(
                text=values["text"],
                plain=values["plain"],
                boxes=boxes,
                proposal_scores=None if scores is None else tuple(scores),
                mentions=mentions,
                count=values["count"],
                presence=values["presence"],
                problems=tuple(values["problems"]),
                masks=None if masks is None else {int(i): rle for i, rle in masks.items()},
            )
        except (KeyError, TypeError, ValueError, BoxError) as error:
            said = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise EvaluationError(f"the answer is none that this program wrote: {said}") from error


def _mention(said: Mapping[str, Any], offered: int) -> Mention:
    known = said["confidence"]
    confidence = None if known is None else tuple(np.nan if v is None else v for v in known)
    mention = Mention(said["label"], tuple(said["regions"]), confidence)
    if any(not 0 <= index < offered for index in mention.indices):
        raise EvaluationError(
            f"{mention.label!r} points at regions {list(mention.indices)}, {offered} were offered"
        )
    return mention


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """An item with what was answered: one line of a file of predictions."""

    index: int
    """Its place among the items of the benchmark."""
    id: str
    image: str
    size_wh: tuple[int, int] | None
    """Of the image as shown; None where it could not be read."""
    request: Mapping[str, Any]
    """`Request.to_dict`."""
    truth: Mapping[str, Any]
    """See `Item.truth`; boxes are in pixels of the image as shown."""
    group: str
    answer: Prediction | None
    """None for an item that failed: wrong in every metric, unlike an answer without boxes."""
    error: str = ""
    """Why it failed."""
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """By part: propose, encode, answer."""

    def labelled(self, scored: Scored | None = None) -> dict[str, Any]:
        """What metrics of boxes by label take: ``truth``, ``crowd``, ``answer`` and the like.

        Args:
            scored: Which ``scores`` to add, for `average_precision`.
        """
        rest = ("crowd", "areas", "negative", "not_exhaustive")
        answer = self.answer
        return {
            "truth": self.truth["boxes"],
            **{name: self.truth[name] for name in rest if name in self.truth},
            "answer": None if answer is None else answer.by_label,
            **({"scores": answer.scores_by_label(scored)} if answer and scored else {}),
        }

    def unlabelled(self) -> dict[str, Any]:
        """What metrics of one phrase take: ``truth`` and ``answer``, boxes whatever they are."""
        return {
            "truth": [box for boxes in self.truth["boxes"].values() for box in boxes],
            "answer": None if self.answer is None else self.answer.found,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a line of a file."""
        return {
            "index": self.index,
            "id": self.id,
            "image": self.image,
            "size": None if self.size_wh is None else list(self.size_wh),
            "group": self.group,
            "request": dict(self.request),
            "truth": dict(self.truth),
            "answer": None if self.answer is None else self.answer.to_dict(),
            **({"error": self.error} if self.error else {}),
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Record":
        """The record that `to_dict` wrote.

        Raises:
            EvaluationError: Something else.
        """
        try:
            answer, size = values["answer"], values["size"]
            return cls(
                index=values["index"],
                id=values["id"],
                image=values["image"],
                size_wh=None if size is None else (size[0], size[1]),
                group=values["group"],
                request=values["request"],
                truth=values["truth"],
                answer=None if answer is None else Prediction.from_dict(answer),
                error=values.get("error", ""),
                seconds=values["seconds"],
            )
        except (KeyError, TypeError, IndexError) as error:
            raise EvaluationError(
                f"a line is no record of a run: {type(error).__name__} {error}"
            ) from error


def boxes_by_label(pairs: Iterable[tuple[str, Sequence[float]]]) -> dict[str, list[list[float]]]:
    """Boxes with a name each as ``truth`` holds them: by label, in order."""
    result: dict[str, list[list[float]]] = {}
    for name, box in pairs:
        result.setdefault(name, []).append([*box])
    return result
