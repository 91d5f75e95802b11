"""Runs prompts: token ids in, token ids and probabilities out, many rows at once.

Knows tensors and ids; what a task, a text or an answer is, it does not.
"""

from vlm_fo1.engine.generate import Generation, Prompt
from vlm_fo1.engine.lists import ListSteps, ListTokens
from vlm_fo1.engine.local import LocalEngine
from vlm_fo1.engine.prefix import Prefix

__all__ = ["Generation", "ListSteps", "ListTokens", "LocalEngine", "Prefix", "Prompt"]
