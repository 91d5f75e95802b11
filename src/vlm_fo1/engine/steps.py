"""Passes over memory that stays where it is, so that a pass can be captured and replayed.

On a GPU a decoding step is bound by the launches of its kernels; replayed as one CUDA graph it is
bound by reading the weights. A graph reads and writes the same addresses each time: keys and values
have a fixed capacity, and what a pass needs to know is copied into buffers before it.

Shapes: B slots, Q new columns, C capacity in columns, H heads, D width of a head, V vocabulary.
"""

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from vlm_fo1.engine.feeding import SHARED, added
from vlm_fo1.engine.prefix import Known, kept_bytes
from vlm_fo1.model.generation import CACHE
from vlm_fo1.model.modeling import FO1ForConditionalGeneration

logger = logging.getLogger(__name__)

Pass = Callable[[], Tensor]
"""Reads and writes memory that stays where it is; gives logits (B, Q, V)."""
Capture = Callable[[Pass], Pass]
"""Makes of a pass one that does the same to the same memory, without Python in between."""

CAPTURED_PLACES = 256
"""Most new columns of all slots in a pass that is captured: larger ones are bound by arithmetic."""
_SEEN = 2
"""Passes of one shape before it is captured, which takes as long as some passes."""
_KEPT_GRAPHS = 32


class Shape(NamedTuple):
    """Of a pass."""

    slots: int
    queries: int
    columns: int


@dataclass(frozen=True)
class Inputs:
    """What a pass needs to know."""

    tokens_5BQ: Tensor
    """int64: id, column, owner, order among the owner's, position of each new token."""
    marks_2BC: Tensor
    """int64: owner of each column, and its order among the owner's."""


