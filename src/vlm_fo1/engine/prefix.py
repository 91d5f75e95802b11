"""The start of a prompt that many questions share, run through the language model once."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_fo1.model.generation import CACHE
from vlm_fo1.model.modeling import EncodedImages, FO1ForConditionalGeneration
from vlm_fo1.model.splice import EmbeddedPrompt, cut_prompt

KEPT_BYTES = 2**30
"""Budget of kept prefixes on a CPU: of the bundled model some hundreds, of a 3B model about 20."""
KEPT_SHARE = 0.15
"""Of the memory of a GPU, for the same."""


def kept_bytes(device: torch.device) -> int:
    """How much memory kept prefixes may take on a device."""
    if device.type != "cuda":
        return KEPT_BYTES
    return int(torch.cuda.get_device_properties(device).total_memory * KEPT_SHARE)


@dataclass(frozen=True)
class Known:
    """What the language model made of a prefix; read by many, written by none."""

    cache: Any
    """Keys and values, one row."""
    position: int
    """Of the token after the prefix."""
    axes: int
    """How many numbers a position has; 0 where it is one."""

    @property
    def bytes(self) -> int:
        """Memory of the keys and values."""
        layers = self.cache.layers
        return sum(part.nbytes for layer in layers for part in (layer.keys, layer.values))


class PrefixStore:
    """Bounds the memory of prefixes that are kept: the least recently used give theirs back.

    Args:
        budget: Most bytes that may be kept; a prefix that is larger alone is never kept.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, tuple[weakref.ref[Prefix], int]] = OrderedDict()

    @property
    def bytes(self) -> int:
        """What is kept now."""
        with self._lock:
            return sum(size for _, size in self._living())

    def used(self, prefix: "Prefix", size: int) -> None:
        """Note that a prefix was asked for, and let others go where there are too many bytes."""
        leaving: list[Prefix | None] = []
        with self._lock:
            self._kept.pop(id(prefix), None)
            self._kept[id(prefix)] = (weakref.ref(prefix), size)
            total = sum(size for _, size in self._living())
            while self._kept and total > self.budget:
                _, (reference, size) = self._kept.popitem(last=False)
                leaving.append(reference())
                total -= size
        for one in leaving:
            if one is not None:
                one.close()

    def forget(self, prefix: "Prefix") -> None:
        """Note that a prefix gave its memory back."""
        with self._lock:
            self._kept.pop(id(prefix), None)

    def _living(self) -> list[tuple["weakref.ref[Prefix]", int]]:
        self._kept = OrderedDict(
            (key, value) for key, value in self._kept.items() if value[0]() is not None
        )
        return list(self._kept.values())


class Prefix:
    """An image with its regions, as the language model reads it; threads may share one.

    Args:
        model: The network.
        encoded: The image, with the tokens of the shown regions only; behind it images without
            regions, which the rest of a prompt places.
        ids: Token ids up to where prompts part, placeholders included.
        store: Bounds what is kept for prompts that come later; None keeps nothing.
    """

    def __init__(
        self,
        model: FO1ForConditionalGeneration,
        encoded: EncodedImages,
        ids: Sequence[int],
        *,
        store: PrefixStore | None = None,
    ) -> None:
        self.ids = tuple(ids)
        self._model = model
        self._encoded = encoded
        self._store = store
        self._lock = threading.Lock()
        self._known: Known | None = None

    def embed(self, rest: Sequence[int]) -> EmbeddedPrompt:
        """A whole prompt as the decoder reads it, one row.

        Args:
            rest: Token ids after the prefix.
        """
        ids = torch.tensor([[*self.ids, *rest]], device=self._model.device)
        return self._model.embed_prompt(ids, torch.ones_like(ids), self._encoded)

    def known(self, rest: Sequence[int]) -> Known:
        """What the language model makes of it; made with the first prompt.

        Args:
            rest: Token ids after the prefix, of any prompt.
        """
        with self._lock:
            known = self._known
            if known is None:
                prompt, end = self.embed(rest), len(self.ids)
                start = cut_prompt(prompt, 0, end)
                cache = self._model(**start, use_cache=True, logits_to_keep=1)[CACHE]
                positions = prompt["position_ids"]
                axes = positions.shape[0] if positions.ndim > 2 else 0
                known = Known(cache, int(positions[..., end].max()), axes)
            if self._store is not None:
                self._known = known
        if self._store is not None:
            self._store.used(self, known.bytes)
        return known

    def close(self) -> None:
        """Give back the memory of what is kept; the next prompt makes it anew."""
        with self._lock:
            self._known = None
        if self._store is not None:
            self._store.forget(self)


def stacked(parts: Sequence[Tensor], longest: int) -> Tensor:
    """(B, H, T, D) of several lengths as one batch, zeros on the left of shorter ones."""
    if len(parts) == 1:
        return parts[0]
    pads = (torch.nn.functional.pad(part, (0, 0, longest - part.shape[2], 0)) for part in parts)
    return torch.cat(list(pads))
