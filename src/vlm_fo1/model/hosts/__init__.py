"""What differs per host VLM: one small adapter each, found by the host's ``model_type``."""

import importlib

from vlm_fo1.errors import ConfigError
from vlm_fo1.model.hosts.base import HostAdapter

HOSTS = {
    "qwen2_5_vl": "vlm_fo1.model.hosts.qwen2_5_vl:Qwen25VLHost",
    "qwen3_vl": "vlm_fo1.model.hosts.qwen3_vl:Qwen3VLHost",
    "idefics3": "vlm_fo1.model.hosts.idefics3:Idefics3Host",
    "smolvlm": "vlm_fo1.model.hosts.idefics3:Idefics3Host",
}
"""Host ``model_type`` to adapter, imported when used."""


def find_host(model_type: str) -> HostAdapter:
    """The adapter of a host.

    Args:
        model_type: The host configuration's ``model_type``.

    Raises:
        ConfigError: There is no adapter for it.
    """
    if model_type not in HOSTS:
        raise ConfigError(
            f"no adapter for hosts of type {model_type!r}, there are {', '.join(HOSTS)}: "
            "take one of these, or add a module to vlm_fo1.model.hosts"
        )
    module, name = HOSTS[model_type].split(":")
    return getattr(importlib.import_module(module), name)()


__all__ = ["HOSTS", "HostAdapter", "find_host"]
