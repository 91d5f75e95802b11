"""The same record looked at again: other light, other size, mirrored, regions renumbered."""

import re
from dataclasses import dataclass, replace
from operator import length_hint

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from vlm_fo1 import boxes as box_math
from vlm_fo1.data.example import Example, Turn
from vlm_fo1.data.sources.base import Source
from vlm_fo1.errors import ConfigError, DataError, ImageError
from vlm_fo1.images import read_image
from vlm_fo1.markup import RELEASED
from vlm_fo1.tasks import Task

Rng = np.random.Generator

_SIDED = re.compile(
    r"\b(left\w*|right\w*|east\w*|west\w*|clockwise|counterclockwise|says?|reads?|written)\b", re.I
)
_RUN = re.compile(rf"(?:{RELEASED.tag_pattern().pattern})+")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How far a record may change."""

    light: float = 0.2
    """Brightness, contrast and colour change by up to this share."""
    scale: tuple[float, float] = (0.8, 1.25)
    """Least and greatest factor of the image's size."""
    mirror: float = 0.5
    """Share of records that are mirrored; never those that speak of left and right, or are read."""
    renumber: bool = True
    """Give the regions another order, in the text as well."""
    drop: float = 0.0
    """Share of the regions nobody speaks of that are left out."""
    jitter: float = 0.0
    """Edges of boxes move by up to this share of their side."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: A share outside [0, 1], or a scale that is none.
        """
        for name in ("light", "mirror", "drop", "jitter"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} = {value} is a share: a number from 0 to 1")
        low, high = self.scale
        object.__setattr__(self, "scale", (low, high))
        if not 0 < low <= high:
            raise ConfigError(f"scale = {self.scale}: (least, greatest) factor, both above 0")


class AugmentedSource:
    """A source whose records are changed, each by its seed and index alone: resuming is exact.

    Args:
        source: The records; as it starts over, each comes changed in another way.
        config: How far they may change.
        seed: Of the changes.
    """

    def __init__(self, source: Source, config: AugmentConfig, seed: int = 0) -> None:
        self.source, self.config, self.seed = source, config, seed

    def __length_hint__(self) -> int:
        return length_hint(self.source)

    @property
    def notes(self) -> list[str]:
        """What the source's files hold that no record uses, with counts."""
        return list(getattr(self.source, "notes", ()))

    def example(self, index: int) -> Example:
        """Record ``index``, changed.

        Raises:
            DataError: That record cannot be used, or its image cannot be read.
        """
        record = self.source.example(index)
        try:
            return augment(record, self.config, np.random.default_rng([self.seed, 2, index]))
        except ImageError as error:
            raise DataError(f"{record.source}, record {record.id}: {error}") from error


def augment(example: Example, config: AugmentConfig, rng: Rng) -> Example:
    """A changed copy of a record whose answers are still true.

    Args:
        example: The record; its image is read if it is a file.
        config: How far it may change.
        rng: Decides everything.

    Returns:
        A record with its image in memory; one without an image comes back as it is.

    Raises:
        ImageError: The image cannot be read.
    """
    if example.image is None:
        return example
    image = read_image(example.image)
    boxes = box_math.clip(example.regions_xyxy, image.size)
    if rng.random() < config.mirror and _may_mirror(example):
        image = ImageOps.mirror(image)
        boxes = boxes[:, [2, 1, 0, 3]]
        boxes[:, [0, 2]] = image.width - boxes[:, [0, 2]]
    factor = float(np.exp(rng.uniform(*np.log(config.scale))))
    if factor != 1.0:
        size = (max(28, round(image.width * factor)), max(28, round(image.height * factor)))
        boxes = box_math.scale(boxes, image.size, size)
        image = image.resize(size, Image.Resampling.BICUBIC)
    if config.jitter and len(boxes):
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        moved = box_math.clip(
            boxes + rng.uniform(-config.jitter, config.jitter, boxes.shape) * sides, image.size
        )
        kept = ((moved[:, 2:] - moved[:, :2]).min(axis=1) >= 1)[:, None]
        boxes = np.where(kept, moved, boxes)
    changed = replace(example, image=_relit(image, config.light, rng), regions_xyxy=boxes)
    return _regions_changed(changed, config, rng)


def renumbered(example: Example, order: npt.ArrayLike) -> Example:
    """A record whose region ``k`` is region ``order[k]`` of the given one.

    Args:
        example: The record.
        order: Regions to keep, in their new order; none that a text names may be missing.

    Returns:
        A record whose texts name the same boxes; tags that stand in a row are sorted.
    """
    kept = np.asarray(order, np.int64)
    new = {int(old): number for number, old in enumerate(kept)}
    tags = RELEASED.tag_pattern()

    def run(match: re.Match[str]) -> str:
        numbers = [new[int(number)] for number in tags.findall(match.group())]
        return RELEASED.tags(sorted(numbers))

    return replace(
        example,
        regions_xyxy=example.regions_xyxy[kept],
        scores=None if example.scores is None else example.scores[kept],
        turns=tuple(
            Turn(
                question=_RUN.sub(run, turn.question),
                answer=_RUN.sub(run, turn.answer),
                task=turn.task,
            )
            for turn in example.turns
        ),
    )


def _regions_changed(example: Example, config: AugmentConfig, rng: Rng) -> Example:
    count = len(example.regions_xyxy)
    texts = " ".join(turn.question + " " + turn.answer for turn in example.turns)
    named = {int(number) for number in RELEASED.tag_pattern().findall(texts)}
    kept = [i for i in range(count) if i in named or rng.random() >= config.drop]
    if config.renumber:
        kept = [kept[i] for i in rng.permutation(len(kept))]
    return example if kept == list(range(count)) else renumbered(example, kept)


def _may_mirror(example: Example) -> bool:
    return not any(
        turn.task == Task.REGION_OCR or _SIDED.search(f"{turn.question} {turn.answer}")
        for turn in example.turns
    )


def _relit(image: Image.Image, reach: float, rng: Rng) -> Image.Image:
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(float(rng.uniform(1 - reach, 1 + reach)))
    return image
