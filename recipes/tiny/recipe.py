"""The recipe of the bundled small model as data: what `tiny.yaml` says, strictly.

Its stages are the library's; what is taught in one, its ``mixture``, is a `Lesson`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from recipes.synthetic.config import TASKS, SyntheticConfig, changed
from vlm_fo1.config import build, plain, read
from vlm_fo1.errors import ConfigError
from vlm_fo1.train.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OutputConfig,
    StageConfig,
    TrainConfig,
)

RECIPE = Path(__file__).with_name("tiny.yaml")
"""The recipe of the bundled weights."""
LOUD_PLACES = 2.5
"""How much louder the towers' regions say their place than alignment has it."""
MAX_LABELS = 3
"""Most labels of a detection question; the model says it to those who ask it for more."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a stage teaches."""

    learns: Literal["cells", "regions", "answers"] = "answers"
    """Cells of the primary tower's map or regions of both towers, on rendered images of which none
    comes twice, or the answers of the language model, row by row."""
    matrix_lr: float = 0.01
    """Peak rate of Muon, for matrices and convolutions."""
    images: dict[str, Any] = field(default_factory=dict)
    """Settings of the towers' images that differ from those of the recipe."""
    regions: int = 30
    """Most regions of an imagined image at the start."""
    gate: float = 0.9
    """Share of right choices above which imagined images get more regions, to 30."""
    drill: float = 0.0
    """Share of the batches that are exercises without the wording of tasks."""
    refer: float = 0.0
    """Share of referring phrases in an exercise."""
    refer_short: float = 0.0
    """Share of these that are answered with the tag at once."""
    refer_forms: dict[str, float] = field(default_factory=dict)
    """How often a form of phrase is drawn beside the others, 1 by default: those of questions,
    ``extreme`` (the leftmost, lowest, largest, ... of all) and ``tagged`` (nearest <region3>)."""
    places: float = LOUD_PLACES
    """How loud an imagined region says its place."""
    plain_share: float = 0.0
    """Share of rows that ask about a whole image, without regions."""
    seen_share: float = 0.0
    """Share of rows on regions as the towers see them; the rest is imagined."""
    held_out: bool = False
    """Take images as the towers see them that never train."""
    tasks: dict[str, float] = field(default_factory=lambda: {"detection": 1.0})
    """How often each task is asked, in any unit."""
    stream: int = 0
    """Filled in: another number is another stream of images or rows."""
    batch: int = 1
    """Filled in: so many images are of one size, or so many rows all exercises or all none."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ConfigError: A number out of range, or an unknown task.
        """
        for name, value in vars(self).items():
            if isinstance(value, float) and name not in ("matrix_lr", "places"):
                _need(0 <= value <= 1, f"{name} = {value} is a share: from 0 to 1")
        _need(self.regions >= 2, f"regions = {self.regions}: at least 2")
        seen = self.plain_share + self.seen_share
        _need(seen <= 1, "plain_share and seen_share are shares of one whole: at most 1")
        unknown = sorted(set(self.tasks) - set(TASKS))
        _need(not unknown, f"tasks {unknown} are unknown: the tasks are {', '.join(TASKS)}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything from rendered images to weights."""

    seed: int = 0
    """Of weights, images, order and questions."""
    threads: int = 2
    """Threads of the process that trains."""
    precision: Literal["bf16", "fp32"] = "fp32"
    """Arithmetic of all stages. A CPU without instructions for bfloat16 is 8 times slower in it."""
    renderers: int = 1
    """Processes that render images beside it."""
    network: dict[str, Any]
    """`FO1Config` of the model, token ids left out."""
    images: dict[str, Any]
    """Settings of `SyntheticConfig` that differ from its defaults, ``sprites`` left out."""
    sides: tuple[int, ...] = (256, 288, 320)
    """Sides of images in pixels, every pair of them."""
    held_out: dict[str, Any] = field(default_factory=dict)
    """Settings of the images that the towers are judged by."""
    judged: int = 8
    """Batches that do not train and that a stage is judged by."""
    towers: tuple[StageConfig, ...]
    """Stage 0, the host's own tower, then stage 1, regions to the frozen host's words."""
    features: int
    """Images that the language model is taught on as the towers see them."""
    language: tuple[StageConfig, ...]
    """Stages 0 and 2: the language model."""

    def __post_init__(self) -> None:
        """Refuse settings that no image has, and mixtures that say nothing.

        Raises:
            ConfigError: They are there; a path of sprites in the file; kinds or words are missing.
        """
        for name in ("kinds", "words"):
            listed = isinstance(self.images.get(name), list | tuple)
            _need(listed, f"images.{name} is needed: list those that appear")
        _need("sprites" not in self.images, "images.sprites is a path: pass --sprites")
        for stage in (*self.towers, *self.language):
            self.image_config(None, **build(Lesson, stage.mixture).images)

    def image_config(self, sprites: str | None, **values: Any) -> SyntheticConfig:
        """Images of this recipe.

        Args:
            sprites: Sprite folder; None for drawn shapes.
            **values: Settings that differ from the recipe's.
        """
        return changed(SyntheticConfig(), {**self.images, "sprites": sprites, **values})

    def run_config(self, part: Literal["towers", "language"], folder: Path) -> TrainConfig:
        """A part of the recipe as the library's loop takes it."""
        stages: list[StageConfig] = []
        for number, stage in enumerate(getattr(self, part)):
            taught = build(Lesson, {**stage.mixture, "stream": number, "batch": stage.batch_size})
            stages.append(replace(stage, mixture=plain(taught), precision=self.precision))
        judged = {"images": self.held_out} if part == "towers" else {"held_out": True}
        judged = {**stages[-1].mixture, **judged, "stream": len(stages)}
        workers = self.renderers if part == "towers" else 0
        return TrainConfig(
            stages=tuple(stages),
            model=ModelConfig(path="recipes.tiny", init="random"),
            output=OutputConfig(folder=folder, log_every=20, tensorboard=False),
            data=DataConfig(pool_batches=1, workers=workers, on_bad_record="stop"),
            evaluation=EvaluationConfig(mixture=judged, batches=self.judged),
            seed=self.seed,
            recipe={
                name: getattr(self, name) for name in ("network", "images", "sides", "features")
            },
        )


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from YAML.

    Args:
        path: Such as ``recipes/tiny/tiny.yaml``.
        overrides: ``dotted.key=value`` each.
    """
    return read(path, Recipe, overrides)


def _need(ok: bool, rule: str) -> None:
    """Refuse a value.

    Raises:
        ConfigError: ``ok`` is false.
    """
    if not ok:
        raise ConfigError(rule)
