"""Runs prompts: token ids in, token ids and probabilities out, many rows at once.

Knows tensors and ids; what a task, a text or an answer is, it does not.
"""

from vlm_fo1.engine.generate import Generation
from vlm_fo1.engine.local import LocalEngine, Prompt
from vlm_fo1.engine.prefix import Prefix

__all__ = ["Generation", "LocalEngine", "Prefix", "Prompt"]
