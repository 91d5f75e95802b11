"""Released checkpoint families: one file each, of plain values and functions of plain dicts.

`model` and `processing` make their objects from what a family says, so one more family is one more
file and one more row of `FAMILIES`.
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

from vlm_fo1.errors import ConfigError

FAMILIES = {"omchat_qwen2_5_vl": "vlm_fo1.families.omchat_qwen2_5_vl"}
"""``model_type`` of a released ``config.json`` to the family's module, imported when used."""


class Family(Protocol):
    """What the module of a family says."""

    TENSOR_PREFIX: str
    """What some tensor of a released checkpoint starts with, and none of ours does."""

    def model_values(self, config: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
        """Arguments of ``FO1Config``; the width of a region feature where the file states it."""
        ...

    def processor_values(
        self, config: Mapping[str, Any], host: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arguments of ``FO1ImageProcessor``, and of ``FO1Processor`` but for its two parts."""
        ...

    def tensor_table(self, patch_size: int, strides: Sequence[float]) -> list[tuple[str, str]]:
        """Released tensor names to ours, as full-match patterns and replacements."""
        ...


def find_family(model_type: Any) -> Family:
    """The family of a ``model_type``.

    Raises:
        ConfigError: There is none.
    """
    if model_type not in FAMILIES:
        raise ConfigError(f"no released family {model_type!r}, there are {', '.join(FAMILIES)}")
    return cast("Family", importlib.import_module(FAMILIES[model_type]))


def family_of_tensors(names: Iterable[str]) -> Family | None:
    """The family that spells tensors so; None where they have our own names."""
    known = list(names)
    for family in map(find_family, FAMILIES):
        if any(name.startswith(family.TENSOR_PREFIX) for name in known):
            return family
    return None
