"""A stage as data, applied to a model: what trains, how fast, and what stays as it is.

Shapes: V vocabulary, D width of the language model.
"""

import difflib
import fnmatch
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vlm_fo1.errors import ConfigError
from vlm_fo1.train.config import StageConfig, TrainRule
from vlm_fo1.train.distributed import shard_like
from vlm_fo1.train.lora import add_adapters, is_adapter, plain_name


@dataclass
class RowMask:
    """Lets only some rows of a (V, D) matrix train: the gradient of all others is zeroed.

    With no decay and AdamW's averages starting at zero, a row whose gradient is always zero keeps
    every bit. Zeroed once a step, after the processes have summed their gradients, so it
    works alike under DDP and FSDP. Source: the paper's stage 1, which trains the new tokens only.
    """

    name: str
    rows: Sequence[int]
    _mask_V1: Tensor | None = field(default=None, repr=False)

    def apply(self, parameter: nn.Parameter) -> None:
        """Zero the gradient of every other row."""
        if parameter.grad is None:
            return
        if self._mask_V1 is None:
            mask_V1 = torch.zeros(parameter.shape[0], 1, dtype=parameter.grad.dtype)
            mask_V1[list(self.rows)] = 1
            self._mask_V1 = shard_like(mask_V1, parameter.grad)
        parameter.grad.mul_(self._mask_V1)


@dataclass(frozen=True)
class Group:
    """Parameters with one learning rate and one decay."""

    lr: float
    weight_decay: float
    names: tuple[str, ...]


@dataclass(frozen=True)
class StagePlan:
    """What `apply_stage` decided."""

    groups: tuple[Group, ...]
    """What trains alike."""
    names: tuple[str, ...]
    """Parameters that train, in the model's order."""
    row_masks: tuple[RowMask, ...]
    """Matrices of which only some rows train."""
    counts: dict[str, int]
    """Rule (its pattern, or ``lora``) to how many numbers it trains."""

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """An optimiser's groups, with the peak learning rate of each.

        Args:
            model: The network as it is now: FSDP replaces parameters.
        """
        parameters = dict(model.named_parameters())
        return [
            {
                "params": [parameters[name] for name in group.names],
                "lr": group.lr,
                "weight_decay": group.weight_decay,
            }
            for group in self.groups
        ]


def adamw(model: nn.Module, stage: StageConfig, plan: StagePlan) -> list[Optimizer]:
    """AdamW over all that trains."""
    groups = plan.parameter_groups(model)
    return [torch.optim.AdamW(groups, betas=stage.betas, eps=stage.eps)]


