"""The DaViT of Florence-2, which auxiliary towers come from: its sizes and names of tensors."""

from collections.abc import Mapping
from typing import Any

from vlm_fo1.errors import ConfigError

DAVIT_SIZES = {"davit-tiny": (96, 3), "davit-base": (128, 9), "davit-large": (256, 9)}
"""First-stage width, doubled by each later stage, and depth of the third stage, per tower name.

Source: REFERENCE, "The model", for base and large; the DaViT paper for tiny.
"""


def davit_sizes(name: str) -> dict[str, Any]:
    """Sizes of an auxiliary tower by its name, as `Florence2VisionConfig` takes them.

    Raises:
        ConfigError: The name is not known.
    """
    if name not in DAVIT_SIZES:
        raise ConfigError(
            f"no auxiliary tower {name!r}, known are {', '.join(DAVIT_SIZES)}: "
            "take one of these, or give its sizes"
        )
    width, depth = DAVIT_SIZES[name]
    widths = [width * 2**stage for stage in range(4)]
    heads = [width // 32 for width in widths]
    return {
        "depths": [1, 1, depth, 1],
        "embed_dim": widths,
        "num_heads": heads,
        "num_groups": heads,
        "window_size": 12,
        "patch_size": [7, 3, 3, 3],
        "patch_stride": [4, 2, 2, 2],
        "patch_padding": [3, 1, 1, 1],
        "patch_prenorm": [False, True, True, True],
        "drop_path_rate": 0.0,
    }


def read_davit_sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of a DaViT as a configuration file spells them, in Florence-2's or the native names.

    Args:
        values: ``vision_config`` of a Florence-2, or ``davit`` of a released checkpoint.

    Returns:
        What `davit_sizes` gives.
    """
    values = {"embed_dim": values.get("dim_embed"), **values, "drop_path_rate": 0.0}
    return {key: values[key] for key in davit_sizes("davit-base") if key in values}


def davit_table(old: str, new: str) -> list[tuple[str, str]]:
    """Names of a DaViT as Florence-2's own code writes them, to ours.

    Args:
        old: Pattern of the prefix in the checkpoint.
        new: Prefix of ours.

    Returns:
        Rows as in `families.Family.tensor_table`.
    """
    block = rf"{old}blocks\.(\d+\.\d+)\.(spatial|channel)_block\."
    to_block = rf"{new}blocks.\1.\2_block."
    return [
        (rf"{old}convs\.(\d+)\.proj\.(.+)", rf"{new}convs.\1.conv.\2"),
        (rf"{old}convs\.(\d+)\.norm\.(.+)", rf"{new}convs.\1.norm.\2"),
        (rf"{block}(conv[12])\.fn\.dw\.(.+)", rf"{to_block}\3.\4"),
        (rf"{block}(?:window|channel)_attn\.norm\.(.+)", rf"{to_block}norm1.\3"),
        (rf"{block}(window|channel)_attn\.fn\.(.+)", rf"{to_block}\3_attn.\4"),
        (rf"{block}ffn\.norm\.(.+)", rf"{to_block}norm2.\3"),
        (rf"{block}ffn\.fn\.net\.(fc[12])\.(.+)", rf"{to_block}ffn.\3.\4"),
    ]
