"""Checkpoints that resume exactly: weights, optimiser, random numbers, data, step.

A checkpoint is a folder ``step-00000400`` without pickles: ``model.safetensors`` (what the stage
trains, and buffers), ``optimizer.safetensors``, ``state.json``, and per process ``rank-0.json`` and
``rank-0.safetensors``. It is written beside its place, flushed to disk and renamed, so a kill at
any moment leaves the one before.
"""

import importlib.metadata
import json
import os
import platform
import random
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from vlm_fo1.config import build, differences, plain
from vlm_fo1.errors import CheckpointError, ConfigError, OutputError
from vlm_fo1.jsonl import writing
from vlm_fo1.train.config import TrainConfig, may_change
from vlm_fo1.train.distributed import full_tensor, shard_like
from vlm_fo1.train.standing import Standing

_NAME = re.compile(r"step-(\d{8,})")
_VERSIONED = ("vlm-fo1", "torch", "transformers", "accelerate", "numpy", "safetensors", "peft")


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands; the same on every process."""

    stage: str
    """Name of the stage."""
    step: int
    """Optimiser steps of the stage that are done."""
    config: dict[str, Any]
    """The run's configuration as plain values."""
    fingerprints: dict[str, Any]
    """What identifies the data."""
    world: int
    """How many processes trained."""
    standing: Standing = field(default_factory=Standing)
    """How its evaluations went."""


@dataclass(frozen=True, kw_only=True)
class RankState:
    """What each process keeps for itself."""

    data: dict[str, Any]
    """State of its `BatchLoader`."""
    meters: dict[str, Any]
    """What it has counted since the last line of the log."""


