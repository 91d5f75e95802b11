"""What is counted between two lines of the log, on one process, and what it comes to on all."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vlm_fo1.errors import CheckpointError
from vlm_fo1.train.batches import Batch
from vlm_fo1.train.distributed import total

_COUNTED = ("targets", "examples", "tokens", "padded_tokens")


class Meters:
    """Sums since the last line of the log.

    Args:
        device: Where losses are added up.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.counts: dict[str, float] = dict.fromkeys(_COUNTED, 0.0)
        self.sums: dict[str, Tensor] = {}
        self.started_s = time.perf_counter()

    def count(self, batch: Batch) -> None:
        """Add what a batch holds."""
        for name in _COUNTED:
            self.counts[name] += getattr(batch, name)

    def add(self, **figures: Tensor | float) -> None:
        """Add sums over the targets of a batch; the device is not waited for."""
        for name, value in figures.items():
            added = torch.as_tensor(value, dtype=torch.float64, device=self.device).detach()
            self.sums[name] = self.sums[name] + added if name in self.sums else added

    def totals(self, accelerator: Accelerator) -> tuple[dict[str, float], dict[str, float]]:
        """Means over the targets of all processes, and their counts; every process must call."""
        counts = dict(zip(self.counts, total(accelerator, *self.counts.values()), strict=True))
        sums = total(accelerator, *self.sums.values())
        each = max(1.0, counts["targets"])
        return {name: value / each for name, value in zip(self.sums, sums, strict=True)}, counts

    def state_dict(self) -> dict[str, dict[str, float]]:
        """What was counted, as plain values."""
        sums = {name: value.item() for name, value in self.sums.items()}
        return {"counts": dict(self.counts), "sums": sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was counted.

        Raises:
            CheckpointError: It was counted by another version.
        """
        if set(state) != {"counts", "sums"} or set(state["counts"]) != set(_COUNTED):
            raise CheckpointError(
                f"the checkpoint counts {', '.join(state)}, so it is from another version: go on "
                "with that one, or start over with --fresh"
            )
        self.counts = dict(state["counts"])
        self.sums = {}
        self.add(**state["sums"])
