"""What a training run is put together from, and what it says about itself.

A recipe of its own (other losses, optimisers, data) is another `RunComponents`: steps, checkpoints,
schedules, logs and processes stay the library's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from vlm_fo1.processing import FO1Processor
from vlm_fo1.train.batches import Collate, Source
from vlm_fo1.train.config import StageConfig
from vlm_fo1.train.export import save_pretrained
from vlm_fo1.train.loss import answer_loss
from vlm_fo1.train.stages import StagePlan, adamw

Figures = Mapping[str, Tensor | float]
"""Names to sums over the targets of a batch, the same names in every batch."""
Loss = Callable[[nn.Module, Mapping[str, Any]], Tensor | tuple[Tensor, Figures]]
"""(network, batch on its device) to the loss, summed over the targets of the batch (see
`vlm_fo1.train.batches.Batch`), and figures that are logged beside it. The network is to be called,
not its parts: that is where processes meet."""
Optimizers = Callable[[nn.Module, StageConfig, StagePlan], Sequence[Optimizer]]
"""(unwrapped network, stage, what trains) to optimisers that have each trained parameter in one of
them. The schedule scales the learning rates that they come with."""


def _nothing(_: Any) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a stage learns: how its batches are made, and their loss."""

    collate: Collate
    loss: Loss
    length: Callable[[Any], int] = lambda _: 1
    begin: Callable[[Any], None] = _nothing
    """Called with the network that a stage starts from, in a resumed run as well."""


@dataclass(frozen=True, kw_only=True)
class RunComponents:
    """What a run is put together from."""

    load_model: Callable[[Path | None], Any]
    """The network from a folder of an earlier stage; None for what ``config.model`` names."""
    make_source: Callable[[Mapping[str, Any], int, int], Source]
    """The examples of a mixture, shard ``i`` of ``n``."""
    collate: Collate
    """Examples to what the loss takes."""
    save_model: Callable[[Any, Mapping[str, Tensor], Path], Any] = save_pretrained
    """Writes what a stage leaves behind: (network, its tensors on the CPU, folder)."""
    length: Callable[[Any], int] = lambda _: 1
    """Tokens of an example, before it is collated; batches are of like length."""
    loss: Loss = answer_loss
    """What is learnt."""
    other_objectives: Mapping[str, Objective] = field(default_factory=dict[str, Objective])
    """Further ones by the name that a stage gives as its ``objective``."""
    plain_state: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict
    """Tensors of the network as it trains to those that are saved."""
    optimizers: Optimizers = adamw
    """What makes the steps."""
    new_token_ids: Sequence[int] = ()
    """Ids of the region markup, for ``rows: new_tokens``."""
    new_word_ids: Sequence[int] = ()
    """Ids of words that the run gave tokens, for ``rows: new_words``."""
    processor: FO1Processor | None = None
    """With it held-out questions are put to the network, which is then an
    `FO1ForConditionalGeneration`, and the examples are `vlm_fo1.data.example.Example`."""
    evaluate: Callable[[Any, StageConfig, int], Mapping[str, float]] | None = None
    """Further figures at each evaluation: (unwrapped network, stage, step); every process calls."""
    fingerprint: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {}
    """What identifies the data of a mixture."""

    def objective(self, stage: StageConfig) -> Objective:
        """What a stage learns."""
        own = Objective(collate=self.collate, loss=self.loss, length=self.length)
        return self.other_objectives.get(stage.objective, own)


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Where a run is, for a progress line."""

    stage: str
    step: int
    steps: int
    metrics: Mapping[str, float] | None
    """The line of the log, at the steps that have one."""
    evaluation: Mapping[str, float] | None = None
    """That of the newest evaluation of the stage in this run."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    folder: Path | None
    """Weights of the last stage; None if it did not get there."""
    stopped_by: int | None
    """The signal that ended it after saving; None if it ran to its end."""
    bad_records: int
    """Examples left out, each once however often it came; `bad_records.jsonl` lists them."""