def save(
    folder: Path,
    run: RunState,
    rank: RankState,
    model: nn.Module,
    names: Sequence[str],
    optimizers: Sequence[Optimizer],
    accelerator: Accelerator,
    *,
    keep: int,
) -> Path:
    """Write a checkpoint; every process must call.

    Args:
        folder: Holds the checkpoints of the run.
        run: Where the run stands.
        rank: What this process keeps.
        model: Unwrapped.
        names: The parameters that train.
        optimizers: Each parameter that trains is in one of them.
        accelerator: Of the stage.
        keep: How many checkpoints stay; older ones are removed.

    Returns:
        The checkpoint's folder.

    Raises:
        OutputError: The disk refuses it; checkpoints that were complete stay.
    """
    target = folder / f"step-{run.step:08d}"
    part = folder / f".part-{target.name}"
    if accelerator.is_main_process:
        with saving(part):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
    accelerator.wait_for_everyone()
    weights, averages = _gather(model, names, optimizers)
    plain_random, tensors = random_state()
    number = accelerator.process_index
    with saving(part):
        if accelerator.is_main_process:
            save_file(weights, part / "model.safetensors")
            save_file(averages, part / "optimizer.safetensors")
            _write_json(part / "state.json", {**plain(run), "versions": versions()})
        save_file(tensors, part / f"rank-{number}.safetensors")
        _write_json(part / f"rank-{number}.json", {**plain(rank), "random": plain_random})
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        with saving(target):
            for path in part.iterdir():
                _flush(path)
            _flush(part)
            shutil.rmtree(target, ignore_errors=True)
            part.rename(target)
            _flush(folder)
            for old in list_checkpoints(folder)[:-keep]:
                shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return target


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """`vlm_fo1.jsonl.writing`, for what safetensors writes as well.

    Raises:
        OutputError: The disk refuses; with the path.
    """
    try:
        with writing(path):
            yield
    except SafetensorError as error:
        raise OutputError(f"{path} cannot be written: {error}; make room for it") from error


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first; parts that a kill left behind do not count."""
    found = folder.glob("step-*") if folder.is_dir() else []
    return sorted((path for path in found if _NAME.fullmatch(path.name)), key=lambda p: p.name)


def read_run_state(path: Path) -> RunState:
    """Where the run of a checkpoint stood.

    Raises:
        CheckpointError: The file is missing or broken.
    """
    values = _read_json(path / "state.json")
    try:
        return build(RunState, {name: v for name, v in values.items() if name != "versions"})
    except ConfigError as error:
        raise CheckpointError(f"{path}/state.json is from another version: {error}") from error


def check_same_run(saved: Any, config: TrainConfig, *, allow_changes: bool) -> list[str]:
    """Compare the configuration a run was started with and the present one.

    Args:
        saved: The first, as plain values.
        config: Of the run that wants to resume.
        allow_changes: Let every key differ.

    Returns:
        The keys that differ, with both values.

    Raises:
        CheckpointError: Keys differ on which the loss depends.
    """
    changed = differences(saved, plain(config))
    harmful = [line for line in changed if not may_change(line.partition(":")[0])]
    if harmful and not allow_changes:
        raise CheckpointError(
            f"{config.output.folder} was made with another configuration ({'; '.join(harmful)}): "
            "take these back, start over with --fresh, or go on all the same with --allow-changes"
        )
    return changed


def check_same_data(saved: RunState, fingerprints: Any, *, allow_changes: bool) -> None:
    """Compare what identifies the data, then and now.

    Args:
        saved: Of the checkpoint.
        fingerprints: Of the present data.
        allow_changes: Let them differ.

    Raises:
        CheckpointError: They differ.
    """
    changed = differences(saved.fingerprints, fingerprints)
    if changed and not allow_changes:
        raise CheckpointError(
            f"the data changed since step {saved.step} ({'; '.join(changed)}): bring the files "
            "back, start over with --fresh, or go on all the same with --allow-changes"
        )


def restore(
    path: Path,
    model: nn.Module,
    names: Sequence[str],
    optimizers: Sequence[Optimizer],
    rank: int,
) -> RankState:
    """Put weights and optimisers back, and give what the process kept.

    Random numbers are put back by `restore_random`, last of all.

    Args:
        path: A checkpoint.
        model: Unwrapped.
        names: The parameters that train.
        optimizers: Each of these parameters is in one of them.
        rank: Number of this process.

    Raises:
        CheckpointError: Weights are missing or left over.
    """
    weights = load_file(path / "model.safetensors")
    averages = load_file(path / "optimizer.safetensors")
    kept = _kept(model, names)
    if set(weights) != set(kept):
        odd = sorted(set(weights) ^ set(kept))
        raise CheckpointError(
            f"{path} holds other parameters than the stage trains: {', '.join(odd[:6])}"
        )
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in averages.items():
        kind, _, name = key.partition("|")
        by_name.setdefault(name, {})[kind] = value
    owners = _owners(optimizers)
    with torch.no_grad():
        for name, held in kept.items():
            held.copy_(shard_like(weights[name], held))
            if name in by_name:
                owners[id(held)].state[held] = {
                    kind: value if kind == "step" else shard_like(value, held)
                    for kind, value in by_name[name].items()
                }
    values = _read_json(path / f"rank-{rank}.json")
    return RankState(data=values["data"], meters=values["meters"])


def restore_random(path: Path, rank: int) -> None:
    """Put the random numbers of a process back."""
    set_random_state(
        _read_json(path / f"rank-{rank}.json")["random"],
        load_file(path / f"rank-{rank}.safetensors"),
    )


def random_state() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Python's, NumPy's and PyTorch's generators, as plain values and tensors."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    version, words, spare = random.getstate()
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "python": torch.tensor(words, dtype=torch.int64),
    }
    for index in range(torch.cuda.device_count()):
        tensors[f"cuda-{index}"] = torch.cuda.get_rng_state(index)
    return {
        "numpy": [str(kind), int(position), int(has_gauss), float(gauss)],
        "python": [version, spare],
    }, tensors


def set_random_state(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `random_state`."""
    kind, position, has_gauss, gauss = values["numpy"]
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, gauss))  # noqa: NPY002
    version, spare = values["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), spare))
    torch.set_rng_state(tensors["torch"])
    for index in range(torch.cuda.device_count()):
        if f"cuda-{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda-{index}"], index)


def versions() -> dict[str, str]:
    """Python and the libraries that decide numbers."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _kept(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """What a checkpoint holds of a model: parameters that train, and buffers that are saved."""
    state = model.state_dict(keep_vars=True)
    buffers = {name for name, _ in model.named_buffers()}
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    return {name: parameters[name] for name in names} | {
        name: value for name, value in state.items() if name in buffers
    }


def _owners(optimizers: Sequence[Optimizer]) -> dict[int, Optimizer]:
    """The optimiser of each parameter, by its id."""
    return {
        id(parameter): optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def _gather(
    model: nn.Module, names: Sequence[str], optimizers: Sequence[Optimizer]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    weights: dict[str, Tensor] = {}
    averages: dict[str, Tensor] = {}
    owners = _owners(optimizers)
    for name, held in _kept(model, names).items():
        weights[name] = full_tensor(held).contiguous()
        state = owners[id(held)].state.get(held, {}) if id(held) in owners else {}
        for kind, value in state.items():
            averages[f"{kind}|{name}"] = full_tensor(torch.as_tensor(value)).contiguous()
    return weights, averages


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    """The values of a checkpoint's file.

    Raises:
        CheckpointError: Missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): resume with as many processes as the run had, or "
            "remove this checkpoint to use the one before"
        ) from error


def _flush(path: Path) -> None:
    """Have the system write a file or folder to disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
