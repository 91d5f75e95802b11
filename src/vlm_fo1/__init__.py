"""VLM-FO1: vision-language models that point at regions instead of guessing coordinates."""

import importlib
from typing import TYPE_CHECKING, Any

from vlm_fo1._registration import register_now, register_on_use

if TYPE_CHECKING:
    from vlm_fo1.answer import Answer, Mention
    from vlm_fo1.fo1 import FO1
    from vlm_fo1.model.configuration import FO1Config
    from vlm_fo1.model.modeling import FO1ForConditionalGeneration
    from vlm_fo1.processing import FO1ImageProcessor, FO1Processor
    from vlm_fo1.proposers.base import Proposer, load_proposer
    from vlm_fo1.regions import Regions
    from vlm_fo1.scene import Scene
    from vlm_fo1.tasks import Request

__version__ = "0.1.0"

_PUBLIC = {
    "FO1": "vlm_fo1.fo1",
    "Scene": "vlm_fo1.scene",
    "Answer": "vlm_fo1.answer",
    "Mention": "vlm_fo1.answer",
    "Regions": "vlm_fo1.regions",
    "FO1Config": "vlm_fo1.model.configuration",
    "FO1ForConditionalGeneration": "vlm_fo1.model.modeling",
    "FO1ImageProcessor": "vlm_fo1.processing",
    "FO1Processor": "vlm_fo1.processing",
    "Proposer": "vlm_fo1.proposers.base",
    "Request": "vlm_fo1.tasks",
    "load_proposer": "vlm_fo1.proposers.base",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used.

    Raises:
        AttributeError: There is no such name.
    """
    if name not in _PUBLIC:
        raise AttributeError(f"module 'vlm_fo1' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    if _PUBLIC[name].startswith(("vlm_fo1.model", "vlm_fo1.processing")):
        register_now()  # transformers is there now, and may be handed a configuration of ours
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])


__all__ = [
    "FO1",
    "Answer",
    "FO1Config",
    "FO1ForConditionalGeneration",
    "FO1ImageProcessor",
    "FO1Processor",
    "Mention",
    "Proposer",
    "Regions",
    "Request",
    "Scene",
    "load_proposer",
]

register_on_use()
