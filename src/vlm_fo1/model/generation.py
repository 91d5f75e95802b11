"""What happens around the host's decoding loop: settings, cache, confidences, an end to loops.

Shapes: B rows, S steps, V vocabulary.
"""

import copy
import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria
from transformers.generation.utils import GenerationMixin

REPEATED_TOKENS = 256
"""An answer whose last tokens, this many, are one thing again and again, comes to no end."""
LONGEST_REPEAT = REPEATED_TOKENS // 4
"""Longest thing in tokens that counts as repeated: it stands there four times."""
_LOOKED_EVERY = 32

CACHE = (
    "cache"
    if "cache"
    in inspect.signature(vars(GenerationMixin)["prepare_inputs_for_generation"]).parameters
    else "past_key_values"
)
"""What the installed transformers calls the cache of keys and values; renamed in 5.24."""


def without_penalties(config: GenerationConfig) -> GenerationConfig:
    """A host's settings of decoding without what punishes repetition.

    A question names regions, and so does its answer: Qwen2.5-VL's own penalty of 1.05 would hold
    every tag of the prompt against the answer that repeats it. Who wants one all the same passes it
    to ``generate``.

    Args:
        config: The host's; not changed.

    Returns:
        A copy.
    """
    config = copy.deepcopy(config)
    config.repetition_penalty = None
    config.no_repeat_ngram_size = None
    return config


class RegionTokenProbabilities(LogitsProcessor):
    """Records, step by step, how likely each region tag was; changes nothing.

    Args:
        tag_ids: Token ids of the region tags, in order of their numbers.
    """

    def __init__(self, tag_ids: Sequence[int]) -> None:
        self.tag_ids = torch.tensor(list(tag_ids))
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Called by ``generate`` before each choice with (B, V) scores."""
        del input_ids
        tags = self.tag_ids.to(scores.device)
        log_total = scores.float().logsumexp(-1, keepdim=True)
        self.steps.append((scores[:, tags].float() - log_total).exp().cpu())
        return scores

    def of_tokens(self, new_ids: Tensor, row: int) -> list[float]:
        """Probability of each region tag that was written, in order.

        Args:
            new_ids: (S,) tokens generated for one row.
            row: Which row of the batch.

        Returns:
            One number in [0, 1] per region tag among ``new_ids``.
        """
        number = {int(token): position for position, token in enumerate(self.tag_ids.tolist())}
        return [
            float(self.steps[step][row, number[token]])
            for step, token in enumerate(new_ids.tolist())
            if token in number
        ]


class RepeatsItself(StoppingCriteria):
    """Ends a row whose last `REPEATED_TOKENS` tokens have a period of at most `LONGEST_REPEAT`.

    Args:
        prompt_length: Tokens of the prompt, which may repeat what it likes.
    """

    def __init__(self, prompt_length: int) -> None:
        self.prompt_length = prompt_length

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: Tensor, scores: Tensor | None, **kwargs: object
    ) -> Tensor:
        """Called by ``generate`` after each step with all ids; (B,) bool, True where it ends."""
        del scores, kwargs
        written = input_ids.shape[1] - self.prompt_length
        over = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        if written < REPEATED_TOKENS or written % _LOOKED_EVERY:
            return over
        for row, ids in enumerate(input_ids[:, -REPEATED_TOKENS:].tolist()):
            over[row] = any(ids[n:] == ids[:-n] for n in range(1, LONGEST_REPEAT + 1))
        return over
