"""Processes that train together: start, agree, gather. One process is the plain case of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vlm_fo1.train.config import StageConfig, TrainConfig


def start(config: TrainConfig, stage: StageConfig) -> Accelerator:
    """The accelerator of one stage; processes come from ``torchrun`` or ``accelerate launch``.

    A batch may hold no regions or no image, so DDP looks for unused parameters; FSDP cannot, there
    `BatchLoader` keeps one example with regions in every batch.
    """
    cpu = config.distributed.device == "cpu" or not torch.accelerator.is_available()
    if cpu:  # accelerate reads these; without them it asks for NCCL
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
        os.environ.setdefault("ACCELERATE_TORCH_DIST_BACKEND", "gloo")
    # The precision of the last stage (or run) must not stick; the processes stay connected.
    AcceleratorState._reset_state()  # noqa: SLF001 - there is no public way
    return Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if stage.precision == "bf16" else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def wrap(model: Any, config: TrainConfig, accelerator: Accelerator) -> Any:
    """Prepare a model for all processes: DDP, or FSDP2 over the host's blocks.

    Region encoder and auxiliary tower run once per image, and batches differ in images: cut block
    by block, processes would wait for different weights. They are gathered with the
    root, once a pass. FSDP2 is called directly: accelerate lacks it on CPUs, where our tests run.
    """
    model.to(accelerator.device)
    if config.distributed.strategy == "ddp" or accelerator.num_processes == 1:
        return accelerator.prepare_model(model)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for module in list(model.host.modules()):
        if type(module).__name__ in model._no_split_modules:  # noqa: SLF001 - transformers' name
            fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@contextmanager
def gradients_summed(model: Any, *, on: bool) -> Iterator[None]:
    """Whether the backward pass inside sums gradients over the processes."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(on)
        yield
    elif isinstance(model, nn.parallel.DistributedDataParallel) and not on:
        with model.no_sync():
            yield
    else:
        yield


@contextmanager
def unsharded(model: Any) -> Iterator[None]:
    """All weights on every process inside, so that each may call any part as often as it likes.

    A forward pass of the whole has to come before (FSDP learns from it which module is the root).
    """
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not model, recurse=False)  # as `wrap` left it


def total(accelerator: Accelerator, *values: float | int | Tensor) -> list[float]:
    """The sum of each value over all processes, in double precision."""
    parts = [torch.as_tensor(value, device=accelerator.device).double() for value in values]
    summed = accelerator.reduce(torch.stack(parts), reduction="sum")
    assert isinstance(summed, Tensor)
    return summed.tolist()


def full_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor that may be spread over processes, on the CPU; every process must call."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, placed and cut as another one is."""
    if isinstance(like, DTensor):
        moved = value.to(like.device_mesh.device_type)
        return distribute_tensor(moved, like.device_mesh, like.placements)
    return value.to(like.device)


def inner(model: nn.Module) -> nn.Module:
    """The model inside DDP's wrapper."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
