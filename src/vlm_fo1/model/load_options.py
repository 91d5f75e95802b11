"""How weights may be loaded, in the keywords of transformers: taken, or refused before any work."""

import difflib
import importlib.util
from collections.abc import Mapping
from typing import Any

from vlm_fo1.errors import ConfigError, MissingExtraError

TAKEN = (
    *("dtype", "device_map", "attn_implementation", "quantization_config"),
    *("max_memory", "offload_folder", "offload_buffers"),
)
"""Go to transformers as they are."""
RENAMED = {"torch_dtype": "dtype"}
BITS = ("load_in_8bit", "load_in_4bit")
"""Written out as a ``quantization_config``."""
WITHOUT_EFFECT = ("low_cpu_mem_usage", "trust_remote_code", "offload_state_dict", "adapter_kwargs")
"""Weights are memory-mapped in any case, no code of a checkpoint is run, and no adapter is read."""
_OTHERS = {
    "use_safetensors": "safetensors are read where there are some, and pickled files run no code",
    "force_download": "remove the checkpoint from the cache (`hf cache rm`) instead",
    "resume_download": "a download always goes on where it stopped",
    "use_flash_attention_2": "say attn_implementation='flash_attention_2'",
    "variant": "name the folder that holds the files of that variant",
    "subfolder": "name the folder itself",
}


def load_options(given: Mapping[str, Any], also: tuple[str, ...] = ()) -> dict[str, Any]:
    """What to hand to transformers.

    Args:
        given: Keywords of a caller; those that are None or an empty mapping count as left out, and
            those that start with an underscore are between transformers' own parts.
        also: Further keywords that the caller takes, for the message.

    Returns:
        Some of `TAKEN`.

    Raises:
        ConfigError: A keyword that is unknown, or two that contradict.
        MissingExtraError: 8 or 4 bits without bitsandbytes.
    """
    options: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or value == {} or name.startswith("_") or name in WITHOUT_EFFECT:
            continue
        if name not in (*TAKEN, *RENAMED, *BITS):
            raise ConfigError(_unknown(name, also))
        options[name] = value
    for old, new in RENAMED.items():
        if old in options:
            value = options.pop(old)
            if options.setdefault(new, value) != value:
                raise ConfigError(f"{old} = {value} and {new} = {options[new]}: pass {new} alone")
    bits = [name for name in BITS if options.pop(name, False)]
    if bits and "quantization_config" in options:
        raise ConfigError(f"{bits[0]} and quantization_config: pass one of them")
    if bits:
        _need_bitsandbytes()
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit="load_in_8bit" in bits, load_in_4bit="load_in_4bit" in bits
        )
    elif _method(options.get("quantization_config")) == "bitsandbytes":
        _need_bitsandbytes()
    return options


def _unknown(name: str, also: tuple[str, ...]) -> str:
    if name in _OTHERS:
        return f"{name} is not an option here: {_OTHERS[name]}"
    known = [*TAKEN, *RENAMED, *BITS, *also]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"there is no option {name}: {hint}"


def _method(config: Any) -> str:
    found = config.get("quant_method", "") if isinstance(config, Mapping) else (
        getattr(config, "quant_method", "")
    )  # fmt: skip
    return str(getattr(found, "value", found))


def _need_bitsandbytes() -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            "weights in 8 or 4 bits need bitsandbytes: pip install bitsandbytes"
        )
