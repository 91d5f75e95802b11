"""The start of a prompt that many questions share, run through the language model once."""

import copy
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlm_fo1.model.generation import CACHE
from vlm_fo1.model.modeling import EncodedImages, FO1ForConditionalGeneration
from vlm_fo1.model.splice import EmbeddedPrompt, cut_prompt


class Prefix:
    """An image with its regions, as the language model reads it; threads may share one.

    Args:
        model: The network.
        encoded: The image, with the tokens of the shown regions only; behind it images without
            regions, which the rest of a prompt places.
        ids: Token ids up to where prompts part, placeholders included.
        keep: Keep what the language model made of it for prompts that come later.
    """

    def __init__(
        self,
        model: FO1ForConditionalGeneration,
        encoded: EncodedImages,
        ids: Sequence[int],
        *,
        keep: bool = True,
    ) -> None:
        self.ids = tuple(ids)
        self.keep = keep
        self._model = model
        self._encoded = encoded
        self._lock = threading.Lock()
        self._cache: Any = None

    def embed(self, rest: Sequence[int]) -> EmbeddedPrompt:
        """A whole prompt as the decoder reads it, one row.

        Args:
            rest: Token ids after the prefix.
        """
        ids = torch.tensor([[*self.ids, *rest]], device=self._model.device)
        return self._model.embed_prompt(ids, torch.ones_like(ids), self._encoded)

    def cache(self, prompt: EmbeddedPrompt) -> Any:
        """Keys and values of the prefix, to be read and never written; made with the first prompt.

        Args:
            prompt: What `embed` gave for any rest.
        """
        with self._lock:
            if self._cache is None:
                start = cut_prompt(prompt, 0, len(self.ids))
                self._cache = self._model(**start, use_cache=True, logits_to_keep=1)[CACHE]
            return self._cache

    def close(self) -> None:
        """Give back the memory of the cache; the next prompt makes it anew."""
        with self._lock:
            self._cache = None


def join_caches(caches: Sequence[Any]) -> tuple[Any, Tensor]:
    """One cache of several rows, each its own prefix, padded on the left.

    Args:
        caches: One row each, of the same model; they stay as they are.

    Returns:
        The cache, and (B, T) 1 where it holds a token and 0 where it is padded.
    """
    lengths = [int(cache.get_seq_length()) for cache in caches]
    longest = max(lengths)
    joined = copy.copy(caches[0])
    joined.layers = [copy.copy(layer) for layer in caches[0].layers]
    device = None
    for number, layer in enumerate(joined.layers):
        rows = [cache.layers[number] for cache in caches]
        layer.keys = _stacked([row.keys for row in rows], longest)
        layer.values = _stacked([row.values for row in rows], longest)
        device = layer.keys.device
    mask = torch.zeros(len(caches), longest, dtype=torch.long, device=device)
    for row, length in enumerate(lengths):
        mask[row, longest - length :] = 1
    return joined, mask


def _stacked(parts: Sequence[Tensor], longest: int) -> Tensor:
    """(1, H, T, D) of several lengths as (B, H, longest, D), zeros on the left; always a copy."""
    if len(parts) == 1:
        return parts[0].clone()
    pads = (torch.nn.functional.pad(part, (0, 0, longest - part.shape[2], 0)) for part in parts)
    return torch.cat(list(pads))