class FixedLayer(DynamicLayer):
    """Keys and values of one layer at fixed addresses; a token goes to the column it is told."""

    def __init__(self, keys_BHCD: Tensor, values_BHCD: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys_BHCD, values_BHCD
        self.is_initialized = True
        self.columns_BQ: Tensor | None = None
        """Where the pass that runs puts its tokens."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Put new keys and values (B, H, Q, D) into their columns; all of them, (B, H, C, D)."""
        assert self.columns_BQ is not None
        assert self.keys is not None
        assert self.values is not None
        index = self.columns_BQ[:, None, :, None]
        self.keys.scatter_(2, index.expand_as(key_states), key_states)
        self.values.scatter_(2, index.expand_as(value_states), value_states)
        return self.keys, self.values


class Steps:
    """Fixed memory for the passes of one model, and what was captured over it.

    Decoders borrow it one at a time; one that finds it lent does without.

    Args:
        model: What runs.
        capture: How a pass is captured; None runs each as it is.
        compiled: Let `torch.compile` fuse a pass before it is captured: faster steps, after most of
            a minute for each shape.
        budget: Most bytes of keys and values that are kept when nobody borrows it.
    """

    def __init__(
        self,
        model: FO1ForConditionalGeneration,
        *,
        capture: Capture | None = None,
        compiled: bool = False,
        budget: int | None = None,
    ) -> None:
        self.model, self.capture = model, capture
        self.budget = kept_bytes(model.device) if budget is None else budget
        self._forward: Callable[..., Any] = model
        if compiled:
            self._forward = torch.compile(model.forward, dynamic=False)
        self._lent = threading.Lock()
        self._memory: list[Tensor] = []
        """Flat: the keys and the values of each layer."""
        self._graphs: OrderedDict[Shape, tuple[Inputs, Pass]] = OrderedDict()
        self._seen: Counter[Shape] = Counter()
        self.problem = ""
        """Why capturing fails."""

    @property
    def told(self) -> str:
        """What became of capturing, in words."""
        if self.problem:
            return f"not captured: {self.problem}"
        return f"{len(self._graphs)} shapes captured"

    @property
    def bytes(self) -> int:
        """Memory of keys and values."""
        return sum(part.nbytes for part in self._memory)

    def borrow(self) -> bool:
        """Take it for one decoder; False where another has it, or where capturing fails."""
        return not self.problem and self._lent.acquire(blocking=False)

    def give_back(self) -> None:
        """Let others borrow it."""
        if self.bytes > self.budget:
            self.clear()
        self._lent.release()

    def clear(self) -> None:
        """Let go of all memory; whoever borrows it must hold nothing in it."""
        self._memory = []
        self._forget()

    def cache(self, like: Known, slots: int, columns: int) -> Cache:
        """Room for keys and values, all 0; what a cache before it held is lost.

        Args:
            like: Whose layers say how wide they are.
            slots: B.
            columns: C.
        """
        parts = [part for one in like.cache.layers for part in (one.keys, one.values)]
        sizes = [slots * columns * part.shape[1] * part.shape[3] for part in parts]
        if not self._memory or any(
            size > flat.numel() for size, flat in zip(sizes, self._memory, strict=True)
        ):
            self.clear()
            self._memory = [part.new_empty(size) for part, size in zip(parts, sizes, strict=True)]
        views = [
            flat[:size].zero_().view(slots, part.shape[1], columns, part.shape[3])
            for flat, size, part in zip(self._memory, sizes, parts, strict=True)
        ]
        return Cache(layers=[*map(FixedLayer, views[::2], views[1::2])])

    def run(self, inputs: Inputs, cache: Cache, axes: int) -> Tensor:
        """A pass over tokens alone.

        Args:
            inputs: On the model's device.
            cache: What `cache` gave.
            axes: How many numbers a position has; 0 where it is one.

        Returns:
            Logits (B, Q, V), to be read before the next pass.
        """
        _, slots, queries = inputs.tokens_5BQ.shape
        shape = Shape(slots, queries, inputs.marks_2BC.shape[-1])
        if shape in self._graphs:
            self._graphs.move_to_end(shape)
        elif not self._capture(shape, inputs, cache, axes):
            return self.logits(inputs, cache, axes)
        held, replay = self._graphs[shape]
        held.tokens_5BQ.copy_(inputs.tokens_5BQ)
        held.marks_2BC.copy_(inputs.marks_2BC)
        return replay()

    def logits(
        self,
        inputs: Inputs,
        cache: Cache,
        axes: int,
        *,
        given: dict[str, Any] | None = None,
        keep: Tensor | int = 0,
    ) -> Tensor:
        """A pass as it is.

        Args:
            inputs: See `run`.
            cache: See `run`.
            axes: See `run`.
            given: Embeddings and positions, where they are not those of the ids.
            keep: See the model's ``logits_to_keep``.
        """
        ids_BQ, columns_BQ, owners_BQ, order_BQ, positions_BQ = inputs.tokens_5BQ.unbind()
        owners_BC, order_BC = inputs.marks_2BC.unbind()
        own = owners_BC[:, None, :] == owners_BQ[:, :, None]
        seen = (owners_BC[:, None, :] == SHARED) | (
            own & (order_BC[:, None, :] <= order_BQ[:, :, None])
        )
        layers = [layer for layer in cache.layers if isinstance(layer, FixedLayer)]
        for layer in layers:
            layer.columns_BQ = columns_BQ
        if given is None:
            positions = positions_BQ.expand(axes, -1, -1) if axes else positions_BQ
            embeds = self.model.get_input_embeddings()(ids_BQ)
            given = {"inputs_embeds": embeds, "position_ids": positions}
        keys = layers[0].keys
        assert keys is not None
        return self._forward(
            **given,
            **{CACHE: cache},
            attention_mask=added(seen, keys.dtype),
            use_cache=True,
            logits_to_keep=keep,
        ).logits

    def _capture(self, shape: Shape, inputs: Inputs, cache: Cache, axes: int) -> bool:
        """Capture a pass of this shape if that pays; whether it was."""
        self._seen[shape] += 1
        if self.capture is None or shape.slots * shape.queries > CAPTURED_PLACES:
            return False
        if self._seen[shape] <= _SEEN:
            return False
        held = Inputs(inputs.tokens_5BQ.clone(), inputs.marks_2BC.clone())
        try:
            replay = self.capture(lambda: self.logits(held, cache, axes))
        except Exception as error:  # noqa: BLE001 - a pass that runs by itself is right too
            self.problem = str(error).partition("\n")[0] or type(error).__name__
            logger.warning(
                "a decoding step cannot be captured here, so each launches its kernels one by "
                "one: %s",
                self.problem,
            )
            self.capture = None
            self._forget()
            return False
        self._graphs[shape] = (held, replay)
        if len(self._graphs) > _KEPT_GRAPHS:
            self._graphs.popitem(last=False)
        return True

    def _forget(self) -> None:
        self._graphs.clear()
        self._seen.clear()


def steps_for(model: FO1ForConditionalGeneration, *, compiled: bool = False) -> Steps | None:
    """Steps that are captured, for a model on one CUDA device; None for others."""
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) != 1 or model.device.type != "cuda":
        return None
    return Steps(model, capture=cuda_capture(model.device), compiled=compiled)


def cuda_capture(device: torch.device) -> Capture:
    """Captures passes as CUDA graphs, which share the memory of what is in between."""
    pool: list[Any] = []

    def capture(run: Pass) -> Pass:
        with torch.cuda.device(device):
            if not pool:
                pool.append(torch.cuda.graph_pool_handle())
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                run()  # what libraries set up with a first call is not captured
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads go on meanwhile, and what they call is no fault of this capture.
            with torch.cuda.graph(graph, pool[0], stream, capture_error_mode="thread_local"):
                logits_BQV = run()

        def replay() -> Tensor:
            with torch.cuda.device(device):
                graph.replay()
            return logits_BQV

        return replay

    return capture
