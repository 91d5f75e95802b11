"""What a CUDA graph does, on a CPU: a pass is recorded once and then repeated without Python."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from vlm_fo1.engine.steps import Pass


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out


class Tape:
    """Stands in for `steps.cuda_capture`.

    Every operator is called again with the tensors it was recorded with, and what it gives goes to
    where its result was then: memory alone carries anything from one replay to the next, and an
    operator whose result the host reads is refused.
    """

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, run: Pass) -> Pass:
        self.captured += 1
        run()
        with _Recorder() as recorder:
            out = run()

        def replay() -> Tensor:
            self.replayed += 1
            for func, args, kwargs, old in recorder.calls:
                new = func(*args, **kwargs)
                for target, source in zip(tree_flatten(old)[0], tree_flatten(new)[0], strict=True):
                    if isinstance(target, Tensor) and target.data_ptr() != source.data_ptr():
                        target.copy_(source)
            return out

        return replay
