"""The recipe of the bundled small model as data: what `tiny.yaml` says, strictly."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recipes.synthetic.config import TASKS, SyntheticConfig, changed
from vlm_fo1.config import read
from vlm_fo1.errors import ConfigError

RECIPE = Path(__file__).with_name("tiny.yaml")
"""The recipe of the bundled weights."""
STEPS = ("pools", "seen")
"""Steps of a run beside its stages."""
APART = ("check", "heldout")
"""Pools that never train."""

MAX_LABELS = 3
"""Most labels of a detection question; the model says it to those who ask it for more."""


@dataclass(frozen=True, kw_only=True)
class NetworkSizes:
    """Widths and depths of the small model."""

    hidden: int = 192
    """Width of the language model."""
    layers: int = 4
    """Layers of the language model."""
    heads: int = 4
    """Attention heads of the language model, each 32 wide."""
    inner: int = 384
    """Width inside its feed-forward parts."""
    vision: int = 96
    """Width of the primary tower, a multiple of 32."""
    vision_layers: int = 3
    """Layers of the primary tower."""
    davit: tuple[int, ...] = (32, 96, 192, 256)
    """Widths of the auxiliary tower's stages, multiples of 32."""
    davit_depths: tuple[int, ...] = (1, 1, 2, 1)
    """Blocks of its stages."""
    stem: tuple[int, int, int] = (8, 6, 1)
    """Side, stride and padding of its first convolution in pixels."""
    pyramid: int = 48
    """Channels of the region encoder's pyramid."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            ConfigError: A size below one, or a width that no whole head fits.
        """
        for name in ("hidden", "layers", "heads", "inner", "vision_layers", "pyramid"):
            _at_least(name, getattr(self, name), 1)
        for width in (self.vision, *self.davit):
            if width < 32 or width % 32:
                raise ConfigError(f"a tower's width is {width}: a multiple of 32 is needed")
        if not len(self.davit) == len(self.davit_depths) == 4:
            raise ConfigError("davit and davit_depths need four numbers each, one a stage")


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Images that are rendered once."""

    count: int
    """How many; a multiple of `per_shard`."""
    seed: int
    """Another seed is another stream of images."""
    per_shard: int = 32
    """Images of one size in one file; also the pictures of a step."""
    images: dict[str, Any] = field(default_factory=dict)
    """Settings that differ from those of the recipe."""

    def __post_init__(self) -> None:
        """Refuse half a shard.

        Raises:
            ConfigError: `count` is no multiple of `per_shard`.
        """
        _at_least("per_shard", self.per_shard, 1)
        if self.count < self.per_shard or self.count % self.per_shard:
            raise ConfigError(
                f"count = {self.count} must be a multiple of per_shard = {self.per_shard}"
            )


@dataclass(frozen=True, kw_only=True)
class TowerStage:
    """A stage of the towers; a step is one shard of the pool."""

    name: str
    """Names its checkpoint."""
    learns: Literal["cells", "regions"]
    """What learns to speak: cells of the primary tower's map, or regions of both towers."""
    pool: str
    """Pool it learns from."""
    keep: int = 0
    """Shards of that pool that are kept on disk as the towers see them when it is done."""
    steps: int
    """Optimiser steps."""
    matrix_lr: float
    """Peak rate of Muon, for matrices and convolutions."""
    lr: float
    """Peak rate of AdamW, for the rest."""
    weight_decay: float = 0.02
    """Of Muon."""
    warmup: int = 60
    """Steps until the peak."""
    decay: float = 0.5
    """Share of the steps, at the end, over which the rates fall in a straight line."""
    log_every: int = 20
    """Steps between lines of the log."""
    check_every: int = 200
    """Steps between looks at the pools kept apart, and between checkpoints."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            ConfigError: A number out of range.
        """
        for name in ("steps", "warmup", "log_every", "check_every"):
            _at_least(name, getattr(self, name), 1)
        _at_least("keep", self.keep, 0)
        _shares(self, ("decay",))


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of the language model's training."""

    name: str
    """Names its checkpoint."""
    steps: int
    """Optimiser steps."""
    batch: int
    """Images of a step of drills, for each process."""
    question_batch: int | None = None
    """Images of a step of questions, for each process; None for as many as `batch`."""
    processes: int = 1
    """Processes that average their gradients, a core each."""
    matrix_lr: float
    """Peak rate of Muon, for matrices."""
    lr: float
    """Peak rate of AdamW, for vectors."""
    words_lr: float
    """Peak rate of AdamW, for the embeddings of words that no region is aligned to."""
    warmup: int = 20
    """Steps until the peak."""
    decay: float = 0.0
    """Share of the steps, at the end, over which the rates fall in a straight line."""
    planned_steps: int | None = None
    """Steps that the rates are planned for, where the phase ends before; None for `steps`."""
    sharp_lr: float | None = None
    """Peak rate for the norms of queries and keys; None for `lr`."""
    sharpness: float | None = None
    """Set the queries' norms to this before the first step: sharper attention."""

    regions: int = 3
    """Most regions of an imagined image at the start."""
    kinds: int
    """How many kinds and words imagined images use at the start."""
    gate: float = 0.9
    """Share of right choices above which images get more regions, to 30, and more kinds."""
    drill: float = 0.0
    """Share of the steps that are exercises without the wording of tasks."""
    drill_absent: float = 0.4
    """Share of look-ups in an exercise for something that is not there."""
    refer: float = 0.0
    """Share of referring phrases in an exercise."""
    refer_extreme: float = 0.0
    """Share of these that ask for the leftmost, lowest, largest, ... of all things."""
    refer_nearest: float = 0.0
    """Share of the others that ask for the one of a kind nearest a region given by its tag."""
    refer_short: float = 0.0
    """Share of these that are answered with the tag at once."""
    refer_forms: dict[str, float] = field(default_factory=dict)
    """How often a form of phrase is drawn beside the others, 1 by default; empty for all alike."""
    stretch: float = 1.0
    """How much longer the part of a region token that says its place is than alignment made it."""
    plain_share: float = 0.0
    """Share of rows that ask about a whole picture, without regions."""
    seen_share: float = 0.0
    """Share of rows on regions as the towers see them; the rest is imagined."""
    seen_shards: int | None = None
    """How many shards these are from; None for all that are kept."""
    seen_by: str = "align"
    """Stage of the towers that looked at them; it keeps shards."""
    questions: int = 8
    """Questions on an image."""
    tasks: dict[str, float] = field(default_factory=dict)
    """How often each task is asked, in any unit."""
    easy_tasks: dict[str, float] = field(default_factory=dict)
    """The same for images of fewer than eight regions; empty for no difference."""

    log_every: int = 20
    """Steps between lines of the log."""
    save_every: int = 200
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            ConfigError: A number out of range, an unknown task, or questions without any task.
        """
        counted = ("steps", "batch", "processes", "warmup", "questions", "log_every", "save_every")
        for name in counted:
            _at_least(name, getattr(self, name), 1)
        _at_least("regions", self.regions, 2)
        _at_least("kinds", self.kinds, 2)
        shares = ("decay", "gate", "drill", "drill_absent", "refer", "plain_share", "seen_share")
        _shares(self, (*shares, "refer_extreme", "refer_nearest", "refer_short"))
        _at_least("planned_steps", self.planned_steps or self.steps, self.steps)
        if self.stretch <= 0:
            raise ConfigError(f"stretch = {self.stretch}: it must be above 0")
        if self.plain_share + self.seen_share > 1:
            raise ConfigError(
                "plain_share and seen_share are shares of one whole: at most 1 in sum"
            )
        unknown = sorted({*self.tasks, *self.easy_tasks} - set(TASKS))
        if unknown:
            raise ConfigError(f"tasks {unknown} are unknown: the tasks are {', '.join(TASKS)}")
        if self.drill < 1 and not self.tasks:
            raise ConfigError(f"phase {self.name!r} asks questions (drill < 1): give it tasks")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything from rendered images to weights."""

    seed: int = 0
    """Of weights, order and questions."""
    threads: int = 1
    """Threads of each process that trains."""
    renderers: int = 1
    """Processes that render images."""
    network: NetworkSizes = field(default_factory=NetworkSizes)
    """Sizes of the model."""
    images: dict[str, Any]
    """Settings of `SyntheticConfig` that differ from its defaults, ``sprites`` left out."""
    pools: dict[str, PoolConfig]
    """Images rendered ahead; "check" and "heldout" are looked at and never train."""
    towers: tuple[TowerStage, ...]
    """Stage 0, the host's own tower, then stage 1, regions to the frozen host's words; each goes on
    from the one before."""
    phases: tuple[Phase, ...]
    """Stages 0 and 2: the language model."""

    def __post_init__(self) -> None:
        """Refuse settings that no image has, stages of one name, and names of nothing.

        Raises:
            ConfigError: They are there; a path of sprites in the file; kinds or words are missing.
        """
        for name in ("threads", "renderers"):
            _at_least(name, getattr(self, name), 1)
        for name in ("kinds", "words"):
            if not isinstance(self.images.get(name), list | tuple):
                raise ConfigError(f"images.{name} is needed: list those that appear")
        if "sprites" in self.images:
            raise ConfigError("images.sprites is a path: leave it out and pass --sprites")
        for pool in self.pools.values():
            changed(SyntheticConfig(), {**self.images, **pool.images})
        self._know_stages()

    def _know_stages(self) -> None:
        """Look at what stages are named, and at what they name.

        Raises:
            ConfigError: One name twice, no phase, towers out of order, a name of nothing.
        """
        for name in APART:
            _one_of("pools", name, self.pools)
        names = [*STEPS, *(stage.name for stage in (*self.towers, *self.phases))]
        if len(set(names)) < len(names) or not self.phases:
            raise ConfigError(f"stages are named {names}: a phase at least, and no name twice")
        if [stage.learns for stage in self.towers[:2]] != ["cells", "regions"]:
            raise ConfigError("the first of the towers' stages learns cells, the next regions")
        for stage in self.towers:
            _one_of(f"stage {stage.name!r}: pool", stage.pool, set(self.pools) - set(APART))
        kept = {stage.name for stage in self.towers[1:] if stage.keep}
        for phase in self.phases:
            if phase.plain_share and not self.towers[0].keep:
                raise ConfigError(
                    f"phase {phase.name!r} asks about whole pictures: let stage "
                    f"{self.towers[0].name!r} keep shards"
                )
            if phase.seen_share:
                _one_of(f"phase {phase.name!r}: seen_by", phase.seen_by, kept)

    def before(self, stage: TowerStage) -> TowerStage | None:
        """The stage of the towers that a stage goes on from; None for the first."""
        number = self.towers.index(stage)
        return self.towers[number - 1] if number else None

    def image_config(self, sprites: str | None, **values: Any) -> SyntheticConfig:
        """Images of this recipe.

        Args:
            sprites: Sprite folder; None for drawn shapes.
            **values: Settings that differ from the recipe's.
        """
        return changed(SyntheticConfig(), {**self.images, "sprites": sprites, **values})


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from YAML.

    Args:
        path: Such as ``recipes/tiny/tiny.yaml``.
        overrides: ``dotted.key=value`` each.
    """
    return read(path, Recipe, overrides)


def _one_of(what: str, name: str, names: Collection[str]) -> None:
    """Look up a name.

    Raises:
        ConfigError: It is none of these.
    """
    if name not in names:
        raise ConfigError(f"{what} {name!r} is not there: there are {', '.join(sorted(names))}")


def _at_least(name: str, value: int, least: int) -> None:
    """Look at a number.

    Raises:
        ConfigError: It is too small.
    """
    if value < least:
        raise ConfigError(f"{name} = {value}: it must be at least {least}")


def _shares(config: Any, names: Sequence[str]) -> None:
    """Look at shares.

    Raises:
        ConfigError: One that is none.
    """
    for name in names:
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} = {value} is a share: a number from 0 to 1")
