"""What the model said about one image: `Mention` and `Answer`, frozen and validated."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vlm_fo1._extras import require
from vlm_fo1.boxes import xyxy_to_xywh
from vlm_fo1.draw import draw_mentions
from vlm_fo1.errors import BoxError
from vlm_fo1.masks import encode_rle
from vlm_fo1.regions import Floats, Regions, rounded, rounded_score

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


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """A dense label x region table of scores, for models that give one."""

    labels: tuple[str, ...]
    scores: Floats
    """(labels, regions) in [0, 1]; NaN where it is unknown."""

    def __post_init__(self) -> None:
        """Copy and freeze.

        Raises:
            BoxError: Not one row per label.
        """
        scores = np.array(self.scores, np.float32)
        if scores.ndim != 2 or len(scores) != len(self.labels):
            raise BoxError(
                f"a table of shape {scores.shape} for {len(self.labels)} labels: "
                "one row per label and one column per region are needed"
            )
        scores.setflags(write=False)
        object.__setattr__(self, "scores", scores)


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
    table: ScoreTable | None = None
    windows: int = 1
    """How many questions the regions were spread over; with more than one the parts are merged."""
    timing_s: Mapping[str, float] = field(default_factory=dict[str, float])
    """Seconds per part; not part of `to_dict`, which is the same for the same input."""

    def __post_init__(self) -> None:
        """Check that what is said fits what was offered.

        Raises:
            BoxError: A mention or the table speaks of regions that are not there.
        """
        offered = len(self.regions)
        for mention in self.mentions:
            for index in mention.indices:
                if not 0 <= index < offered:
                    raise BoxError(
                        f"label {mention.label!r} names region {index}: {offered} regions exist"
                    )
        if self.table is not None and self.table.scores.shape[1] != offered:
            raise BoxError(
                f"the table has {self.table.scores.shape[1]} columns for {offered} regions"
            )

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
        label = self.spelt.get(label, " ".join(str(label).split()))
        if label not in self.labels and label not in {m.label for m in self.mentions}:
            known = ", ".join(map(repr, self)) or "nothing"
            raise KeyError(f"{label!r} was not asked for; this answer is about {known}")
        return chosen[[i for i, name in enumerate(chosen.labels) if name == label]]

    def __iter__(self) -> Iterator[str]:
        """Labels asked for, then others that were mentioned."""
        return iter(dict.fromkeys([*self.labels, *(m.label for m in self.mentions)]))

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
        if self.table is not None:
            result["table"] = {
                "labels": list(self.table.labels),
                "scores": [
                    [rounded_score(value) for value in row] for row in self.table.scores.tolist()
                ],
            }
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

    def to_json(self, *, indent: int | None = None, masks: bool = False) -> str:
        """`to_dict` as JSON text with a fixed order of keys."""
        values = self.to_dict(masks=masks)
        return json.dumps(values, ensure_ascii=False, indent=indent, allow_nan=False)

    def to_coco(
        self,
        image_id: int,
        category_ids: Mapping[str, int] | None = None,
        *,
        score: Literal["confidence", "proposal"] = "confidence",
    ) -> list[dict[str, Any]]:
        """Detections in COCO's result format.

        Args:
            image_id: COCO id of the image.
            category_ids: Label to category id; labels it lacks are left out. Without it, labels are
                numbered from 1 in the order of `iter(answer)`.
            score: Which number to write: the model's probability of the region's token, or the
                proposal's own score. Where that is unknown the other is taken, else 1.

        Returns:
            One dict per chosen region: ``image_id``, ``category_id``, ``bbox`` (xywh pixels),
            ``score``; with masks also ``segmentation``, as compressed run lengths.
        """
        if category_ids is None:
            category_ids = {label: number for number, label in enumerate(self, start=1)}
        chosen = self.chosen
        assert chosen.labels is not None
        wanted = (chosen.confidence, chosen.scores)
        scores = _first_known(wanted if score == "confidence" else wanted[::-1], len(chosen))
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
            confidence=np.array(
                _first_known((chosen.confidence, chosen.scores), len(chosen)), np.float32
            ),
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
        """The chosen regions on the image, each with its number, label and confidence.

        A label keeps one colour, given out in the order of ``iter(answer)``.

        Args:
            image: What the question was asked of: anything `read_image` takes, at its full size.
                Not changed.
            show_confidence: Write the model's confidence where it is known.
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
            [(mention.label, mention.indices, mention.confidence) for mention in self.mentions],
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
