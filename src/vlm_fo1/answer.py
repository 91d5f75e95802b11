"""What the model said about one image: `Mention` and `Answer`, frozen and validated."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vlm_fo1._extras import require
from vlm_fo1.boxes import nms, xyxy_to_xywh
from vlm_fo1.draw import draw_mentions
from vlm_fo1.errors import BoxError, ConfigError
from vlm_fo1.masks import encode_rle
from vlm_fo1.regions import Floats, Regions, rounded, rounded_score
from vlm_fo1.scores import Calibration, best_first, check_bounds

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Mention:
    """A label and the regions it points at, as positions in `Answer.regions`."""

    label: str
    indices: tuple[int, ...]
    confidence: tuple[float, ...] | None = None
    """Probability of each region's token while decoding, in [0, 1]; NaN where it is unknown."""

    def __post_init__(self) -> None:
        """Coerce to tuples.

        Raises:
            BoxError: Indices and confidence differ in number.
        """
        object.__setattr__(self, "indices", tuple(map(int, self.indices)))
        if self.confidence is not None:
            confidence = tuple(map(float, self.confidence))
            if len(confidence) != len(self.indices):
                raise BoxError(
                    f"label {self.label!r}: {len(confidence)} confidences for "
                    f"{len(self.indices)} regions: pass one per region"
                )
            object.__setattr__(self, "confidence", confidence)


MERGE_IOU = 0.7
"""Of two regions that different windows chose for one label, the less sure one is left out when
they overlap more than this."""

Scored = Literal["answer", "confidence", "proposal"]
"""A number for a region: of `Answer.scores`, the model's probability of its token, or that which
its proposer gave."""


