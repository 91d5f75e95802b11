"""Low-rank adapters through peft, put into the model in place and merged when a stage ends."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from vlm_fo1._extras import require
from vlm_fo1.train.config import LoraConfig

_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"


def add_adapters(model: nn.Module, lora: LoraConfig, targets: Sequence[str]) -> None:
    """Give linear modules an adapter that starts as zero; the model's class stays what it is.

    Args:
        model: Changed in place.
        lora: Sizes.
        targets: Full names of linear modules.
    """
    peft = require("peft", extra="train")
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(targets),
        bias="none",
    )
    peft.inject_adapter_in_model(settings, model)


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return ".lora_" in name


def plain_name(name: str) -> str:
    """The name a parameter has without adapters."""
    return name.replace(".base_layer.", ".")


def merge(state: Mapping[str, Tensor], lora: LoraConfig) -> dict[str, Tensor]:
    """Fold adapters into the weights they adapt.

    Args:
        state: Whole tensors of a model with adapters, on one device.
        lora: The sizes they were made with.

    Returns:
        The tensors of the same model without adapters: ``W + alpha / rank * up @ down``.
    """
    merged = {plain_name(name): value for name, value in state.items() if not is_adapter(name)}
    for name, down in state.items():
        if name.endswith(_DOWN):
            module = name.removesuffix(_DOWN)
            weight = merged[f"{module}.weight"]
            change = state[module + _UP].float() @ down.float() * (lora.alpha / lora.rank)
            merged[f"{module}.weight"] = (weight.float() + change).to(weight.dtype)
    return merged
