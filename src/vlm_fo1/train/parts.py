"""What a training run is put together from, and what it says about itself."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vlm_fo1.train.batches import Collate, Source
from vlm_fo1.train.config import StageConfig


def do_nothing(*_: Any) -> None:
    """Stands for a callback nobody needs."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is put together from."""

    load_model: Callable[[Path | None], Any]
    """The network from a folder of an earlier stage; None for what ``config.model`` names."""
    make_source: Callable[[Mapping[str, Any], int, int], Source]
    """The examples of a mixture, shard ``i`` of ``n``."""
    collate: Collate
    """Examples to what the network takes, with ``labels``."""
    length: Callable[[Any], int]
    """Tokens of an example, before it is collated."""
    new_token_ids: Sequence[int] = ()
    """Ids of the region markup, for ``rows: new_tokens``."""
    evaluate: Callable[[Any, StageConfig, int], Mapping[str, float]] | None = None
    """Further figures at each evaluation: (unwrapped network, stage, step); every process calls."""
    fingerprint: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {}
    """What identifies the data of a mixture."""
    save_extras: Callable[[Path], Any] = do_nothing
    """Writes what belongs beside the weights: the processor."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Where a run is, for a progress line."""

    stage: str
    step: int
    steps: int
    metrics: Mapping[str, float] | None
    """The line of the log, at the steps that have one."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    folder: Path | None
    """Weights of the last stage; None if it did not get there."""
    stopped_by: int | None
    """The signal that ended it after saving; None if it ran to its end."""
    bad_records: int
    """Examples left out in this run on all processes, listed in ``bad_records.jsonl``."""


@dataclass
class Meters:
    """What is counted between two lines of the log, on one process."""

    loss: Tensor
    answer_tokens: float = 0.0
    examples: float = 0.0
    tokens: float = 0.0
    slots: float = 0.0
    started_s: float = field(default_factory=time.perf_counter)