@dataclass(frozen=True, eq=False, repr=False)
class Answer:
    """What the model said about one image, tied to the regions it was shown."""

    text: str
    """The model's words, markup kept."""
    regions: Regions
    """Every region that was offered; numbers in ``text`` and in mentions are positions in it."""
    mentions: tuple[Mention, ...] = ()
    task: str = "free"
    labels: tuple[str, ...] = ()
    """What was asked for; a label without regions is an answer too."""
    spelt: Mapping[str, str] = field(default_factory=dict[str, str])
    """From a label as the user wrote it to the one in ``labels``, where they differ."""
    thought: str = ""
    """What a reasoning answer thought aloud, without markup; not part of ``plain``."""
    plain: str = ""
    """The text without markup."""
    count: int | None = None
    """For counting: the number the answer states, else the number of regions it chose."""
    problems: tuple[str, ...] = ()
    """Everything that was cut, repaired or could not be used. Empty is good."""
    scores: Floats | None = None
    """(labels, regions) how sure the model is that a region is of a label, in [0, 1], one row for
    each label of ``iter(answer)``; NaN where it was not asked, None where nothing was scored. See
    `vlm_fo1.scores`."""
    presence: Mapping[str, float] = field(default_factory=dict[str, float])
    """How sure the model is that there is anything of a label, in [0, 1], where that is known."""
    windows: int = 1
    """How many questions the regions were spread over; with more than one the parts are merged."""
    timing_s: Mapping[str, float] = field(default_factory=dict[str, float])
    """Seconds per part; not part of `to_dict`, which is the same for the same input."""

    def __post_init__(self) -> None:
        """Check that what is said fits what was offered.

        Raises:
            BoxError: A mention or the scores speak of regions or labels that are not there.
        """
        offered = len(self.regions)
        for mention in self.mentions:
            for index in mention.indices:
                if not 0 <= index < offered:
                    raise BoxError(
                        f"label {mention.label!r} names region {index}: {offered} regions exist"
                    )
        if self.scores is None:
            return
        scores = np.array(self.scores, np.float32)
        needed = (len(tuple(self)), offered)
        if scores.shape != needed:
            raise BoxError(
                f"scores have shape {scores.shape}, {needed} is needed: a row for each of "
                f"{', '.join(map(repr, self)) or 'no labels'}, a column for each region"
            )
        scores.setflags(write=False)
        object.__setattr__(self, "scores", scores)

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of the image in pixels."""
        return self.regions.size_wh

    @cached_property
    def chosen(self) -> Regions:
        """Every mentioned region with its label, mention by mention; repeats are kept once."""
        first: dict[tuple[int, str], float] = {}
        for mention in self.mentions:
            known = mention.confidence or (np.nan,) * len(mention.indices)
            for index, value in zip(mention.indices, known, strict=True):
                first.setdefault((index, mention.label), value)
        picked = self.regions[[index for index, _ in first]]
        confidence = np.array(list(first.values()), np.float32)
        return Regions(
            picked.xyxy,
            picked.size_wh,
            picked.scores,
            None if np.isnan(confidence).all() else confidence,
            tuple(label for _, label in first),
            picked.masks,
        )

    def __getitem__(self, label: str) -> Regions:
        """The regions of one label, empty if the model named none.

        Args:
            label: As it was asked for or mentioned; blanks around it are no matter. The empty one
                has the regions of an answer that names no label.

        Raises:
            KeyError: The label was neither asked for nor mentioned.
        """
        chosen = self.chosen
        assert chosen.labels is not None
        label = self._known(label)
        return chosen[[i for i, name in enumerate(chosen.labels) if name == label]]

    def scores_of(self, label: str) -> Floats:
        """(N,) how sure the model is that each region is of a label: its row of `scores`.

        Args:
            label: As in ``answer[label]``.

        Returns:
            In [0, 1]; NaN where it is unknown, so everywhere in an answer without scores.

        Raises:
            KeyError: The label was neither asked for nor mentioned.
        """
        row = [*self].index(self._known(label))
        if self.scores is None:
            return np.full(len(self.regions), np.nan, np.float32)
        return self.scores[row]

    def _known(self, label: str) -> str:
        """A label as it stands here.

        Raises:
            KeyError: It does not.
        """
        label = self.spelt.get(label, " ".join(str(label).split()))
        if label not in set(self):
            known = ", ".join(map(repr, self)) or "nothing"
            raise KeyError(f"{label!r} was not asked for; this answer is about {known}")
        return label

    def __iter__(self) -> Iterator[str]:
        """Labels asked for, then others that were mentioned."""
        return iter(dict.fromkeys([*self.labels, *(m.label for m in self.mentions)]))

    def select(
        self,
        *,
        min_score: float | None = None,
        min_presence: float | None = None,
        max_per_label: int | None = None,
        nms_iou: float | None = None,
    ) -> "Answer":
        """The same answer with other mentions, chosen by `scores` alone: the model is not asked.

        Args:
            min_score: A label gets every region that scores at least this for it, whether the model
                named it or not. By default it keeps those that were named.
            min_presence: A label whose presence is known and lower gets none.
            max_per_label: A label gets so many of its best at most.
            nms_iou: Of regions of one label that overlap more than this the best stays; by default
                `MERGE_IOU` where the regions were spread over several windows, else all stay.

        Returns:
            An answer whose mentions have their best region first. ``text`` and ``plain`` stay as
            the model wrote them; the count of an answer that has one is that of its regions.

        Raises:
            ConfigError: The answer has no scores, or a bound that cannot be.
        """
        if self.scores is None:
            raise ConfigError(
                "this answer has no scores to select by: ask with scores='joint' or 'branches'"
            )
        check_bounds(min_score, min_presence, nms_iou, max_per_label)
        if nms_iou is None and self.windows > 1:
            nms_iou = MERGE_IOU
        mentions: list[Mention] = []
        for label, scores in zip(self, self.scores, strict=True):
            named = self._named(label)
            if min_presence is not None and self.presence.get(label, 1.0) < min_presence:
                wanted = np.zeros(len(scores), np.bool_)
            elif min_score is None:
                wanted = np.isin(np.arange(len(scores)), list(named))
            else:
                wanted = scores >= min_score  # never where it is unknown
            kept = best_first(scores, wanted)
            if nms_iou is not None:
                kept = kept[nms(self.regions.xyxy[kept], -np.arange(len(kept)), nms_iou)]
            indices = tuple(kept[:max_per_label].tolist())
            known = [named.get(index, np.nan) for index in indices]
            sure = None if np.isnan(known).all() else tuple(known)
            mentions.append(Mention(label, indices, sure))
        chosen = {index for mention in mentions for index in mention.indices}
        count = None if self.count is None else len(chosen)
        return replace(self, mentions=tuple(mentions), count=count)

    def _named(self, label: str) -> dict[int, float]:
        """The regions that are mentioned with a label, and the model's probability of each."""
        first: dict[int, float] = {}
        for said in self.mentions:
            if said.label == label:
                known = said.confidence or (np.nan,) * len(said.indices)
                for index, value in zip(said.indices, known, strict=True):
                    first.setdefault(index, value)
        return first

    def calibrated(self, calibration: Calibration) -> "Answer":
        """The same answer with raw scores and presences made those of a calibration.

        One that fuses leaves the scores as they are, which ``problems`` say, where the regions have
        no scores of a proposer between 0 and 1.
        """
        if self.scores is None or calibration == Calibration():
            return self
        offered, scores, problems = self.regions.scores, self.scores, self.problems
        if calibration.fusion == "none" or (
            offered is not None and bool(((offered >= 0) & (offered <= 1)).all())
        ):
            scores = calibration.scores(scores, offered)
        else:
            what = "no scores" if offered is None else "scores that are not from 0 to 1"
            said = (
                f"scores are not calibrated: that wants a proposer's, and the regions have {what}"
            )
            problems = (*problems, said)
        return replace(
            self,
            scores=scores,
            presence={label: calibration.presence(p) for label, p in self.presence.items()},
            problems=problems,
        )

    def to_dict(self, *, masks: bool = False) -> dict[str, Any]:
        """Plain values, the same for the same input (no times, no paths).

        Args:
            masks: Write the masks of all regions too, as COCO's run lengths.
        """
        width, height = self.size_wh
        result: dict[str, Any] = {
            "task": self.task,
            "text": self.text,
            "plain": self.plain,
            **({"thought": self.thought} if self.thought else {}),
            "labels": list(self.labels),
            "count": self.count,
            **({"windows": self.windows} if self.windows != 1 else {}),
            "image": {"width": width, "height": height},
            "mentions": [
                {
                    "label": mention.label,
                    "regions": [
                        self._region_dict(mention, position)
                        for position in range(len(mention.indices))
                    ],
                }
                for mention in self.mentions
            ],
            "regions": self.regions.to_dict(masks=masks),
            "problems": list(self.problems),
        }
        if self.scores is not None:
            rows = zip(self, self.scores.tolist(), strict=True)
            result["scores"] = {label: [*map(rounded_score, row)] for label, row in rows}
        if self.presence:
            result["presence"] = {label: rounded(p, 6) for label, p in self.presence.items()}
        return result

    def _region_dict(self, mention: Mention, position: int) -> dict[str, Any]:
        index = mention.indices[position]
        region: dict[str, Any] = {
            "index": index,
            "xyxy": [rounded(v) for v in self.regions.xyxy[index].tolist()],
        }
        if mention.confidence is not None:
            region["confidence"] = rounded_score(mention.confidence[position])
        if self.regions.scores is not None:
            region["score"] = rounded_score(float(self.regions.scores[index]))
        return region

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Answer":
        """What `to_dict` gave as an answer again, to select and draw from; other keys are let be.

        Numbers are as they were rounded; times, and how the user spelt a label, are not kept.

        Raises:
            ConfigError: It is none: a key is missing, or a value of another kind.
            BoxError: It speaks of regions that are not there.
        """
        try:
            size = values["image"]["width"], values["image"]["height"]
            scores = values.get("scores")
            mentions = tuple(_read_mention(mention) for mention in values["mentions"])
            return cls(
                text=values["text"],
                regions=Regions.from_dict(values["regions"], size),
                mentions=mentions,
                task=values["task"],
                labels=tuple(values["labels"]),
                thought=values.get("thought", ""),
                plain=values["plain"],
                count=values["count"],
                problems=tuple(values["problems"]),
                scores=None if scores is None else _read_rows(scores, values, mentions),
                presence=dict(values.get("presence", {})),
                windows=values.get("windows", 1),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"this is no saved answer: {type(error).__name__} {error}") from error

    def to_json(self, *, indent: int | None = None, masks: bool = False) -> str:
        """`to_dict` as JSON text with a fixed order of keys."""
        values = self.to_dict(masks=masks)
        return json.dumps(values, ensure_ascii=False, indent=indent, allow_nan=False)

    def to_coco(
        self,
        image_id: int,
        category_ids: Mapping[str, int] | None = None,
        *,
        score: Scored = "answer",
    ) -> list[dict[str, Any]]:
        """Detections in COCO's result format.

        Args:
            image_id: COCO id of the image.
            category_ids: Label to category id; labels it lacks are left out. Without it, labels are
                numbered from 1 in the order of `iter(answer)`.
            score: Which number to write. Where it is unknown the next known one of `Scored` is
                taken, else 1.

        Returns:
            One dict per chosen region: ``image_id``, ``category_id``, ``bbox`` (xywh pixels),
            ``score``; with masks also ``segmentation``, as compressed run lengths.
        """
        if category_ids is None:
            category_ids = {label: number for number, label in enumerate(self, start=1)}
        chosen = self.chosen
        assert chosen.labels is not None
        scores = self._numbers(score)
        masks = chosen.masks
        return [
            {
                "image_id": image_id,
                "category_id": category_ids[label],
                "bbox": [rounded(v) for v in box],
                "score": rounded(value, 6),
                **({} if masks is None else {"segmentation": encode_rle(masks[index])}),
            }
            for index, (label, box, value) in enumerate(
                zip(chosen.labels, xyxy_to_xywh(chosen.xyxy).tolist(), scores, strict=True)
            )
            if label in category_ids
        ]

    def _numbers(self, first: Scored) -> list[float]:
        """A number for each of `chosen`: the one that is wanted, where unknown another, else 1."""
        chosen = self.chosen
        assert chosen.labels is not None
        own: Floats | None = None
        if self.scores is not None:
            every = [(said.label, index) for said in self.mentions for index in said.indices]
            rows = {label: row for row, label in enumerate(self)}
            picked = [self.scores[rows[label], index] for label, index in dict.fromkeys(every)]
            own = np.array(picked, np.float32)
        known = {"answer": own, "confidence": chosen.confidence, "proposal": chosen.scores}
        if first != "answer":
            del known["answer"]
        return _first_known([known.pop(first), *known.values()], len(chosen))

    def to_supervision(self) -> Any:
        """The chosen regions as ``supervision.Detections``; labels stand in ``class_name``.

        ``confidence`` is filled as in `to_coco`.

        Raises:
            MissingExtraError: supervision is not installed.
        """
        supervision = require("supervision", extra="supervision")
        chosen = self.chosen
        assert chosen.labels is not None
        order = list(self)
        return supervision.Detections(
            xyxy=np.array(chosen.xyxy),
            mask=None if chosen.masks is None or not len(chosen) else np.array(chosen.masks),
            confidence=np.array(self._numbers("answer"), np.float32),
            class_id=np.array([order.index(label) for label in chosen.labels], np.int64),
            data={"class_name": np.array(chosen.labels, dtype=np.str_)},
        )

    def draw(
        self,
        image: Any,
        *,
        show_confidence: bool = True,
        show_unchosen: bool = False,
        numbers: bool = True,
        line_width: int | None = None,
        font_size: int | None = None,
        max_side: int | None = None,
        min_side: int | None = None,
        min_score: float | None = None,
    ) -> "Image.Image":
        """The chosen regions on the image, each with its number, label and score.

        A label keeps one colour, given out in the order of ``iter(answer)``.

        Args:
            image: What the question was asked of: anything `read_image` takes, at its full size.
                Not changed.
            show_confidence: Write how sure the model is: the region's score, or where the answer
                has none the confidence.
            show_unchosen: Draw the other regions too, thin and grey.
            numbers: Write each region's number, its position in `regions`.
            line_width: Of outlines, in pixels of the result; by default from its size.
            font_size: Of badges, in pixels of the result; by default from its size and the number
                of regions.
            max_side: Shrink the image so that neither side is longer, in pixels.
            min_side: Enlarge a smaller image first until one side is this long, in pixels, so that
                outlines and badges are sharp where it is shown large.
            min_score: Leave out regions whose score, as their proposer gave it, is lower; those
                without one stay.

        Returns:
            A new RGB image; without mentions only the image, resized if asked.

        Raises:
            ConfigError: A size below one pixel.
            ImageError: The image cannot be read, or is not of the size the answer is about.
        """
        return draw_mentions(
            image,
            self.regions,
            [(said.label, said.indices, self._sure(said)) for said in self.mentions],
            list(self),
            show_confidence=show_confidence,
            show_unchosen=show_unchosen,
            numbers=numbers,
            line_width=line_width,
            font_size=font_size,
            max_side=max_side,
            min_side=min_side,
            min_score=min_score,
        )

    def _sure(self, said: Mention) -> Sequence[float] | None:
        """What a drawing says at each region of a mention: its score, else its confidence."""
        if self.scores is None:
            return said.confidence
        scores = self.scores[[*self].index(said.label), list(said.indices)]
        known = said.confidence or (np.nan,) * len(said.indices)
        return np.where(np.isnan(scores), known, scores).tolist()

    def __repr__(self) -> str:
        """What was asked and said, in a line or two.

        ``<Answer detection: orange [2, 6], apple none | 15 regions>``
        """
        said = ", ".join(
            f"{mention.label or '(no label)'} {list(mention.indices) or 'none'}"
            for mention in self.mentions
        )
        said = said or repr(_shortened(self.plain))
        count = "" if self.count is None else f" = {self.count}"
        problems = f" | {len(self.problems)} problems" if self.problems else ""
        return (
            f"<Answer {self.task}{count}: {_shortened(said, 300)} | {len(self.regions)} regions"
            f"{problems}>"
        )


def _read_mention(values: Mapping[str, Any]) -> Mention:
    named = values["regions"]
    sure = [_number(region.get("confidence")) for region in named]
    known = any("confidence" in region for region in named)
    return Mention(
        values["label"],
        tuple(region["index"] for region in named),
        tuple(sure) if known else None,
    )


def _read_rows(
    rows: Mapping[str, Sequence[float | None]],
    values: Mapping[str, Any],
    mentions: Sequence[Mention],
) -> Floats:
    """Rows of scores in the order of the answer they belong to."""
    order = dict.fromkeys([*values["labels"], *(mention.label for mention in mentions)])
    offered = len(values["regions"]["xyxy"])
    table = [[_number(value) for value in rows[label]] for label in order]
    return np.array(table, np.float32).reshape(len(order), offered)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _shortened(text: str, most: int = 80) -> str:
    """A text in one line, its end left out where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."


def _first_known(candidates: Sequence[Floats | None], count: int) -> list[float]:
    """Per region the first number that is there and not NaN, else 1."""
    result = np.full(count, np.nan, np.float32)
    for values in candidates:
        if values is not None:
            result = np.where(np.isnan(result), values, result)
    return np.where(np.isnan(result), 1.0, result).tolist()
