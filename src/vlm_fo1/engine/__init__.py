"""Runs prompts: token ids in, token ids and probabilities out, many rows at once.

Knows tensors and ids; what a task, a text or an answer is, it does not.
"""

from vlm_fo1.engine.constraints import Grammar, Matchers
from vlm_fo1.engine.generate import Limits
from vlm_fo1.engine.lists import ListSteps, ListTokens
from vlm_fo1.engine.local import LocalEngine
from vlm_fo1.engine.prefix import Prefix, PrefixStore, kept_bytes
from vlm_fo1.engine.rows import Generation, Prompt
from vlm_fo1.engine.steps import Steps, steps_for

__all__ = [
    "Generation",
    "Grammar",
    "Limits",
    "ListSteps",
    "ListTokens",
    "LocalEngine",
    "Matchers",
    "Prefix",
    "PrefixStore",
    "Prompt",
    "Steps",
    "kept_bytes",
    "steps_for",
]
