"""A short text that stands for values and weights: fingerprints and cache keys are made of it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest_of(*values: Any) -> str:
    """A hash that is the same whenever and wherever the values are.

    Args:
        *values: Plain values (as JSON has them), bytes, and mappings from name to tensor, in any
            mixture; their order counts, that of a mapping's keys does not.

    Returns:
        32 hexadecimal digits.
    """
    state = hashlib.blake2b(digest_size=16)
    for value in values:
        if isinstance(value, bytes):
            state.update(b"bytes %d:" % len(value))
            state.update(value)
        elif isinstance(value, Mapping) and any(hasattr(item, "numel") for item in value.values()):
            for name in sorted(value):
                _add_tensor(state, name, value[name])
        else:
            text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str).encode()
            state.update(b"json %d:" % len(text))
            state.update(text)
    return state.hexdigest()


def _add_tensor(state: Any, name: str, tensor: Any) -> None:
    import torch

    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}:".encode())
    if flat.numel():
        state.update(flat.view(torch.uint8).numpy().data)
