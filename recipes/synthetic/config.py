"""What a stream of images looks like, as one flat set of values that a curriculum can change."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from vlm_fo1.errors import ConfigError

TASKS = (
    *("detection", "counting", "referring", "brief_caption", "detailed_caption", "region_ocr"),
    *("visual_prompt", "grounded_caption", "reasoning", "free"),
)
"""Kinds of questions that an image can be asked, as values of `vlm_fo1.tasks.Task`; ``free`` asks
about the whole picture and needs no region."""


def _default_tasks() -> dict[str, float]:
    return {
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


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Settings of rendered images, their regions and their questions."""

    sprites: str | None = None
    """Sprite folder made by ``python -m recipes.synthetic.build``; None draws plain shapes."""
    styles: tuple[str, ...] = ()
    """Drawing styles to use; empty takes all that are not held out."""
    kinds: int | tuple[str, ...] | None = None
    """Which kinds appear: the first so many of a fixed order (a larger number keeps those of a
    smaller one), names, or None for all."""

    width: tuple[int, int] = (256, 320)
    """Least and greatest width of the picture in pixels."""
    height: tuple[int, int] = (256, 320)
    """Least and greatest height of the picture in pixels."""
    objects: tuple[int, int] = (4, 14)
    """Least and greatest number of things, signs not counted."""
    object_size: tuple[int, int] = (20, 110)
    """Least and greatest long side of a thing in pixels."""
    rotation_deg: float = 25.0
    """Greatest turn to either side in degrees."""
    overlap: float = 0.5
    """Share of images where things may hide each other in part."""
    min_visible: float = 0.4
    """A thing that shows less of itself than this share is left out."""
    signs: tuple[int, int] = (0, 2)
    """Least and greatest number of plates with a word."""
    letter_height: tuple[int, int] = (10, 18)
    """Least and greatest height of printed capitals in pixels."""
    words: tuple[str, ...] = ()
    """Words for signs, upper case; empty takes `recipes.synthetic.signs.WORDS`."""
    coloured: float = 0.4
    """Share of the kinds that come in colours which are tinted, each thing in its own colour."""
    plain_background: float = 0.4
    """Share of images with a background of one colour."""
    effects: float = 0.5
    """Share of images with uneven light, noise or blur."""

    distractors: tuple[int, int] = (0, 6)
    """Least and greatest number of boxes around nothing, parts, or two things at once."""
    jitter: float = 0.5
    """Share of things whose box is a proposal (shifted by a few percent) and not the exact box."""
    drop: float = 0.0
    """Share of things that get no box; counts and absences then go by the boxes."""
    region_limit: int = 100
    """Greatest number of regions."""
    no_regions: float = 0.0
    """Share of examples without any region; these have ``free`` questions only."""

    turns: tuple[int, int] = (6, 6)
    """Least and greatest number of questions per image; fewer where the image gives no more."""
    tasks: Mapping[str, float] = field(default_factory=_default_tasks)
    """How often each of `TASKS` is asked, in any unit; absent tasks are not asked."""
    labels: tuple[int, int] = (1, 4)
    """Least and greatest number of labels of a detection question."""
    absent: float = 0.3
    """Share of asked labels that are not in the picture; half of them look-alikes by category."""
    absent_style: Literal["omit", "none"] = "omit"
    """How a missing label is answered: not at all, or with ``None`` in its place."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn or asked.

        Raises:
            ConfigError: A range that is reversed, a share outside [0, 1], an unknown task.
        """
        _check_values(self)
        unknown = sorted(set(self.tasks) - set(TASKS))
        if unknown:
            raise ConfigError(f"tasks {unknown} are unknown: the tasks are {', '.join(TASKS)}")
        if min(self.tasks.values(), default=0) < 0 or sum(self.tasks.values()) <= 0:
            raise ConfigError(f"tasks = {dict(self.tasks)}: weights >= 0 and one above 0 needed")
        if self.absent_style not in {"omit", "none"}:
            raise ConfigError(f"absent_style = {self.absent_style!r} must be 'omit' or 'none'")
        if self.labels[0] < 1:
            raise ConfigError(f"labels = {self.labels}: a question has at least one label")


_RANGES = frozenset(
    {"width", "height", "objects", "object_size", "signs", "letter_height", "distractors", "turns"}
    | {"labels"}
)
_SHARES = frozenset(
    {"overlap", "min_visible", "coloured", "plain_background", "effects", "jitter", "drop"}
    | {"no_regions", "absent"}
)


def _check_values(config: SyntheticConfig) -> None:
    """Look at ranges and shares.

    Raises:
        ConfigError: One that cannot be.
    """
    for name in _RANGES:
        low, high = getattr(config, name)
        if not 0 <= low <= high:
            raise ConfigError(f"{name} = {(low, high)} must be (least, greatest), both >= 0")
    for name in _SHARES:
        share = getattr(config, name)
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} = {share} is a share: a number from 0 to 1")


def changed(config: SyntheticConfig, values: Mapping[str, Any]) -> SyntheticConfig:
    """A config with other values, as a file gives them: lists for tuples, 1 for 1.0.

    Raises:
        ConfigError: A key that is no setting, or a value that it cannot have.
    """
    known = [item.name for item in fields(SyntheticConfig)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"images have no {unknown}: the settings are {', '.join(known)}")
    return replace(config, **{name: _fitting(name, value) for name, value in values.items()})


def _fitting(name: str, value: Any) -> Any:
    """A value from a file in the type that its setting has.

    Raises:
        ConfigError: It has none of the types that will do.
    """
    default = getattr(SyntheticConfig(), name)
    if name == "tasks" and isinstance(value, Mapping):
        return {str(task): float(weight) for task, weight in value.items()}
    if isinstance(default, float) and isinstance(value, int | float) and value is not True:
        return float(value)
    if name in _RANGES:
        if isinstance(value, list | tuple) and [type(limit) for limit in value] == [int, int]:
            return tuple(value)
        raise ConfigError(f"{name} = {value!r}: two whole numbers, [least, greatest], are needed")
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if name in {"styles", "words", "tasks"} or isinstance(default, float):
        raise ConfigError(f"{name} = {value!r} cannot be: its default is {default!r}")
    return value
