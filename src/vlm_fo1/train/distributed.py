"""Processes that train together: start, agree, gather. One process is the plain case of it."""

import os

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vlm_fo1.train.config import StageConfig, TrainConfig


def start(config: TrainConfig, stage: StageConfig) -> Accelerator:
    """The accelerator of one stage; processes come from ``torchrun`` or ``accelerate launch``.

    A batch may hold no regions or no image, so DDP looks for unused parameters; FSDP cannot, there
    `Feed` keeps one example with regions in every batch.
    """
    cpu = config.distributed.device == "cpu" or not torch.accelerator.is_available()
    if cpu:  # accelerate reads these; without them it asks for NCCL
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
        os.environ.setdefault("ACCELERATE_TORCH_DIST_BACKEND", "gloo")
    plugin = None
    if config.distributed.strategy == "fsdp":
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            reshard_after_forward=True,
            auto_wrap_policy="transformer_based_wrap",
            cpu_ram_efficient_loading=False,
        )
    return Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if stage.precision == "bf16" else "no",
        fsdp_plugin=plugin,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def total(accelerator: Accelerator, *values: float | Tensor) -> list[float]:
    """The sum of each value over all processes, in double precision."""
    parts = [torch.as_tensor(value, device=accelerator.device).double() for value in values]
    summed = accelerator.reduce(torch.stack(parts), reduction="sum")
    assert isinstance(summed, Tensor)
    return summed.tolist()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be spread over processes, on the CPU; every process must call."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def spread(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, placed and cut as another one is."""
    if isinstance(like, DTensor):
        moved = value.to(like.device_mesh.device_type)
        return distribute_tensor(moved, like.device_mesh, like.placements)
    return value.to(like.device)


def inner(model: nn.Module) -> nn.Module:
    """The model inside DDP's wrapper."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
