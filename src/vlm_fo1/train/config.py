"""What a training run is, as data: the stages, the model, the data, the output."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlm_fo1.errors import ConfigError


def _need(ok: bool, rule: str) -> None:
    """Refuse a value.

    Raises:
        ConfigError: ``ok`` is false.
    """
    if not ok:
        raise ConfigError(rule)


_TAKEN = ("best", "answers", "checkpoints", "tensorboard")
"""Folders of a run that are no stage's."""


@dataclass(frozen=True, kw_only=True)
class TrainRule:
    """Which parameters train, and how fast."""

    pattern: str
    """Parameter names: a module (all in it), or a glob in which ``*`` spans dots."""
    lr: float
    """Peak learning rate of these parameters."""
    weight_decay: float | None = None
    """Decay of these parameters instead of the stage's; norms, biases, embeddings never decay."""
    rows: Literal["all", "new_tokens", "new_words"] = "all"
    """Which rows of a (vocabulary, width) matrix train: ``new_tokens`` are those of the region
    markup, ``new_words`` those that `ModelConfig.new_words` made; none if it made none."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _need(bool(self.pattern), "pattern is empty: name a module or a parameter")
        _need(self.lr > 0, f"lr = {self.lr:g} of {self.pattern!r}: it must be above 0")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters instead of full weights (extra `train`); merged when the stage ends."""

    targets: tuple[str, ...]
    """Linear modules that get an adapter; patterns as in `TrainRule.pattern`."""
    lr: float = 1e-4
    """Peak learning rate of the adapters."""
    rank: int = 16
    """Inner width of an adapter."""
    alpha: float = 32.0
    """The adapter's output is scaled by ``alpha / rank``."""
    dropout: float = 0.0
    """Share of adapter inputs dropped, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _need(len(self.targets) > 0, "targets is empty: name at least one linear module")
        _need(self.rank >= 1, f"rank = {self.rank}: it must be at least 1")
        _need(0 <= self.dropout < 1, f"dropout = {self.dropout:g}: it must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rates of a stage go: up in a straight line, level, then down."""

    name: Literal["cosine", "linear", "constant"] = "cosine"
    """The way down; ``constant`` stays at the peak."""
    warmup_steps: int = 0
    """Steps over which the rates rise from 0."""
    decay_steps: int = 0
    """Steps at the end over which they fall; 0 for all after the warm-up."""
    min_lr_ratio: float = 0.0
    """Where they end, as a share of the peak."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("warmup_steps", "decay_steps"):
            value = getattr(self, name)
            _need(value >= 0, f"{name} = {value}: it cannot be negative")
        _need(
            0 <= self.min_lr_ratio <= 1,
            f"min_lr_ratio = {self.min_lr_ratio:g}: it must be in [0, 1]",
        )


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage: what trains, for how long, on what."""

    name: str
    """Names the folder of its weights; lower case letters, digits, ``-`` and ``_``."""
    train: tuple[TrainRule, ...] = ()
    """What trains; the first rule that matches a parameter counts, the rest is frozen."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that stay frozen though a rule matches them."""
    lora: LoraConfig | None = None
    """Adapters on top of frozen linear layers."""
    objective: Literal["answers", "sets", "names"] = "answers"
    """What is learnt: ``answers``, as the paper does; ``sets``: the same, and any order of the
    regions of a list is right, for models that have an order of their own; ``names``: the token of
    a region points where the words of its name do, for models whose region tokens speak in words
    (the bundled one)."""
    mixture: dict[str, Any] = field(default_factory=dict[str, Any])
    """The examples: what `vlm_fo1.data.mixture` reads."""
    steps: int
    """Optimiser steps."""
    batch_size: int = 8
    """Examples a micro-batch and process, at most."""
    batch_tokens: int = 0
    """Tokens a micro-batch with padding, at most: bounds memory, wastes less; 0 for no limit."""
    accumulation: int = 1
    """Micro-batches an optimiser step; the loss is a mean over all their targets."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How the learning rates go over the steps."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices (AdamW)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's averages."""
    eps: float = 1e-8
    """AdamW's floor."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient; 0 for no clipping."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic of the forward and backward pass; trained weights are float32 always."""
    frozen_precision: Literal["bf16", "fp32"] = "fp32"
    """How frozen weights are held; bf16 halves their memory (not with FSDP)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    eval_every: int = 0
    """Steps between evaluations; 0 for the end of the stage only."""
    save_every: int = 500
    """Steps between checkpoints; 0 for the end of the stage and on a signal only."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        clean = self.name.replace("-", "").replace("_", "")
        _need(
            clean.isalnum() and self.name == self.name.lower(),
            f"stage name {self.name!r}: use lower case letters, digits, '-' and '_'",
        )
        _need(
            self.name not in _TAKEN,
            f"stage name {self.name!r}: the run keeps other things there; take another name",
        )
        _need(
            bool(self.train or self.lora),
            f"stage {self.name!r} trains nothing: give train rules or lora",
        )
        for name in ("steps", "batch_size", "accumulation"):
            value = getattr(self, name)
            _need(value >= 1, f"{name} = {value} of stage {self.name!r}: it must be at least 1")
        for name in ("batch_tokens", "weight_decay", "clip_norm", "eval_every", "save_every"):
            value = getattr(self, name)
            _need(value >= 0, f"{name} = {value} of stage {self.name!r}: it cannot be negative")
        busy = self.schedule.warmup_steps + self.schedule.decay_steps
        _need(
            busy <= self.steps,
            f"warm-up and decay take {busy} steps but stage {self.name!r} has {self.steps}",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the first stage starts from."""

    path: str
    """A checkpoint folder or Hub id; `fo1 graft` makes one from a host VLM."""
    init: Literal["weights", "random"] = "weights"
    """``random``: take the sizes from ``path`` and draw the weights by the run's seed."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention kernel."""
    new_words: bool = False
    """Give words in the names of regions that the tokenizer writes letter by letter a token."""
    standardise: int = 64
    """Records whose region features are looked at when a stage begins, so that the region connector
    trains on features of mean 0 and variance 1; what is saved takes plain ones. 0: it does not."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _need(self.standardise >= 0, f"standardise = {self.standardise}: it cannot be negative")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How examples become batches; the same for every stage."""

    max_tokens: int = 4096
    """Longest sequence; a longer example is reported and left out."""
    pool_batches: int = 32
    """Micro-batches read at once and sorted by length; more means less padding."""
    workers: int = 0
    """Processes that read and collate ahead, per training process; 0 does it in the loop."""
    kept_maps_gib: float = 1.0
    """Memory on a CPU for maps of a frozen auxiliary tower, of images that come again; 0: none."""
    on_bad_record: Literal["report", "stop"] = "report"
    """``report``: leave it out, list it in ``bad_records.jsonl``; ``stop``: end with its error."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _need(self.max_tokens >= 1, f"max_tokens = {self.max_tokens}: it must be at least 1")
        _need(self.pool_batches >= 1, f"pool_batches = {self.pool_batches}: at least 1")
        _need(self.workers >= 0, f"workers = {self.workers}: it cannot be negative")
        _need(self.kept_maps_gib >= 0, f"kept_maps_gib = {self.kept_maps_gib}: not negative")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured on held-out examples in the loop: the loss, and what answers are worth."""

    mixture: dict[str, Any]
    """The held-out examples: what `vlm_fo1.data.mixture` reads."""
    batches: int = 16
    """Micro-batches per process and evaluation of which the loss is measured, always the same."""
    answers: int = 40
    """Held-out records whose questions are answered, before the first step as well, always the same
    ones on all processes together; 0 measures the loss alone. See `vlm_fo1.train.figures`."""
    best: str = "answers"
    """The figure by which the best weights of a stage are kept in ``best/``: ``detection.f1``,
    ``loss``, ... ``answers`` is the mean of the tasks' main figures; empty keeps none."""
    patience: int = 0
    """Evaluations without a better value of ``best`` after which the stage ends; 0 for never."""
    drawn: int = 10
    """How many of the answers are drawn at each evaluation, in ``answers/``; 0 for none."""
    shuffled: bool = False
    """Ask once more with every box under the number of another: figures named ``shuffled.`` say
    what is right without looking at regions."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("answers", "patience", "drawn"):
            value = getattr(self, name)
            _need(value >= 0, f"{name} = {value}: it cannot be negative")
        _need(self.batches >= 1, f"batches = {self.batches}: it must be at least 1")
        _need(
            bool(self.best) or not self.patience,
            f"patience = {self.patience} without best: name the figure that has to get better",
        )


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """What is written, and where."""

    folder: Path
    """Gets the weights of each stage, checkpoints and logs."""
    keep_checkpoints: int = 2
    """How many of the latest checkpoints stay."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights each stage leaves behind; the next stage starts from these."""
    log_every: int = 10
    """Steps between lines of ``log.jsonl``."""
    tensorboard: bool = True
    """Write TensorBoard files too (extra `train`)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _need(self.keep_checkpoints >= 1, f"keep_checkpoints = {self.keep_checkpoints}: at least 1")
        _need(self.log_every >= 1, f"log_every = {self.log_every}: at least 1")


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """How processes share the work; their number comes from the launcher."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """``ddp``: every process holds the model; ``fsdp``: each holds a slice (FSDP2)."""
    device: Literal["auto", "cpu"] = "auto"
    """``auto``: a GPU if there is one."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run."""

    stages: tuple[StageConfig, ...]
    """Run in order; each starts from the weights the one before left."""
    model: ModelConfig
    """What the first stage starts from."""
    output: OutputConfig
    """Where everything goes."""
    data: DataConfig = DataConfig()
    """How examples become batches."""
    evaluation: EvaluationConfig | None = None
    """What is measured in the loop on held-out examples."""
    distributed: DistributedConfig = DistributedConfig()
    """How processes share the work."""
    seed: int = 0
    """Of weights, order and dropout."""
    recipe: dict[str, Any] = field(default_factory=dict[str, Any])
    """Settings of a recipe that runs on this loop; the library compares them when it resumes."""

    def __post_init__(self) -> None:
        """Check what holds between the parts."""
        _need(len(self.stages) > 0, "stages is empty: a run needs at least one")
        names = [stage.name for stage in self.stages]
        _need(len(set(names)) == len(names), f"stage names repeat: {', '.join(names)}")
        if self.distributed.strategy == "fsdp":
            bad = [stage.name for stage in self.stages if stage.frozen_precision != "fp32"]
            _need(not bad, f"FSDP needs one dtype: set frozen_precision: fp32 in {', '.join(bad)}")
            names = [stage.name for stage in self.stages if stage.objective == "names"]
            _need(not names, f"{', '.join(names)}: objective: names runs with strategy: ddp")

    def mixtures(self) -> list[dict[str, Any]]:
        """The mixtures of all stages and of the evaluation, each once."""
        found = [stage.mixture for stage in self.stages]
        if self.evaluation is not None:
            found.append(self.evaluation.mixture)
        return [mixture for at, mixture in enumerate(found) if mixture not in found[:at]]


FREE_TO_CHANGE = (
    "output.folder",
    "output.keep_checkpoints",
    "output.tensorboard",
    "output.log_every",
    "data.on_bad_record",
    "evaluation.drawn",
    "evaluation.patience",
    "distributed.device",
)
"""Keys that may differ between a checkpoint and the run that resumes it."""


def may_change(key: str) -> bool:
    """Whether a run may be resumed with another value of this dotted key."""
    return key in FREE_TO_CHANGE or key.rsplit(".", 1)[-1] in ("eval_every", "save_every")
