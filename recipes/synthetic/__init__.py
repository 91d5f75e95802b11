"""Synthetic images: rendered things with names, with exact truth for every task."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from recipes.synthetic.config import SyntheticConfig, changed
from recipes.synthetic.questions import ask
from recipes.synthetic.render import render
from recipes.synthetic.sprites import SpriteSet, load_sprites
from recipes.synthetic.view import View
from vlm_fo1.data.example import Example
from vlm_fo1.data.regions import build_regions

__all__ = ["SpriteSet", "SyntheticConfig", "SyntheticSource", "make_source"]


def make_source(values: Mapping[str, Any], seed: int) -> "SyntheticSource":
    """A source of a mixture: ``type: recipes.synthetic:make_source``.

    Args:
        values: Settings of `SyntheticConfig` that differ from its defaults.
        seed: Of the stream.
    """
    return SyntheticSource(changed(SyntheticConfig(), values), seed)


class SyntheticSource:
    """Images with questions; record ``index`` is the same every time it is asked for.

    Args:
        config: What images, regions and questions look like. May be replaced at any time: a
            curriculum sets `config`, and records depend on the config they are made with.
        seed: Another seed is another stream; keep the training seed away from the evaluation seed.
    """

    def __init__(self, config: SyntheticConfig, seed: int = 0) -> None:
        self.config = config
        self.seed = seed

    def example(self, index: int, config: SyntheticConfig | None = None) -> Example:
        """Record ``index`` with its image in memory; ``config`` is for this record alone."""
        return self.rendered(index, config)[0]

    def rendered(self, index: int, config: SyntheticConfig | None = None) -> tuple[Example, View]:
        """One record with the truth behind it, for evaluation and for files."""
        config = self.config if config is None else config
        # One generator a part: more questions do not change the image.
        streams = [np.random.default_rng([self.seed, index, part]) for part in range(3)]
        rendered = render(config, load_sprites(config.sprites, config.final), streams[0])
        asked = config
        if streams[1].random() < config.no_regions:
            config = replace(config, drop=1.0, distractors=(0, 0))
        regions = build_regions(
            rendered.boxes_xyxy,
            rendered.image.size,
            streams[1],
            distractors=config.distractors,
            jitter=config.jitter,
            drop=config.drop,
            limit=config.region_limit,
        )
        view = View(rendered, regions, asked)
        example = Example(
            image=rendered.image,
            regions_xyxy=regions.xyxy,
            turns=ask(view, streams[2]),
            scores=regions.scores,
            source=f"images:{self.seed}",
            id=str(index),
        )
        return example, view
