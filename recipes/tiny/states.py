"""Checkpoints of a stage in one safetensors file: weights, optimisers, and where the run stands."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from vlm_fo1.config import differences
from vlm_fo1.errors import CheckpointError
from vlm_fo1.train.checkpoint import versions

Parts = dict[str, dict[str, Tensor]]
_MAY_CHANGE = ("log_every", "check_every", "save_every")


@dataclass(frozen=True)
class State:
    """What a checkpoint holds."""

    parts: Parts
    """``model`` and what else was given, name by name."""
    step: int
    """Optimiser steps done."""
    more: dict[str, Any]
    """Plain values beside them."""


def save(
    path: Path,
    parts: Mapping[str, Mapping[str, Tensor]],
    optimizers: Sequence[Optimizer],
    *,
    step: int,
    config: Any,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint, at once or not at all.

    Args:
        path: Of the file.
        parts: Tensors by part and name.
        optimizers: Whose averages are kept.
        step: Optimiser steps done.
        config: Plain values that a resumed run must share.
        more: Plain values to get back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{part}|{key}": value for part, held in parts.items() for key, value in held.items()
    }
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for kind, value in values.items():
                tensors[f"optimizer|{number}|{index}|{kind}"] = torch.as_tensor(value)
    facts = {"step": step, "config": config, "more": dict(more or {}), "versions": versions()}
    # Cloned: tied weights would be one tensor under two names.
    whole = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    part = path.with_suffix(".part")
    save_file(whole, part, metadata={"run": json.dumps(facts)})
    part.replace(path)


def load(
    path: Path, optimizers: Sequence[Optimizer] = (), config: Any | None = None
) -> State | None:
    """Read a checkpoint and put the optimisers' averages back.

    Args:
        path: Of the file.
        optimizers: As they were saved; none to leave them out.
        config: Plain values to compare with the saved ones; None for any.

    Returns:
        What it holds, None without a file.

    Raises:
        CheckpointError: It is of a run with another configuration.
    """
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["run"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if config is not None:
        changed = differences(facts["config"], json.loads(json.dumps(config)))
        harmful = [line for line in changed if not _harmless(line)]
        if harmful:
            raise CheckpointError(
                f"{path} was made with another configuration ({'; '.join(harmful)}): take these "
                "back or give the run a new folder"
            )
    parts: Parts = {}
    averages: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for key, value in tensors.items():
        part, _, name = key.partition("|")
        if part != "optimizer":
            parts.setdefault(part, {})[name] = value
        elif optimizers:
            number, index, kind = name.split("|")
            averages[int(number)].setdefault(int(index), {})[kind] = value
    for optimizer, values in zip(optimizers, averages, strict=True):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": values})
    return State(parts, int(facts["step"]), facts["more"])


def _harmless(line: str) -> bool:
    return line.partition(":")[0].rpartition(".")[2] in _MAY_CHANGE
