"""The weights a stage leaves behind, as a checkpoint folder that says how it was made."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vlm_fo1.config import dump
from vlm_fo1.train.checkpoint import saving, versions
from vlm_fo1.train.config import StageConfig, TrainConfig
from vlm_fo1.train.distributed import full_tensor
from vlm_fo1.train.lora import merge

CONFIG_FILE, PROVENANCE_FILE = "train.yaml", "provenance.json"


def export(
    model: Any,
    config: TrainConfig,
    stage: StageConfig,
    accelerator: Accelerator,
    facts: Mapping[str, Any],
    save_model: Callable[[Any, Mapping[str, Tensor], Path], Any],
    plain_state: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    name: str,
) -> Path:
    """Write weights of a stage as a checkpoint folder, at once or not at all; every process calls.

    Args:
        model: Unwrapped; adapters are merged in what is written.
        config: Of the run, written beside the weights.
        stage: The stage.
        accelerator: Of the stage.
        facts: Written to ``provenance.json`` with the versions: data, steps, figures.
        save_model: Writes weights and what else belongs there, such as the processor.
        plain_state: Tensors as they train to those that are saved.
        name: Of the folder in that of the run.

    Returns:
        The folder.

    Raises:
        OutputError: The disk refuses it.
    """
    folder = config.output.folder / name
    state = gather_state(model, accelerator)
    if accelerator.is_main_process:
        if stage.lora is not None:
            state = merge(state, stage.lora)
        state = plain_state(state)
        dtype = getattr(torch, config.output.dtype)
        state = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in state.items()
        }
        part = folder.with_name(f".part-{folder.name}")
        with saving(folder):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            save_model(model, state, part)
            (part / CONFIG_FILE).write_text(dump(config), encoding="utf-8")
            provenance = {"stage": stage.name, "versions": versions(), **facts}
            (part / PROVENANCE_FILE).write_text(json.dumps(provenance, indent=1), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
    accelerator.wait_for_everyone()
    return folder


def gather_state(model: nn.Module, accelerator: Accelerator) -> dict[str, Tensor]:
    """All tensors of a model, whole and on the CPU; empty on other than the main process."""
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        complete = full_tensor(value)
        if accelerator.is_main_process:
            state[name] = complete
    return state


def save_pretrained(model: Any, state: Mapping[str, Tensor], folder: Path) -> None:
    """Write weights and ``config.json`` as transformers does, with the dtype of these weights."""
    model.save_pretrained(folder, state_dict=dict(state))
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    (kind,) = {value.dtype for value in state.values() if value.is_floating_point()}
    values["dtype"] = str(kind).removeprefix("torch.")
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