def check_optimizers(optimizers: Iterable[Optimizer], model: nn.Module, plan: StagePlan) -> None:
    """Refuse optimisers that would leave something as it is, or step twice.

    Raises:
        ConfigError: A parameter that trains is in none of them or in two, or one that does not
            train is in one.
    """
    held = Counter(
        id(parameter)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    trains = set(plan.names)
    wrong = [
        name
        for name, parameter in model.named_parameters()
        if held[id(parameter)] != int(name in trains)
    ]
    if wrong:
        raise ConfigError(
            f"{len(wrong)} parameters, such as {wrong[0]}, are not in exactly one optimiser if "
            "they train and in none if they do not: make `optimizers` follow the stage's plan"
        )


def apply_stage(
    model: nn.Module,
    stage: StageConfig,
    new_token_ids: Sequence[int] = (),
    new_word_ids: Sequence[int] = (),
) -> StagePlan:
    """Add adapters, freeze, thaw and group a model's parameters in place.

    Args:
        model: The network, not yet wrapped for several processes.
        stage: The stage.
        new_token_ids: Rows of the region markup in the embedding, for ``rows: new_tokens``.
        new_word_ids: Rows of words that the run added, for ``rows: new_words``.

    Returns:
        What trains, for the optimiser. Trained parameters are float32, frozen ones as
        ``frozen_precision`` says. Frozen modules stop dropping out.

    Raises:
        ConfigError: A pattern matches nothing, ``new_tokens`` without ids or on something that is
            not a matrix of rows, or nothing is left to train.
    """
    if stage.lora is not None:
        targets = modules_of(model, stage.lora.targets)
        add_adapters(model, stage.lora, targets)
    found = assign(model, stage)
    if not new_word_ids:
        found = {name: rule for name, rule in found.items() if rule.rows != "new_words"}
    named = dict(model.named_parameters())
    undecayed = _embedding_parameters(model)
    groups: dict[tuple[float, float], list[str]] = {}
    masks: list[RowMask] = []
    counts: dict[str, int] = {}
    for name, parameter in named.items():
        rule = found.get(name)
        parameter.requires_grad_(rule is not None)
        if rule is None:
            if stage.frozen_precision == "bf16" and parameter.is_floating_point():
                parameter.data = parameter.data.to(torch.bfloat16)
            continue
        parameter.data = parameter.data.float()
        trained = parameter.numel()
        if rule.rows != "all":
            rows = tuple(new_token_ids if rule.rows == "new_tokens" else new_word_ids)
            _check_rows(name, parameter, rows)
            masks.append(RowMask(name, rows))
            trained = len(rows) * parameter.shape[1]
        decays = parameter.ndim > 1 and id(parameter) not in undecayed and rule.rows == "all"
        decay = stage.weight_decay if rule.weight_decay is None else rule.weight_decay
        groups.setdefault((rule.lr, decay if decays else 0.0), []).append(name)
        counts[rule.pattern] = counts.get(rule.pattern, 0) + trained
    names = tuple(name for name in named if name in found)
    if not names:
        raise ConfigError(f"stage {stage.name!r}: freeze leaves nothing to train; narrow it")
    _quiet_frozen_modules(model)
    alike = tuple(Group(*key, tuple(members)) for key, members in groups.items())
    return StagePlan(alike, names, tuple(masks), counts)


def assign(model: nn.Module, stage: StageConfig) -> dict[str, TrainRule]:
    """Parameter name to the rule that trains it; frozen parameters are absent.

    A weight shared by two modules goes by either of its names. Patterns are written for the model
    without adapters.

    Raises:
        ConfigError: A pattern matches no parameter; the message has the nearest names.
    """
    first_name = {id(parameter): name for name, parameter in model.named_parameters()}
    aliases = {
        name: first_name[id(parameter)]
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    plain = {plain_name(name): name for name in aliases if not is_adapter(name)}
    found: dict[str, TrainRule] = {}
    for rule in stage.train:
        for name in _matches(rule.pattern, plain, "parameter"):
            found.setdefault(aliases[plain[name]], rule)
    for pattern in stage.freeze:
        for name in _matches(pattern, plain, "parameter"):
            found.pop(aliases[plain[name]], None)
    if stage.lora is not None:
        adapters = TrainRule(pattern="lora", lr=stage.lora.lr)
        found |= {name: adapters for name in aliases if is_adapter(name)}
    return found


def modules_of(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Names of the linear modules that any pattern matches, in the model's order.

    Raises:
        ConfigError: A pattern matches none.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    wanted = {name for pattern in patterns for name in _matches(pattern, linear, "linear module")}
    return [name for name in linear if name in wanted]


def _matches(pattern: str, names: Iterable[str], what: str) -> list[str]:
    """Names that are, lie in, or fit a pattern.

    Raises:
        ConfigError: There is none.
    """
    names = list(names)
    hits = [
        name
        for name in names
        if fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
    ]
    if not hits:
        modules = {name.rpartition(".")[0] for name in names}
        near = difflib.get_close_matches(pattern, [*names, *modules], n=3, cutoff=0.0)
        raise ConfigError(
            f"pattern {pattern!r} matches no {what}: nearest are {', '.join(near)}; "
            "name a module, or use * for any text"
        )
    return hits


def _check_rows(name: str, parameter: nn.Parameter, rows: Sequence[int]) -> None:
    """Refuse ``rows: new_tokens`` where it makes no sense.

    Raises:
        ConfigError: No ids are known, or the parameter does not have such rows.
    """
    if not rows:
        raise ConfigError(f"{name}: rows: new_tokens needs the ids of the region markup, got none")
    if parameter.ndim != 2 or max(rows) >= parameter.shape[0]:
        raise ConfigError(
            f"{name} has shape {tuple(parameter.shape)}: rows: new_tokens needs a matrix with a "
            f"row for token {max(rows)}, such as the word embedding or the head"
        )


def _embedding_parameters(model: nn.Module) -> set[int]:
    """Ids of word-embedding parameters, which never decay; a tied head is one of them."""
    return {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }


def _quiet_frozen_modules(model: nn.Module) -> None:
    """Put frozen layers without children (dropout and the like) in evaluation mode.

    Containers stay in training mode: gradient checkpointing looks at that.
    """
    model.train()
    for module in model.modules():
        if any(parameter.requires_grad for parameter in module.parameters()):
            continue
        for leaf in module.modules():
            if not any(leaf.children()):
                leaf.eval()
