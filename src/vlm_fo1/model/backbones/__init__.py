"""What differs per host VLM: one small adapter each, found by the host's ``model_type``."""

import importlib

from vlm_fo1.errors import ConfigError
from vlm_fo1.model.backbones.base import Backbone

BACKBONES = {
    "qwen2_5_vl": "vlm_fo1.model.backbones.qwen2_5_vl:Qwen25VLBackbone",
    "qwen3_vl": "vlm_fo1.model.backbones.qwen3_vl:Qwen3VLBackbone",
    "idefics3": "vlm_fo1.model.backbones.idefics3:Idefics3Backbone",
    "smolvlm": "vlm_fo1.model.backbones.idefics3:Idefics3Backbone",
}
"""Host ``model_type`` to adapter, imported when used."""


def find_backbone(model_type: str) -> Backbone:
    """The adapter of a host.

    Args:
        model_type: The host configuration's ``model_type``.

    Raises:
        ConfigError: There is no adapter for it.
    """
    if model_type not in BACKBONES:
        raise ConfigError(
            f"no adapter for hosts of type {model_type!r}, there are {', '.join(BACKBONES)}: "
            "take one of these, or add a module to vlm_fo1.model.backbones"
        )
    module, name = BACKBONES[model_type].split(":")
    return getattr(importlib.import_module(module), name)()


__all__ = ["BACKBONES", "Backbone", "find_backbone"]
