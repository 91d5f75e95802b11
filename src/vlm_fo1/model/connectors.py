"""Connectors: features of a tower to tokens of the language model."""

import re

from torch import nn

from vlm_fo1.errors import ConfigError


def build_connector(kind: str, in_features: int, out_features: int) -> nn.Module:
    """Make a connector by the name the released configuration uses.

    Args:
        kind: ``identity``, ``linear`` or ``mlpNx_gelu`` (N linear layers with GELU between).
        in_features: Width of the features.
        out_features: Width of the language model.

    Raises:
        ConfigError: Another kind, or ``identity`` between different widths.
    """
    if kind == "identity":
        if in_features != out_features:
            raise ConfigError(
                f"an identity connector cannot turn width {in_features} into {out_features}"
            )
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(in_features, out_features)
    layers = re.fullmatch(r"mlp([1-9])x_gelu", kind)
    if layers is None:
        raise ConfigError(
            f"connector {kind!r} is not supported: use identity, linear or mlpNx_gelu"
        )
    connector = nn.Sequential(nn.Linear(in_features, out_features))
    for _ in range(int(layers[1]) - 1):
        connector.extend([nn.GELU(), nn.Linear(out_features, out_features)])
    return connector
