"""What transformers' decoding is told: the name of its cache, and no penalties."""

import copy
import inspect

from transformers import GenerationConfig
from transformers.generation.utils import GenerationMixin

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
