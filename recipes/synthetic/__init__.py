"""Synthetic images: rendered things with names, with exact truth for every task."""

from collections.abc import Mapping
from typing import Any

from recipes.synthetic.config import SyntheticConfig, changed
from recipes.synthetic.source import SyntheticSource
from recipes.synthetic.sprites import SpriteSet

__all__ = ["SpriteSet", "SyntheticConfig", "SyntheticSource", "make_source"]


def make_source(values: Mapping[str, Any], seed: int) -> SyntheticSource:
    """A source of a mixture: ``type: recipes.synthetic:make_source``.

    Args:
        values: Settings of `SyntheticConfig` that differ from its defaults.
        seed: Of the stream.
    """
    return SyntheticSource(changed(SyntheticConfig(), values), seed)
