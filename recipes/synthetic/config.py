"""What a stream of images looks like, as one flat set of values that a curriculum can change."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np

from vlm_fo1.config import build
from vlm_fo1.data.answers import AbsentStyle
from vlm_fo1.errors import ConfigError

Range = tuple[int, int]

TASKS: Mapping[str, float] = MappingProxyType(
    {
        "detection": 3.0,
        "counting": 2.0,
        "referring": 3.0,
        "brief_caption": 2.0,
        "detailed_caption": 0.5,
        "region_ocr": 1.0,
        "visual_prompt": 1.5,
        "grounded_caption": 0.3,
        "reasoning": 0.7,
        "free": 1.0,
    }
)
"""Kinds of questions that an image can be asked, as values of `vlm_fo1.tasks.Task`, with how often;
``free`` asks about the whole image and needs no region."""

VARIETY: Mapping[str, float] = MappingProxyType(
    {
        "recoloured": 0.5,  # things in other hues, greys, light
        "posterised": 0.12,  # in few tones
        "lines": 0.15,  # as lines on one colour
        "coarse": 0.2,  # of few pixels
        "tilted": 0.3,  # things and signs seen aslant
        "shadow": 0.25,  # things
        "textured": 0.4,  # images on a photograph or rough noise, of those that are not plain
        "noise": 0.15,  # images, strong
        "blur": 0.12,
        "jpeg": 0.25,
        "grey": 0.06,  # images without colour
        "font": 0.8,  # signs in a font of the sprite folder
        "invented": 0.7,  # signs with any 3 to 8 letters
    }
)
"""All that `SyntheticConfig.variety` knows, with shares that suit training."""


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Settings of rendered images, their regions and their questions; ranges are least, most."""

    sprites: str | None = None
    """Sprite folder made by ``python -m recipes.synthetic.build``; None draws plain shapes."""
    styles: tuple[str, ...] = ()
    """Drawing styles to use; empty takes all that train."""
    final: bool = False
    """Know the vendor that is held out to the end, which is refused otherwise."""
    kinds: int | tuple[str, ...] | None = None
    """Which kinds appear: the first so many of a fixed order (a larger number keeps those of a
    smaller one), names, or None for all."""
    synonyms: float = 0.0
    """Share of the kinds that an image calls by another of their names."""
    coined: tuple[str, ...] = ()
    """Kinds that go by a word made up for them, always the same."""
    variety: Mapping[str, float] = field(default_factory=dict)
    """Shares of things, images or signs that are unlike the usual, by the names of `VARIETY`."""

    width: Range = (256, 320)
    """Width of the image in pixels."""
    height: Range = (256, 320)
    """Height of the image in pixels."""
    objects: Range = (4, 14)
    """Number of things, signs not counted."""
    object_size: Range = (20, 110)
    """Long side of a thing in pixels."""
    rotation_deg: float = 25.0
    """Greatest turn to either side in degrees."""
    overlap: float = 0.5
    """Share of images where things may hide each other in part."""
    min_visible: float = 0.4
    """A thing that shows less of itself than this share is left out."""
    signs: Range = (0, 2)
    """Number of plates with a word."""
    letter_height: Range = (10, 18)
    """Height of printed capitals in pixels."""
    words: tuple[str, ...] = ()
    """Words for signs, upper case; empty takes `recipes.synthetic.signs.WORDS`."""
    held_out_words: bool = False
    """Signs show words that no other images show."""
    coloured: float = 0.4
    """Share of the kinds that come in colours which are tinted, each thing in its own colour."""
    plain_background: float = 0.4
    """Share of images with a background of one colour."""
    effects: float = 0.5
    """Share of images with uneven light, noise or blur, all slight."""

    distractors: Range = (0, 6)
    """Number of boxes around nothing, parts, or two things at once."""
    jitter: float = 0.5
    """Share of things whose box is a proposal (shifted by a few percent) and not the exact box."""
    drop: float = 0.0
    """Share of things that get no box; counts and absences then go by the boxes."""
    region_limit: int = 100
    """Greatest number of regions."""
    no_regions: float = 0.0
    """Share of examples without any region; these have ``free`` questions only."""

    turns: Range = (6, 6)
    """Number of questions per image; fewer where the image gives no more."""
    tasks: Mapping[str, float] = field(default_factory=lambda: dict(TASKS))
    """How often each of `TASKS` is asked, in any unit; absent tasks are not asked."""
    labels: Range = (1, 4)
    """Number of labels of a detection question."""
    absent: float = 0.3
    """Share of asked labels that are not in the image; half of them look-alikes by category."""
    absent_style: AbsentStyle = "omit"
    """How a missing label is answered: not at all, or with ``None`` in its place."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn or asked.

        Raises:
            ConfigError: A range that is reversed, a share outside [0, 1], an unknown task.
        """
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type == Range and not 0 <= value[0] <= value[1]:
                raise ConfigError(f"{item.name} = {value} must be (least, greatest), both >= 0")
            if item.type is float and item.name != "rotation_deg" and not 0 <= value <= 1:
                raise ConfigError(f"{item.name} = {value} is a share: a number from 0 to 1")
        for name, table, known in (
            ("tasks", self.tasks, TASKS),
            ("variety", self.variety, VARIETY),
        ):
            unknown = sorted(set(table) - set(known))
            if unknown:
                raise ConfigError(f"{name} {unknown} are unknown: there are {', '.join(known)}")
        if not all(0 <= share <= 1 for share in self.variety.values()):
            raise ConfigError(f"variety = {dict(self.variety)} are shares: numbers from 0 to 1")
        if min(self.tasks.values(), default=0) < 0 or sum(self.tasks.values()) <= 0:
            raise ConfigError(f"tasks = {dict(self.tasks)}: weights >= 0 and one above 0 needed")
        if self.labels[0] < 1:
            raise ConfigError(f"labels = {self.labels}: a question has at least one label")

    def chance(self, name: str, rng: np.random.Generator) -> bool:
        """Whether something of `variety` happens; draws nothing where it never does."""
        share = self.variety.get(name, 0.0)
        return share > 0 and rng.random() < share


def changed(config: SyntheticConfig, values: Mapping[str, Any]) -> SyntheticConfig:
    """A config with other values, as a file gives them: lists for tuples, 1 for 1.0.

    Raises:
        ConfigError: A key that is no setting, or a value that it cannot have.
    """
    kept = {item.name: getattr(config, item.name) for item in fields(config)}
    return build(SyntheticConfig, {**kept, **values})
